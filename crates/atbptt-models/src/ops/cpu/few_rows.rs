//! Linear layer, softmax and negative log-likelihood of few rows, such as a short window of one sequence.
//!
//! What takes time there is the weights, of which every row needs all: three general products copy them into an order of
//! their own first, and write a gradient as large. Here they are read once. Classes go by in blocks that stay in the first-level cache between the
//! logits and the gradient of the hidden rows, which is summed relative to the largest logit so far, as in Milakov &
//! Gimelshein 2018 ("Online normalizer calculation for softmax"). The weight's gradient is left to [`weight_gradient`], when the factor
//! on it is known.
//!
//! Classes are shared out in pieces of fixed size, and the pieces' sums are added in order: the bits do not depend on the number
//! of threads.

mod factored;
mod piece;
mod product;
mod tiles;
mod weight_gradient;

use pulp::{Simd, WithSimd};

use super::math::exp_of_negative;
use super::matrix::Matrix;
use super::nll::Arguments;
use super::pool::{Buffer, UninitBuffer};
use super::shared::Shared;
use super::simd::{Level, Real};
use super::threads::{PARALLEL_WORK, each_chunk, map};
pub(super) use factored::{Factored, step_of};
use piece::{Piece, Sums};
pub(super) use product::product;
pub(super) use weight_gradient::weight_gradient;

/// Rows up to which this is faster than general products, where blocks of weights can be turned (`piece`), and elsewhere.
const FEW_ROWS: [usize; 2] = [512, 32];
/// Values of the rows up to which that holds: with more features the matrix unit is faster (320 rows of 512 by a sixth of a
/// training step).
const FEW_VALUES: usize = 1 << 17;
/// Rows at once: what belongs to them stays in the second-level cache.
const ROWS: usize = 128;
/// Rows above which it pays to turn a block of weights, rather than to sum across registers for every logit.
const TURNED_ROWS: usize = 16;
/// Classes whose weights stay in the first-level cache.
const BLOCK: usize = 32;
/// Classes per task.
const PIECE: usize = 32 * BLOCK;
/// Lines of a result in registers at most, each of [`WIDTH`] registers: 24 of 32.
const LINES: usize = 12;
const WIDTH: usize = 2;
/// Below every logit of a finite model: a class of −∞ adds nothing to a sum relative to it.
const LOWEST: f64 = -3e38;
/// Logits from which a second thread pays for its waking up.
const SHARED_LOGITS: usize = 1 << 15;

/// Losses, and what the gradients are made of.
pub(super) struct Softmax<E> {
    /// `[rows]`, not weighted.
    pub rows: Buffer<E>,
    /// Gradient of the hidden rows, `[rows, features]`.
    pub hidden: Option<Buffer<E>>,
    /// Gradient at the logits, `[rows, classes]`.
    pub logits: Option<Buffer<E>>,
}

/// Hidden rows one after the other, zeros up to whole registers, and whole groups of rows.
struct Padded<E> {
    data: Buffer<E>,
    rows: usize,
    /// Rows of a group.
    height: usize,
    /// Elements from row to row.
    stride: usize,
    /// The rows of every group side by side, feature by feature; empty for [few](TURNED_ROWS).
    side_by_side: Vec<E>,
}

impl<E: Real> Padded<E> {
    fn new(hidden: &[E], rows: usize, features: usize, factor: E) -> Self {
        let stride = features.next_multiple_of(WIDTH * E::native_lanes());
        let most = most_lines::<E>();
        let groups = rows.div_ceil(most);
        let height = rows.div_ceil(groups).next_multiple_of(2);
        let mut data = Buffer::zeros(groups * height * stride);
        let lines = data.chunks_exact_mut(stride);
        for (line, row) in lines.zip(hidden.chunks_exact(features)) {
            for (to, &value) in line.iter_mut().zip(row) {
                *to = value;
                *to *= factor;
            }
        }
        let mut side_by_side = Vec::new();
        if rows > TURNED_ROWS {
            let all = Matrix::strided(&data, groups * height, features, stride);
            (0..groups).for_each(|group| {
                put_side_by_side(&mut side_by_side, all.rows(group * height, height));
            });
        }
        Self {
            data,
            rows: groups * height,
            height,
            stride,
            side_by_side,
        }
    }
}

/// Appends the elements of some rows, column by column.
fn put_side_by_side<E: Real>(out: &mut Vec<E>, rows: Matrix<'_, E>) {
    out.reserve(rows.rows * rows.columns);
    for column in 0..rows.columns {
        let from = column * rows.column_stride;
        out.extend((0..rows.rows).map(|row| rows.data[from + row * rows.row_stride]));
    }
}

/// Whether the softmax of so many rows of so many features is made here.
pub(super) fn takes<E: Real>(rows: usize, features: usize) -> bool {
    struct CanTurn<E>(std::marker::PhantomData<E>);
    impl<E: Real> WithSimd for CanTurn<E> {
        type Output = bool;
        fn with_simd<S: Simd>(self, _: S) -> bool {
            #[cfg(target_arch = "x86_64")]
            return super::turn::can_turn::<E, S>();
            #[cfg(not(target_arch = "x86_64"))]
            false
        }
    }
    let can_turn = Level::detect().dispatch(CanTurn::<E>(std::marker::PhantomData));
    rows <= FEW_ROWS[usize::from(!can_turn)] && rows * features <= FEW_VALUES
}

/// Lines that the registers hold.
fn most_lines<E: Real>() -> usize {
    struct Count;
    impl WithSimd for Count {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            match S::REGISTER_COUNT >= 32 {
                true => LINES,
                false => LINES / 2,
            }
        }
    }
    Level::detect().dispatch(Count)
}

/// Losses of few rows, the gradient of the hidden rows where `hidden` asks for it and that at the logits where `logits` does.
pub(super) fn softmax<E: Real>(args: &Arguments<'_, E>, hidden: bool, logits: bool) -> Softmax<E> {
    let &Arguments {
        rows,
        features,
        classes,
        ..
    } = args;
    let mut losses = Buffer::zeros(rows);
    let mut d_hidden = hidden.then(|| Buffer::zeros(rows * features));
    let mut z = logits.then(|| UninitBuffer::new(rows * classes));
    let blocks = rows.div_ceil(ROWS);
    for block in 0..blocks {
        let range = block * rows / blocks..(block + 1) * rows / blocks;
        let values = range.start * features..range.end * features;
        let part = Arguments {
            rows: range.len(),
            hidden: &args.hidden[values.clone()],
            targets: &args.targets[range.clone()],
            row_weights: args.row_weights.map(|weights| &weights[range.clone()]),
            ..*args
        };
        let at = |z: &mut UninitBuffer<E>| z.share().near(range.start * classes).cast_mut();
        let z = z.as_mut().map(|z| Shared::uninit(at(z)));
        let d_hidden = d_hidden.as_deref_mut().map(|hidden| &mut hidden[values]);
        // SAFETY: the rows of the block exist in the buffer.
        unsafe { softmax_of_rows(&part, &mut losses[range.clone()], d_hidden, z) };
    }
    Softmax {
        rows: losses,
        hidden: d_hidden,
        // SAFETY: every block was written.
        logits: z.map(|z| unsafe { z.assume_init() }),
    }
}

/// The same of some rows, into their places.
///
/// # Safety
/// `[rows, classes]` are writable at `z`, by nobody else.
unsafe fn softmax_of_rows<E: Real>(
    args: &Arguments<'_, E>,
    row_losses: &mut [E],
    mut d_hidden: Option<&mut [E]>,
    z: Option<Shared<E>>,
) {
    let &Arguments {
        rows,
        features,
        classes,
        ..
    } = args;
    let padded = Padded::new(args.hidden, rows, features, E::ONE);
    let hidden = d_hidden.is_some();
    let mut at_target = Buffer::zeros(rows);
    let level = Level::detect();
    let pieces = classes.div_ceil(PIECE);
    let target_shared = Shared::new(&mut at_target);
    let piece = |piece: usize| {
        let first = piece * PIECE;
        level.dispatch(Piece {
            args,
            padded: &padded,
            first,
            end: (first + PIECE).min(classes),
            hidden,
            z,
            at_target: target_shared,
        })
    };
    let enough = rows * features * classes >= PARALLEL_WORK;
    let sums: Vec<Sums<E>> = map(enough, pieces, piece);

    // Of every row: the largest logit, and the row's weight divided by the sum.
    let mut scales = Vec::with_capacity(rows);
    for row in 0..rows {
        let largest = sums.iter().fold(E::of(LOWEST), |most, sums| {
            let piece = sums.largest[row];
            if piece > most { piece } else { most }
        });
        let shares: Vec<f64> = sums
            .iter()
            .map(|sums| (sums.largest[row].to() - largest.to()).exp())
            .collect();
        let of_piece = sums.iter().zip(&shares);
        let total: f64 = of_piece
            .map(|(sums, share)| sums.total[row].to() * share)
            .sum();
        row_losses[row] = E::of(total.ln() - (at_target[row].to() - largest.to()));
        let weight = args.row_weights.map_or(E::ONE, |weights| weights[row]);
        let scale = weight.to() / total;
        scales.push([largest, E::of(scale), weight]);
        if let Some(out) = &mut d_hidden {
            let out = &mut out[row * features..][..features];
            let mut add = |from: &[E], factor: f64| {
                let factor = E::of(factor);
                level.dispatch(Add { out, from, factor });
            };
            for (sums, share) in sums.iter().zip(&shares) {
                add(
                    &sums.hidden[row * padded.stride..][..features],
                    share * scale,
                );
            }
            let target = &args.weight[args.targets[row] * features..][..features];
            add(target, -weight.to());
        }
    }
    if let Some(z) = z {
        // SAFETY: the caller's promise, and the pieces wrote all classes of all rows.
        let z = unsafe { std::slice::from_raw_parts_mut(z.at(0), rows * classes) };
        let finish = |row: usize, z: &mut [E]| {
            let [largest, scale, weight] = scales[row];
            level.dispatch(Gradient { z, largest, scale });
            z[args.targets[row]] += -weight;
        };
        each_chunk(rows * classes >= SHARED_LOGITS, z, classes, finish);
    }
}

/// Adds a factor times as many elements.
struct Add<'a, E> {
    out: &'a mut [E],
    from: &'a [E],
    factor: E,
}

impl<E: Real> WithSimd for Add<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = E::lanes::<S>();
        let factor = E::splat(simd, self.factor);
        for (out, from) in self.out.chunks_mut(lanes).zip(self.from.chunks(lanes)) {
            let count = out.len().min(from.len());
            // SAFETY: so many elements of either.
            unsafe {
                let from = E::load(simd, from.as_ptr(), count);
                let sum = E::fma(simd, factor, from, E::load(simd, out.as_ptr(), count));
                E::store(simd, out.as_mut_ptr(), count, sum);
            }
        }
    }
}

/// Turns a row of logits into weight · softmax.
struct Gradient<'a, E> {
    z: &'a mut [E],
    largest: E,
    scale: E,
}

impl<E: Real> WithSimd for Gradient<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = E::lanes::<S>();
        let shift = E::splat(simd, self.largest);
        let scale = E::splat(simd, self.scale);
        for part in self.z.chunks_mut(lanes) {
            let (at, count) = (part.as_mut_ptr(), part.len());
            // SAFETY: so many elements.
            unsafe {
                let x = E::sub(simd, E::load(simd, at, count), shift);
                let e = exp_of_negative::<E, S>(simd, x);
                E::store(simd, at, count, E::mul(simd, e, scale));
            }
        }
    }
}
