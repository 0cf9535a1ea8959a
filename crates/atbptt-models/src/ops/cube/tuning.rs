//! How the kernels of `fused` are cut for a layer: chosen by its size, within what the device takes.

#[cfg(feature = "_internals")]
use std::sync::PoisonError;
use std::sync::RwLock;

use super::launch::Place;
use super::tile::{LINE, Plan, Tile};
use super::window::Extent;
use crate::ops::cell::Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Back,
}

/// Threads of a cube, where sums and device allow.
const THREADS: usize = 512;

/// The same where each holds so much that a GPU has no more registers.
const THREADS_OF_LARGE_BLOCKS: usize = 256;

/// Of either direction: what measurements chose.
static CHOSEN: RwLock<[Option<Tile>; 2]> = RwLock::new([None; 2]);

/// Sets how the kernels that multiply and step are cut, forward and backward, for every layer of the process from now on; `None`
/// chooses by the layer. For measurements and tests. What does not fit the device or the layer is not used.
#[cfg(feature = "_internals")]
pub fn set_tiles(forward: Option<Tile>, backward: Option<Tile>) {
    *CHOSEN.write().unwrap_or_else(PoisonError::into_inner) = [forward, backward];
}

impl Plan {
    /// A step of this cell's layer in this direction; `None` where the device takes no such kernel.
    pub fn new(place: &Place, extent: Extent, cell: Cell, direction: Direction) -> Option<Self> {
        let Extent { batch, hidden, .. } = extent;
        let gates = cell.recurrent_gates();
        let plan = |tile| match direction {
            Direction::Forward => Self {
                tile,
                gates,
                handed: 1,
            },
            Direction::Back => Self {
                tile,
                gates: 1,
                handed: gates,
            },
        };
        let chosen = CHOSEN
            .read()
            .ok()
            .and_then(|tiles| tiles[direction as usize]);
        if let Some(chosen) = chosen.map(plan).filter(|plan| plan.fits(place)) {
            return Some(chosen);
        }
        let mut cut = plan(Tile::by_size(batch, hidden, direction));
        let threads = match cut.tile.block_units {
            1 => THREADS,
            _ => THREADS_OF_LARGE_BLOCKS,
        };
        let split = (threads / cut.blocks()).min(cut.terms(hidden)).max(1);
        cut.tile.split = 1 << split.ilog2();
        while !cut.fits(place) {
            let tile = &mut cut.tile;
            match (tile.split, tile.rows) {
                (2.., _) => tile.split /= 2,
                (_, 8..) => {
                    tile.rows = (tile.rows / 2).next_multiple_of(LINE);
                    tile.block_rows = 1;
                }
                _ => return None,
            }
        }
        Some(cut)
    }
}

impl Tile {
    /// By the layer's size; the split is left open.
    fn by_size(batch: usize, hidden: usize, direction: Direction) -> Self {
        // As many cubes as a large GPU has multiprocessors. What a cube reads it reads once, so that more units read less.
        let narrow = hidden <= 4 || (direction == Direction::Forward && hidden <= 528);
        let (units, rows) = match batch {
            0..=16 => (if narrow { 4 } else { 8 }, batch.next_multiple_of(LINE)),
            17..=64 => (8, batch.next_multiple_of(2 * LINE).min(32)),
            _ => (16, 64),
        };
        let block = if batch <= 16 { 1 } else { 2 };
        Self {
            units,
            rows,
            block_units: block,
            block_rows: block,
            split: 1,
            ahead: 4,
        }
    }
}
