//! How a product is packed block by block, and shared out over threads.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::pool::UninitBuffer;
use super::super::shared::Shared;
use super::super::threads::{threads, together};
use super::kernel::{AHEAD, GROUP, RESULT, STEP, STEP_BYTES, Tiles};
use super::pack::{Factor, finish, pack};
use super::phase::Phase;

/// Elements along the sum that are packed at once: as many as are added up before they join the result.
const BLOCK_SUM: usize = 512;
/// Lines that are packed at once.
const BLOCK_LINES: usize = 2048;
/// Groups that are packed in one go: of a factor whose lines lie side by side these are whole stretches.
const PACK_GROUPS: usize = 8;
/// Groups of rows that are multiplied in one go: packed they stay in the second-level cache.
const TASK_ROWS: usize = 8;
/// Tasks of a phase per thread, for threads that are slower than others.
const TASKS: usize = 8;

/// The parts of `0..size` of nearly equal length, at most `most`, that begin at multiples of `align`.
fn parts(size: usize, most: usize, align: usize) -> impl Iterator<Item = Range<usize>> {
    let count = size.div_ceil(most);
    let length = size.div_ceil(count).next_multiple_of(align);
    (0..size)
        .step_by(length)
        .map(move |first| first..(first + length).min(size))
}

/// Room for a packed block of a factor.
struct Packed {
    data: Shared<f32>,
    /// Per group: whether it holds numbers that the unit would take for infinite.
    large: Vec<AtomicBool>,
    from: Address,
}

impl Packed {
    /// For blocks of so many lines.
    fn new(data: &mut UninitBuffer<f32>, from: Factor, lines: usize) -> Self {
        let groups = lines.min(BLOCK_LINES).div_ceil(GROUP);
        Self {
            data: data.share(),
            large: (0..groups).map(|_| AtomicBool::new(false)).collect(),
            from: Address(from),
        }
    }

    /// Packs the groups of one task.
    ///
    /// # Safety
    /// The block is readable, and nobody else packs or reads these groups.
    unsafe fn fill<const PAIRS: bool>(
        &self,
        task: usize,
        lines: &Range<usize>,
        sum: &Range<usize>,
    ) {
        let (groups, steps) = (lines.len().div_ceil(GROUP), sum.len().div_ceil(STEP));
        let groups = task * PACK_GROUPS..((task + 1) * PACK_GROUPS).min(groups);
        for large in &self.large[groups.clone()] {
            large.store(false, Ordering::Relaxed);
        }
        let one = |group: usize, step: usize| {
            let Factor {
                data,
                line_stride,
                sum_stride,
            } = self.from.0;
            let line = lines.start + group * GROUP;
            let at = sum.start + step * STEP;
            let part = Factor {
                data: data.wrapping_add(line * line_stride + at * sum_stride),
                line_stride,
                sum_stride,
            };
            let (lines, sum) = ((lines.end - line).min(GROUP), (sum.end - at).min(STEP));
            // SAFETY: inside of the factor; the place of this group and step.
            let found = unsafe {
                let out = self.data.at((group * steps + step) * STEP_FLOATS);
                pack::<PAIRS>(part, lines, sum, out.cast())
            };
            if found {
                self.large[group].store(true, Ordering::Relaxed);
            }
        };
        if self.from.0.line_stride == 1 {
            (0..steps).for_each(|step| groups.clone().for_each(|group| one(group, step)));
        } else {
            groups.for_each(|group| (0..steps).for_each(|step| one(group, step)));
        }
    }

    /// A packed group, and whether it is to be multiplied in f32.
    fn group(&self, group: usize, steps: usize) -> (*const u8, bool) {
        let at = self.data.near(group * steps * STEP_FLOATS);
        (at.cast(), self.large[group].load(Ordering::Relaxed))
    }
}

/// Memory of a packed step, in elements.
const STEP_FLOATS: usize = STEP_BYTES / size_of::<f32>();

fn buffer(lines: usize, sum: usize) -> UninitBuffer<f32> {
    let groups = lines.min(BLOCK_LINES).div_ceil(GROUP);
    let steps = sum.min(BLOCK_SUM).div_ceil(STEP);
    UninitBuffer::new(groups * steps * STEP_FLOATS)
}

/// A factor that several threads read.
#[derive(Clone, Copy)]
struct Address(Factor);
// SAFETY: it is only read, and borrowed as long as the product runs.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}
/// # Safety
/// The unit is available; factors and result have the sizes, `[rows, columns, sum]`, the result is nobody else's.
pub(super) unsafe fn product(
    [rows, columns, sum]: [usize; 3],
    out: Shared<f32>,
    stride: usize,
    accumulate: bool,
    a: Factor,
    b: Factor,
) {
    let (mut left, mut right) = (buffer(rows, sum), buffer(columns, sum));
    let left = Packed::new(&mut left, a, rows);
    let right = Packed::new(&mut right, b, columns);
    let mut blocks = Vec::new();
    for sum in parts(sum, BLOCK_SUM, STEP) {
        for rows in parts(rows, BLOCK_LINES, GROUP) {
            for columns in parts(columns, BLOCK_LINES, GROUP) {
                blocks.push(Block::new(
                    rows.clone(),
                    columns,
                    sum.clone(),
                    blocks.last(),
                ));
            }
        }
    }
    let product = Product {
        left,
        right,
        out,
        stride,
        accumulate,
    };
    // SAFETY: the caller's promise.
    let attend = || unsafe { product.attend(&blocks) };
    together(threads(), |_| attend());
}

/// A part of the product that is packed at once, in two phases.
struct Block {
    rows: Range<usize>,
    columns: Range<usize>,
    sum: Range<usize>,
    /// Tasks that pack the left factor; none where the block before had the same.
    pack_left: usize,
    pack: Phase,
    /// Groups of rows and columns of a task of the product, and tasks side by side.
    task: [usize; 2],
    across: usize,
    multiply: Phase,
}

impl Block {
    fn new(
        rows: Range<usize>,
        columns: Range<usize>,
        sum: Range<usize>,
        before: Option<&Self>,
    ) -> Self {
        let [tall, wide] = [&rows, &columns].map(|lines| lines.len().div_ceil(GROUP));
        let same = |is_same: fn(&Self) -> &Range<usize>, lines: &Range<usize>| {
            before.is_some_and(|before| is_same(before) == lines && before.sum == sum)
        };
        let tasks = |same: bool, groups: usize| match same {
            true => 0,
            false => groups.div_ceil(PACK_GROUPS),
        };
        let pack_left = tasks(same(|block| &block.rows, &rows), tall);
        let pack_right = tasks(same(|block| &block.columns, &columns), wide);
        let threads = threads();
        let mut down = tall.div_ceil(TASK_ROWS);
        if down > 1 {
            down = down.next_multiple_of(threads).min(tall);
        }
        let height = tall.div_ceil(down);
        let down = tall.div_ceil(height);
        let across = (TASKS * threads).div_ceil(down).min(wide);
        let width = wide.div_ceil(across);
        let across = wide.div_ceil(width);
        Self {
            rows,
            columns,
            sum,
            pack_left,
            pack: Phase::new(pack_left + pack_right),
            task: [height, width],
            across,
            multiply: Phase::new(down * across),
        }
    }
}

struct Product {
    left: Packed,
    right: Packed,
    out: Shared<f32>,
    stride: usize,
    accumulate: bool,
}

impl Product {
    /// Takes part in all blocks, one after the other.
    ///
    /// # Safety
    /// The unit is available; factors and result have the sizes that the blocks say.
    unsafe fn attend(&self, blocks: &[Block]) {
        // SAFETY: the unit is available.
        let tiles = unsafe { Tiles::new() };
        for block in blocks {
            block.pack.attend(|task| {
                // SAFETY: inside of the factors; every task has groups of its own.
                unsafe {
                    match task.checked_sub(block.pack_left) {
                        None => self.left.fill::<false>(task, &block.rows, &block.sum),
                        Some(task) => {
                            self.right.fill::<true>(task, &block.columns, &block.sum);
                        }
                    }
                }
            });
            block.multiply.attend(|task| {
                // SAFETY: both factors are packed; every task has a part of the result of its own.
                unsafe { self.multiply(&tiles, block, task) }
            });
        }
    }

    /// # Safety
    /// Both factors are packed, and nobody else has this task.
    unsafe fn multiply(&self, tiles: &Tiles, block: &Block, task: usize) {
        let Block {
            rows, columns, sum, ..
        } = block;
        let steps = sum.len().div_ceil(STEP);
        let add = self.accumulate || sum.start > 0;
        let [tall, wide] = [rows, columns].map(|lines| lines.len().div_ceil(GROUP));
        let [height, width] = block.task;
        let (row, column) = (task / block.across * height, task % block.across * width);
        let mut result = [0f32; RESULT];
        for column in column..(column + width).min(wide) {
            let (right, right_large) = self.right.group(column, steps);
            for (index, row) in (row..(row + height).min(tall)).enumerate() {
                let (left, left_large) = self.left.group(row, steps);
                let at = [rows.start + row * GROUP, columns.start + column * GROUP];
                let size = [
                    (rows.end - at[0]).min(GROUP),
                    (columns.end - at[1]).min(GROUP),
                ];
                // The group of columns after this one.
                let next = right.wrapping_add(steps * (STEP_BYTES + index * AHEAD));
                // SAFETY: packed groups of so many steps, and a part of the result that is this task's.
                unsafe {
                    let to = self.out.at(at[0] * self.stride + at[1]);
                    if left_large || right_large {
                        let factors = [self.left.from, self.right.from];
                        in_f32(factors, at, size, sum.clone(), &mut result);
                    } else {
                        let ahead = [to as usize, self.stride * size_of::<f32>()];
                        tiles.multiply(left, right, steps, &mut result, next, ahead);
                    }
                    finish(&result, to, self.stride, size, add);
                }
            }
        }
    }
}

/// A block of the result from the factors themselves.
///
/// # Safety
/// The rows and columns `at`, of this size, are in the factors.
unsafe fn in_f32(
    factors: [Address; 2],
    at: [usize; 2],
    size: [usize; 2],
    sum: Range<usize>,
    out: &mut [f32; RESULT],
) {
    let [left, right] = factors.map(|factor| factor.0);
    out.fill(0.0);
    // SAFETY: the caller's promise.
    let read = |from: Factor, line: usize, sum: usize| unsafe {
        *from
            .data
            .add(line * from.line_stride + sum * from.sum_stride)
    };
    for sum in sum {
        let mut line = [0f32; GROUP];
        for (column, value) in line[..size[1]].iter_mut().enumerate() {
            *value = read(right, at[1] + column, sum);
        }
        for (row, out) in out.chunks_exact_mut(GROUP).take(size[0]).enumerate() {
            let value = read(left, at[0] + row, sum);
            for (out, &right) in out.iter_mut().zip(&line) {
                *out += value * right;
            }
        }
    }
}
