//! Weights under which a norm of state gradients does not depend on the scale of the states.

use burn::tensor::Tensor;

use super::untracked;
use crate::EstimateError;

/// The variance of each coordinate of a state, as weights for [`lag_norms`](super::lag_norms()): √(Σ_i Var(h_i) g_i²).
///
/// - `states`: `[time, batch, features]`, states of a training run or of a probe's window
/// - returns `[features]`, over `time` and `batch`; detached, of the states' type
///
/// A gradient is a covector: where a coordinate is measured in half the unit, its values double and its gradient halves.
/// So the weight of a coordinate grows with its spread (weighting by the *inverse* variance, as for the Mahalanobis norm of
/// a vector, squares the dependence on the unit in place of removing it). Aicher et al. 2019 name weighted norms as future
/// work. A coordinate that never moves has weight 0.
///
/// # Errors
/// [`EstimateError::Empty`] for an empty dimension.
pub fn variance_weights(states: Tensor<3>) -> Result<Tensor<1>, EstimateError> {
    let [time, batch, features] = states.dims();
    if time == 0 || batch == 0 || features == 0 {
        return Err(EstimateError::Empty {
            lags: time,
            sequences: batch,
        });
    }
    let states = untracked(states).reshape([time * batch, features]);
    // Around the mean: the mean of squares less the square of the mean cancels where the spread is small.
    let deviations = states.clone() - states.mean_dim(0);
    Ok(deviations.square().mean_dim(0).reshape([features]))
}
