//! Panels of lines below each other, with one legend: runs compared, profiles side by side.

use std::path::Path;

use plotters::style::RGBColor;
use plotters::style::text_anchor::HPos;

use super::PlotError;
use super::axis::Axis;
use super::canvas::{Canvas, Point, Stroke};
use super::panel::{BLUE, GREEN, HEAD, PURPLE, Panel, VERMILION, font, heading};

/// Colours in the order they are given out: Okabe and Ito's, then darker kin.
const COLORS: [RGBColor; 10] = [
    BLUE,
    VERMILION,
    GREEN,
    PURPLE,
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(140, 60, 20),
    RGBColor(20, 90, 80),
    RGBColor(200, 120, 160),
];

/// Height of a panel's frame, and from one frame to the next.
const FRAME: f64 = 250.0;
const STRIDE: f64 = 340.0;
/// Height of a row of the legend.
const ROW: f64 = 24.0;
const SWATCH: f64 = 35.0;

/// One line of a panel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Name in the legend; lines of the same name share colour and entry. Empty: no entry.
    pub name: String,
    /// Points (x, y), by x. NaN and infinite values are gaps.
    pub points: Vec<(f64, f64)>,
    /// Dashed instead of solid.
    pub dashed: bool,
}

/// One coordinate system.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinesPanel {
    /// What y is.
    pub title: String,
    /// What x is.
    pub x: String,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Draws `panels` below each other, with one legend for all; y is logarithmic where its values differ fivefold.
///
/// # Errors
///
/// [`PlotError::Empty`] without a panel, [`PlotError::TooLarge`] with more than fit; [`PlotError::NotPng`] and [`PlotError::Write`] for the file.
///
/// ```
/// use atbptt_train::plot::{Line, LinesPanel, lines_figure};
///
/// let line = |name: &str, dashed, values: [f64; 3]| Line {
///     name: name.into(),
///     points: (1..).map(f64::from).zip(values).collect(),
///     dashed,
/// };
/// let panel = LinesPanel {
///     title: "Test perplexity".into(),
///     x: "epoch".into(),
///     lines: vec![line("δ = 0.5", false, [90.0, 60.0, 50.0]), line("K = 10", true, [95.0, 70.0, 65.0])],
/// };
/// let path = std::env::temp_dir().join("atbptt-doc-lines.png");
/// lines_figure(&path, "Two policies", &[panel])?;
/// # std::fs::remove_file(path).ok();
/// # Ok::<(), atbptt_train::plot::PlotError>(())
/// ```
pub fn lines_figure(
    path: impl AsRef<Path>,
    title: &str,
    panels: &[LinesPanel],
) -> Result<(), PlotError> {
    draw(title, panels)?.save(path.as_ref())
}

fn draw(title: &str, panels: &[LinesPanel]) -> Result<Canvas, PlotError> {
    if panels.is_empty() {
        return Err(PlotError::Empty { what: "panel" });
    }
    let mut names: Vec<(&str, bool)> = Vec::new();
    for line in panels.iter().flat_map(|panel| &panel.lines) {
        if !names.iter().any(|(name, _)| *name == line.name) {
            names.push((&line.name, line.dashed));
        }
    }
    let stroke = |name: &str, dashed: bool| {
        let nth = names.iter().position(|(known, _)| *known == name);
        let color = COLORS.into_iter().cycle().nth(nth.unwrap_or(0));
        let color = color.unwrap_or(BLUE);
        match dashed {
            true => Stroke::dashed(color, 2.2),
            false => Stroke::solid(color, 2.6),
        }
    };

    let entries: Vec<(&str, Stroke)> = names
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, dashed)| (*name, stroke(name, *dashed)))
        .collect();
    let rows = legend_rows(&entries)?;
    let top = 56.0 + ROW * rows.len() as f64 + HEAD;
    let height = top + STRIDE * panels.len() as f64 - (STRIDE - FRAME) + 60.0;
    let mut canvas = Canvas::new(1200, height.ceil() as usize)?;
    heading(&mut canvas, title)?;
    for (nth, row) in rows.iter().enumerate() {
        let height = 62.0 + ROW * nth as f64;
        for &(at, entry) in row {
            let Some(&(name, stroke)) = entries.get(entry) else {
                continue;
            };
            canvas.segments(&[(at, height), (at + SWATCH, height)], stroke)?;
            canvas.text(name, (at + SWATCH + 8.0, height), font(15.0, HPos::Left))?;
        }
    }
    for (nth, panel) in panels.iter().enumerate() {
        let top = top + STRIDE * nth as f64;
        let points = || panel.lines.iter().flat_map(|line| &line.points);
        let y = Axis::automatic(points().map(|point| point.1).collect::<Vec<_>>());
        let mut drawn = Panel::new(
            &mut canvas,
            &panel.title,
            (HEAD, top, top + FRAME),
            (x_axis(points()), Some(&panel.x)),
            y,
        )?;
        // What stands first in the legend is drawn last, on top.
        for line in panel.lines.iter().rev() {
            let stroke = stroke(&line.name, line.dashed);
            drawn.curve(&line.points, stroke)?;
            if line.points.len() <= 20 {
                drawn.dots(&line.points, stroke.color)?;
            }
        }
    }
    Ok(canvas)
}

/// From the smallest to the largest x, with a little air; whole ticks where all x are whole.
fn x_axis<'a>(points: impl Iterator<Item = &'a Point> + Clone) -> Axis {
    let finite = points.map(|point| point.0).filter(|x| x.is_finite());
    let low = finite.clone().fold(f64::INFINITY, f64::min);
    let high = finite.clone().fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return Axis::span(0.0, 1.0);
    }
    let air = 0.02 * (high - low) + if high > low { 0.0 } else { 0.2 };
    let axis = Axis::span(low - air, high + air);
    match finite.clone().all(|x| x.fract() == 0.0) {
        true => axis.counting(),
        false => axis,
    }
}

/// Where each legend entry begins, row by row: (left edge, entry).
fn legend_rows(entries: &[(&str, Stroke)]) -> Result<Vec<Vec<(f64, usize)>>, PlotError> {
    const LEFT: f64 = 84.0;
    let mut ruler = Canvas::new(1200, 1)?;
    let mut rows: Vec<Vec<(f64, usize)>> = Vec::new();
    let mut at = f64::INFINITY;
    for (nth, (name, _)) in entries.iter().enumerate() {
        let width = SWATCH + 8.0 + ruler.text_width(name, font(15.0, HPos::Left))?;
        if at + width > 1200.0 - 32.0 {
            at = LEFT;
            rows.push(Vec::new());
        }
        if let Some(row) = rows.last_mut() {
            row.push((at, nth));
        }
        at += width + 26.0;
    }
    Ok(rows)
}
