//! How training windows follow each other, and so how far back the gradient of each loss reaches.
//!
//! A window's gradient leaves out the mean, over its losses, of what each of them leaves out. The bias at K kept lags alone says
//! little about it, so estimates take the scheme as an argument.

use serde::{Deserialize, Serialize};

/// How windows follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// BPTT(K−1+m; m): windows of K − 1 + m steps, the loss over their last m, moved on by m. Every loss is backpropagated
    /// through at least K steps. K is the reach of the gradient and nothing else: the number of losses per update, and with
    /// it the number of updates, stays.
    Strided {
        /// m, the number of losses per update, in steps, at least 1.
        losses: usize,
    },
    /// BPTT(2K−1; K): windows of 2K − 1 steps, the loss over their last K, moved on by K. Every loss is backpropagated
    /// through at least K steps and at most 2K − 1. The experiments of Aicher et al. 2019.
    Overlapping,
    /// BPTT(K; K): windows of K steps, one after the other, the loss over all of them. About half the work per loss of
    /// [`Scheme::Overlapping`], but a loss at the start of a window is backpropagated through one step only.
    Chunked,
}

impl Scheme {
    /// Losses per window at truncation length `k`, in steps.
    pub fn losses(self, k: usize) -> usize {
        match self {
            Self::Strided { losses } => losses,
            Self::Overlapping | Self::Chunked => k,
        }
    }

    /// Steps of a window before its first loss at truncation length `k`.
    pub fn context(self, k: usize) -> usize {
        match self {
            Self::Strided { .. } | Self::Overlapping => k.saturating_sub(1),
            Self::Chunked => 0,
        }
    }
}
