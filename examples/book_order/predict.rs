//! How good the predictions are: likelihood, mean interval, most likely mark.

use atbptt::models::{RecurrentModel, RecurrentState, SequenceBatch};
use atbptt::train::{SequenceSource, TrainError};
use burn::tensor::{Device, Tensor};

use super::data::EventStreams;
use super::model::EventModel;

/// Steps of Simpson's rule; even.
const NODES: usize = 200;

/// Cumulative hazard beyond which nothing is left: e^−40 = 4e-18.
const FAR: f64 = 40.0;

/// Means over all predictions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Negative log-likelihood of mark and interval together, in nats.
    pub nll: f64,
    /// Root mean squared error of the mean predicted interval, in seconds, the mean integrated up to the longest interval
    /// that occurs (as the paper's numbers are).
    pub rmse: f64,
    /// The same with the mean over all times.
    pub rmse_unbounded: f64,
    /// Share of marks that were not the most likely one.
    pub error: f64,
}

/// ∫ s f(s) ds from 0 to `horizon`, for the interval s whose log intensity starts at `a` and grows by `w` per second.
///
/// With u = Λ(s) the cumulative hazard, ∫ s(u) exp(−u) du over u from 0 to Λ(horizon), s(u) = log(1 + w u exp(−a))/w. By
/// Simpson's rule on a grid that is finest at both ends, where s(u) bends.
pub fn partial_mean(a: f64, w: f64, horizon: f64) -> f64 {
    let rate = (-a).exp();
    let at = |u: f64| {
        let x = w * u * rate;
        // log(1 + x)/x, whose limit at 0 is 1.
        let quotient = if x == 0.0 { 1.0 } else { x.ln_1p() / x };
        u * rate * quotient
    };
    let end = cumulative_hazard(a, w, horizon).min(FAR);
    // u as a function of v in [0, 1], and its derivative.
    let grid = |v: f64| -> (f64, f64) {
        let u = end * v.powi(3) * (10.0 - 15.0 * v + 6.0 * v * v);
        (u, 30.0 * end * (v * (1.0 - v)).powi(2))
    };
    let value = |node: usize| {
        let (u, slope) = grid(node as f64 / NODES as f64);
        match slope > 0.0 {
            true => at(u) * (-u).exp() * slope,
            // For w < 0 and no horizon, s(u) is infinite at the end.
            false => 0.0,
        }
    };
    let weight = |node: usize| match node {
        0 | NODES => 1.0,
        _ if node % 2 == 1 => 4.0,
        _ => 2.0,
    };
    let sum: f64 = (0..=NODES).map(|node| weight(node) * value(node)).sum();
    sum / (3.0 * NODES as f64)
}

/// Mean of the interval. For w < 0 there is a chance of exp(−Λ(∞)), Λ(∞) = −exp(a)/w, that no event ever follows; the mean
/// is that of the intervals that end.
pub fn mean_interval(a: f64, w: f64) -> f64 {
    let never = (-cumulative_hazard(a, w, f64::INFINITY)).exp();
    partial_mean(a, w, f64::INFINITY) / (1.0 - never)
}

/// Λ(s) = exp(a) (exp(w s) − 1)/w.
fn cumulative_hazard(a: f64, w: f64, s: f64) -> f64 {
    match w == 0.0 {
        true => a.exp() * s,
        false => a.exp() * (w * s).exp_m1() / w,
    }
}

/// Judges the model on every prediction of `source`, in chunks of `chunk` steps.
pub fn evaluate(
    model: &EventModel,
    source: &EventStreams,
    chunk: usize,
    device: &Device,
) -> Result<Quality, TrainError> {
    let mut state = None;
    let (mut nll, mut errors, mut count) = (0.0, 0usize, 0usize);
    let (mut squares, mut squares_unbounded) = (0.0, 0.0);
    let longest = f64::from(source.longest_interval());
    let w = read(model.slope())?.first().copied().unwrap_or(0.0);
    let mut start = 0;
    while source.active(start) > 0 {
        let sequences = source.active(start);
        let len = (1..=chunk)
            .rev()
            .find(|len| source.active(start + len - 1) == sequences)
            .unwrap_or(1);
        let batch = source.window(start, len, device)?;
        let carried = state.take().map(|state: Vec<_>| {
            state.map_parts(&mut |part: Tensor<2>| part.narrow(0, 0, sequences))
        });
        let (features, after) = model.forward(&batch, carried)?;
        let loss = model.loss(features.clone(), &batch)?;
        nll += read(loss.sum)?.first().copied().unwrap_or(f64::NAN);
        count += loss.count;
        let hidden = features.dims()[2];
        let rows = features.swap_dims(0, 1);
        let rows = rows.reshape([batch.steps() * sequences, hidden]);
        let a = read(model.log_intensity(rows.clone()))?;
        let intervals = read(batch.next_intervals.reshape([loss.count]))?;
        for (&a, d) in a.iter().zip(&intervals) {
            squares += (partial_mean(a, w, longest) - d).powi(2);
            squares_unbounded += (mean_interval(a, w) - d).powi(2);
        }
        let guesses = model.mark_logits(rows).argmax(1).reshape([loss.count]);
        let wrong = guesses.not_equal(batch.next_marks.reshape([loss.count]));
        errors += read(wrong.float().sum())?
            .first()
            .map_or(0, |n| *n as usize);
        state = Some(after);
        start += len;
    }
    let total = count as f64;
    Ok(Quality {
        nll: nll / total,
        rmse: (squares / total).sqrt(),
        rmse_unbounded: (squares_unbounded / total).sqrt(),
        error: errors as f64 / total,
    })
}

fn read(tensor: Tensor<1>) -> Result<Vec<f64>, TrainError> {
    let data = tensor.try_into_data().map_err(|error| TrainError::Read {
        reason: format!("{error:?}"),
    })?;
    Ok(data.iter::<f64>().collect())
}
