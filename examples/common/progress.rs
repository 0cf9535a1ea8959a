//! What a program shows while it trains: a bar per epoch and a line when it is done.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use atbptt::train::{EpochReport, Resumed};
use indicatif::{ProgressBar, ProgressStyle};

/// How epochs are told.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Stands above the lines of epochs.
    pub header: Option<&'static str>,
    /// An epoch that is over.
    pub line: fn(&EpochReport) -> String,
    /// The running loss, beside the bar.
    pub running: fn(f64) -> String,
}

impl Style {
    /// Losses and measures, in words.
    pub const LOSS: Self = Self {
        header: None,
        line: loss_line,
        running: |loss| format!("loss {loss:.4}"),
    };
}

fn loss_line(report: &EpochReport) -> String {
    let mut line = format!(
        "epoch {:>4}  loss {:>8.4}, validation {:>8}",
        report.epoch,
        report.train_loss,
        number(report.valid_loss, 4),
    );
    for (name, value) in &report.measures {
        line += &format!(", {} {}", name.replace('_', " "), number(Some(*value), 4));
    }
    line += &format!(
        "; K {:>5.1}, bias {}; {:.1} s",
        report.mean_k,
        number(report.relative_bias, 4),
        report.elapsed_seconds,
    );
    line + &left_out(report)
}

/// A number, or a dash for none.
pub fn number(value: Option<f64>, digits: usize) -> String {
    match value {
        Some(value) if value.abs() >= 1e9 => format!("{value:.2e}"),
        Some(value) => format!("{value:.digits$}"),
        None => "–".into(),
    }
}

/// What an epoch did about values that were not finite; empty without any.
pub fn left_out(report: &EpochReport) -> String {
    let mut text = String::new();
    if report.skipped > 0 {
        text += &format!("; {} windows skipped", report.skipped);
    }
    if report.restored > 0 {
        text += &format!("; {} times back to a checkpoint", report.restored);
    }
    text
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

/// Plain progress on the terminal.
pub struct Progress {
    shown: bool,
    epochs: usize,
    style: Style,
    bar: Mutex<Option<ProgressBar>>,
    bar_epoch: AtomicUsize,
}

impl Progress {
    /// Shows nothing unless `shown`.
    pub fn new(shown: bool, epochs: usize, style: Style) -> Self {
        Self {
            shown,
            epochs,
            style,
            bar: Mutex::new(None),
            bar_epoch: AtomicUsize::new(0),
        }
    }

    fn with_bar(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        if let Ok(mut bar) = self.bar.lock() {
            act(&mut bar);
        }
    }

    pub fn resumed(&self, resumed: &Resumed) {
        if self.shown {
            println!("{}", resumed_lines(resumed));
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
        let before = self.bar_epoch.swap(epoch, Ordering::Relaxed);
        if let (0, Some(header)) = (before, self.style.header) {
            println!("{header}");
        }
        self.with_bar(|slot| {
            if before != epoch || slot.is_none() {
                let bar = ProgressBar::new(total as u64);
                let template = "{prefix} [{bar:30}] {human_pos}/{human_len} losses, {per_sec}, {eta} left, {msg}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
                *slot = Some(bar);
            }
            if let Some(bar) = slot {
                bar.set_position(paid as u64);
                bar.set_message((self.style.running)(running_loss));
            }
        });
    }

    pub fn epoch(&self, report: &EpochReport) {
        if self.shown {
            self.clear();
            println!("{}", (self.style.line)(report));
        }
    }

    /// All epochs at once, when another display had the screen.
    pub fn all(&self, resumed: Option<&Resumed>, reports: &[EpochReport]) {
        if let Some(resumed) = resumed {
            println!("{}", resumed_lines(resumed));
        }
        if let Some(header) = self.style.header {
            println!("{header}");
        }
        reports
            .iter()
            .for_each(|report| println!("{}", (self.style.line)(report)));
    }
}
