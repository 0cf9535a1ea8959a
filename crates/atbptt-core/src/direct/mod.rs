//! The bias of the truncated *parameter* gradient, measured: the direct estimate.
//!
//! A probe runs, after its burn-in, a window of T = W + m − 1 steps with the mean loss of its last m steps, and keeps the
//! weight gradients of the window's *pieces* apart: the steps between two neighbouring cuts. What truncation after c = K − 1
//! steps of context drops is the sum of the pieces before that cut:
//!
//! ```text
//! d(c) = Σ of piece gradients older than cut c,   g = Σ of all,   δ(c) = ‖E d(c)‖ / ‖E g‖
//! ```
//!
//! Probes never see an expectation, and a norm of a noisy mean is too large. Inner products *between* independent probes are
//! not: with n ≥ 2 probes, Â(c) = (‖Σ d_i‖² − Σ ‖d_i‖²) / (n (n − 1)) has the mean ‖E d(c)‖² exactly, for any batch size, and
//! Ĉ, the same of g, has ‖E g‖². The estimate is √(Â/Ĉ).
//!
//! Reads inner products of piece gradients ([`DirectStatistics`], which a model's probes fill); gives the bias at every K
//! ([`DirectEstimate`]) to `policy`.
//!
//! `W`: window, the most context plus one, in steps; `m`: losses per probe and sequence; `c`: context, steps before the first
//! loss that are kept; `n`: probes.
//!
//! # Example
//!
//! ```
//! use atbptt_core::Scheme;
//! use atbptt_core::direct::{DirectOutcome, DirectStatistics};
//!
//! // Three probes of a window W = 6 with m = 2 losses, cut at c = 0, 2 and 5: three pieces, newest first. Their gradients are
//! // 4, 2 and 1 times one vector of length 1 in every probe, so that each inner product is a product of two of these.
//! let sizes = [4.0, 2.0, 1.0].repeat(3);
//! let gram = sizes.iter().flat_map(|a| sizes.iter().map(move |b| a * b)).collect();
//! let statistics = DirectStatistics::new(6, 2, vec![0, 2, 5], 3, gram)?;
//!
//! let estimate = statistics.estimate(Scheme::Strided { losses: 2 })?;
//! assert!((estimate.relative_bias(1) - 3.0 / 7.0).abs() < 1e-12); // K = 1 keeps the first piece
//! assert!((estimate.relative_bias(3) - 1.0 / 7.0).abs() < 1e-12); // K = 3 the first two
//! assert_eq!(estimate.smallest_k(0.3), Some(2)); // in between, along a straight line in the logarithm
//! assert_eq!(estimate.outcome(), DirectOutcome::Usable);
//! # Ok::<(), atbptt_core::EstimateError>(())
//! ```

mod average;
mod caution;
mod checks;
mod estimate;
mod outcome;
mod pairs;
mod parts;
mod point;
mod spread;
mod statistics;
mod stored;
mod tail;
#[cfg(test)]
mod tests;

pub use average::contexts_for;
pub use checks::check_cuts;
pub use estimate::DirectEstimate;
pub(crate) use estimate::MANY_UPDATES;
pub use outcome::DirectOutcome;
pub use statistics::DirectStatistics;

/// Cuts for a window of `window` steps: dense where the bias falls fast, about a dozen in all.
///
/// 0, 1, 2, 4, 7, 11, 16 (as far as they fit), then at most five more, a constant factor apart, the last at W − 1, where
/// nothing of the window is dropped. Ascending; empty for an empty window.
pub fn default_contexts(window: usize) -> Vec<usize> {
    const DENSE: [usize; 7] = [0, 1, 2, 4, 7, 11, 16];
    const MAX_SPARSE: f64 = 5.0;
    const FACTOR: f64 = 1.5;
    let Some(last) = window.checked_sub(1) else {
        return Vec::new();
    };
    let mut contexts: Vec<usize> = DENSE.into_iter().filter(|c| *c < last).collect();
    let from = 16.0;
    let ratio = last as f64 / from;
    if ratio > 1.0 {
        let steps = (ratio.ln() / FACTOR.ln()).ceil().min(MAX_SPARSE);
        let between = (1..steps as usize)
            .map(|i| (from * ratio.powf(i as f64 / steps)).round() as usize)
            .filter(|c| (17..last).contains(c));
        contexts.extend(between);
    }
    contexts.push(last);
    contexts.dedup();
    contexts
}
