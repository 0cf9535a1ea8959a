//! The rules that training relies on, and the messages for a model that breaks one.

use std::fmt;

/// A rule that a model breaks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BrokenRule {
    /// Features are not `[batch, time, features]`.
    Layout {
        /// Their shape.
        got: [usize; 3],
        /// Sequences and steps of the batch.
        expected: [usize; 2],
    },
    /// Features of a step depend on steps after it.
    ReadsAhead {
        /// Difference between the features of the first half of a window, alone and within the window, relative to the largest.
        difference: f64,
    },
    /// Features depend on something that the state does not hand on.
    StateIncomplete {
        /// Difference between the features of the second half of a window, from the state and within the window, relative to the
        /// largest.
        difference: f64,
    },
    /// The loss of a window is not the sum of the losses of its pieces.
    LossNotSummed {
        /// Of the window.
        whole: f64,
        /// Of its pieces together.
        pieces: f64,
    },
    /// The number of terms of a window's loss is not that of its pieces together.
    Count {
        /// Of the window.
        whole: usize,
        /// Of its pieces together.
        pieces: usize,
    },
    /// `window` gives another loss than `forward` and `loss`.
    Window {
        /// By `window`.
        window: f64,
        /// By `forward` and `loss`.
        expected: f64,
    },
    /// Something in the state is not visited by `map_parts`, and stays in the graph when the state is detached.
    StateAttached,
    /// Parameters that require gradients and get none.
    NoGradient {
        /// Their paths.
        parameters: Vec<String>,
    },
    /// After a reset, features still depend on what was before, or start from another state than a new sequence does.
    Reset {
        /// Difference between features after a reset and those of a new sequence, relative to the largest.
        difference: f64,
    },
    /// The gradient flows back over a reset.
    GradientOverReset,
}

impl fmt::Display for BrokenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout { got, expected } => write!(
                f,
                "features must be [batch, time, features], here [{}, {}, features], got {got:?}; swap the first two dimensions \
                 of a time-major output",
                expected[0], expected[1]
            ),
            Self::ReadsAhead { difference } => write!(
                f,
                "features of a step must not depend on later steps, and differ by {difference:.1e} of the largest when these are \
                 cut off; leave out layers that read ahead (bidirectional ones, norms over time)"
            ),
            Self::StateIncomplete { difference } => write!(
                f,
                "a window run in pieces, the state handed on, must give the features of one run, and differs by {difference:.1e} \
                 of the largest; put all that the layers carry into the state, and start from the state that is given"
            ),
            Self::LossNotSummed { whole, pieces } => write!(
                f,
                "the loss must be summed over steps and sequences, but a window has {whole} and its pieces {pieces} together; \
                 multiply a mean by the number of its terms"
            ),
            Self::Count { whole, pieces } => write!(
                f,
                "the loss's count must be the number of its terms, but a window has {whole} and its pieces {pieces} together; \
                 count the steps and sequences that have a target"
            ),
            Self::Window { window, expected } => write!(
                f,
                "`window` must give the loss of `forward` and `loss`, {expected}, and gives {window}; leave it out or mend it"
            ),
            Self::StateAttached => f.write_str(
                "a detached state must be out of the graph, but what follows from it is tracked; let `map_parts` visit every \
                 tensor of the state",
            ),
            Self::NoGradient { parameters } => write!(
                f,
                "parameters get no gradient: {}; use them in `forward` or `loss`, or freeze them with `no_grad`",
                parameters.join(", ")
            ),
            Self::Reset { difference } => write!(
                f,
                "after a reset, features must be those of a new sequence, and differ by {difference:.1e} of the largest; put the \
                 state back to where `None` starts"
            ),
            Self::GradientOverReset => f.write_str(
                "the gradient must end at a reset, and flows on to the states before it; put a fresh state in the place of the \
                 old one there",
            ),
        }
    }
}
