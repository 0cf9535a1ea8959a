//! Which steps the next window reads: BPTT(2K−1; K) and BPTT(K; K) of METHOD §4.
//!
//! Symbols: `start` = step the carried state stands before; `next_loss` = first step whose loss has not been paid.
//! `burn-in` of a window = `start..next_loss`, run but not decoded.

use atbptt_core::Scheme;
use atbptt_models::WindowPlan;
use serde::{Deserialize, Serialize};

/// Where training stands in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Step that the carried state stands before.
    pub start: usize,
    /// First step whose loss has not been paid.
    pub next_loss: usize,
}

/// A window of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSpan {
    /// First step of the stream.
    pub start: usize,
    /// Number of steps.
    pub len: usize,
    /// What happens at which step, counted from `start`.
    pub plan: WindowPlan,
    /// Where the stream stands afterwards.
    pub next: Cursor,
}

impl WindowSpan {
    /// Number of steps that carry a loss.
    pub fn loss_steps(&self) -> usize {
        self.len.saturating_sub(self.plan.loss_from)
    }
}

impl Cursor {
    /// The next window over a stream of `steps` steps: losses of the next `k` steps (fewer at the end of the stream), or
    /// `None` at the end.
    ///
    /// `next_k` is the truncation length expected after this one; it decides which state is carried. Where K changes
    /// between windows, the rules stay: no loss is backpropagated through more than 2K − 1 steps (a longer burn-in, left
    /// over from a longer K, runs without gradient), nor through fewer than K, as far as the carried state reaches back:
    /// right after K has grown, the burn-in is as long as the last window left it.
    pub fn window(
        self,
        scheme: Scheme,
        k: usize,
        next_k: usize,
        steps: usize,
    ) -> Option<WindowSpan> {
        let (k, next_k) = (k.max(1), next_k.max(1));
        // No state stands after the next loss; the differences below then have their signs.
        let from = self.start.min(self.next_loss);
        if self.next_loss >= steps {
            return None;
        }
        let losses = scheme.losses(k).max(1);
        let end = self.next_loss.saturating_add(losses).min(steps);
        let (burn_in, next_burn_in) = (scheme.context(k), scheme.context(next_k));
        let gradient_from = self.next_loss.saturating_sub(burn_in).max(from);
        let next = Cursor {
            start: end.saturating_sub(next_burn_in).max(from),
            next_loss: end,
        };
        Some(WindowSpan {
            start: from,
            len: end - from,
            plan: WindowPlan {
                warm_up: gradient_from - from,
                loss_from: self.next_loss - from,
                carry: next.start - from,
            },
            next,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn windows(scheme: Scheme, k: usize, steps: usize) -> Vec<WindowSpan> {
        let mut cursor = Cursor::default();
        let mut all = Vec::new();
        while let Some(span) = cursor.window(scheme, k, k, steps) {
            all.push(span);
            cursor = span.next;
        }
        all
    }

    fn span(
        start: usize,
        len: usize,
        loss_from: usize,
        carry: usize,
    ) -> (usize, usize, WindowPlan) {
        let plan = WindowPlan {
            warm_up: 0,
            loss_from,
            carry,
        };
        (start, len, plan)
    }

    /// METHOD §4 with K = 3 on 10 steps: the first window has no burn-in and the next starts at step 1; then 2K − 1 = 5
    /// steps with the loss on the last 3, moved on by 3. The last window pays the one step that is left.
    #[test]
    fn overlapping_windows_follow_the_method() {
        let got: Vec<_> = windows(Scheme::Overlapping, 3, 10)
            .iter()
            .map(|w| (w.start, w.len, w.plan))
            .collect();
        assert_eq!(
            got,
            [
                span(0, 3, 0, 1),
                span(1, 5, 2, 3),
                span(4, 5, 2, 3),
                span(7, 3, 2, 1)
            ]
        );
    }

    #[test]
    fn chunked_windows_lie_end_to_end() {
        let got: Vec<_> = windows(Scheme::Chunked, 4, 10)
            .iter()
            .map(|w| (w.start, w.len, w.plan))
            .collect();
        assert_eq!(got, [span(0, 4, 0, 4), span(4, 4, 0, 4), span(8, 2, 0, 2)]);
    }

    #[test]
    fn a_shorter_k_runs_the_left_over_burn_in_without_gradient() {
        let cursor = Cursor {
            start: 10,
            next_loss: 19,
        }; // left by K = 10
        let w = cursor.window(Scheme::Overlapping, 3, 3, 100).unwrap();
        assert_eq!((w.start, w.len), (10, 12));
        assert_eq!(
            w.plan,
            WindowPlan {
                warm_up: 7,
                loss_from: 9,
                carry: 10
            }
        );
    }

    #[test]
    fn a_longer_k_reaches_back_as_far_as_the_state() {
        let cursor = Cursor {
            start: 10,
            next_loss: 12,
        }; // left by K = 3
        let w = cursor.window(Scheme::Overlapping, 10, 10, 100).unwrap();
        assert_eq!((w.start, w.len), (10, 12));
        assert_eq!(
            w.plan,
            WindowPlan {
                warm_up: 0,
                loss_from: 2,
                carry: 3
            }
        );
        assert_eq!(
            w.next,
            Cursor {
                start: 13,
                next_loss: 22
            }
        );
    }

    proptest! {
        /// Every step's loss is paid once, whatever K does, and no state is carried backwards.
        #[test]
        fn prop_every_loss_is_paid_once(
            ks in proptest::collection::vec(1usize..40, 1..20),
            steps in 1usize..400,
            chunked in any::<bool>(),
        ) {
            let scheme = if chunked { Scheme::Chunked } else { Scheme::Overlapping };
            let mut cursor = Cursor::default();
            let mut paid = 0;
            for i in 0.. {
                let (k, next_k) = (ks[i % ks.len()], ks[(i + 1) % ks.len()]);
                let Some(w) = cursor.window(scheme, k, next_k, steps) else { break };
                prop_assert_eq!(w.start + w.plan.loss_from, paid);
                prop_assert!(w.plan.warm_up <= w.plan.loss_from && w.plan.carry <= w.len);
                prop_assert!(w.loss_steps() <= k && w.loss_steps() > 0);
                prop_assert!(w.len - w.plan.warm_up < 2 * k);
                prop_assert!(w.next.start >= w.start);
                paid += w.loss_steps();
                cursor = w.next;
            }
            prop_assert_eq!(paid, steps);
        }

        /// With a constant K, every loss after the first window's is backpropagated through at least K steps.
        #[test]
        fn prop_overlapping_windows_reach_back_k_steps(k in 1usize..40, steps in 1usize..400) {
            for w in windows(Scheme::Overlapping, k, steps).iter().skip(1) {
                prop_assert_eq!(w.plan.loss_from - w.plan.warm_up, k - 1);
            }
        }
    }
}
