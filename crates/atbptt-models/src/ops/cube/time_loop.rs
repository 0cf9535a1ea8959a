//! Whether the loop over time runs on the host or on the device, and what it launches.

use std::sync::atomic::{AtomicU8, Ordering};

use cubecl::prelude::*;

use super::launch::Place;
use super::tile::Plan;
use super::tuning::Direction;
use super::window::Extent;
use crate::ops::cell::Cell;

/// What runs a window of a cell with a recurrent product.
pub(super) enum Way {
    /// One launch, with the loop over time in it.
    Window(WindowGrid),
    /// A launch per step.
    Fused(Plan),
    /// A matrix product and a launch per step.
    Products,
}

impl Extent {
    pub fn way(self, place: &Place, cell: Cell, direction: Direction) -> Way {
        let gates = cell.recurrent_gates();
        let weights = gates * self.hidden * self.hidden;
        let (window, fused) = match time_loop() {
            TimeLoop::Auto => (
                weights <= MAX_WEIGHTS && weights * self.batch <= MAX_READS,
                self.batch <= MAX_FUSED_BATCH,
            ),
            TimeLoop::OnDevice => (true, false),
            TimeLoop::Fused => (false, true),
            TimeLoop::OnHost => (false, false),
        };
        if let Some(grid) = window.then(|| self.one_launch(place, gates)).flatten() {
            return Way::Window(grid);
        }
        // Batches beyond the second dimension of a grid are left to the products.
        let fused = fused && self.batch <= MAX_SEQUENCES;
        let plan = fused.then(|| Plan::new(place, self, cell, direction));
        plan.flatten().map_or(Way::Products, Way::Fused)
    }

    /// The grid of a kernel that runs the whole window, one cube per sequence; `None` where the device cannot. `gates`: per
    /// hidden unit.
    fn one_launch(self, place: &Place, gates: usize) -> Option<WindowGrid> {
        let hardware = &place.client.properties().hardware;
        // The most that a kernel keeps in a cube's memory: two steps' gates and one value per unit, in f32.
        let shared = (2 * gates + 1) * self.hidden * size_of::<f32>();
        let fits = shared <= hardware.max_shared_memory_size && self.batch <= MAX_SEQUENCES;
        if !fits {
            return None;
        }
        let most = hardware.max_units_per_cube.min(hardware.max_cube_dim.0);
        let units = (self.hidden as u32)
            .next_power_of_two()
            .clamp(32, 256)
            .min(most);
        Some(WindowGrid {
            count: CubeCount::Static(self.batch as u32, 1, 1),
            dim: CubeDim::new_1d(units),
            units: units as usize,
        })
    }
}

/// Sequences that fit one dimension of any device's grid.
const MAX_SEQUENCES: usize = 65_535;

/// Recurrent weights of the largest layer whose window is one launch: 128 LSTM units. On an NVIDIA H100 a fused step takes about as
/// long whatever the size up to 512 units, the time of its launch, and a window in one launch took longer from there on
/// (docs/SPEED.md).
const MAX_WEIGHTS: usize = 1 << 16;

/// The same times the sequences: 128 LSTM units for 32, 64 for 128.
const MAX_READS: usize = 1 << 21;

/// The largest batch whose steps multiply by themselves; the general matrix product is made for larger ones. At 256 both took as
/// long forward, and the fused step half as long back.
const MAX_FUSED_BATCH: usize = 256;

/// A kernel over a whole window: its cubes, and the units in each.
pub(super) struct WindowGrid {
    pub count: CubeCount,
    pub dim: CubeDim,
    pub units: usize,
}

/// Where the loop over time runs on CubeCL backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TimeLoop {
    /// On the device where the recurrent weight is small (up to 2¹⁶ elements, and 2²¹ times the batch), else on the host: fused
    /// steps for batches of up to 256 sequences, products for larger ones. Bounds measured on one GPU, an NVIDIA H100.
    #[default]
    Auto,
    /// On the host: a matrix product and one kernel per step. Takes any size.
    OnHost,
    /// On the device: one launch per layer, window and direction. Where a cube's shared memory is too small for the hidden
    /// size, on the host.
    OnDevice,
    /// On the host: one kernel per step, which multiplies too.
    Fused,
}

static TIME_LOOP: AtomicU8 = AtomicU8::new(TimeLoop::Auto as u8);

/// Chooses where the loop over time runs on CubeCL backends, for every layer of the process from now on: for measurements and
/// tests. The results differ by rounding.
#[cfg(feature = "_internals")]
pub fn set_time_loop(time_loop: TimeLoop) {
    TIME_LOOP.store(time_loop as u8, Ordering::Relaxed);
}

fn time_loop() -> TimeLoop {
    let known = [
        TimeLoop::Auto,
        TimeLoop::OnHost,
        TimeLoop::OnDevice,
        TimeLoop::Fused,
    ];
    let set = TIME_LOOP.load(Ordering::Relaxed);
    known
        .into_iter()
        .find(|known| *known as u8 == set)
        .unwrap_or_default()
}
