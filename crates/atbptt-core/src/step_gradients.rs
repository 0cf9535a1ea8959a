//! The norm of the parameter gradient that arises at one step: ψ_k, what the state norms of [`LagNorms`] stand in for.
//!
//! Beside the flow: whoever has the gradients at the pre-activations (a backward pass computes them) makes [`LagNorms`] of
//! ψ here and hands them to the same estimator. Σ_{k≥K} E ψ_k bounds the *absolute* bias of the parameter gradient, with
//! no constant left out; as a relative bound it stays loose, since E‖·‖ is far above ‖E ·‖.
//!
//! `d`: gradient of the loss at a layer's pre-activations at step s−k, all gates; `x`: the layer's input at that step, after
//! dropout; `h`: its hidden state handed into that step, after resets; ψ_k² = Σ over layers of ‖d‖² (1 + ‖x‖² + ‖h‖²),
//! the squared norm of the outer product of `d` and `[x; h; 1]`.

use serde::{Deserialize, Serialize};

use crate::{EstimateError, LagNorms};

/// What one layer's parameter gradient at one step, of one sequence, is made of: squared norms, each at least 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum StepGradient {
    /// A layer whose gates all see input, state and one bias in the same way: LSTM, tanh RNN, minGRU.
    Plain {
        /// ‖d‖², over all gates.
        gates: f64,
        /// ‖x‖².
        input: f64,
        /// ‖h‖²; 0 for a layer without recurrent weights.
        state: f64,
    },
    /// A GRU whose reset gate is applied after the recurrent product: its candidate has a recurrent bias of its own.
    Gru {
        /// ‖(d_r, d_z)‖², reset and update gate.
        gates: f64,
        /// ‖d_n‖², the candidate's input side.
        candidate: f64,
        /// ‖d_u‖², the candidate's recurrent side, d_u = r ∘ d_n.
        recurrent: f64,
        /// ‖x‖².
        input: f64,
        /// ‖h‖².
        state: f64,
    },
}

impl StepGradient {
    /// Squared norm of the gradient of the layer's weights and biases that arises at this step.
    ///
    /// For a GRU ‖(d_r, d_z, d_n)‖² (1 + ‖x‖²) + ‖(d_r, d_z, d_u)‖² ‖h‖² + ‖d_u‖².
    pub fn squared_norm(self) -> f64 {
        match self {
            Self::Plain {
                gates,
                input,
                state,
            } => gates * (1.0 + input + state),
            Self::Gru {
                gates,
                candidate,
                recurrent,
                input,
                state,
            } => (gates + candidate) * (1.0 + input) + (gates + recurrent) * state + recurrent,
        }
    }
}

/// ψ as [`LagNorms`]: `steps[(lag · layers + layer) · sequences + sequence]`, lag 0 being the step of the loss itself.
///
/// Row k is the gradient of step s−k, so that K kept steps keep rows 0..K. All rows live in the same space (parameters):
/// [`crate::BiasEstimator::fit_lag_zero`] may be set.
///
/// # Errors
/// [`EstimateError::Empty`], [`EstimateError::Length`], or [`EstimateError::NotANorm`] for squares that are negative, not
/// finite or too large for a sum of them.
pub fn parameter_norms(
    lags: usize,
    layers: usize,
    sequences: usize,
    steps: &[StepGradient],
) -> Result<LagNorms, EstimateError> {
    let norms: Vec<f64> = steps
        .iter()
        .map(|step| step.squared_norm().sqrt())
        .collect();
    LagNorms::from_parts(lags, layers, sequences, &norms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(x: &[f64]) -> f64 {
        x.iter().map(|x| x * x).sum()
    }

    /// Sum of squares of the outer product of `d` and `u`.
    fn outer(d: &[f64], u: &[f64]) -> f64 {
        d.iter()
            .map(|d| square(&u.iter().map(|u| d * u).collect::<Vec<_>>()))
            .sum()
    }

    const X: [f64; 3] = [0.5, -1.0, 2.0];
    const H: [f64; 2] = [0.25, -0.75];

    #[test]
    fn the_norm_is_that_of_the_weights_own_gradients() {
        let d = [0.3, -0.2, 1.1, 0.7];
        let plain = StepGradient::Plain {
            gates: square(&d),
            input: square(&X),
            state: square(&H),
        };
        // Input weights, recurrent weights, bias.
        let expected = outer(&d, &X) + outer(&d, &H) + square(&d);
        assert!((plain.squared_norm() - expected).abs() < 1e-12);
    }

    /// The candidate's recurrent product has weights and a bias behind the reset gate.
    #[test]
    fn a_gru_counts_the_candidate_s_two_sides_apart() {
        let (gates, candidate, reset) = ([0.3, -0.2, 1.1, 0.7], [0.4, -0.6], [0.2, 0.9]);
        let recurrent: Vec<f64> = candidate.iter().zip(reset).map(|(d, r)| d * r).collect();
        let gru = StepGradient::Gru {
            gates: square(&gates),
            candidate: square(&candidate),
            recurrent: square(&recurrent),
            input: square(&X),
            state: square(&H),
        };
        let (from_input, from_state) = (
            [&gates[..], &candidate].concat(),
            [&gates[..], &recurrent].concat(),
        );
        let weights = outer(&from_input, &X) + outer(&from_state, &H);
        let biases = square(&from_input) + square(&recurrent);
        assert!((gru.squared_norm() - weights - biases).abs() < 1e-12);
    }

    /// Two layers of (3, 4): 5. A square that is none is refused.
    #[test]
    fn layers_add_up_as_squares() {
        let of = |gates: f64| StepGradient::Plain {
            gates,
            input: 0.0,
            state: 0.0,
        };
        let norms = parameter_norms(2, 2, 1, &[of(9.0), of(16.0), of(0.0), of(1.0)]).unwrap();
        assert_eq!(
            (norms.row(0), norms.row(1)),
            ([5.0].as_slice(), [1.0].as_slice())
        );
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            let refused = parameter_norms(1, 1, 1, &[of(bad)]);
            assert!(
                matches!(refused, Err(EstimateError::NotANorm { .. })),
                "{bad}"
            );
        }
        assert!(parameter_norms(1, 2, 1, &[of(1.0)]).is_err());
    }
}
