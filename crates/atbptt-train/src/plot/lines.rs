//! Panels of lines below each other, with one legend: runs compared, profiles side by side.

use std::path::Path;

use plotters::style::RGBColor;

use super::PlotError;
use super::chart::{
    Around, BLUE, Chart, Entry, GREEN, HEAD, PURPLE, Point, ROW, Side, Stroke, VERMILION, heading,
    legend,
};
use super::scale::Scale;
use super::sheet::Sheet;

/// Colours in the order they are given out: Okabe and Ito's, then darker kin.
pub(super) const COLORS: [RGBColor; 10] = [
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

/// One line of a panel.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Line {
    /// Name in the legend; lines of the same name share colour and entry. Empty: no entry.
    pub name: String,
    /// Points (x, y), by x. NaN and infinite values are gaps.
    pub points: Vec<(f64, f64)>,
    /// Dashed instead of solid.
    pub dashed: bool,
    /// An interval around the line: (x, lower end, upper end), by x. Values that are not finite are cut off at the frame.
    pub band: Vec<(f64, f64, f64)>,
    /// Whether y counts from zero, as a flow does: the axis of the panel is linear then, and zero is on it.
    pub zero: bool,
    /// Lowest and highest y to draw. What lies beyond is drawn at the end it lies beyond, under a triangle that points there, and does
    /// not stretch the axis.
    pub limits: Option<(f64, f64)>,
}

impl Line {
    /// A solid line without a band.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.into(),
            points,
            ..Self::default()
        }
    }

    /// The same line, dashed.
    pub fn dashed(mut self) -> Self {
        self.dashed = true;
        self
    }

    /// The same line with an interval around it: (x, lower end, upper end), by x.
    pub fn with_band(mut self, band: Vec<(f64, f64, f64)>) -> Self {
        self.band = band;
        self
    }

    /// The same line in a panel whose y axis is linear and has zero on it.
    pub fn with_zero(mut self) -> Self {
        self.zero = true;
        self
    }

    /// The same line with values below `low` and above `high` drawn there, under triangles that point to where they lie; limits that are
    /// not in order, or no numbers, are none.
    pub fn with_limits(mut self, low: f64, high: f64) -> Self {
        self.limits = (low <= high).then_some((low, high));
        self
    }

    /// The points as they are drawn: within the limits.
    fn drawn(&self) -> Vec<Point> {
        let within = |y: f64| match self.limits {
            Some((low, high)) if y.is_finite() && low <= high => y.clamp(low, high),
            _ => y,
        };
        self.points.iter().map(|&(x, y)| (x, within(y))).collect()
    }

    /// Points that are drawn at a limit.
    fn clipped(&self) -> impl Iterator<Item = Clipped> {
        let pairs = self.points.iter().zip(self.drawn());
        let clipped = pairs.map(|(&(_, value), at)| Clipped { at, value });
        clipped.filter(|clipped| clipped.value.is_finite() && clipped.value != clipped.at.1)
    }
}

/// A point beyond the limits of its line.
struct Clipped {
    /// Where it is drawn.
    at: Point,
    /// Its own y.
    value: f64,
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

/// Draws `panels` below each other, with one legend for all; y is logarithmic where all its values are positive and the largest is
/// thirty times the smallest, unless a line counts [from zero](Line::with_zero).
///
/// # Errors
///
/// [`PlotError::Empty`] without a panel, [`PlotError::TooLarge`] with more than fit; [`PlotError::NotPng`] and [`PlotError::Write`] for the file.
///
/// ```
/// use atbptt_train::plot::{Line, LinesPanel, lines_figure};
///
/// let line = |name, values: [f64; 3]| Line::new(name, (1..).map(f64::from).zip(values).collect());
/// let panel = LinesPanel {
///     title: "Test perplexity".into(),
///     x: "epoch".into(),
///     lines: vec![line("δ = 0.5", [90.0, 60.0, 50.0]), line("K = 10", [95.0, 70.0, 65.0]).dashed()],
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

pub(super) fn draw(title: &str, panels: &[LinesPanel]) -> Result<Sheet, PlotError> {
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
    let entries: Vec<Entry> = names
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, dashed)| Entry::new(*name, stroke(name, *dashed)))
        .collect();

    let mut rows = 0;
    // The legend decides how tall the sheet is, so it is first drawn on a sheet of its own.
    Sheet::new(1)?.draw(|area| {
        rows = legend(area, 0.0, Side::Left, &entries)?;
        Ok(())
    })?;
    let top = 56.0 + ROW * rows as f64 + HEAD;
    let height = top + STRIDE * panels.len() as f64 - (STRIDE - FRAME) + 60.0;
    let mut sheet = Sheet::new(height.ceil() as usize)?;
    sheet.draw(|area| {
        heading(area, title)?;
        legend(area, 50.0, Side::Left, &entries)?;
        for (nth, panel) in panels.iter().enumerate() {
            let points = || panel.lines.iter().flat_map(|line| &line.points);
            let around = Around {
                title: &panel.title,
                top: top + STRIDE * nth as f64,
                head: HEAD,
                height: FRAME,
                x: x_scale(points()),
                x_name: Some(&panel.x),
                y: y_scale(panel),
                legend: Vec::new(),
            };
            let chart = Chart::new(area, around)?;
            for line in &panel.lines {
                chart.band(&line.band, stroke(&line.name, false).color)?;
            }
            // What stands first in the legend is drawn last, on top; but for a single point, which marks a place on another line.
            let is_mark = |line: &&Line| line.points.len() == 1;
            let lines = panel.lines.iter().rev();
            let (marks, lines): (Vec<_>, Vec<_>) = lines.partition(is_mark);
            for line in lines.into_iter().chain(marks) {
                let stroke = stroke(&line.name, line.dashed);
                let points = line.drawn();
                chart.curve(&points, stroke)?;
                if points.len() <= 20 {
                    chart.dots(&points, stroke.color)?;
                }
                for Clipped { at, value } in line.clipped() {
                    chart.arrow(at, value > at.1, stroke.color)?;
                }
            }
        }
        Ok(())
    })?;
    Ok(sheet)
}

/// Over all values; with zero on it where a line counts from zero.
pub(super) fn y_scale(panel: &LinesPanel) -> Option<Scale> {
    let zero = panel.lines.iter().any(|line| line.zero).then_some(0.0);
    let points = panel.lines.iter().flat_map(Line::drawn);
    let values: Vec<f64> = points.map(|point| point.1).chain(zero).collect();
    // What can be negative has no logarithmic axis, also where the negative values are beyond the limits.
    let mut clipped = panel.lines.iter().flat_map(Line::clipped);
    match clipped.any(|clipped| clipped.value <= 0.0) {
        true => Scale::linear(values),
        false => Scale::automatic(values),
    }
}

/// From the smallest to the largest x, with a little air; whole ticks where all x are whole.
fn x_scale<'a>(points: impl Iterator<Item = &'a Point> + Clone) -> Scale {
    let finite = points.map(|point| point.0).filter(|x| x.is_finite());
    let low = finite.clone().fold(f64::INFINITY, f64::min);
    let high = finite.clone().fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return Scale::span(0.0, 1.0);
    }
    let air = 0.02 * (high - low) + if high > low { 0.0 } else { 0.2 };
    let scale = Scale::span(low - air, high + air);
    match finite.clone().all(|x| x.fract() == 0.0) {
        true => scale.counting(),
        false => scale,
    }
}
