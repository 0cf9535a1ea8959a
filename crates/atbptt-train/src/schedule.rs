//! Learning rates by position in the data, and by what validation says.
//!
//! Place in the flow: a factor on the rate of the learner's scheduler, which counts updates. How many updates an epoch has is a
//! matter of scheme and K; a schedule in epochs runs out where it should whatever K does. Nothing here is kept in a checkpoint:
//! the factor is a function of the position and of the validation losses so far.

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// How the learning rate changes with the position in the training data: factors that are multiplied.
///
/// Positions are in epochs from the start of the run, with fractions. The factor goes on top of the learner's own scheduler, which
/// may be a plain number of any size; Burn's schedulers count updates and take rates up to 1.
///
/// ```
/// use atbptt_train::{RateSchedule, RateShape};
///
/// // Up from a hundredth over the first tenth of an epoch, then along a cosine to a twentieth at epoch 20.
/// let schedule = RateSchedule::new(RateShape::Cosine { epochs: 20.0 }).with_warm_up(0.1).with_floor(0.05);
/// assert_eq!(schedule.factor(0.0), 0.01);
/// assert!((schedule.factor(10.0) - 0.525).abs() < 1e-12); // half-way from 1 to 0.05
/// assert_eq!(schedule.factor(30.0), 0.05);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RateSchedule {
    /// How the rate falls.
    pub shape: RateShape,
    /// What it falls to, as a factor in `[0, 1]`. 0 by default.
    pub floor: f64,
    /// Epochs over which the rate rises along a line from a hundredth, 0 or more. 0 by default: at once.
    pub warm_up: f64,
    /// Falls besides wherever the validation loss no longer does.
    pub plateau: Option<Plateau>,
}

/// How a learning rate falls with the position in the data, from a factor of 1 to the schedule's floor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RateShape {
    /// It does not.
    #[default]
    Constant,
    /// Along a line over so many epochs; it stays there after them.
    Linear {
        /// Above zero.
        epochs: f64,
    },
    /// Along half a cosine over so many epochs (Loshchilov & Hutter 2017, without restarts); it stays there after them.
    Cosine {
        /// Above zero.
        epochs: f64,
    },
    /// Times this factor per epoch, evenly in between.
    Exponential {
        /// In `(0, 1]`.
        per_epoch: f64,
    },
    /// Times `factor` at each of these positions.
    Steps {
        /// Positions in epochs, 0 or more.
        epochs: Vec<f64>,
        /// In `(0, 1]`.
        factor: f64,
    },
}

/// A learning rate that falls whenever the validation loss has not improved for some epochs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    /// What the rate is multiplied with each time, in `(0, 1)`. 0.5 by default.
    pub factor: f64,
    /// Epochs without an improvement before it falls, at least 1. 2 by default.
    pub patience: usize,
    /// An improvement is a loss lower than the best one by this share of its size, 0 or more. 1e-4 by default.
    pub threshold: f64,
    /// What the factors together do not go below, in `[0, 1]`. 1e-3 by default.
    pub smallest: f64,
}

impl Default for Plateau {
    fn default() -> Self {
        Self {
            factor: 0.5,
            patience: 2,
            threshold: 1e-4,
            smallest: 1e-3,
        }
    }
}

impl RateSchedule {
    /// A schedule of this shape, down to zero, without warm-up.
    pub fn new(shape: RateShape) -> Self {
        Self {
            shape,
            ..Self::default()
        }
    }

    /// Sets [`RateSchedule::floor`].
    pub fn with_floor(mut self, floor: f64) -> Self {
        self.floor = floor;
        self
    }

    /// Sets [`RateSchedule::warm_up`], in epochs.
    pub fn with_warm_up(mut self, epochs: f64) -> Self {
        self.warm_up = epochs;
        self
    }

    /// Sets [`RateSchedule::plateau`].
    pub fn with_plateau(mut self, plateau: Plateau) -> Self {
        self.plateau = Some(plateau);
        self
    }

    /// The factor at `position`, in epochs from the start of the run, without that of the plateau.
    pub fn factor(&self, position: f64) -> f64 {
        let fallen = match &self.shape {
            RateShape::Constant => 1.0,
            RateShape::Linear { epochs } => 1.0 - (position / epochs).min(1.0),
            RateShape::Cosine { epochs } => {
                let angle = std::f64::consts::PI * (position / epochs).min(1.0);
                0.5 * (1.0 + angle.cos())
            }
            RateShape::Exponential { per_epoch } => per_epoch.powf(position),
            RateShape::Steps { epochs, factor } => {
                let passed = epochs.iter().filter(|at| position >= **at).count();
                factor.powf(passed as f64)
            }
        };
        // 1 at the start and the floor at the end, whatever the shape.
        let fallen = self.floor + (1.0 - self.floor) * fallen;
        const START: f64 = 0.01;
        let risen = match position < self.warm_up {
            true => START + (1.0 - START) * position / self.warm_up,
            false => 1.0,
        };
        fallen * risen
    }

    /// The plateau's factor after these validation losses, oldest first.
    pub fn plateau_factor(&self, losses: impl IntoIterator<Item = f64>) -> f64 {
        let Some(plateau) = self.plateau else {
            return 1.0;
        };
        let (mut best, mut without, mut factor) = (f64::INFINITY, 0, 1.0);
        for loss in losses {
            // Losses may be negative; the first one is an improvement.
            if best.is_infinite() || loss < best - plateau.threshold * best.abs() {
                (best, without) = (loss, 0);
                continue;
            }
            without += 1;
            if without >= plateau.patience {
                (factor, without) = (f64::max(factor * plateau.factor, plateau.smallest), 0);
            }
        }
        factor
    }

    /// # Errors
    ///
    /// [`TrainError::Config`] for a number outside its range.
    pub(crate) fn validate(&self) -> Result<(), TrainError> {
        const EPOCHS: (&str, &str) = (
            "a number of epochs above zero",
            "position counts epochs, with fractions: 20 for a run of 20 epochs",
        );
        const FACTOR: (&str, &str) = (
            "a factor above 0 and at most 1",
            "it multiplies the learner's rate, which may be of any size: 0.5 halves it",
        );
        let check =
            |field, ok: bool, (rule, remedy): (&'static str, &'static str), got: f64| match ok {
                true => Ok(()),
                false => Err(TrainError::Config {
                    field,
                    rule,
                    got: got.to_string(),
                    remedy,
                }),
            };
        let length = |epochs: f64| epochs > 0.0 && epochs.is_finite();
        let part = |factor: f64| factor > 0.0 && factor <= 1.0;
        match &self.shape {
            RateShape::Constant => {}
            RateShape::Linear { epochs } | RateShape::Cosine { epochs } => {
                check("the schedule's length", length(*epochs), EPOCHS, *epochs)?;
            }
            RateShape::Exponential { per_epoch } => {
                check(
                    "the schedule's factor per epoch",
                    part(*per_epoch),
                    FACTOR,
                    *per_epoch,
                )?;
            }
            RateShape::Steps { epochs, factor } => {
                check("the schedule's factor", part(*factor), FACTOR, *factor)?;
                for &epoch in epochs {
                    let rule = ("0 or more epochs", EPOCHS.1);
                    let ok = epoch >= 0.0 && epoch.is_finite();
                    check("a position of the schedule", ok, rule, epoch)?;
                }
            }
        }
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let rule = ("in [0, 1]", "it is a share of the learner's rate");
        check("the schedule's floor", share(self.floor), rule, self.floor)?;
        let ok = self.warm_up >= 0.0 && self.warm_up.is_finite();
        let rule = ("0 or more epochs", "0 turns it off");
        check("the schedule's warm-up", ok, rule, self.warm_up)?;
        let Some(plateau) = self.plateau else {
            return Ok(());
        };
        let ok = plateau.factor > 0.0 && plateau.factor < 1.0;
        let rule = ("above 0 and below 1", "0.5 halves the rate each time");
        check("the plateau's factor", ok, rule, plateau.factor)?;
        let rule = ("at least 1 epoch", "2 is a good choice");
        let patience = plateau.patience;
        check(
            "the plateau's patience",
            patience > 0,
            rule,
            patience as f64,
        )?;
        let ok = plateau.threshold >= 0.0 && plateau.threshold.is_finite();
        let rule = ("0 or more", "it is a share of the best loss");
        check("the plateau's threshold", ok, rule, plateau.threshold)?;
        let rule = ("in [0, 1]", "it is a share of the learner's rate");
        check(
            "the plateau's smallest factor",
            share(plateau.smallest),
            rule,
            plateau.smallest,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-12, "{got}, expected {expected}");
    }

    #[test]
    fn shapes_fall_as_their_names_say() {
        let factor = |shape, at| RateSchedule::new(shape).factor(at);
        for at in [0.0, 7.3, 100.0] {
            assert_eq!(factor(RateShape::Constant, at), 1.0);
        }
        // (shape, position, factor)
        let rows = [
            (RateShape::Linear { epochs: 4.0 }, 1.0, 0.75),
            (RateShape::Linear { epochs: 4.0 }, 9.0, 0.0),
            (RateShape::Cosine { epochs: 3.0 }, 1.0, 0.75), // (1 + cos 60°)/2
            (RateShape::Cosine { epochs: 3.0 }, 4.0, 0.0),
            (RateShape::Exponential { per_epoch: 0.25 }, 1.5, 0.125),
        ];
        for (shape, at, expected) in rows {
            close(factor(shape, at), expected);
        }
        let steps = RateShape::Steps {
            epochs: vec![2.0, 5.0],
            factor: 0.1,
        };
        for (at, expected) in [(1.9, 1.0), (2.0, 0.1), (4.9, 0.1), (5.0, 0.01)] {
            close(factor(steps.clone(), at), expected);
        }
    }

    /// It ran out at its end; one that comes back up after it would ruin what was learned.
    #[test]
    fn a_schedule_that_has_run_out_stays_down() {
        for shape in [
            RateShape::Cosine { epochs: 3.0 },
            RateShape::Linear { epochs: 3.0 },
        ] {
            let schedule = RateSchedule::new(shape).with_floor(0.1);
            for at in [3.0, 3.5, 6.0, 1e9] {
                close(schedule.factor(at), 0.1);
            }
        }
    }

    #[test]
    fn warming_up_rises_from_a_hundredth() {
        let schedule = RateSchedule::default().with_warm_up(0.5);
        for (at, expected) in [(0.0, 0.01), (0.25, 0.505), (0.5, 1.0), (2.0, 1.0)] {
            close(schedule.factor(at), expected);
        }
    }

    /// Two epochs without an improvement halve the rate, then the count begins anew; negative losses improve downwards too.
    #[test]
    fn a_plateau_halves_the_rate() {
        let schedule = RateSchedule::default().with_plateau(Plateau::default());
        // (losses, factor, why)
        let rows: [(&[f64], f64, &str); 7] = [
            (&[], 1.0, "nothing yet"),
            (&[3.0, 2.0, 1.0], 1.0, "always better"),
            (&[3.0, 3.0], 1.0, "one epoch of patience left"),
            (&[3.0, 3.0, 3.5], 0.5, "two epochs without"),
            (&[3.0, 3.0, 3.5, 2.0, 2.1, 2.2], 0.25, "twice two epochs"),
            (&[-1.0, -2.0, -2.0001, -1.9], 0.5, "less than the threshold"),
            (&[3.0, 3.0, 2.0, 2.0, 1.0], 1.0, "better in time"),
        ];
        for (losses, expected, why) in rows {
            let factor = schedule.plateau_factor(losses.iter().copied());
            assert_eq!(factor, expected, "{why}");
        }
        let flat = std::iter::repeat_n(1.0, 1000);
        assert_eq!(
            schedule.plateau_factor(flat),
            1e-3,
            "not below the smallest"
        );
        let none = RateSchedule::default();
        assert_eq!(none.plateau_factor([1.0; 9]), 1.0);
    }

    #[test]
    fn numbers_outside_their_range_are_explained() {
        let shape = |shape| RateSchedule::new(shape).validate();
        let steps = |at: f64, factor| RateShape::Steps {
            epochs: vec![at],
            factor,
        };
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            for refused in [
                shape(RateShape::Linear { epochs: bad }),
                shape(RateShape::Cosine { epochs: bad }),
                shape(RateShape::Exponential { per_epoch: bad }),
                shape(steps(1.0, bad)),
            ] {
                assert!(matches!(refused, Err(TrainError::Config { .. })), "{bad}");
            }
        }
        assert!(shape(steps(f64::NAN, 0.5)).is_err());
        let default = RateSchedule::default;
        assert!(default().with_floor(1.5).validate().is_err());
        assert!(default().with_warm_up(f64::NAN).validate().is_err());
        let plateau = |factor, patience| {
            let plateau = Plateau {
                factor,
                patience,
                ..Plateau::default()
            };
            default().with_plateau(plateau).validate()
        };
        assert!(plateau(1.0, 1).is_err() && plateau(0.5, 0).is_err() && plateau(0.5, 1).is_ok());
        let text = shape(RateShape::Cosine { epochs: 0.0 })
            .unwrap_err()
            .to_string();
        assert!(text.contains("epochs above zero, got 0"), "{text}");
    }
}
