//! What the program shows while it trains: a bar per epoch and a line when it is done.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use atbptt::train::{EpochReport, Resumed, StopSignals, TrainingObserver};
use indicatif::{ProgressBar, ProgressStyle};

/// Column heads of [`epoch_line`].
pub const HEADER: &str = "epoch   train ppl   valid ppl      K   rel. bias   decay    tokens/s   probes   seconds  why this K";

/// One line per epoch.
pub fn epoch_line(report: &EpochReport) -> String {
    let number = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "–".into(),
    };
    let mut line = format!(
        "{:>5}  {:>10.1}  {:>10}  {:>5}  {:>10}  {:>6}  {:>10.0}  {:>6.1}%  {:>8.1}  {}",
        report.epoch,
        report.train_perplexity,
        number(report.valid_perplexity, 1),
        report.k,
        number(report.relative_bias, 3),
        number(report.decay, 4),
        report.tokens_per_second(),
        100.0 * report.probe_share(),
        report.elapsed_seconds,
        report.reason.as_deref().unwrap_or("start value"),
    );
    if report.skipped > 0 {
        line += &format!("; {} windows skipped", report.skipped);
    }
    if report.restored > 0 {
        line += &format!("; {} times back to a checkpoint", report.restored);
    }
    line
}

/// Where a run went on, and what has changed since.
pub fn resumed_lines(resumed: &Resumed) -> String {
    let mut text = format!(
        "resumed: after {} windows, {} epochs, from {}",
        resumed.step,
        resumed.epochs,
        resumed.path.display()
    );
    for change in &resumed.changes {
        text += &format!("\nchanged: {change}");
    }
    text
}

/// Plain progress on the terminal; shows nothing while the dashboard has the screen.
pub struct Progress {
    shown: bool,
    epochs: usize,
    signals: StopSignals,
    bar: Mutex<Option<ProgressBar>>,
    bar_epoch: AtomicUsize,
}

impl Progress {
    pub fn new(shown: bool, epochs: usize, signals: StopSignals) -> Self {
        Self {
            shown,
            epochs,
            signals,
            bar: Mutex::new(None),
            bar_epoch: AtomicUsize::new(0),
        }
    }

    fn with_bar(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        if let Ok(mut bar) = self.bar.lock() {
            act(&mut bar);
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
}

impl TrainingObserver for Progress {
    fn on_resume(&self, resumed: &Resumed) {
        if self.shown {
            println!("{}", resumed_lines(resumed));
        }
    }

    fn on_window(&self, epoch: usize, paid: usize, total: usize, running_loss: f64) {
        let first = self.bar_epoch.load(Ordering::Relaxed) == 0;
        let fresh = self.bar_epoch.swap(epoch, Ordering::Relaxed) != epoch;
        if first {
            match self.shown {
                true => println!("{HEADER}"),
                false => self.signals.accept_ctrl_c(),
            }
        }
        if !self.shown {
            return;
        }
        self.with_bar(|slot| {
            if fresh || slot.is_none() {
                let bar = ProgressBar::new(total as u64);
                let template = "{prefix} [{bar:30}] {human_pos}/{human_len} tokens, {per_sec}, {eta} left, {msg}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
                *slot = Some(bar);
            }
            if let Some(bar) = slot {
                bar.set_position(paid as u64);
                bar.set_message(format!("perplexity {:.1}", running_loss.exp()));
            }
        });
    }

    fn on_epoch(&self, report: &EpochReport) {
        if !self.shown {
            return;
        }
        self.clear();
        println!("{}", epoch_line(report));
    }
}
