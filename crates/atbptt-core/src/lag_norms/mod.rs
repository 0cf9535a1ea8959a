//! From state gradients on a device to [`LagNorms`] on the host, with one small read per probe.
//!
//! First stage of the flow: a probe's backward pass gives ∂L_s/∂h at every step of its window; [`LagGradients`] collects
//! them, reduces them where they are, and reads back `[parts, lag, batch + 1]` numbers.
//!
//! `lag`: steps back, `0..=W`; `batch`: sequences; `features`: size of one state part; `w`: weight of a feature in the
//! norm; `G(j)`: size of the batch-mean gradient that `j` kept lags give.
//!
//! Lag 0 is the gradient of the top layer's output, another space than the states'. It counts as coordinates of its own:
//! G(j)² = ‖mean g_0‖² + Σ_parts ‖mean Σ_{1≤k<j} g_k‖² for `j >= 1`, and G(0) = 0.

#[cfg(feature = "cube")]
mod cube;
mod ops;

pub use ops::LagNormOps;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::{EstimateError, LagNorms};

/// The body made of backend operations under its own name: what kernels are held to, also on backends that override it.
#[doc(hidden)]
pub fn reference<B: burn::backend::Backend>(
    grads: burn::backend::tensor::FloatTensor<B>,
    weights: Option<burn::backend::tensor::FloatTensor<B>>,
    order: RowOrder,
) -> burn::backend::tensor::FloatTensor<B> {
    ops::reduce::<B>(grads, weights, order == RowOrder::Time)
}

/// Order of the rows of a gradient tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowOrder {
    /// Smallest lag first.
    #[default]
    Lag,
    /// Earliest step first, largest lag first: what a window's tensors are.
    Time,
}

/// Norms of one state part's gradients, on the device.
///
/// - `grads`: `[lag, batch, features]`, in `order`
/// - `weights`: `[features]`, each at least 0; `None` for the Euclidean norm
/// - returns `[lag, batch + 1]`, smallest lag first: the norm of each sequence, then the norm of the batch mean summed
///   over this lag and all smaller ones; detached
///
/// Weighted by the inverse variance of each state coordinate this is a diagonal Mahalanobis norm, less conservative than
/// the Euclidean one in high dimension (named as future work by Aicher et al. 2019).
///
/// # Panics
/// As Burn's tensors do: for an empty dimension, or when `weights` has another size than `features` or another device.
pub fn lag_norms(grads: Tensor<3>, weights: Option<Tensor<1>>, order: RowOrder) -> Tensor<2> {
    let time_order = order == RowOrder::Time;
    let grads = grads.into_dispatch();
    Tensor::from_dispatch(match weights {
        None => Dispatch::lag_norms(grads, time_order),
        Some(weights) => Dispatch::weighted_lag_norms(grads, weights.into_dispatch(), time_order),
    })
}

/// The state gradients of one probe, part by part, reduced as they come.
///
/// Nothing is read back before [`LagGradients::read`].
#[derive(Debug, Clone)]
pub struct LagGradients {
    batch: usize,
    /// Norms at lag 0, `[1, batch + 1]`.
    output: Tensor<2>,
    /// Norms at lags `1..=W`, `[W, batch + 1]` each.
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
        let output = output.reshape([1, batch, features]);
        let output = checked_norms(output, weights, RowOrder::Lag)?;
        Ok(Self {
            batch,
            output,
            parts: Vec::new(),
        })
    }

    /// Adds one state part (hidden or cell of a layer).
    ///
    /// - `grads`: `[W, batch, features]`, lags `1..=W`, in `order`
    /// - `weights`: as in [`lag_norms`]
    ///
    /// # Errors
    /// [`EstimateError::Empty`], or [`EstimateError::Length`] for weights of another size, another batch than the
    /// output's or another window than the first part's.
    pub fn part(
        mut self,
        grads: Tensor<3>,
        weights: Option<Tensor<1>>,
        order: RowOrder,
    ) -> Result<Self, EstimateError> {
        let [window, batch, _] = grads.dims();
        check_length("the batch of a state part", self.batch, batch)?;
        if let Some(first) = self.parts.first() {
            check_length("the window of a state part", first.dims()[0], window)?;
        }
        self.parts.push(checked_norms(grads, weights, order)?);
        Ok(self)
    }

    /// Reads the norms back, in one transfer, with the breakdown over parts and the cumulative sizes.
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
        let columns = batch + 1;
        check_length(
            "the packed norms",
            (1 + parts * window) * columns,
            values.len(),
        )?;

        let row = |i: usize| &values[i * columns..(i + 1) * columns];
        let mut breakdown = Vec::with_capacity((window + 1) * parts * batch);
        breakdown.extend_from_slice(&row(0)[..batch]);
        breakdown.extend(std::iter::repeat_n(0.0, (parts - 1) * batch));
        let mut sizes = vec![0.0, row(0)[batch]];
        for lag in 1..=window {
            let rows = (0..parts).map(|part| row(part * window + lag));
            rows.clone()
                .for_each(|row| breakdown.extend_from_slice(&row[..batch]));
            sizes.push(rows.fold(row(0)[batch], |size, row| size.hypot(row[batch])));
        }
        LagNorms::from_parts(window + 1, parts, batch, &breakdown)?.with_mean_sum_norms(sizes)
    }
}

fn checked_norms(
    grads: Tensor<3>,
    weights: Option<Tensor<1>>,
    order: RowOrder,
) -> Result<Tensor<2>, EstimateError> {
    let [lags, batch, features] = grads.dims();
    if lags == 0 || batch == 0 || features == 0 {
        return Err(EstimateError::Empty {
            lags,
            sequences: batch,
        });
    }
    if let Some(weights) = &weights {
        check_length("the feature weights", features, weights.dims()[0])?;
    }
    Ok(lag_norms(grads, weights, order))
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
