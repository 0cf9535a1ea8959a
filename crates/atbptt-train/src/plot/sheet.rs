//! A white sheet to draw charts on, at twice its size; shrinking it smooths every edge.
//!
//! Lengths are pixels of the finished figure; [`px`] turns them into pixels of the enlarged sheet.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use plotters::backend::{BitMapBackend, DrawingBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, IntoFont, RGBColor, TextStyle, register_font};

use super::PlotError;

/// How often a pixel is divided in each direction.
const SCALE: usize = 2;
/// Largest height of a figure, in pixels: 360 MB while it is drawn.
const MAX_HEIGHT: usize = 25_000;
/// Width of every figure.
pub(super) const WIDTH: usize = 1200;
const FONT: &str = "atbptt-sans";

/// What charts are drawn on: a sheet, or a part of it.
pub(super) type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// A length in pixels of the finished figure, in pixels of the enlarged sheet.
pub(super) fn px(length: f64) -> i32 {
    (length * SCALE as f64).round() as i32
}

/// Text of this height, colour and horizontal anchor, vertically centred.
pub(super) fn font(size: f64, color: RGBColor, side: HPos) -> TextStyle<'static> {
    let font = (FONT, size * SCALE as f64).into_font();
    font.color(&color).pos(Pos::new(side, VPos::Center))
}

/// The same in bold, beginning at its position.
pub(super) fn bold(size: f64, color: RGBColor) -> TextStyle<'static> {
    let font = (FONT, size * SCALE as f64, FontStyle::Bold).into_font();
    font.color(&color).pos(Pos::new(HPos::Left, VPos::Center))
}

/// The rasteriser's refusal as an error of this module.
pub(super) fn refused(cause: impl Display) -> PlotError {
    PlotError::Draw {
        cause: cause.to_string(),
    }
}

pub(super) struct Sheet {
    height: usize,
    pub(super) pixels: Vec<u8>,
}

impl Sheet {
    pub(super) fn new(height: usize) -> Result<Self, PlotError> {
        if height > MAX_HEIGHT {
            return Err(PlotError::TooLarge {
                height,
                most: MAX_HEIGHT,
            });
        }
        register_fonts()?;
        Ok(Self {
            height,
            pixels: vec![255; 3 * WIDTH * height * SCALE * SCALE],
        })
    }

    /// Draws on the whole sheet.
    pub(super) fn draw(
        &mut self,
        draw: impl FnOnce(&Area<'_>) -> Result<(), PlotError>,
    ) -> Result<(), PlotError> {
        let size = ((WIDTH * SCALE) as u32, (self.height * SCALE) as u32);
        draw(&BitMapBackend::with_buffer(&mut self.pixels, size).into_drawing_area())
    }

    /// Puts `below` under this sheet.
    pub(super) fn above(mut self, below: Self) -> Self {
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
        let size = (WIDTH as u32, self.height as u32);
        let mut file = BitMapBackend::new(path, size);
        file.blit_bitmap((0, 0), size, &self.shrunk())
            .map_err(|cause| failed(&cause))?;
        file.present().map_err(|cause| failed(&cause))
    }

    /// The mean of every square of `SCALE * SCALE` pixels.
    fn shrunk(&self) -> Vec<u8> {
        let row = 3 * WIDTH * SCALE;
        let mut small = Vec::with_capacity(3 * WIDTH * self.height);
        for y in 0..self.height {
            for x in 0..WIDTH {
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
}

/// Makes the compiled-in fonts known, once per process.
fn register_fonts() -> Result<(), PlotError> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = *DONE.get_or_init(|| {
        register_font(FONT, FontStyle::Normal, dejavu::sans::regular()).is_ok()
            && register_font(FONT, FontStyle::Bold, dejavu::sans::bold()).is_ok()
    });
    match done {
        true => Ok(()),
        false => Err(refused("the compiled-in font is unreadable")),
    }
}
