//! What happens in a run's folder and on the screen while it trains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atbptt_core::policy::{Decision, Estimate};

use super::folder::SETTINGS;
use super::lines::Progress;
use super::stop::Stop;
use super::{RESULT, RunFolder, metrics};
use crate::observer::{Resumed, TrainingObserver};
use crate::report::EpochReport;
use crate::strategy::TbpttHandle;
use crate::workers::WorkerReport;

/// Shows progress and writes the metrics after every epoch, for those who look into the folder meanwhile.
pub(super) struct Watch {
    pub(super) progress: Arc<Progress>,
    pub(super) folder: RunFolder,
    pub(super) handle: TbpttHandle,
    pub(super) settings: String,
    /// Where the dashboard takes Ctrl-C for itself.
    pub(super) dashboard: Option<Stop>,
    pub(super) begun: AtomicBool,
    /// The program's own.
    pub(super) observer: Option<Arc<dyn TrainingObserver>>,
}

impl TrainingObserver for Watch {
    fn on_resume(&self, resumed: &Resumed) {
        self.progress.resumed(resumed);
        // It is clear now that the settings are this run's. A run that goes on is not complete, whatever it once came to.
        let removed = self.folder.remove(RESULT);
        let written = removed.and_then(|()| self.folder.write(SETTINGS, &self.settings));
        if let Err(error) = written {
            log::warn!("{error}");
        }
        if let Some(observer) = &self.observer {
            observer.on_resume(resumed);
        }
    }

    fn on_workers(&self, workers: &[WorkerReport]) {
        self.progress.workers(workers);
        if let Some(observer) = &self.observer {
            observer.on_workers(workers);
        }
    }

    fn on_decision(&self, decision: &Decision, estimate: Option<&Estimate>) {
        if let Some(observer) = &self.observer {
            observer.on_decision(decision, estimate);
        }
    }

    fn on_window(&self, epoch: usize, counted: usize, total: usize, running_loss: f64) {
        if let (false, Some(signals)) = (self.begun.swap(true, Ordering::Relaxed), &self.dashboard)
        {
            signals.accept_ctrl_c();
        }
        self.progress.window(epoch, counted, total, running_loss);
        if let Some(observer) = &self.observer {
            observer.on_window(epoch, counted, total, running_loss);
        }
    }

    fn on_epoch(&self, report: &EpochReport) {
        self.progress.epoch(report);
        if let Err(error) = metrics::write(&self.folder, &self.handle.reports()) {
            log::warn!("{error}");
        }
        if let Some(observer) = &self.observer {
            observer.on_epoch(report);
        }
    }
}
