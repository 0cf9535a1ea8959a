//! What a direct estimate is good for, in words.

use serde::{Deserialize, Serialize};

/// Whether a [`DirectEstimate`](super::DirectEstimate) can be acted upon. Its text says why not, and what helps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DirectOutcome {
    /// The gradient stands out of the noise, and the window holds nearly all of it.
    Usable,
    /// Ĉ ≤ 2 se(Ĉ): the probes cannot tell the gradient's size from zero, let alone what truncation drops of it.
    NoiseLimited {
        /// Ĉ.
        gradient_square: f64,
        /// Its standard error; `None` where too few probes leave none.
        standard_error: Option<f64>,
    },
    /// What the fitted tail holds beyond the window exceeds a tenth of the tolerated bias.
    WindowTooShort {
        /// W, in steps.
        window: usize,
        /// The tail's size as a share of the gradient; `None` where the dropped part shows no decay.
        share: Option<f64>,
    },
}

impl DirectOutcome {
    /// Whether the estimate can be acted upon.
    pub fn is_usable(self) -> bool {
        self == Self::Usable
    }
}

impl std::fmt::Display for DirectOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usable => write!(f, "usable"),
            Self::NoiseLimited {
                gradient_square,
                standard_error: Some(error),
            } => write!(
                f,
                "noise-limited: the squared gradient, {gradient_square:.1e}, is not above twice its standard error, \
                 {error:.1e}; take more probes, or more losses per probe"
            ),
            Self::NoiseLimited {
                standard_error: None,
                ..
            } => write!(
                f,
                "noise-limited: so few probes give no standard error; take at least three"
            ),
            Self::WindowTooShort {
                window,
                share: Some(share),
            } => write!(
                f,
                "window too short: about {:.0} % of the gradient lies beyond its {window} steps; lengthen the probe window",
                100.0 * share
            ),
            Self::WindowTooShort {
                window,
                share: None,
            } => write!(
                f,
                "window too short: the dropped part of the gradient shows no decay within {window} steps; lengthen the \
                 probe window"
            ),
        }
    }
}
