//! One coordinate system: title and legend above, grid and data below, tick labels around.

use std::ops::RangeInclusive;

use plotters::style::RGBColor;
use plotters::style::text_anchor::HPos;

use super::PlotError;
use super::axis::Axis;
use super::canvas::{Canvas, Font, Point, Stroke};

// Okabe and Ito's palette, told apart with any colour vision, and two greys.
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(super) const PURPLE: RGBColor = RGBColor(170, 80, 140);
pub(super) const FAINT: RGBColor = RGBColor(196, 214, 226);
const INK: RGBColor = RGBColor(34, 34, 34);
const SOFT: RGBColor = RGBColor(95, 95, 95);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// Margins of every panel, in pixels.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 32.0;
/// Height of the strip over the frame that holds title and legend.
pub(super) const HEAD: f64 = 38.0;
/// The same with the names of vertical lines under them.
pub(super) const HEAD_AND_MARKS: f64 = 56.0;
/// Length of the line in a legend entry: whole dashes at both ends.
const SWATCH: f64 = 35.0;

/// Positions that are drawn; the ends are rounding.
const ON_AXIS: RangeInclusive<f64> = -0.001..=1.001;

const LABEL: f64 = 15.0;
const TITLE: f64 = 17.0;

pub(super) fn font(size: f64, side: HPos) -> Font {
    Font {
        size,
        bold: false,
        color: SOFT,
        side,
    }
}

/// The name of the whole figure, at the top left; cut when it is too long.
pub(super) fn heading(canvas: &mut Canvas, text: &str) -> Result<(), PlotError> {
    let heading = Font {
        size: 22.0,
        bold: true,
        color: INK,
        side: HPos::Left,
    };
    let room = canvas.width() - LEFT - RIGHT;
    // No font of this size fits more; cutting a book to the room letter by letter would take hours.
    let start: String = text.chars().take(400).collect();
    let mut shown = start.replace(char::is_control, " ");
    while canvas.text_width(&shown, heading)? > room {
        // Two off, one on: gets shorter every time.
        shown.truncate(shown.char_indices().rev().nth(1).map_or(0, |(at, _)| at));
        shown.push('…');
    }
    canvas.text(&shown, (LEFT, 28.0), heading)
}

/// A coordinate system on a canvas.
pub(super) struct Panel<'a> {
    canvas: &'a mut Canvas,
    x: Axis,
    /// `None` when there is no value to draw.
    y: Option<Axis>,
    /// Frame: left, top, right, bottom.
    frame: [f64; 4],
    /// Legend entries, right to left.
    legend_end: f64,
    head: f64,
}

impl<'a> Panel<'a> {
    /// Draws title, grid and tick labels; the frame reaches from height `top` to `bottom`, with title and legend above
    /// it and the tick labels of x below it.
    ///
    /// `x_name` is written under the axis; without one the axis has no labels (the panel below has them).
    pub(super) fn new(
        canvas: &'a mut Canvas,
        title: &str,
        (head, top, bottom): (f64, f64, f64),
        (x, x_name): (Axis, Option<&str>),
        y: Option<Axis>,
    ) -> Result<Self, PlotError> {
        let frame = [LEFT, top, canvas.width() - RIGHT, bottom];
        let legend_end = frame[2];
        let mut panel = Panel {
            canvas,
            x,
            y,
            frame,
            legend_end,
            head: top - head + 14.0,
        };
        panel.grid(x_name)?;
        let bold = Font {
            size: TITLE,
            bold: true,
            color: INK,
            side: HPos::Left,
        };
        panel.canvas.text(title, (LEFT, panel.head), bold)?;
        if panel.y.is_none() {
            let [left, top, right, bottom] = panel.frame;
            let middle = ((left + right) / 2.0, (top + bottom) / 2.0);
            panel
                .canvas
                .text("no finite values", middle, font(LABEL, HPos::Center))?;
        }
        Ok(panel)
    }

    fn grid(&mut self, x_name: Option<&str>) -> Result<(), PlotError> {
        let [left, top, right, bottom] = self.frame;
        let thin = Stroke::solid(GRID, 1.0);
        for (value, label) in self.x.ticks(10) {
            let Some(position) = self.x.position(value) else {
                continue;
            };
            let at = left + position * (right - left);
            self.canvas.line(&[(at, top), (at, bottom)], thin)?;
            if x_name.is_some() {
                self.canvas
                    .text(&label, (at, bottom + 16.0), font(LABEL, HPos::Center))?;
            }
        }
        let wanted = ((bottom - top) / 40.0).max(2.0) as usize;
        for (value, label) in self.y.as_ref().map(|y| y.ticks(wanted)).unwrap_or_default() {
            if let Some(at) = self.height(value) {
                self.canvas.line(&[(left, at), (right, at)], thin)?;
                self.canvas
                    .text(&label, (left - 9.0, at), font(LABEL, HPos::Right))?;
            }
        }
        let edge = Stroke::solid(RGBColor(150, 150, 150), 1.0);
        self.canvas
            .line(&[(left, top), (left, bottom), (right, bottom)], edge)?;
        if let Some(name) = x_name {
            let at = ((left + right) / 2.0, bottom + 38.0);
            self.canvas.text(name, at, font(LABEL, HPos::Center))?;
        }
        Ok(())
    }

    /// Height of a value; `None` as in [`place`](Self::place).
    fn height(&self, y: f64) -> Option<f64> {
        let [_, top, _, bottom] = self.frame;
        let position = self
            .y
            .as_ref()?
            .position(y)
            .filter(|p| ON_AXIS.contains(p))?;
        Some(bottom - position * (bottom - top))
    }

    /// Where a value is drawn; `None` when it is not finite, has no logarithm, or lies outside the frame.
    fn place(&self, (x, y): Point) -> Option<Point> {
        let [left, _, right, _] = self.frame;
        let position = self.x.position(x).filter(|p| ON_AXIS.contains(p))?;
        Some((left + position * (right - left), self.height(y)?))
    }

    /// A line through `points` with gaps where a value cannot be drawn; what stands alone between gaps becomes a dot.
    pub(super) fn curve(&mut self, points: &[Point], stroke: Stroke) -> Result<(), PlotError> {
        let placed: Vec<Option<Point>> = points.iter().map(|&point| self.place(point)).collect();
        for run in placed.split(Option::is_none) {
            let run: Vec<Point> = run.iter().flatten().copied().collect();
            match run.as_slice() {
                [] => {}
                [alone] => self.canvas.dot(*alone, stroke.width + 1.0, stroke.color)?,
                _ => self.canvas.line(&run, stroke)?,
            }
        }
        Ok(())
    }

    /// A dot at every value, unless there are too many to tell apart.
    pub(super) fn dots(&mut self, points: &[Point], color: RGBColor) -> Result<(), PlotError> {
        if points.len() > 60 {
            return Ok(());
        }
        for at in points
            .iter()
            .filter_map(|&point| self.place(point))
            .collect::<Vec<_>>()
        {
            self.canvas.dot(at, 3.8, color)?;
        }
        Ok(())
    }

    /// One emphasised value: a dot with a white rim.
    pub(super) fn target(&mut self, point: Point, color: RGBColor) -> Result<(), PlotError> {
        let Some(at) = self.place(point) else {
            return Ok(());
        };
        self.canvas.dot(at, 8.0, RGBColor(255, 255, 255))?;
        self.canvas.dot(at, 6.0, color)
    }

    /// A horizontal line over the whole width.
    pub(super) fn level(&mut self, value: f64, stroke: Stroke) -> Result<(), PlotError> {
        let [left, _, right, _] = self.frame;
        match self.height(value) {
            Some(at) => self.canvas.line(&[(left, at), (right, at)], stroke),
            None => Ok(()),
        }
    }

    /// Vertical lines with their names over the frame; two neighbours are named to their outer sides.
    pub(super) fn marks(&mut self, marks: &[(f64, String, Stroke)]) -> Result<(), PlotError> {
        let [left, top, right, bottom] = self.frame;
        let position = |value: f64| self.x.position(value).filter(|p| ON_AXIS.contains(p));
        let mut placed: Vec<_> = marks
            .iter()
            .filter_map(|(value, name, stroke)| {
                Some((left + position(*value)? * (right - left), name, *stroke))
            })
            .collect();
        placed.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        let close = placed
            .windows(2)
            .any(|pair| matches!(pair, [(a, ..), (b, ..)] if b - a < 90.0));
        for (nth, (at, name, stroke)) in placed.into_iter().enumerate() {
            self.canvas.line(&[(at, top), (at, bottom)], stroke)?;
            let side = match (close, nth) {
                (true, 0) if at - left > 60.0 => HPos::Right,
                (true, _) => HPos::Left,
                _ if at - left < 40.0 => HPos::Left,
                _ if right - at < 40.0 => HPos::Right,
                _ => HPos::Center,
            };
            let name_font = Font {
                color: stroke.color,
                ..font(LABEL, side)
            };
            self.canvas.text(name, (at, top - 11.0), name_font)?;
        }
        Ok(())
    }

    /// Adds a legend entry, in the head and thus clear of the data; the first one called stands rightmost.
    pub(super) fn legend(&mut self, name: &str, stroke: Stroke) -> Result<(), PlotError> {
        let label = font(LABEL, HPos::Left);
        let start = self.legend_end - self.canvas.text_width(name, label)?;
        self.canvas.text(name, (start, self.head), label)?;
        let (line, height) = (start - 8.0 - SWATCH, self.head);
        self.canvas
            .segments(&[(line, height), (line + SWATCH, height)], stroke)?;
        self.legend_end = line - 22.0;
        Ok(())
    }
}
