//! From state gradients on a device to [`LagNorms`] on the host, with one small read per probe.
//!
//! First stage of the flow: a probe's backward pass gives ∂L_s/∂h at every step of its window; [`LagGradients`] collects
//! them, reduces them where they are, and reads back `[parts, lag, 1 + 2 · batch]` numbers.
//!
//! `lag`: steps back, `0..=W`; `batch`: sequences; `features`: size of one state part; `w`: weight of a feature in the
//! norm; `G(j)`: size of the batch-mean gradient that `j` kept lags give.
//!
//! Lag 0 is the gradient of the top layer's output, another space than the states'. It counts as coordinates of its own:
//! G(j)² = ‖mean g_0‖² + Σ_parts ‖mean Σ_{1≤k<j} g_k‖² for `j >= 1`, and G(0) = 0.

// Kernels index what `lag_norms` measured before.
#[allow(clippy::indexing_slicing)]
#[cfg(feature = "cube")]
mod cube;
/// Shared by the kernels of this workspace, and for nobody else to rely on.
#[allow(clippy::indexing_slicing)]
#[cfg(feature = "cube")]
#[doc(hidden)]
pub mod launch;
mod ops;
mod weights;

pub use weights::variance_weights;

use burn::backend::Dispatch;
use burn::tensor::{Device, Tensor};

use self::ops::LagNormOps as _;
use crate::{EstimateError, LagNorms};

/// Norms of one state part's gradients, on the device.
///
/// - `grads`: `[time, batch, features]`, the earliest step and largest lag first, as a window's tensors are
/// - `weights`: `[features]`, each at least 0; `None` for the Euclidean norm
/// - returns `[lag, 1 + 2 · batch]`, smallest lag first: the norm of each sequence, then the norm of the batch mean summed
///   over this lag and all smaller ones, then the norm of the same sum of each sequence; detached
///
/// Weighted by the variance of each state coordinate ([`variance_weights`]), the norm does not change when a coordinate of
/// the state is measured in another unit.
///
/// # Errors
/// [`EstimateError::Empty`] for an empty dimension, [`EstimateError::Length`] or [`EstimateError::Device`] for weights of
/// another size or on another device.
pub fn lag_norms(grads: Tensor<3>, weights: Option<Tensor<1>>) -> Result<Tensor<2>, EstimateError> {
    let [lags, batch, features] = grads.dims();
    if lags == 0 || batch == 0 || features == 0 {
        return Err(EstimateError::Empty {
            lags,
            sequences: batch,
        });
    }
    if let Some(weights) = &weights {
        let [size] = weights.dims();
        check_length("the feature weights", features, size)?;
        check_device("the feature weights", &grads.device(), &weights.device())?;
    }
    // Norms are not differentiable, so that tracked and untracked tensors meet as untracked ones.
    let grads = untracked(grads).into_dispatch();
    Ok(Tensor::from_dispatch(match weights {
        None => Dispatch::lag_norms(grads),
        Some(weights) => {
            let weights = untracked(weights).into_dispatch();
            Dispatch::weighted_lag_norms(grads, weights)
        }
    }))
}

fn untracked<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.device().is_autodiff() {
        true => tensor.inner(),
        false => tensor,
    }
}

/// The state gradients of one probe, part by part, reduced as they come.
///
/// Nothing is read back before [`LagGradients::read`].
#[derive(Debug, Clone)]
pub struct LagGradients {
    batch: usize,
    /// Norms at lag 0, `[1, 1 + 2 · batch]`.
    output: Tensor<2>,
    /// Norms at lags `1..=W`, `[W, 1 + 2 · batch]` each.
    parts: Vec<Tensor<2>>,
}

impl LagGradients {
    /// Starts from lag 0.
    ///
    /// - `output`: `[batch, features]`, gradient of the top layer's output at the last step
    /// - `weights`: as in [`lag_norms`]
    ///
    /// # Errors
    /// [`EstimateError::Empty`], [`EstimateError::Length`] for weights of another size.
    pub fn new(output: Tensor<2>, weights: Option<Tensor<1>>) -> Result<Self, EstimateError> {
        let [batch, features] = output.dims();
        if batch == 0 || features == 0 {
            return Err(EstimateError::Empty {
                lags: 1,
                sequences: batch,
            });
        }
        let output = lag_norms(output.reshape([1, batch, features]), weights)?;
        Ok(Self {
            batch,
            output,
            parts: Vec::new(),
        })
    }

    /// Adds one state part (hidden or cell of a layer).
    ///
    /// - `grads`: `[W, batch, features]`, the earliest step and largest lag W first, down to lag 1
    /// - `weights`: as in [`lag_norms`]
    ///
    /// # Errors
    /// [`EstimateError::Empty`], or [`EstimateError::Length`] for weights of another size, another batch than the
    /// output's or another window than the first part's; [`EstimateError::Device`] for one on another device.
    pub fn part(
        mut self,
        grads: Tensor<3>,
        weights: Option<Tensor<1>>,
    ) -> Result<Self, EstimateError> {
        let [window, batch, _] = grads.dims();
        check_length("the batch of a state part", self.batch, batch)?;
        check_device("a state part", &self.output.device(), &grads.device())?;
        if let Some(first) = self.parts.first() {
            let [expected, _] = first.dims();
            check_length("the window of a state part", expected, window)?;
        }
        let norms = lag_norms(grads, weights)?;
        self.parts.push(norms.cast(self.output.dtype()));
        Ok(self)
    }

    /// Reads the norms back, in one transfer, with the breakdown over parts, the cumulative sizes, and where there are two
    /// sequences or more the squares that free them of noise.
    ///
    /// In the breakdown, lag 0 belongs to part 0.
    ///
    /// # Errors
    /// [`EstimateError::Empty`] without a part, [`EstimateError::Read`] when the device fails,
    /// [`EstimateError::NotANorm`] when a gradient was not finite.
    pub fn read(self) -> Result<LagNorms, EstimateError> {
        let (batch, parts) = (self.batch, self.parts.len());
        let Some(window) = self.parts.first().map(|part| part.dims()[0]) else {
            return Err(EstimateError::Empty {
                lags: 1,
                sequences: batch,
            });
        };
        let mut all = vec![self.output];
        all.extend(self.parts);
        let packed = Tensor::cat(all, 0);
        let read = |message: String| EstimateError::Read { message };
        let data = packed.try_into_data().map_err(|e| read(format!("{e:?}")))?;
        let values = data
            .convert::<f64>()
            .try_into_vec::<f64>()
            .map_err(|e| read(format!("{e:?}")))?;
        let columns = 1 + 2 * batch;
        check_length(
            "the packed norms",
            (1 + parts * window) * columns,
            values.len(),
        )?;

        // Row 0 is lag 0; then all lags of the first part, all of the second, …
        let mut rows = values.chunks_exact(columns).map(|row| Row::of(row, batch));
        let first = rows.next().unwrap_or_default();
        let rows: Vec<Row> = rows.collect();
        let mut breakdown = Vec::with_capacity((window + 1) * parts * batch);
        breakdown.extend_from_slice(first.norms);
        breakdown.extend(std::iter::repeat_n(0.0, (parts - 1) * batch));
        let mut sizes = vec![0.0, first.size];
        let mut squares = vec![0.0, first.square()];
        for lag in 0..window {
            let (mut size, mut square) = (first.size, first.square());
            for row in rows.iter().skip(lag).step_by(window) {
                breakdown.extend_from_slice(row.norms);
                size = size.hypot(row.size);
                square += row.square();
            }
            sizes.push(size);
            squares.push(square);
        }
        let norms = LagNorms::from_parts(window + 1, parts, batch, &breakdown)?
            .with_mean_sum_norms(sizes)?;
        // Of a single sequence, or where the squares leave the range of numbers, the sizes stay as they are.
        Ok(norms.clone().with_sum_squares(squares).unwrap_or(norms))
    }
}

/// One row of what was read.
#[derive(Default)]
struct Row<'a> {
    /// Norm of each sequence.
    norms: &'a [f64],
    /// Norm of the batch mean's running sum.
    size: f64,
    /// Norms of the running sums of each sequence.
    sums: &'a [f64],
}

impl<'a> Row<'a> {
    fn of(row: &'a [f64], batch: usize) -> Self {
        let (norms, rest) = row.split_at_checked(batch).unwrap_or_default();
        let (size, sums) = rest
            .split_first()
            .map_or((0.0, rest), |(size, s)| (*size, s));
        Self { norms, size, sums }
    }

    /// Mean square of the running sums.
    fn square(&self) -> f64 {
        self.sums.iter().map(|x| x * x).sum::<f64>() / self.sums.len().max(1) as f64
    }
}

fn check_device(what: &'static str, expected: &Device, got: &Device) -> Result<(), EstimateError> {
    if expected == got {
        Ok(())
    } else {
        Err(EstimateError::Device {
            what,
            expected: format!("{expected:?}"),
            got: format!("{got:?}"),
        })
    }
}

fn check_length(what: &'static str, expected: usize, got: usize) -> Result<(), EstimateError> {
    if expected == got {
        Ok(())
    } else {
        Err(EstimateError::Length {
            what,
            expected,
            got,
        })
    }
}
