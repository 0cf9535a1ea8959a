//! What a program shows while it trains: a bar per epoch and a line when it is done.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use atbptt::train::{EpochReport, Resumed};
use indicatif::{ProgressBar, ProgressStyle};

/// Plain progress on the terminal.
pub struct Progress {
    shown: bool,
    epochs: usize,
    bar: Mutex<Option<ProgressBar>>,
    bar_epoch: AtomicUsize,
}

impl Progress {
    pub fn new(shown: bool, epochs: usize) -> Self {
        Self {
            shown,
            epochs,
            bar: Mutex::new(None),
            bar_epoch: AtomicUsize::new(0),
        }
    }

    fn with_bar(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        if let Ok(mut bar) = self.bar.lock() {
            act(&mut bar);
        }
    }

    /// Where the run goes on, and what has changed since it stopped.
    pub fn resumed(&self, resumed: &Resumed) {
        if !self.shown {
            return;
        }
        println!(
            "resumed: after {} windows, {} epochs, from {}",
            resumed.step,
            resumed.epochs,
            resumed.path.display()
        );
        for change in &resumed.changes {
            println!("changed: {change}");
        }
    }

    /// Removes a bar left over from an epoch that did not end.
    pub fn clear(&self) {
        self.with_bar(|bar| {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
        });
    }

    pub fn window(&self, epoch: usize, paid: usize, total: usize, running_loss: f64) {
        if !self.shown {
            return;
        }
        let fresh = self.bar_epoch.swap(epoch, Ordering::Relaxed) != epoch;
        self.with_bar(|slot| {
            if fresh || slot.is_none() {
                let bar = ProgressBar::new(total as u64);
                let template = "{prefix} [{bar:30}] {percent} %, {eta} left, {msg}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
                *slot = Some(bar);
            }
            if let Some(bar) = slot {
                bar.set_position(paid as u64);
                bar.set_message(format!("loss {running_loss:.4}"));
            }
        });
    }

    pub fn epoch(&self, report: &EpochReport) {
        if !self.shown {
            return;
        }
        self.clear();
        let number = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.4}"));
        let mut line = format!(
            "epoch {:>4}  loss {:>8.4}, validation {:>8}",
            report.epoch,
            report.train_loss,
            number(report.valid_loss),
        );
        for (name, value) in &report.measures {
            line += &format!(", {} {value:.4}", name.replace('_', " "));
        }
        println!(
            "{line}; K {:>5.1}, bias {}; {:.1} s",
            report.mean_k,
            number(report.relative_bias),
            report.elapsed_seconds,
        );
    }
}
