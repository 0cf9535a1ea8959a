//! What can be wrong with the data or the settings, as values.
//!
//! Every module of this crate returns [`EstimateError`]; nothing here panics on data. Each message names the rule,
//! the value received and what to do about it. Ranges are checked by acceptance, so that NaN is refused.

/// A refused input: data that is no set of gradient norms, or a setting outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EstimateError {
    /// No lag, no sequence or no state part was given.
    #[error(
        "norms need at least one lag and one sequence, got {lags} lags of {sequences} sequences; run the probe on a non-empty batch"
    )]
    Empty {
        /// Rows received.
        lags: usize,
        /// Sequences per row received.
        sequences: usize,
    },
    /// Rows of different lengths.
    #[error(
        "every lag needs one norm per sequence: lag {lag} has {got}, lag 0 has {expected}; pad or drop sequences before the probe"
    )]
    Ragged {
        /// First row whose length differs.
        lag: usize,
        /// Length of the first row.
        expected: usize,
        /// Length of this row.
        got: usize,
    },
    /// A flat slice or a tensor whose size does not fit the dimensions given with it.
    #[error(
        "{what} needs {expected} values, got {got}; check the order and size of its dimensions"
    )]
    Length {
        /// What was being read.
        what: &'static str,
        /// Values needed.
        expected: usize,
        /// Values received.
        got: usize,
    },
    /// A norm that is negative, infinite or NaN.
    #[error(
        "a gradient norm must be finite and at least 0, got {value} at lag {lag}, sequence {sequence}; the backward pass diverged, so lower the step size or clip"
    )]
    NotANorm {
        /// Row of the value.
        lag: usize,
        /// Column of the value.
        sequence: usize,
        /// The value.
        value: f64,
    },
    /// A mean of logarithms over norms of which some are exactly zero.
    #[error(
        "the mean of log norms has no answer for a norm of exactly 0 (lag {lag}, sequence {sequence}) among others that are not; average before the logarithm (`MeanThenLog`), or drop that sequence"
    )]
    ZeroAmongNorms {
        /// Row of the zero.
        lag: usize,
        /// Column of the zero.
        sequence: usize,
    },
    /// A cumulative gradient size that is negative, infinite, NaN, or not zero at zero kept lags.
    #[error(
        "cumulative gradient sizes must start at 0 and be finite and at least 0, got {value} at {kept} kept lags; recompute them from the same backward pass"
    )]
    NotASize {
        /// Number of kept lags.
        kept: usize,
        /// The value.
        value: f64,
    },
    /// The estimator was told to measure the gradient by the norm of its mean, which these norms do not carry.
    #[error(
        "the norm of the mean gradient needs the cumulative sizes of the probe, and they are absent; attach them with `with_mean_sum_norms` or choose `SumOfNorms`"
    )]
    MeanSumsMissing,
    /// The estimator was told to measure the gradient by the de-biased norm of its mean, which these norms do not carry.
    #[error(
        "the de-biased norm of the mean gradient needs the mean squares of the cumulative gradients, and they are absent; attach them with `with_sum_squares` or choose `NormOfMeanSum`"
    )]
    SumSquaresMissing,
    /// Every lag norm is (nearly) zero: there is no gradient to speak of.
    #[error(
        "no lag norm exceeds e^-50 (largest log norm: {largest_log}); check the mask and the loss, or scale the loss up"
    )]
    NoGradient {
        /// Largest log φ of the profile.
        largest_log: f64,
    },
    /// A probe window too short to see any decay.
    #[error("need at least {needed} lags to fit a decay, got {got}; lengthen the probe window")]
    TooFewLags {
        /// Lags needed.
        needed: usize,
        /// Lags received.
        got: usize,
    },
    /// A fit over all pairs of lags, of more lags than fit into memory.
    #[error(
        "a slope quantile takes at most {most} lags from tau on, got {got}; raise tau, or fit by least squares"
    )]
    TooManyLags {
        /// Most lags there may be.
        most: usize,
        /// Lags received.
        got: usize,
    },
    /// A decay onset at or past the end of the window.
    #[error(
        "tau must lie below the window length {window}, got {tau}; lower tau or lengthen the probe window"
    )]
    TauOutsideWindow {
        /// Onset received, in steps.
        tau: usize,
        /// Window length W, in steps.
        window: usize,
    },
    /// A decay onset given as a share of the window outside [0, 1).
    #[error(
        "tau as a share of the window must lie in [0, 1), got {fraction}; 0.9 is the paper's choice"
    )]
    TauFraction {
        /// Share received.
        fraction: f64,
    },
    /// A quantile outside [0, 1].
    #[error("a slope quantile must lie in [0, 1], got {quantile}; 0.95 is a cautious choice")]
    Quantile {
        /// Quantile received.
        quantile: f64,
    },
    /// A state part that the norms do not hold.
    #[error(
        "state part {part} was asked for, these norms hold {parts}; keep the breakdown when building them"
    )]
    NoSuchPart {
        /// Part asked for.
        part: usize,
        /// Parts held (0: no breakdown was kept).
        parts: usize,
    },
    /// Fewer sequences than a spread needs.
    #[error("an interval needs at least {needed} sequences, got {got}; pool several probes")]
    TooFewSequences {
        /// Sequences needed.
        needed: usize,
        /// Sequences received.
        got: usize,
    },
    /// Probes whose windows differ cannot be pooled.
    #[error(
        "pooled probes need the same number of lags, got {first} and {other}; use one window length"
    )]
    UnequalWindows {
        /// Lags of the first probe.
        first: usize,
        /// Lags of the probe that differs.
        other: usize,
    },
    /// A bias tolerance outside its range.
    #[error(
        "the bias tolerance delta must lie in (0, 1], got {delta}; 0.9, 0.5 and 0.1 are the published choices"
    )]
    Tolerance {
        /// Tolerance received.
        delta: f64,
    },
    /// Truncation lengths out of order.
    #[error(
        "truncation lengths need 1 <= k_min <= k0 <= k_max, got k_min {k_min}, k0 {k0}, k_max {k_max}"
    )]
    Lengths {
        /// Shortest length received, in steps.
        k_min: usize,
        /// First length received, in steps.
        k0: usize,
        /// Longest length received, in steps.
        k_max: usize,
    },
    /// A count that must be positive.
    #[error("{what} must be at least 1, got 0")]
    Zero {
        /// What was counted.
        what: &'static str,
    },
    /// A number outside the range that a formula is proven for.
    #[error("{what} must be {rule}, got {value}")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// The range, in words.
        rule: &'static str,
        /// The value.
        value: f64,
    },
    /// A saved state that belongs to another policy.
    #[error(
        "this state was saved by policy `{got}` and cannot be restored into `{expected}`; build the policy it came from"
    )]
    ForeignState {
        /// The policy being restored.
        expected: &'static str,
        /// The policy the state names.
        got: String,
    },
    /// Fewer probes than products between them need.
    #[error(
        "products between probes need at least {needed} probes, got {got}; five are a fair start, three the fewest with a standard error"
    )]
    TooFewProbes {
        /// Probes needed.
        needed: usize,
        /// Probes received.
        got: usize,
    },
    /// A probe window that leaves no room for context before its losses.
    #[error(
        "a probe's window must be at least two steps longer than its losses, got a window of {window} steps for {losses} losses; lengthen the window or count fewer losses"
    )]
    ShortWindow {
        /// Window W, in steps.
        window: usize,
        /// Losses m, in steps.
        losses: usize,
    },
    /// Cuts that do not divide a window into pieces.
    #[error(
        "cuts must rise from 0 and lie below the window of {window} steps, got {contexts:?}; `direct::default_contexts` makes some"
    )]
    Contexts {
        /// The cuts.
        contexts: Vec<usize>,
        /// Window W, in steps.
        window: usize,
    },
    /// Numbers that cannot be inner products of gradients.
    #[error(
        "inner products of gradients must be {rule}, got {value} between vectors {first} and {second}; the backward pass diverged, so lower the step size or clip"
    )]
    NotProducts {
        /// Index of the first vector, (probe · pieces + piece).
        first: usize,
        /// Index of the second.
        second: usize,
        /// The rule.
        rule: &'static str,
        /// The value.
        value: f64,
    },
    /// Probes that do not measure the same thing.
    #[error(
        "probes that are taken together need the same window, losses and cuts, got ({first}) and ({other}); measure them alike"
    )]
    UnequalProbes {
        /// The first, in words.
        first: String,
        /// The one that differs.
        other: String,
    },
    /// Gradient tensors on different devices.
    #[error(
        "{what} must be on the device of the gradients, {expected}, got {got}; move it with `to_device`"
    )]
    Device {
        /// The tensor that is elsewhere.
        what: &'static str,
        /// Device of the gradients.
        expected: String,
        /// Device of the tensor.
        got: String,
    },
    /// Gradient tensors that could not be read back from their device.
    #[error(
        "the norms could not be read from the device: {message}; check the device and its memory"
    )]
    Read {
        /// The backend's own words.
        message: String,
    },
}
