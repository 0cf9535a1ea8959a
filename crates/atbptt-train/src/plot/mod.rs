//! Figures of runs and lag profiles, as PNG files.
//!
//! ```text
//! reports, decisions ─► training_figure ───┐
//!                                          ├─► charts on a sheet ──► PNG, 1200 pixels wide
//! lag profile ────────► lag_profile_figure ┘
//! ```
//!
//! A [`Run`](crate::run::Run) draws both on one sheet; [`lines_figure`] compares runs, or anything else made of lines. The font (DejaVu) is compiled in and no C
//! library is needed: figures look the same everywhere. NaN and infinite values are gaps in a line, never an error; a
//! figure about nothing is [`PlotError::Empty`].
//!
//! ```
//! use atbptt_train::plot::{Line, LinesPanel, lines_figure};
//!
//! let perplexity = |name: &str, last| Line::new(name, vec![(1.0, 310.0), (2.0, 180.0), (3.0, last)]);
//! let panel = LinesPanel {
//!     title: "Validation perplexity".into(),
//!     x: "epoch".into(),
//!     lines: vec![perplexity("K = 20", 150.0), perplexity("adaptive", f64::NAN)], // not there yet: a gap
//! };
//! let path = std::env::temp_dir().join("atbptt-doc-figure.png");
//! lines_figure(&path, "Two runs", &[panel])?;
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), atbptt_train::plot::PlotError>(())
//! ```

mod chart;
mod lag_profile;
mod lines;
mod rows;
mod scale;
mod sheet;
#[cfg(test)]
mod tests;
mod training;

use std::path::{Path, PathBuf};

pub use lag_profile::{LagProfileFigure, lag_profile_figure};
pub use lines::{Line, LinesPanel, lines_figure};
pub(crate) use rows::{EpochRow, EstimateRow, epochs, estimates};

use atbptt_core::Decision;

use crate::report::EpochReport;

/// Draws three panels over the epochs of a run: perplexities, K, and the estimated relative bias with the tolerance `delta`.
///
/// With a `history` of decisions, K and bias are drawn as they were at each estimate, the bias with its interval.
/// [`Run`](crate::run::Run) draws this, and what the last estimate says below it, into the folder of every run.
///
/// # Errors
///
/// [`PlotError::Empty`] without reports; [`PlotError::NotPng`] and [`PlotError::Write`] for the file.
pub fn training_figure(
    path: impl AsRef<Path>,
    reports: &[EpochReport],
    history: &[Decision],
    delta: Option<f64>,
) -> Result<(), PlotError> {
    let estimates = rows::estimates(reports, history);
    report_figure(
        path.as_ref(),
        &rows::epochs(reports),
        &estimates,
        delta,
        None,
    )
}

/// The figure of a run and, where there is a lag profile, that below it, in one file.
pub(crate) fn report_figure(
    path: &Path,
    rows: &[EpochRow],
    estimates: &[EstimateRow],
    delta: Option<f64>,
    profile: Option<&LagProfileFigure<'_>>,
) -> Result<(), PlotError> {
    let mut sheet = training::draw(rows, estimates, delta)?;
    if let Some(profile) = profile {
        sheet = sheet.above(lag_profile::draw(profile)?);
    }
    sheet.save(path)
}

/// The figure of a run with `panels` of lines, such as the last bias curve, below it, in one file; `title` stands above them.
pub(crate) fn training_figure_with(
    path: &Path,
    rows: &[EpochRow],
    estimates: &[EstimateRow],
    delta: Option<f64>,
    title: &str,
    panels: &[LinesPanel],
) -> Result<(), PlotError> {
    let sheet = training::draw(rows, estimates, delta)?;
    sheet.above(lines::draw(title, panels)?).save(path)
}

/// What can go wrong while drawing. Every message names the rule, what was found, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// There is nothing to draw.
    #[error("a figure needs at least one {what}, got none; draw it after the first one is there")]
    Empty {
        /// What is missing: `epoch`, `lag`, `panel`.
        what: &'static str,
    },
    /// The figure would be taller than any screen or page.
    #[error(
        "a figure is at most {most} pixels high, this one would have {height}; draw fewer panels or lines per file"
    )]
    TooLarge {
        /// Height it would have, in pixels.
        height: usize,
        /// Most there may be.
        most: usize,
    },
    /// The file would not be a PNG.
    #[error("figures are PNG files, but {} does not end in .png; rename it", path.display())]
    NotPng {
        /// The path that was given.
        path: PathBuf,
    },
    /// The file could not be written.
    #[error("cannot write the figure {}: {cause}; check that its folder is writable", path.display())]
    Write {
        /// The path that was given.
        path: PathBuf,
        /// What the operating system or the encoder answered.
        cause: String,
    },
    /// The rasteriser refused, which points to a defect of this module.
    #[error("cannot draw the figure: {cause}; please report this with the data")]
    Draw {
        /// What the rasteriser answered.
        cause: String,
    },
}
