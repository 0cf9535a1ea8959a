//! Errors of this crate.

use atbptt_core::EstimateError;

use crate::check::BrokenRule;

/// What can go wrong when a model is built, called or probed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A tensor's shape does not fit the others.
    #[error("{what} has shape {got:?}, expected {expected}; {remedy}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that fits.
        expected: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A configuration value is outside its range.
    #[error("{field} must be {rule}, got {got}; {remedy}")]
    Config {
        /// Name of the field.
        field: &'static str,
        /// The range it must lie in.
        rule: &'static str,
        /// The value received.
        got: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A window has no time steps, or a batch no sequences.
    #[error("{what} has no {missing}; pass at least one")]
    Empty {
        /// Which tensor.
        what: &'static str,
        /// `time steps` or `sequences`.
        missing: &'static str,
    },
    /// A token id is not in the vocabulary of the model.
    #[error(
        "token id {token} is outside the model's vocabulary of {vocabulary} words; \
         build the model with the size of the corpus' vocabulary"
    )]
    Token {
        /// The id.
        token: i64,
        /// Number of words the model knows.
        vocabulary: usize,
    },
    /// The device does not track gradients.
    #[error(
        "{what} needs gradients, but the model is on a device without autodiff; create it on `device.autodiff()`"
    )]
    NoAutodiff {
        /// What was asked for.
        what: &'static str,
    },
    /// A loss that depends on nothing that has a gradient.
    #[error(
        "{what} needs a loss that depends on tracked tensors, and this one does not; let weights require gradients (`model.train()`), on a device with autodiff"
    )]
    Untracked {
        /// What was asked for.
        what: &'static str,
    },
    /// Parameters that were said to count for the bias, but have no gradient.
    #[error(
        "{missing} of {counted} counted parameters got no gradient from the loss; let `counted_parameters` name only those that \
         `forward` uses"
    )]
    NoGradient {
        /// Parameters without a gradient.
        missing: usize,
        /// Parameters that count.
        counted: usize,
    },
    /// Backpropagation that ends before the losses' context begins.
    #[error(
        "the gradient of the losses does not reach the steps more than {steps} before the first of them; `forward` must hand the \
         state on as it is, in the graph: training detaches it where that is wanted"
    )]
    GradientCut {
        /// Steps before the first loss that are reached.
        steps: usize,
    },
    /// A tensor lies on another device than those it meets.
    #[error(
        "{what} must be on the device of the others, {expected}, got {got}; move it with `to_device`"
    )]
    Device {
        /// Which tensor.
        what: &'static str,
        /// Device of the others.
        expected: String,
        /// Its device.
        got: String,
    },
    /// A tensor's numbers are of another type than those it meets.
    #[error("{what} must hold {expected}, as the others do, got {got}; convert it with `cast`")]
    DType {
        /// Which tensor.
        what: &'static str,
        /// Type of the others.
        expected: String,
        /// Its type.
        got: String,
    },
    /// A named tensor of an imported model is missing.
    #[error(
        "parameter `{name}` is missing; the import needs PyTorch's names, such as `weight_ih_l0`"
    )]
    MissingParameter {
        /// The name.
        name: String,
    },
    /// Weights could not be read or written, or are of another model.
    #[error("{origin} {reason}")]
    Weights {
        /// The file, or `the weights`.
        origin: String,
        /// What is wrong, with all names that it is about, and what to do.
        reason: String,
    },
    /// There is no distribution to draw a token from.
    #[error(
        "a token is drawn from finite logits or −∞, and these {count} hold NaN or +∞, or nothing above −∞; train with a smaller step size"
    )]
    Logits {
        /// Number of logits.
        count: usize,
    },
    /// A tensor could not be read back from its device.
    #[error(
        "could not read a result from the device: {reason}; check the device's memory and driver"
    )]
    Read {
        /// The device's own words.
        reason: String,
    },
    /// A model breaks rules that training relies on.
    #[error("{}", sentences(broken))]
    Rules {
        /// Which, as [`check_model`](crate::check_model) finds them.
        broken: Vec<BrokenRule>,
    },
    /// A model of the user's own refused its input.
    #[error("{reason}")]
    Custom {
        /// Why, and how to mend it.
        reason: String,
    },
    /// The lag norms of a probe were unusable.
    #[error(transparent)]
    Estimate(#[from] EstimateError),
}

/// Broken rules, one after the other.
fn sentences(broken: &[BrokenRule]) -> String {
    let rules: Vec<String> = broken.iter().map(ToString::to_string).collect();
    format!("the model breaks a rule: {}", rules.join("; and: "))
}

impl ModelError {
    /// An error of a model defined elsewhere.
    pub fn custom(reason: impl std::fmt::Display) -> Self {
        Self::Custom {
            reason: reason.to_string(),
        }
    }

    pub(crate) fn shape(
        what: &'static str,
        got: impl AsRef<[usize]>,
        expected: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self::Shape {
            what,
            got: got.as_ref().to_vec(),
            expected: expected.into(),
            remedy,
        }
    }
}
