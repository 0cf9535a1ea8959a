//! Which truncation length the next window gets.
//!
//! Last stage of the flow: a policy's [`Monitor`] says when probes are due, the policy takes what they measured and answers
//! with K and the reason. Policies are made from their settings: [`AdaptiveKConfig`] holds the relative bias at a tolerance;
//! [`FixedKConfig`] is the baseline; [`ScheduledKConfig`] takes lengths given in advance; [`RandomLengthConfig`] and
//! [`ArtbpConfig`] are the published alternatives. [`PolicyConfig`] is any of them as a value.
//!
//! `k`, `K`: kept steps; `delta` (δ): tolerated relative bias; `W`: probe window, in steps. An *update* of the weights is one
//! step of the optimiser.

/// Writes one consuming setter per line, `with_name => field: Type;`.
macro_rules! setters {
    ($($name:ident => $($field:ident).+: $kind:ty;)*) => {
        $(
            #[doc = concat!("Sets `", stringify!($($field).+), "`.")]
            pub fn $name(mut self, value: $kind) -> Self {
                self.$($field).+ = value;
                self
            }
        )*
    };
}

mod adaptive;
mod artbp;
mod config;
mod decision;
mod estimate;
mod fixed;
mod monitor;
mod random_length;
mod schedule;
mod scheduled;
mod state;

pub use adaptive::AdaptiveKConfig;
pub use artbp::ArtbpConfig;
pub use config::PolicyConfig;
pub use decision::{Decision, Reason};
pub use estimate::{Estimate, Estimator, Measurement, ProbeRequest};
pub use fixed::FixedKConfig;
pub use monitor::{Monitor, MonitorConfig};
pub use random_length::RandomLengthConfig;
pub use schedule::{Position, Schedule};
pub use scheduled::ScheduledKConfig;
pub use state::PolicyState;

use std::fmt;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::EstimateError;

/// What the next window is to be.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NextWindow {
    /// Truncation length, in steps, at least 1 and at most [`TruncationPolicy::k_max`].
    pub k: usize,
    /// Length that is typical of the policy, in steps: what a step size or clip that depends on K goes by. For a policy that
    /// draws its lengths their base or mean, else `k`.
    pub typical_k: usize,
    /// Factor on the step size for this window, above 0. 1 unless the length was drawn.
    pub step_scale: f64,
    /// Factors on the state gradient at the K − 1 boundaries between steps of the window, first boundary first; empty: all
    /// one.
    pub compensation: Vec<f64>,
}

impl NextWindow {
    /// A window of truncation length `k` and nothing special.
    pub fn new(k: usize) -> Self {
        Self {
            k,
            typical_k: k,
            step_scale: 1.0,
            compensation: Vec::new(),
        }
    }
}

/// A rule for the truncation length.
///
/// The trainer, before each window: asks [`TruncationPolicy::monitor`] for due probes; if there are any, runs them, and more as long as
/// [`TruncationPolicy::more_probes`] asks for them, and calls [`TruncationPolicy::update`] once with what all of them measured; then takes [`TruncationPolicy::next_window`].
///
/// A policy of your own, which shortens K by one step per estimate:
///
/// ```
/// use atbptt_core::policy::*;
/// use atbptt_core::EstimateError;
///
/// #[derive(Debug)]
/// struct Shrinking {
///     k: usize,
///     monitor: Monitor,
/// }
///
/// impl TruncationPolicy for Shrinking {
///     fn next_window(&mut self) -> NextWindow {
///         NextWindow::new(self.k)
///     }
///     fn k(&self) -> usize {
///         self.k
///     }
///     fn k_max(&self) -> usize {
///         100
///     }
///     fn monitor(&self) -> &Monitor {
///         &self.monitor
///     }
///     fn update(&mut self, at: Position, measured: Measurement) -> Decision {
///         self.k = (self.k - 1).max(1);
///         self.monitor.record(self.k, Reason::Fixed, at, measured)
///     }
///     fn save(&self) -> PolicyState {
///         let (name, data) = ("shrinking".to_owned(), self.k.to_string());
///         PolicyState::Custom { name, data, monitor: self.monitor.save() }
///     }
///     fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
///         match state {
///             PolicyState::Custom { name, data, monitor } if name == "shrinking" => {
///                 self.k = data.parse::<usize>().unwrap_or(100).clamp(1, 100);
///                 self.monitor.restore(monitor);
///                 Ok(())
///             }
///             other => Err(other.foreign("shrinking")),
///         }
///     }
/// }
/// ```
pub trait TruncationPolicy: Send + Sync + fmt::Debug {
    /// The next window; randomised policies draw it here.
    fn next_window(&mut self) -> NextWindow;

    /// Truncation length in use, in steps; the typical one of a randomised policy.
    fn k(&self) -> usize;

    /// Longest K this policy can ever return, in steps: bounds memory and the data needed.
    fn k_max(&self) -> usize;

    /// Whether windows must lie end to end, BPTT(K; K), for this policy to be what it says.
    fn needs_chunks(&self) -> bool {
        false
    }

    /// What the policy knows about the bias: due probes, last estimate and all decisions.
    fn monitor(&self) -> &Monitor;

    /// How many more probes the estimate at hand should have, after what those so far measured; 0 where they suffice. To be asked after
    /// every batch of probes; [`update`](Self::update) then takes what all of them together measured. By default more where noise
    /// hides the gradient, up to [`MonitorConfig::max_probes`]; the trainer runs no more than so many, whatever is asked for.
    fn more_probes(&self, measured: &Measurement) -> usize {
        self.monitor().more_probes(measured)
    }

    /// Takes what the probes measured, sets K and returns the decision.
    fn update(&mut self, at: Position, measured: Measurement) -> Decision;

    /// The whole state as a value.
    fn save(&self) -> PolicyState;

    /// Continues exactly where `state` was saved. The configuration stays this policy's own.
    ///
    /// # Errors
    /// [`EstimateError::ForeignState`] for another policy's state; the policy is then unchanged.
    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError>;
}

impl<P: TruncationPolicy + ?Sized> TruncationPolicy for Box<P> {
    fn next_window(&mut self) -> NextWindow {
        (**self).next_window()
    }

    fn k(&self) -> usize {
        (**self).k()
    }

    fn k_max(&self) -> usize {
        (**self).k_max()
    }

    fn needs_chunks(&self) -> bool {
        (**self).needs_chunks()
    }

    fn monitor(&self) -> &Monitor {
        (**self).monitor()
    }

    fn more_probes(&self, measured: &Measurement) -> usize {
        (**self).more_probes(measured)
    }

    fn update(&mut self, at: Position, measured: Measurement) -> Decision {
        (**self).update(at, measured)
    }

    fn save(&self) -> PolicyState {
        (**self).save()
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        (**self).restore(state)
    }
}

/// The generator of draw number `draw` of a policy: a function of both numbers, so that a state needs only the number of
/// draws to go on exactly.
fn generator(seed: u64, draw: u64) -> Pcg64 {
    let key: u64 = Pcg64::seed_from_u64(seed).random();
    Pcg64::seed_from_u64(key.wrapping_add(draw))
}
