//! What a run shows while it trains: a line per epoch and, on a terminal, a bar within one.

use std::fmt::Display as Shown;
use std::io::Write;

use crate::observer::Resumed;
use crate::report::EpochReport;
use crate::workers::WorkerReport;

/// What a run shows while it trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Display {
    /// Nothing.
    Silent,
    /// A line per epoch on standard output; on a terminal, a bar within an epoch too (feature `progress`).
    #[default]
    Lines,
    /// Burn's dashboard (Burn's feature `tui`), the lines when it is gone. Without a terminal, as [`Lines`](Self::Lines).
    Dashboard,
}

/// How epochs are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct EpochLines {
    /// Stands above the lines of epochs.
    pub(super) header: Option<&'static str>,
    /// An epoch that is over.
    pub(super) line: fn(&EpochReport) -> String,
    /// The running training loss per counted loss, beside the bar.
    pub(super) running: fn(f64) -> String,
}

impl EpochLines {
    /// Perplexities, K and the reason for it.
    pub(super) const PERPLEXITY: Self = Self {
        header: None,
        line: |report| report.to_string(),
        running: |loss| format!("perplexity {:.1}", loss.exp()),
    };

    /// Losses, measures, time, K and what is known of its bias.
    pub(super) const LOSS: Self = Self {
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
        "; {:.1} s; K = {}: {}",
        report.elapsed_seconds,
        report.k,
        report.reason.as_deref().unwrap_or("as configured"),
    );
    line + &report.left_out()
}

/// A number with so many digits after the point, or a dash for none.
pub fn number(value: Option<f64>, digits: usize) -> String {
    match value {
        Some(value) if value.abs() >= 1e9 => format!("{value:.2e}"),
        Some(value) => format!("{value:.digits$}"),
        None => "–".into(),
    }
}

/// Where a run went on, and what has changed since.
fn resumed_lines(resumed: &Resumed) -> String {
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

/// Which device trains on what.
fn workers_line(workers: &[WorkerReport]) -> String {
    let sequences = workers.last().map_or(0, |worker| worker.sequences.end);
    let shares = workers.iter().map(|worker| {
        let rows = &worker.sequences;
        format!(
            "{} trains on {} to {}",
            worker.device,
            rows.start + 1,
            rows.end
        )
    });
    let shares: Vec<String> = shares.collect();
    let (count, shares) = (workers.len(), shares.join(", "));
    format!("devices: {count} share {sequences} sequences: {shares}")
}

/// How much of the time of windows and probes each device has worked.
fn worked_line(workers: &[WorkerReport]) -> String {
    let shares = workers.iter().map(|worker| {
        let share = 100.0 * worker.busy_share();
        format!("{} {share:.0} %", worker.device)
    });
    let shares: Vec<String> = shares.collect();
    let seconds = workers.first().map_or(0.0, |worker| worker.total_seconds);
    let shares = shares.join(", ");
    format!("devices: of {seconds:.1} s in windows and probes, each worked for: {shares}")
}

/// A line on standard output. Who reads it may have closed the pipe (`… | head`): the program goes on without, where `println!`
/// would panic.
///
/// ```
/// use atbptt_train::run::say;
///
/// say(format_args!("{} episodes", 24));
/// ```
pub fn say(line: impl Shown) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Progress on standard output.
pub(super) struct Progress {
    shown: bool,
    lines: EpochLines,
    bar: bar::Bar,
}

impl Progress {
    /// Shows nothing unless `shown`.
    pub(super) fn new(shown: bool, epochs: usize, lines: EpochLines) -> Self {
        Self {
            shown,
            lines,
            bar: bar::Bar::new(epochs),
        }
    }

    pub(super) fn resumed(&self, resumed: &Resumed) {
        if self.shown {
            say(resumed_lines(resumed));
        }
    }

    /// Which device trains on what, where there are several.
    pub(super) fn workers(&self, workers: &[WorkerReport]) {
        if self.shown && workers.len() > 1 {
            say(workers_line(workers));
        }
    }

    /// How long each device has worked; nothing on one.
    pub(super) fn worked(&self, workers: &[WorkerReport]) {
        if self.shown && !workers.is_empty() {
            say(worked_line(workers));
        }
    }

    /// Removes a bar left over from an epoch that did not end.
    pub(super) fn clear(&self) {
        self.bar.clear();
    }

    pub(super) fn window(&self, epoch: usize, counted: usize, total: usize, running_loss: f64) {
        if !self.shown {
            return;
        }
        if self.bar.is_first_window()
            && let Some(header) = self.lines.header
        {
            say(header);
        }
        self.bar
            .window(epoch, counted, total, || (self.lines.running)(running_loss));
    }

    pub(super) fn epoch(&self, report: &EpochReport) {
        if self.shown {
            self.clear();
            say((self.lines.line)(report));
        }
    }

    /// All epochs at once, when another display had the screen.
    pub(super) fn all(&self, resumed: Option<&Resumed>, reports: &[EpochReport]) {
        if let Some(resumed) = resumed {
            say(resumed_lines(resumed));
        }
        if let Some(header) = self.lines.header {
            say(header);
        }
        for report in reports {
            say((self.lines.line)(report));
        }
    }
}

mod bar {
    //! The bar of an epoch; without the feature `progress`, none.

    use std::sync::atomic::{AtomicBool, Ordering};
    #[cfg(feature = "progress")]
    use std::sync::{Mutex, PoisonError};

    #[cfg(feature = "progress")]
    use indicatif::{ProgressBar, ProgressStyle};

    pub(super) struct Bar {
        begun: AtomicBool,
        #[cfg(feature = "progress")]
        epochs: usize,
        /// The epoch it is of.
        #[cfg(feature = "progress")]
        bar: Mutex<Option<(usize, ProgressBar)>>,
    }

    impl Bar {
        #[cfg_attr(not(feature = "progress"), allow(unused_variables))]
        pub(super) fn new(epochs: usize) -> Self {
            Self {
                begun: AtomicBool::new(false),
                #[cfg(feature = "progress")]
                epochs,
                #[cfg(feature = "progress")]
                bar: Mutex::new(None),
            }
        }

        /// Whether nobody has asked before.
        pub(super) fn is_first_window(&self) -> bool {
            !self.begun.swap(true, Ordering::Relaxed)
        }

        #[cfg(feature = "progress")]
        pub(super) fn window(
            &self,
            epoch: usize,
            counted: usize,
            total: usize,
            message: impl FnOnce() -> String,
        ) {
            let mut slot = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
            let current = slot.take().filter(|(of, _)| *of == epoch);
            let (_, bar) = slot.insert(current.unwrap_or_else(|| {
                let bar = ProgressBar::new(total as u64);
                let template = "{prefix} [{bar:30}] {human_pos}/{human_len} losses, {per_sec}, {eta} left, {msg}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
                (epoch, bar)
            }));
            bar.set_position(counted as u64);
            bar.set_message(message());
        }

        #[cfg(not(feature = "progress"))]
        pub(super) fn window(&self, _: usize, _: usize, _: usize, _: impl FnOnce() -> String) {}

        pub(super) fn clear(&self) {
            #[cfg(feature = "progress")]
            if let Some((_, bar)) = self
                .bar
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
            {
                bar.finish_and_clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_with_their_sequences_and_their_share_of_the_time() {
        let worker = |sequences, busy_seconds| WorkerReport {
            device: "flex".into(),
            sequences,
            busy_seconds,
            total_seconds: 8.0,
        };
        let workers = [worker(0..5, 6.0), worker(5..9, 4.0)];
        assert_eq!(
            workers_line(&workers),
            "devices: 2 share 9 sequences: flex trains on 1 to 5, flex trains on 6 to 9"
        );
        assert_eq!(
            worked_line(&workers),
            "devices: of 8.0 s in windows and probes, each worked for: flex 75 %, flex 50 %"
        );
    }
}
