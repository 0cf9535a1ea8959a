//! How a kernel that multiplies and steps is cut: over cubes, and over the units of a cube.
//!
//! A cube has some hidden units and some sequences. Its sums run over all `K` terms of the product, which its threads share: the
//! sums of a thread are a small block in registers, over every n-th term. So each weight and each value of the state is read once
//! per cube, by few wide loads that wait for nothing, and the threads' parts are added at the end, in a fixed order.
//!
//! Lines are runs of four numbers that one load reads.

use cubecl::prelude::*;

use super::launch::Place;

/// Numbers of a line.
pub(super) const LINE: usize = 4;

/// Four numbers that are read at once.
pub(super) type Line<F> = Vector<F, Const<LINE>>;

/// Sizes of a cube's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Hidden units of a cube, a multiple of four.
    pub units: usize,
    /// Sequences of a cube, a multiple of four.
    pub rows: usize,
    /// Lines of gates in a thread's block of sums.
    pub block_units: usize,
    /// Lines of sequences in a thread's block of sums.
    pub block_rows: usize,
    /// Threads that share the terms of a sum.
    pub split: usize,
    /// Terms that a thread loads before it multiplies them.
    pub ahead: usize,
}

/// A product and how it is cut: `K` terms, as many sums per hidden unit as there are gates. The hidden size is no part of it, so
/// that layers share kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    pub tile: Tile,
    /// Sums per hidden unit.
    pub gates: usize,
    /// Values per hidden unit that the step hands to the next one, which are the terms of its sums.
    pub handed: usize,
}

impl Plan {
    /// Sums of a cube per sequence.
    pub fn columns(self) -> usize {
        self.tile.units * self.gates
    }

    pub fn column_lines(self) -> usize {
        self.columns() / LINE
    }

    pub fn row_lines(self) -> usize {
        self.tile.rows / LINE
    }

    /// Blocks of sums side by side.
    pub fn column_blocks(self) -> usize {
        self.column_lines() / self.tile.block_units
    }

    /// Blocks of sums of a cube.
    pub fn blocks(self) -> usize {
        self.column_blocks() * self.row_blocks()
    }

    pub fn row_blocks(self) -> usize {
        self.row_lines() / self.tile.block_rows
    }

    /// Sums of a cube.
    pub fn sums(self) -> usize {
        self.columns() * self.tile.rows
    }

    pub fn threads(self) -> usize {
        self.blocks() * self.tile.split
    }

    /// Parts of every sum that are left when all threads have added some, a power of two; as many as there were where there are
    /// more sums than threads.
    pub fn ways(self) -> usize {
        let split = self.tile.split;
        match self.threads() / self.sums() {
            0 => split,
            most => {
                let mut ways = 1;
                while 2 * ways <= most && split.is_multiple_of(2 * ways) {
                    ways *= 2;
                }
                ways
            }
        }
    }

    /// Numbers in a cube's memory: the threads' sums; then their totals, and what is handed on.
    pub fn shared(self) -> usize {
        let handed = self.handed * self.tile.units * self.tile.rows;
        (self.tile.split * self.sums()).max(self.sums() + handed)
    }

    /// Terms of a sum: K.
    pub fn terms(self, hidden: usize) -> usize {
        self.handed * hidden
    }

    /// Cubes side by side over the hidden units.
    pub fn tiles(self, hidden: usize) -> usize {
        hidden.div_ceil(self.tile.units)
    }

    /// Cubes side by side over the sequences.
    pub fn row_tiles(self, batch: usize) -> usize {
        batch.div_ceil(self.tile.rows)
    }

    /// Lines that the cubes' sequences fill, of each term.
    pub fn lines_per_term(self, batch: usize) -> usize {
        self.row_tiles(batch) * self.row_lines()
    }

    /// Whether a cube is cut into whole lines and blocks, and the device takes it.
    pub fn fits(self, place: &Place) -> bool {
        let Tile {
            units,
            rows,
            block_units,
            block_rows,
            split,
            ahead,
        } = self.tile;
        let given = [units, rows, block_units, block_rows, split, ahead];
        if given.contains(&0) || units % LINE != 0 || rows % LINE != 0 {
            return false;
        }
        let whole = self.column_lines().is_multiple_of(block_units)
            && self.row_lines().is_multiple_of(block_rows);
        let hardware = &place.client.properties().hardware;
        let most = hardware.max_units_per_cube.min(hardware.max_cube_dim.0) as usize;
        whole
            && self.threads() <= most
            && self.shared() * size_of::<f32>() <= hardware.max_shared_memory_size
    }

    pub fn grid(self, batch: usize, hidden: usize) -> (CubeCount, CubeDim) {
        let (tiles, rows) = (self.tiles(hidden) as u32, self.row_tiles(batch) as u32);
        (
            CubeCount::Static(tiles, rows, 1),
            CubeDim::new_1d(self.threads() as u32),
        )
    }
}
