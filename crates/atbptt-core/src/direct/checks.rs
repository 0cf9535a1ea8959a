//! Which windows, cuts and inner products make direct statistics.

use super::stored::check_window;
use crate::EstimateError;

/// Largest inner product that is taken for a number: their sums and products must not overflow.
const LARGEST: f64 = 1e150;

/// Refuses losses and cuts that do not fit a window of W + m − 1 steps.
///
/// # Errors
/// [`EstimateError::Zero`] for no losses, [`EstimateError::ShortWindow`] for W below m + 2, [`EstimateError::Contexts`] for cuts
/// that do not rise from 0 to W − 1 at most.
pub fn check_cuts(window: usize, losses: usize, contexts: &[usize]) -> Result<(), EstimateError> {
    if losses == 0 {
        return Err(EstimateError::Zero {
            what: "the number of losses of a probe",
        });
    }
    if window < losses.saturating_add(2) {
        return Err(EstimateError::ShortWindow { window, losses });
    }
    check_window(window)?;
    let mut pairs = contexts.iter().zip(contexts.iter().skip(1));
    let rise = contexts.first() == Some(&0) && pairs.all(|(a, b)| a < b);
    match rise && contexts.last().is_some_and(|c| *c < window) {
        true => Ok(()),
        false => Err(EstimateError::Contexts {
            contexts: contexts.to_vec(),
            window,
        }),
    }
}

/// Number of pieces that cuts make of a window.
pub(super) fn pieces(window: usize, contexts: &[usize]) -> usize {
    let rest = contexts.last().is_some_and(|c| c + 1 < window);
    contexts.len() + usize::from(rest)
}

/// Refuses numbers that cannot be the inner products of all `(probe, piece)` pairs.
pub(super) fn check_products(
    probes: usize,
    pieces: usize,
    gram: &[f64],
) -> Result<(), EstimateError> {
    if probes < 2 {
        return Err(EstimateError::TooFewProbes {
            needed: 2,
            got: probes,
        });
    }
    let side = probes.saturating_mul(pieces);
    let expected = side.saturating_mul(side);
    if gram.len() != expected {
        return Err(EstimateError::Length {
            what: "the inner products of piece gradients",
            expected,
            got: gram.len(),
        });
    }
    if let Some((at, &value)) = gram
        .iter()
        .enumerate()
        .find(|(_, x)| x.is_nan() || x.abs() > LARGEST)
    {
        return Err(EstimateError::NotProducts {
            first: at / side,
            second: at % side,
            rule: "finite",
            value,
        });
    }
    let at = |a: usize, b: usize| gram.get(a * side + b).copied().unwrap_or(f64::NAN);
    for a in 0..side {
        let square = at(a, a);
        if square.is_nan() || square < 0.0 {
            return Err(EstimateError::NotProducts {
                first: a,
                second: a,
                rule: "at least 0, being a square",
                value: square,
            });
        }
        for b in 0..a {
            // Rounding of the numbers that were summed, at the size of the largest sum there can be.
            let rounding = 1e-3 * (square * at(b, b)).sqrt() + f64::MIN_POSITIVE;
            if (at(a, b) - at(b, a)).abs() > rounding {
                return Err(EstimateError::NotProducts {
                    first: a,
                    second: b,
                    rule: "the same in either order",
                    value: at(a, b),
                });
            }
        }
    }
    Ok(())
}
