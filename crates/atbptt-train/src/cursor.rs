//! Which steps the next window reads, by the [`Scheme`]: BPTT(K−1+m; m), BPTT(2K−1; K) or BPTT(K; K).
//!
//! Symbols: `start` = step the carried state stands before; `next_loss` = first step whose loss has not been counted.
//! `context` of a window = `start..next_loss`, run but not decoded.

use atbptt_core::Scheme;
use atbptt_models::WindowPlan;
use serde::{Deserialize, Serialize};

/// Where training stands in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Step that the carried state stands before.
    pub(crate) start: usize,
    /// First step whose loss has not been counted.
    pub(crate) next_loss: usize,
}

/// A window of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowSpan {
    /// First step of the stream.
    pub(crate) start: usize,
    /// Number of steps.
    pub(crate) len: usize,
    /// What happens at which step, counted from `start`.
    pub(crate) plan: WindowPlan,
    /// Where the stream stands afterwards.
    pub(crate) next: Cursor,
}

impl WindowSpan {
    /// Number of steps that carry a loss.
    pub(crate) fn loss_steps(&self) -> usize {
        self.len.saturating_sub(self.plan.loss_from)
    }
}

impl Cursor {
    /// The next window over a stream of `steps` steps: the losses of the next m steps (strided) or K steps, fewer at the end
    /// of the stream; `None` at the end.
    ///
    /// `next_k` is the truncation length expected after this one; it decides which state is carried. Where K changes
    /// between windows, the rules stay: no gradient reaches further back than [`Scheme::window`] (a longer context, left
    /// over from a longer K, runs without gradient), and every loss reaches back K steps or more, as far as the carried state
    /// allows: right after K has grown, the context is as long as the last window left it.
    pub(crate) fn window(
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
        let (context, next_context) = (scheme.context(k), scheme.context(next_k));
        let gradient_from = self.next_loss.saturating_sub(context).max(from);
        let next = Cursor {
            start: end.saturating_sub(next_context).max(from),
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

    /// K = 3 on 10 steps: the first window has no context and the next starts at step 1; then 2K − 1 = 5 steps with the
    /// loss on the last 3, moved on by 3. The last window counts the one step that is left.
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
    fn a_shorter_k_runs_the_left_over_context_without_gradient() {
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

    /// m = 2 and K = 4 on 9 steps: K − 1 + m = 5 steps with the loss on the last 2, moved on by 2. The first windows reach
    /// back to the start of the stream, which is all there is: the state there is none.
    #[test]
    fn strided_windows_follow_the_method() {
        let got: Vec<_> = windows(Scheme::Strided { losses: 2 }, 4, 9)
            .iter()
            .map(|w| (w.start, w.len, w.plan))
            .collect();
        assert_eq!(
            got,
            [
                span(0, 2, 0, 0),
                span(0, 4, 2, 1),
                span(1, 5, 3, 2),
                span(3, 5, 3, 2),
                span(5, 4, 3, 1),
            ]
        );
    }

    /// 100 steps by m = 8 are 13 updates, whatever K: K is the reach of the gradient and nothing else.
    #[test]
    fn the_number_of_strided_updates_does_not_depend_on_k() {
        for k in [1, 2, 7, 8, 9, 50, 100, 1000] {
            let all = windows(Scheme::Strided { losses: 8 }, k, 100);
            let losses: Vec<usize> = all.iter().map(WindowSpan::loss_steps).collect();
            assert_eq!(losses, [&[8; 12][..], &[4]].concat(), "K = {k}");
        }
    }

    fn scheme() -> impl Strategy<Value = Scheme> {
        prop_oneof![
            (1usize..40).prop_map(|losses| Scheme::Strided { losses }),
            Just(Scheme::Overlapping),
            Just(Scheme::Chunked),
        ]
    }

    fn span_fits(span: &WindowSpan, cursor: Cursor, steps: usize) -> bool {
        let plan = span.plan;
        plan.warm_up <= plan.loss_from
            && plan.loss_from < span.len
            && plan.carry <= span.len
            && span.start + span.len <= steps
            && span.next.start <= span.next.next_loss
            && span.next.next_loss > cursor.next_loss
            && span.loss_steps() >= 1
    }

    fn length() -> impl Strategy<Value = usize> {
        prop_oneof![0usize..40, Just(usize::MAX), any::<usize>()]
    }

    proptest! {
        /// A checkpoint's cursor may be forged.
        #[test]
        fn prop_any_cursor_gives_a_window_inside_the_stream_or_none(
            (start, next_loss) in (length(), length()),
            (k, next_k, steps) in (length(), length(), length()),
            losses in prop_oneof![length().prop_map(Some), Just(None)],
            chunked in any::<bool>(),
        ) {
            let scheme = match losses {
                Some(losses) => Scheme::Strided { losses },
                None if chunked => Scheme::Chunked,
                None => Scheme::Overlapping,
            };
            let cursor = Cursor { start, next_loss };
            match cursor.window(scheme, k, next_k, steps) {
                Some(span) => prop_assert!(span_fits(&span, cursor, steps), "{:?}", span),
                None => prop_assert!(next_loss >= steps),
            }
        }

        /// Every step's loss is counted once, whatever K does, and no state is carried backwards.
        #[test]
        fn prop_every_loss_is_counted_once(
            ks in proptest::collection::vec(1usize..40, 1..20),
            steps in 1usize..400,
            scheme in scheme(),
        ) {
            let mut cursor = Cursor::default();
            let mut counted = 0;
            for i in 0.. {
                let (k, next_k) = (ks[i % ks.len()], ks[(i + 1) % ks.len()]);
                let Some(w) = cursor.window(scheme, k, next_k, steps) else { break };
                prop_assert_eq!(w.start + w.plan.loss_from, counted);
                prop_assert!(w.plan.warm_up <= w.plan.loss_from && w.plan.carry <= w.len);
                prop_assert!(w.loss_steps() <= scheme.losses(k) && w.loss_steps() > 0);
                prop_assert!(w.len - w.plan.warm_up <= scheme.window(k));
                prop_assert!(w.next.start >= w.start);
                counted += w.loss_steps();
                cursor = w.next;
            }
            prop_assert_eq!(counted, steps);
        }

        /// With a constant K, every loss is backpropagated through at least K steps, or to the start of the stream.
        #[test]
        fn prop_every_loss_reaches_back_k_steps(
            k in 1usize..60,
            steps in 1usize..400,
            losses in prop_oneof![(1usize..40).prop_map(Some), Just(None)],
        ) {
            let scheme = losses.map_or(Scheme::Overlapping, |losses| Scheme::Strided { losses });
            for w in windows(scheme, k, steps) {
                let first_loss = w.start + w.plan.loss_from;
                prop_assert_eq!(w.plan.loss_from - w.plan.warm_up, (k - 1).min(first_loss));
            }
        }

        /// The number of strided windows is that of the strides, whatever K does between them.
        #[test]
        fn prop_strided_updates_are_as_many_whatever_k_does(
            ks in proptest::collection::vec(1usize..80, 1..20),
            steps in 1usize..400,
            losses in 1usize..40,
        ) {
            let (mut cursor, mut updates) = (Cursor::default(), 0);
            while let Some(w) = cursor.window(
                Scheme::Strided { losses },
                ks[updates % ks.len()],
                ks[(updates + 1) % ks.len()],
                steps,
            ) {
                updates += 1;
                cursor = w.next;
            }
            prop_assert_eq!(updates, steps.div_ceil(losses));
        }
    }
}
