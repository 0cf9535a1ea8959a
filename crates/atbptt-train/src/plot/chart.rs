//! One chart of a figure: title and legend above, grid and data below, tick labels around.

use plotters::backend::BitMapBackend;
use plotters::chart::{ChartBuilder, ChartContext, LabelAreaPosition};
use plotters::coord::CoordTranslate;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::DrawingArea;
use plotters::element::{Circle, DashedPathElement, EmptyElement, PathElement, Polygon};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, RGBColor, ShapeStyle, WHITE};

use super::PlotError;
use super::scale::Scale;
use super::sheet::{Area, WIDTH, bold, font, px, refused};

// Okabe and Ito's palette, told apart with any colour vision, and two greys.
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(super) const PURPLE: RGBColor = RGBColor(170, 80, 140);
pub(super) const FAINT: RGBColor = RGBColor(196, 214, 226);
/// A band of [`PURPLE`], as it looks on white.
pub(super) const PALE: RGBColor = RGBColor(240, 224, 234);
const INK: RGBColor = RGBColor(34, 34, 34);
const SOFT: RGBColor = RGBColor(95, 95, 95);
const FRAME: RGBColor = RGBColor(150, 150, 150);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// Margins of every chart, in pixels.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 32.0;
/// Height of the strip over the frame that holds title and legend.
pub(super) const HEAD: f64 = 38.0;
/// The same with the names of vertical lines under them.
pub(super) const HEAD_AND_MARKS: f64 = 56.0;
/// Height of a row of a legend.
pub(super) const ROW: f64 = 24.0;
/// Length of the line in a legend entry: whole dashes at both ends.
const SWATCH: f64 = 35.0;
const DASH: f64 = 7.0;

const LABEL: f64 = 15.0;
const TITLE: f64 = 17.0;

/// A value, x and y.
pub(super) type Point = (f64, f64);

/// A stroke: colour, width in pixels, and whether it is dashed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stroke {
    pub(super) color: RGBColor,
    width: f64,
    dashed: bool,
}

impl Stroke {
    pub(super) const fn solid(color: RGBColor, width: f64) -> Self {
        Self {
            color,
            width,
            dashed: false,
        }
    }

    pub(super) const fn dashed(color: RGBColor, width: f64) -> Self {
        Self {
            color,
            width,
            dashed: true,
        }
    }

    fn style(self) -> ShapeStyle {
        ShapeStyle {
            color: self.color.to_rgba(),
            filled: false,
            stroke_width: px(self.width).max(1) as u32,
        }
    }
}

/// The name of the whole figure, at the top left; cut where the sheet ends.
pub(super) fn heading(area: &Area<'_>, text: &str) -> Result<(), PlotError> {
    const MAX: usize = 80;
    let mut shown: String = text.chars().take(MAX).collect();
    if text.chars().nth(MAX).is_some() {
        shown.push('…');
    }
    let shown = shown.replace(char::is_control, " ");
    area.draw_text(&shown, &bold(22.0, INK), (px(LEFT), px(30.0)))
        .map_err(refused)
}

/// One entry of a legend.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    name: String,
    stroke: Stroke,
}

impl Entry {
    pub(super) fn new(name: impl Into<String>, stroke: Stroke) -> Self {
        Self {
            name: name.into(),
            stroke,
        }
    }
}

/// How the entries of a legend are lined up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// From the left edge of the frames, in as many rows as it takes.
    Left,
    /// In one row that ends at the right edge.
    Right,
}

/// Draws a legend from height `top` on, and returns the number of its rows.
pub(super) fn legend(
    area: &Area<'_>,
    top: f64,
    side: Side,
    entries: &[Entry],
) -> Result<usize, PlotError> {
    const GAP: f64 = 24.0;
    let style = font(LABEL, SOFT, HPos::Left);
    let end = WIDTH as f64 - RIGHT;
    let widths = entries.iter().map(|entry| {
        let (width, _) = area
            .estimate_text_size(&entry.name, &style)
            .map_err(refused)?;
        Ok(SWATCH + 8.0 + f64::from(width) / f64::from(px(1.0)))
    });
    let widths = widths.collect::<Result<Vec<f64>, PlotError>>()?;
    let mut left = match side {
        Side::Left => LEFT,
        Side::Right => end + GAP - widths.iter().map(|width| width + GAP).sum::<f64>(),
    };
    let mut row = 0;
    for (entry, width) in entries.iter().zip(widths) {
        if side == Side::Left && left > LEFT && left + width > end {
            (left, row) = (LEFT, row + 1);
        }
        let at = |x: f64| (px(x), px(top + ROW * (row as f64 + 0.5)));
        path(area, vec![at(left), at(left + SWATCH)], entry.stroke)?;
        let (x, y) = at(left + SWATCH + 8.0);
        area.draw_text(&entry.name, &style, (x, y + sunk(LABEL)))
            .map_err(refused)?;
        left += width + GAP;
    }
    Ok(if entries.is_empty() { 0 } else { row + 1 })
}

/// A line through `points`, in the coordinates of `area`.
fn path<CT>(
    area: &DrawingArea<BitMapBackend<'_>, CT>,
    points: Vec<CT::From>,
    stroke: Stroke,
) -> Result<(), PlotError>
where
    CT: CoordTranslate,
    CT::From: Clone,
{
    match stroke.dashed {
        true => area.draw(&DashedPathElement::new(
            points,
            px(DASH),
            px(DASH),
            stroke.style(),
        )),
        false => area.draw(&PathElement::new(points, stroke.style())),
    }
    .map_err(refused)
}

/// How far down text of this size must go to look centred: the rasteriser centres a box that is taller than the letters.
fn sunk(size: f64) -> i32 {
    px(0.12 * size)
}

/// What surrounds the data of a chart.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) title: &'a str,
    /// Height of the frame's upper edge in the figure, of the strip above it, and of the frame.
    pub(super) top: f64,
    pub(super) head: f64,
    pub(super) height: f64,
    pub(super) x: Scale,
    /// Written under the axis; without one the axis has no labels, as the chart below has them.
    pub(super) x_name: Option<&'a str>,
    /// `None` when there is no value to draw.
    pub(super) y: Option<Scale>,
    /// From left to right.
    pub(super) legend: Vec<Entry>,
}

/// A coordinate system on a sheet.
pub(super) struct Chart<'a, 'b> {
    /// The strip of the sheet that it takes.
    area: Area<'b>,
    context: ChartContext<'a, BitMapBackend<'b>, Cartesian2d<Scale, Scale>>,
}

impl<'a, 'b> Chart<'a, 'b> {
    /// Draws title, legend, grid and tick labels.
    pub(super) fn new(sheet: &Area<'b>, around: Around<'_>) -> Result<Self, PlotError> {
        let Around { head, height, .. } = around;
        let foot = if around.x_name.is_some() { 48.0 } else { 12.0 };
        let area = sheet.clone().shrink(
            (0, px(around.top - head)),
            (px(WIDTH as f64), px(head + height + foot)),
        );
        area.draw_text(
            around.title,
            &bold(TITLE, INK),
            (px(LEFT), px(14.0) + sunk(TITLE)),
        )
        .map_err(refused)?;
        legend(&area, 14.0 - 0.5 * ROW, Side::Right, &around.legend)?;

        let empty = around.y.is_none();
        let y_ticks = (height / 40.0).max(2.0) as usize;
        let x = around.x.with_ticks(10);
        let y = match around.y {
            Some(y) => y.with_ticks(y_ticks),
            None => Scale::span(0.0, 1.0),
        };
        let mut context = ChartBuilder::on(&area)
            .margin_top(px(head))
            .margin_right(px(RIGHT))
            .set_label_area_size(LabelAreaPosition::Left, px(LEFT))
            .set_label_area_size(LabelAreaPosition::Bottom, px(foot))
            .build_cartesian_2d(x, y)
            .map_err(refused)?;
        let mut mesh = context.configure_mesh();
        mesh.bold_line_style(GRID.stroke_width(px(1.0) as u32))
            .axis_style(FRAME.stroke_width(px(1.0) as u32))
            .label_style(font(LABEL, SOFT, HPos::Center))
            .set_all_tick_mark_size(px(4.5))
            .y_label_offset(sunk(LABEL));
        match around.x_name {
            Some(name) => mesh.x_desc(name),
            None => mesh.x_label_formatter(&|_| String::new()),
        };
        mesh.draw().map_err(refused)?;
        if empty {
            let middle = (
                px((LEFT + WIDTH as f64 - RIGHT) / 2.0),
                px(head + height / 2.0),
            );
            area.draw_text("no finite values", &font(LABEL, SOFT, HPos::Center), middle)
                .map_err(refused)?;
        }
        Ok(Self { area, context })
    }

    fn holds(&self, (x, y): Point) -> bool {
        let spec = self.context.as_coord_spec();
        spec.x_spec().holds(x) && spec.y_spec().holds(y)
    }

    /// A line through `points` with gaps where a value cannot be drawn; what stands alone between gaps becomes a dot.
    pub(super) fn curve(&self, points: &[Point], stroke: Stroke) -> Result<(), PlotError> {
        for run in points.split(|&point| !self.holds(point)) {
            match run {
                [] => {}
                [alone] => self.dot(*alone, stroke.width + 1.0, stroke.color)?,
                _ => path(self.context.plotting_area(), run.to_vec(), stroke)?,
            }
        }
        Ok(())
    }

    /// The area between two lines, from points (x, lower, upper), cut off at the frame; gaps as in a [curve](Self::curve).
    pub(super) fn band(
        &self,
        points: &[(f64, f64, f64)],
        color: RGBColor,
    ) -> Result<(), PlotError> {
        let spec = self.context.as_coord_spec();
        let ends: Vec<_> = points
            .iter()
            .map(|&(x, low, high)| {
                let ends = spec.y_spec().within(low).zip(spec.y_spec().within(high));
                ends.filter(|_| spec.x_spec().holds(x))
                    .map(|(low, high)| ((x, low), (x, high)))
            })
            .collect();
        for run in ends.split(Option::is_none) {
            let lower = run.iter().flatten().map(|(low, _)| *low);
            let upper = run.iter().flatten().map(|(_, high)| *high);
            let outline: Vec<Point> = lower.chain(upper.rev()).collect();
            let area = self.context.plotting_area();
            match outline.len() {
                0 => {}
                // One interval alone is a bar.
                2 => path(area, outline, Stroke::solid(color, 1.5))?,
                _ => area
                    .draw(&Polygon::new(outline, color.mix(0.18).filled()))
                    .map_err(refused)?,
            }
        }
        Ok(())
    }

    fn dot(&self, at: Point, radius: f64, color: RGBColor) -> Result<(), PlotError> {
        let dot = Circle::new(at, px(radius).max(1), color.filled());
        self.context.plotting_area().draw(&dot).map_err(refused)
    }

    /// A triangle that points up or down: a value lies beyond.
    pub(super) fn arrow(&self, at: Point, up: bool, color: RGBColor) -> Result<(), PlotError> {
        if !self.holds(at) {
            return Ok(());
        }
        let side = if up { -1 } else { 1 };
        let corner = |x: f64, y: f64| (px(x), side * px(y));
        let corners = vec![corner(-6.5, 1.0), corner(6.5, 1.0), corner(0.0, 12.0)];
        let arrow = EmptyElement::at(at) + Polygon::new(corners, color.filled());
        self.context.plotting_area().draw(&arrow).map_err(refused)
    }

    /// A dot at every value, unless there are too many to tell apart.
    pub(super) fn dots(&self, points: &[Point], color: RGBColor) -> Result<(), PlotError> {
        if points.len() > 60 {
            return Ok(());
        }
        for &point in points {
            if self.holds(point) {
                self.dot(point, 3.8, color)?;
            }
        }
        Ok(())
    }

    /// One emphasised value: a dot with a white rim.
    pub(super) fn target(&self, point: Point, color: RGBColor) -> Result<(), PlotError> {
        if !self.holds(point) {
            return Ok(());
        }
        self.dot(point, 8.0, WHITE)?;
        self.dot(point, 6.0, color)
    }

    /// A horizontal line over the whole width.
    pub(super) fn level(&self, value: f64, stroke: Stroke) -> Result<(), PlotError> {
        let x = self.context.x_range();
        self.curve(&[(x.start, value), (x.end, value)], stroke)
    }

    /// Vertical lines with their names over the frame; two neighbours are named to their outer sides.
    pub(super) fn marks(&self, marks: &[(f64, String, Stroke)]) -> Result<(), PlotError> {
        let y = self.context.y_range();
        let (left, top) = self.area.get_base_pixel();
        let mut placed = Vec::new();
        for (value, name, stroke) in marks {
            if self.holds((*value, y.end)) {
                self.curve(&[(*value, y.start), (*value, y.end)], *stroke)?;
                let (x, frame) = self.context.backend_coord(&(*value, y.end));
                placed.push((x - left, frame - top, name, stroke.color));
            }
        }
        placed.sort_by_key(|(x, ..)| *x);
        let close = placed
            .windows(2)
            .any(|pair| matches!(pair, [(a, ..), (b, ..)] if b - a < px(90.0)));
        for (nth, (x, frame, name, color)) in placed.into_iter().enumerate() {
            let (from_left, from_right) = (x - px(LEFT), px(WIDTH as f64 - RIGHT) - x);
            let side = match (close, nth) {
                (true, 0) if from_left > px(60.0) => HPos::Right,
                (true, _) => HPos::Left,
                _ if from_left < px(40.0) => HPos::Left,
                _ if from_right < px(40.0) => HPos::Right,
                _ => HPos::Center,
            };
            let at = (x, frame - px(11.0) + sunk(LABEL));
            self.area
                .draw_text(name, &font(LABEL, color, side), at)
                .map_err(refused)?;
        }
        Ok(())
    }
}
