//! Figures of runs and lag profiles, as PNG files.
//!
//! ```text
//! epochs, estimates ──► training_figure ───┐
//!                                          ├─► charts on a sheet ──► PNG, 1200 pixels wide
//! lag profile ────────► lag_profile_figure ┘
//! ```
//!
//! [`report_figure`] puts both on one sheet, [`training_figure_with`] the first and any lines; [`lines_figure`] compares runs, or
//! anything else made of lines.
//!
//! Everything comes in as plain numbers, so that any report can be drawn. The font (DejaVu) is compiled in and no C
//! library is needed: figures look the same everywhere. NaN and infinite values are gaps in a line, never an error; a
//! figure about nothing is [`PlotError::Empty`].
//!
//! ```
//! use atbptt_train::plot::{EpochRow, training_figure};
//!
//! let row = |epoch, valid_perplexity, k| EpochRow {
//!     epoch,
//!     train_perplexity: 1.1 * valid_perplexity,
//!     valid_perplexity,
//!     k,
//!     relative_bias: f64::NAN, // not estimated: a gap
//! };
//! let path = std::env::temp_dir().join("atbptt-doc-figure.png");
//! training_figure(&path, &[row(1, 310.0, 100.0), row(2, 180.0, 62.0)], &[], Some(0.5))?;
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), atbptt_train::plot::PlotError>(())
//! ```

mod chart;
mod lag_profile;
mod lines;
mod scale;
mod sheet;
#[cfg(test)]
mod tests;
mod training;

use std::path::{Path, PathBuf};

pub use lag_profile::{LagProfileFigure, lag_profile_figure};
pub use lines::{Line, LinesPanel, lines_figure};
pub use training::{EpochRow, EstimateRow, training_figure};

/// [`training_figure`] and, where there is a lag profile, [`lag_profile_figure`] below it, in one file.
///
/// # Errors
///
/// As the two.
pub fn report_figure(
    path: impl AsRef<Path>,
    rows: &[EpochRow],
    estimates: &[EstimateRow],
    delta: Option<f64>,
    profile: Option<&LagProfileFigure<'_>>,
) -> Result<(), PlotError> {
    let mut sheet = training::draw(rows, estimates, delta)?;
    if let Some(profile) = profile {
        sheet = sheet.above(lag_profile::draw(profile)?);
    }
    sheet.save(path.as_ref())
}

/// [`training_figure`] with `panels` of lines, such as the last bias curve, below it, in one file; `title` stands above them.
///
/// # Errors
///
/// As [`training_figure`] and [`lines_figure`].
pub fn training_figure_with(
    path: impl AsRef<Path>,
    rows: &[EpochRow],
    estimates: &[EstimateRow],
    delta: Option<f64>,
    title: &str,
    panels: &[LinesPanel],
) -> Result<(), PlotError> {
    let sheet = training::draw(rows, estimates, delta)?;
    sheet.above(lines::draw(title, panels)?).save(path.as_ref())
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
