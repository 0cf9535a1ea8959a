//! Which token comes next: a draw from a model's logits.

use atbptt_core::seed::mix;
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// How tokens are drawn from logits.
///
/// The logits are divided by the temperature; of the softmax only the `top_k` likeliest tokens are kept, and of these the
/// fewest whose probabilities reach `top_p` (nucleus sampling, Holtzman et al. 2020).
///
/// ```
/// use atbptt_models::Sampling;
///
/// let logits = [0.0, 3.0, 1.0];
/// assert_eq!(Sampling::greedy().draw(&logits, 0)?, 1);
/// let two = Sampling::new().with_top_k(2).with_seed(7);
/// assert!((0..100).all(|n| two.draw(&logits, n).is_ok_and(|token| token > 0)));
/// # Ok::<(), atbptt_models::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Below 1 sharpens the distribution, above 1 flattens it; 0 always takes the likeliest token.
    pub temperature: f64,
    /// Number of likeliest tokens that may be drawn; `None`: all.
    pub top_k: Option<usize>,
    /// Share of the probability that may be drawn, in (0, 1].
    pub top_p: f64,
    /// Seed of the draws: the same seed gives the same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Draws from the model's distribution as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Always takes the likeliest token.
    pub fn greedy() -> Self {
        Self::default().with_temperature(0.0)
    }

    /// Sharpens (below 1) or flattens (above 1) the distribution.
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature;
        self
    }

    /// Keeps the `top_k` likeliest tokens.
    pub fn with_top_k(mut self, top_k: usize) -> Self {
        self.top_k = Some(top_k);
        self
    }

    /// Keeps the fewest tokens whose probabilities reach `top_p`.
    pub fn with_top_p(mut self, top_p: f64) -> Self {
        self.top_p = top_p;
        self
    }

    /// Seed of the draws.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Refuses settings outside their range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`].
    pub fn check(&self) -> Result<(), ModelError> {
        let wrong = |field, rule, got: String, remedy| {
            Err(ModelError::Config {
                field,
                rule,
                got,
                remedy,
            })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let got = self.temperature.to_string();
            return wrong("temperature", "zero or more", got, "1 is the model's own");
        }
        if self.top_k == Some(0) {
            return wrong(
                "top_k",
                "at least 1",
                "0".into(),
                "leave it out to keep all tokens",
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let got = self.top_p.to_string();
            return wrong("top_p", "in (0, 1]", got, "1 keeps all tokens");
        }
        Ok(())
    }

    /// Draws token number `nth` of a text from the logits of all tokens: a function of both and the seed. A logit of −∞
    /// is a token that never comes.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] as [`check`](Self::check); [`ModelError::Logits`] when a logit is NaN or +∞, or all are −∞.
    pub fn draw(&self, logits: &[f32], nth: u64) -> Result<usize, ModelError> {
        self.check()?;
        let largest =
            logits.iter().copied().fold(
                f32::NEG_INFINITY,
                |a, b| if b.is_nan() { b } else { a.max(b) },
            );
        if logits.iter().any(|logit| logit.is_nan()) || !largest.is_finite() {
            return Err(ModelError::Logits {
                count: logits.len(),
            });
        }
        let mut likeliest: Vec<(usize, f64)> = logits
            .iter()
            .enumerate()
            .map(|(token, &logit)| (token, f64::from(logit) - f64::from(largest)))
            .collect();
        // Stable: of equal logits, the first token comes first on every machine.
        likeliest.sort_by(|a, b| b.1.total_cmp(&a.1));
        if self.temperature == 0.0 {
            return Ok(likeliest.first().map_or(0, |(token, _)| *token));
        }
        likeliest.truncate(self.top_k.unwrap_or(usize::MAX));
        for (_, weight) in &mut likeliest {
            *weight = (*weight / self.temperature).exp();
        }
        let total: f64 = likeliest.iter().map(|(_, weight)| weight).sum();
        let mut kept = 0.0;
        let nucleus = likeliest.iter().position(|(_, weight)| {
            kept += weight;
            kept >= self.top_p * total
        });
        likeliest.truncate(nucleus.map_or(usize::MAX, |last| last + 1));
        let kept: f64 = likeliest.iter().map(|(_, weight)| weight).sum();
        // 53 random bits: uniform in [0, 1).
        let uniform = (mix(self.seed, [nth]) >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = uniform * kept;
        let drawn = likeliest.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        // Rounding may leave a little over: the last one kept.
        let drawn = drawn.or(likeliest.last());
        Ok(drawn.map_or(0, |(token, _)| *token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampling: Sampling, logits: &[f32], draws: u64) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for nth in 0..draws {
            counts[sampling.draw(logits, nth).unwrap()] += 1.0 / draws as f64;
        }
        counts
    }

    /// Logits ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8; 100,000 draws are within 1 % of them (six standard errors).
    #[test]
    fn draws_have_the_probabilities_of_the_softmax() {
        let logits = [1f32.ln(), 2f32.ln(), 5f32.ln()];
        let shares = |sampling| counts(sampling, &logits, 100_000);
        let near = |got: Vec<f64>, expected: [f64; 3]| {
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() < 0.01, "{got} {expected}");
            }
        };
        near(shares(Sampling::new()), [0.125, 0.25, 0.625]);
        // Temperature 1/2 squares the odds: 1, 4, 25.
        let sharp = Sampling::new().with_temperature(0.5);
        near(shares(sharp), [1.0 / 30.0, 4.0 / 30.0, 25.0 / 30.0]);
        let two = [0.0, 2.0 / 7.0, 5.0 / 7.0];
        near(shares(Sampling::new().with_top_k(2)), two);
        // The likeliest token has 0.625; with the second it is 0.875.
        near(shares(Sampling::new().with_top_p(0.7)), two);
        near(shares(Sampling::new().with_top_p(0.625)), [0.0, 0.0, 1.0]);
        near(shares(Sampling::greedy()), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn a_seed_and_a_number_fix_a_draw() {
        let logits = [0.0; 50];
        let text = |seed| -> Vec<usize> {
            let sampling = Sampling::new().with_seed(seed);
            (0..20)
                .map(|n| sampling.draw(&logits, n).unwrap())
                .collect()
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn settings_outside_their_range_and_logits_that_are_no_numbers_are_refused() {
        for wrong in [
            Sampling::new().with_temperature(-1.0),
            Sampling::new().with_temperature(f64::NAN),
            Sampling::new().with_top_k(0),
            Sampling::new().with_top_p(0.0),
            Sampling::new().with_top_p(1.5),
        ] {
            assert!(matches!(
                wrong.draw(&[0.0], 0),
                Err(ModelError::Config { .. })
            ));
        }
        let minus = f32::NEG_INFINITY;
        for wrong in [&[f32::NAN, 0.0][..], &[f32::INFINITY], &[minus], &[]] {
            assert!(matches!(
                Sampling::new().draw(wrong, 0),
                Err(ModelError::Logits { .. })
            ));
        }
        assert_eq!(Sampling::new().draw(&[minus, 0.0, minus], 3), Ok(1));
    }
}
