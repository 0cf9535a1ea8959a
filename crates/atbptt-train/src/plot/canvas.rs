//! A white sheet with lines, dots and text, drawn at twice its size and shrunk for smooth edges.
//!
//! Coordinates are pixels of the finished figure, from its upper left corner.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use plotters::backend::{BitMapBackend, DrawingBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, ShapeStyle, TextStyle, register_font};

use super::PlotError;

/// A position, x to the right and y down.
pub(super) type Point = (f64, f64);

/// How often a pixel is divided in each direction.
const SCALE: usize = 2;
/// Largest height of a figure, in pixels: 360 MB while it is drawn.
const MOST_HEIGHT: usize = 25_000;
const FONT: &str = "atbptt-sans";

/// A stroke: colour, width in pixels, and dash length (0 for a solid line).
#[derive(Clone, Copy, Debug)]
pub(super) struct Stroke {
    pub(super) color: RGBColor,
    pub(super) width: f64,
    pub(super) dash: f64,
}

impl Stroke {
    pub(super) const fn solid(color: RGBColor, width: f64) -> Self {
        Self {
            color,
            width,
            dash: 0.0,
        }
    }

    pub(super) const fn dashed(color: RGBColor, width: f64) -> Self {
        Self {
            color,
            width,
            dash: 7.0,
        }
    }
}

/// Text height in pixels, weight, colour, and which point of the text the position is.
#[derive(Clone, Copy)]
pub(super) struct Font {
    pub(super) size: f64,
    pub(super) bold: bool,
    pub(super) color: RGBColor,
    pub(super) side: HPos,
}

pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Result<Self, PlotError> {
        if height > MOST_HEIGHT {
            return Err(PlotError::TooLarge {
                height,
                most: MOST_HEIGHT,
            });
        }
        register_fonts()?;
        Ok(Self {
            width,
            height,
            pixels: vec![255; 3 * width * height * SCALE * SCALE],
        })
    }

    pub(super) fn width(&self) -> f64 {
        self.width as f64
    }

    /// A line through `points`, with round corners; one point alone draws nothing.
    pub(super) fn line(&mut self, points: &[Point], stroke: Stroke) -> Result<(), PlotError> {
        self.segments(points, stroke)?;
        // Thin lines show no corners.
        if stroke.dash == 0.0 && stroke.width > 1.5 {
            for corner in points.windows(3) {
                if let [_, point, _] = *corner {
                    self.dot(point, stroke.width / 2.0, stroke.color)?;
                }
            }
        }
        Ok(())
    }

    /// The same with plain corners.
    pub(super) fn segments(&mut self, points: &[Point], stroke: Stroke) -> Result<(), PlotError> {
        if stroke.dash > 0.0 {
            return dashes(points, stroke.dash)
                .into_iter()
                .try_for_each(|[from, to]| self.segment(from, to, stroke));
        }
        points.windows(2).try_for_each(|pair| match *pair {
            [from, to] => self.segment(from, to, stroke),
            _ => Ok(()),
        })
    }

    fn segment(&mut self, from: Point, to: Point, stroke: Stroke) -> Result<(), PlotError> {
        let width = (stroke.width * SCALE as f64).round().max(1.0) as u32;
        let style = ShapeStyle {
            color: stroke.color.to_rgba(),
            filled: true,
            stroke_width: width,
        };
        self.backend(|backend| backend.draw_line(raster(from), raster(to), &style))
    }

    /// A filled disc.
    pub(super) fn dot(
        &mut self,
        center: Point,
        radius: f64,
        color: RGBColor,
    ) -> Result<(), PlotError> {
        let radius = (radius * SCALE as f64).round().max(1.0) as u32;
        self.backend(|backend| backend.draw_circle(raster(center), radius, &color.filled(), true))
    }

    /// A line of text, vertically centred on `at`.
    pub(super) fn text(&mut self, text: &str, at: Point, font: Font) -> Result<(), PlotError> {
        let style = font.style().pos(Pos::new(font.side, VPos::Center));
        // The rasteriser centres a box that is taller than the letters.
        let at = (at.0, at.1 + 0.12 * font.size);
        self.backend(|backend| backend.draw_text(text, &style, raster(at)))
    }

    /// Width of a line of text.
    pub(super) fn text_width(&mut self, text: &str, font: Font) -> Result<f64, PlotError> {
        let style = font.style();
        let (width, _) = self.backend(|backend| backend.estimate_text_size(text, &style))?;
        Ok(f64::from(width) / SCALE as f64)
    }

    /// Puts `below` under this sheet; both must have the same width.
    pub(super) fn above(mut self, below: Self) -> Self {
        debug_assert_eq!(self.width, below.width);
        self.height += below.height;
        self.pixels.extend(below.pixels);
        self
    }

    /// Writes the sheet as a PNG file, folders included.
    pub(super) fn save(self, path: &Path) -> Result<(), PlotError> {
        if !path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("png"))
        {
            return Err(PlotError::NotPng {
                path: path.to_owned(),
            });
        }
        let failed = |cause: &dyn Display| PlotError::Write {
            path: path.to_owned(),
            cause: cause.to_string(),
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|cause| failed(&cause))?;
        }
        let size = (self.width as u32, self.height as u32);
        let mut file = BitMapBackend::new(path, size);
        file.blit_bitmap((0, 0), size, &self.shrunk())
            .map_err(|cause| failed(&cause))?;
        file.present().map_err(|cause| failed(&cause))
    }

    /// The mean of every square of `SCALE * SCALE` pixels.
    fn shrunk(&self) -> Vec<u8> {
        let row = 3 * self.width * SCALE;
        let mut small = Vec::with_capacity(3 * self.width * self.height);
        for y in 0..self.height {
            for x in 0..self.width {
                for channel in 0..3 {
                    let corner = y * SCALE * row + 3 * x * SCALE + channel;
                    let square = (0..SCALE)
                        .flat_map(|dy| (0..SCALE).map(move |dx| corner + dy * row + 3 * dx));
                    let pixels = square.filter_map(|at| self.pixels.get(at));
                    let sum: usize = pixels.copied().map(usize::from).sum();
                    small.push((sum / (SCALE * SCALE)) as u8);
                }
            }
        }
        small
    }

    fn backend<T, E: Display>(
        &mut self,
        draw: impl FnOnce(&mut BitMapBackend<'_>) -> Result<T, E>,
    ) -> Result<T, PlotError> {
        let size = ((self.width * SCALE) as u32, (self.height * SCALE) as u32);
        let mut backend = BitMapBackend::with_buffer(&mut self.pixels, size);
        draw(&mut backend).map_err(|cause| PlotError::Draw {
            cause: cause.to_string(),
        })
    }
}

impl Font {
    fn style(self) -> TextStyle<'static> {
        let style = if self.bold {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        };
        (FONT, self.size * SCALE as f64, style)
            .into_font()
            .color(&self.color)
    }
}

/// Position on the enlarged sheet. Callers keep positions on the sheet; the clamp only guards the rasteriser.
fn raster((x, y): Point) -> (i32, i32) {
    let on_sheet = |v: f64| (v * SCALE as f64).round().clamp(-1e4, 1e5) as i32;
    (on_sheet(x), on_sheet(y))
}

/// Cuts a line into dashes of `length` with equal gaps, counted along the line.
fn dashes(points: &[Point], length: f64) -> Vec<[Point; 2]> {
    let mut found = Vec::new();
    let mut travelled = 0.0;
    for pair in points.windows(2) {
        let &[(x0, y0), (x1, y1)] = pair else {
            continue;
        };
        let whole = (x1 - x0).hypot(y1 - y0);
        let at = |s: f64| (x0 + (x1 - x0) * s / whole, y0 + (y1 - y0) * s / whole);
        let mut s = 0.0;
        while s < whole {
            let phase = (travelled + s) % (2.0 * length);
            let (drawn, rest) = if phase < length {
                (true, length - phase)
            } else {
                (false, 2.0 * length - phase)
            };
            // A tiny rest from rounding must not stall the walk.
            let end = (s + rest.max(0.01)).min(whole);
            if drawn {
                found.push([at(s), at(end)]);
            }
            s = end;
        }
        travelled += whole;
    }
    found
}

/// Makes the compiled-in fonts known, once per process.
fn register_fonts() -> Result<(), PlotError> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = *DONE.get_or_init(|| {
        register_font(FONT, FontStyle::Normal, dejavu::sans::regular()).is_ok()
            && register_font(FONT, FontStyle::Bold, dejavu::sans::bold()).is_ok()
    });
    if done {
        Ok(())
    } else {
        Err(PlotError::Draw {
            cause: "the compiled-in font is unreadable".to_owned(),
        })
    }
}
