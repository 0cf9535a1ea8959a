//! The rules for K that a sweep compares, as its file names them.

use std::fmt;

use serde::Deserialize;

/// One rule for K: `fixed 10`, `context 9`, `adaptive 0.5`, `replay 0.5`, `median 0.5`, `chunked 20`, `random 20`, `artbp 20`,
/// `snap 20`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub enum Policy {
    Fixed(usize),
    /// K − 1 steps of context.
    Context(usize),
    Adaptive(f64),
    /// K of every window as the adaptive run of this tolerance took it from another seed.
    Replay(f64),
    /// Fixed at the median K of the adaptive run of this tolerance from another seed.
    Median(f64),
    Chunked(usize),
    Random(usize),
    Artbp(usize),
    /// SnAp-1, which has no K: steps per update.
    Snap(usize),
}

impl TryFrom<String> for Policy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "unknown policy {text:?}: {why}; a policy is `fixed K`, `context K-1`, `adaptive δ`, `replay δ`, `median δ`, `chunked K`, \
                 `random K`, `artbp K` or `snap STEPS`"
            )
        };
        let (kind, value) = text.split_once(' ').ok_or_else(|| wrong("no value"))?;
        let value = value.trim();
        let steps = || {
            let steps = value.parse().ok().filter(|steps| *steps > 0);
            steps.ok_or_else(|| wrong("K must be a whole number of steps, at least 1"))
        };
        let tolerance = || {
            let delta = value.parse().ok();
            let delta = delta.filter(|delta| *delta > 0.0 && *delta <= 1.0);
            delta.ok_or_else(|| wrong("δ must lie in (0, 1]"))
        };
        Ok(match kind {
            "fixed" => Self::Fixed(steps()?),
            "context" => {
                let context = value.parse().ok();
                // K is one more.
                let context = context.filter(|context| *context < usize::MAX);
                Self::Context(
                    context.ok_or_else(|| wrong("context must be a whole number of steps"))?,
                )
            }
            "chunked" => Self::Chunked(steps()?),
            "random" => Self::Random(steps()?),
            "artbp" => Self::Artbp(steps()?),
            "snap" => Self::Snap(steps()?),
            "adaptive" => Self::Adaptive(tolerance()?),
            "replay" => Self::Replay(tolerance()?),
            "median" => Self::Median(tolerance()?),
            _ => return Err(wrong("no such kind")),
        })
    }
}

/// As tables and figures name it.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(k) => write!(f, "K = {k}"),
            Self::Context(context) => write!(f, "K = {} (context {context})", context + 1),
            Self::Adaptive(delta) => write!(f, "δ = {delta}"),
            Self::Replay(delta) => write!(f, "K replayed from δ = {delta}"),
            Self::Median(delta) => write!(f, "median K of δ = {delta}"),
            Self::Chunked(k) => write!(f, "chunks of {k}"),
            Self::Random(k) => write!(f, "random, {k}"),
            Self::Artbp(k) => write!(f, "ARTBP, {k}"),
            Self::Snap(steps) => write!(f, "SnAp-1, {steps}"),
        }
    }
}

impl Policy {
    /// As the file names it.
    pub fn key(self) -> String {
        match self {
            Self::Fixed(k) => format!("fixed {k}"),
            Self::Context(context) => format!("context {context}"),
            Self::Adaptive(delta) => format!("adaptive {delta}"),
            Self::Replay(delta) => format!("replay {delta}"),
            Self::Median(delta) => format!("median {delta}"),
            Self::Chunked(k) => format!("chunked {k}"),
            Self::Random(k) => format!("random {k}"),
            Self::Artbp(k) => format!("artbp {k}"),
            Self::Snap(steps) => format!("snap {steps}"),
        }
    }

    /// Options of the programs; none for a rule that goes by another run.
    pub fn arguments(self) -> Option<[String; 2]> {
        let (option, value) = match self {
            Self::Fixed(k) => ("--fixed-k", k.to_string()),
            Self::Context(context) => ("--fixed-k", (context + 1).to_string()),
            Self::Adaptive(delta) => ("--delta", delta.to_string()),
            Self::Chunked(k) => ("--chunked-k", k.to_string()),
            Self::Random(k) => ("--random-k", k.to_string()),
            Self::Artbp(k) => ("--artbp-k", k.to_string()),
            Self::Snap(steps) => ("--snap", steps.to_string()),
            Self::Replay(_) | Self::Median(_) => return None,
        };
        Some([option.into(), value])
    }

    /// The rule whose runs this one goes by.
    pub fn leader(self) -> Option<Self> {
        match self {
            Self::Replay(delta) | Self::Median(delta) => Some(Self::Adaptive(delta)),
            _ => None,
        }
    }

    /// Whether K is one number for the whole run that the user has to know.
    pub fn is_fixed(self) -> bool {
        matches!(self, Self::Fixed(_) | Self::Context(_))
    }

    /// Adaptive runs are drawn solid, all others dashed.
    pub fn is_adaptive(self) -> bool {
        matches!(self, Self::Adaptive(_))
    }
}
