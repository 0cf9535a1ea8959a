//! How training windows follow each other, and so how far back the gradient of each loss reaches.
//!
//! A window's gradient leaves out the mean, over its losses, of what each of them leaves out. The bias at K kept lags alone says
//! little about it, so estimates take the scheme as an argument.

use std::ops::RangeInclusive;

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

impl Default for Scheme {
    /// Strided windows of [`Scheme::DEFAULT_LOSSES`] losses.
    fn default() -> Self {
        Self::Strided {
            losses: Self::DEFAULT_LOSSES,
        }
    }
}

impl Scheme {
    /// Losses per update of strided windows, in steps, unless the user says otherwise.
    ///
    /// Not small: the later losses of a window reach back K − 1 + m steps whatever K is, so that a model whose gradient does
    /// not reach far *yet* can still learn what will make it reach.
    pub const DEFAULT_LOSSES: usize = 20;

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

    /// Steps of a whole window at truncation length `k`, context and losses: K − 1 + m, 2K − 1 or K.
    pub fn window(self, k: usize) -> usize {
        self.context(k).saturating_add(self.losses(k))
    }

    /// How many lags the losses of a window keep at truncation length `k`: one loss keeps the first of these numbers, the next
    /// one more, and so on. Never empty.
    ///
    /// With b(j) the bias at exactly j kept lags, the gradient of a window leaves out the mean of b(j) over this range: over
    /// `K..=K+m−1` for strided windows, `K..=2K−1` for overlapping ones, `1..=K` for chunks.
    pub fn kept_lags(self, k: usize) -> RangeInclusive<usize> {
        let k = k.max(1);
        let after = |count: usize| k.saturating_add(count.max(1) - 1);
        match self {
            Self::Strided { losses } => k..=after(losses),
            Self::Overlapping => k..=after(k),
            Self::Chunked => 1..=k,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BPTT(K−1+m; m) at K = 5 with m = 3; BPTT(2K−1; K); BPTT(K; K).
    #[test]
    fn windows_are_as_long_as_their_names_say() {
        let parts = |scheme: Scheme| (scheme.context(5), scheme.losses(5), scheme.window(5));
        assert_eq!(parts(Scheme::Strided { losses: 3 }), (4, 3, 7));
        assert_eq!(parts(Scheme::Overlapping), (4, 5, 9));
        assert_eq!(parts(Scheme::Chunked), (0, 5, 5));
    }

    /// m = K is BPTT(2K−1; K), and K = 1 leaves chunks of m.
    #[test]
    fn strided_windows_contain_the_other_schemes() {
        for k in 1..10 {
            let strided = Scheme::Strided { losses: k };
            assert_eq!(strided.window(k), Scheme::Overlapping.window(k));
            assert_eq!(strided.window(1), Scheme::Chunked.window(k));
        }
    }
}
