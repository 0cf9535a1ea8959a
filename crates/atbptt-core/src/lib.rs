//! Gradient-bias estimation and truncation-length control for truncated backpropagation through time.
//!
//! Truncated backpropagation keeps the last `K` steps of a recurrent network's history and drops the rest, which biases
//! the gradient. Aicher, Foti and Fox (*Adaptively Truncating Backpropagation Through Time to Control Gradient Bias*,
//! UAI 2019, arXiv 1905.07473; "Aicher et al. 2019" throughout) bound that bias from the norms of the loss gradient at
//! the states 0, 1, …, W steps back, which one backward pass over a longer window gives. The controller here picks the
//! shortest `K` whose relative bias stays within a tolerance δ.
//!
//! The flow, one module per stage:
//!
//! ```text
//! device ──► norms ──► profile ──► decay ──► bias ──► policy
//!                      φ_k         β         δ(K)     K
//! ```
//!
//! [`direct`] measures the bias of the parameter gradient itself, from inner products between probes' weight gradients.
//!
//! The mathematics is plain `f64` on small vectors, knows no model and builds without Burn (`default-features = false`).
//! `device`, behind the default feature `burn`, is the one place where device tensors become numbers. Nothing panics on data:
//! input that is not a set of norms is an [`EstimateError`], and a question without an answer has a [`Reason`].
//!
//! "METHOD §1" and the like cite the sections of `docs/METHOD.md` in the repository, which has all equations in one place.
//!
//! # Words for shapes
//!
//! `batch`: independent sequences; `time`: steps of a window; `lag`: steps back from the loss, lag 0 being the top
//! layer's output at the step of the loss and lag `k` the state handed over `k` steps earlier; `features`: size of one
//! state part; `parts`: hidden (and cell) of each layer. Truncation lengths, windows and τ are counted in steps.
//!
//! # Example
//!
//! ```
//! use atbptt_core::policy::{AdaptiveKConfig, Estimator, Measurement, Position, ProbeRequest, Reason, TruncationPolicy};
//! use atbptt_core::{BiasEstimator, LagNorms, Scheme};
//!
//! // Norms of a probe over W = 40 steps and two sequences: φ_k = 0.8^k.
//! let norms = LagNorms::new((0..=40).map(|k| vec![0.8f64.powi(k); 2]).collect())?;
//!
//! // The bias curve. Dropping lags k, k+1, … leaves the share 0.8^k of the gradient.
//! let estimate = BiasEstimator::new().estimate(&norms)?;
//! assert!((estimate.beta() - 0.8).abs() < 1e-12);
//! assert!((estimate.relative_bias(5) - 0.8f64.powi(5)).abs() < 1e-3);
//! assert_eq!(estimate.smallest_k(0.1), Some(11)); // 0.8^10 = 0.107, 0.8^11 = 0.086
//!
//! // The controller: starts at K = 15; probes early and often at first, then once per epoch.
//! // From norms, as any framework can give them; by default it asks for the direct estimate.
//! let norms_only = Estimator::Norms(BiasEstimator::new());
//! let mut policy = AdaptiveKConfig::new(0.1).with_estimator(norms_only).with_probes(1).init()?;
//! let at = Position { epoch: 0, update: 50 };
//! assert_eq!(policy.monitor().probes_due(at), Some(ProbeRequest::Norms { probes: 1 }));
//! // Windows with one loss each: exactly K lags are kept.
//! let measured = Measurement::Norms { probes: vec![Ok(norms)], scheme: Scheme::Strided { losses: 1 } };
//! let decision = policy.update(at, measured);
//! assert_eq!((decision.k, decision.reason), (11, Reason::ToleranceMet));
//! assert_eq!(policy.next_window().k, 11);
//! # Ok::<(), atbptt_core::EstimateError>(())
//! ```

#![deny(missing_docs)]
#![deny(clippy::indexing_slicing)]

pub mod bias;
pub mod convergence;
pub mod decay;
#[cfg(feature = "burn")]
pub mod device;
pub mod direct;
mod error;
pub mod interval;
mod logs;
mod norms;
mod onset;
pub mod policy;
pub mod profile;
mod scheme;
pub mod seed;
pub mod step_gradients;

pub use bias::{BiasEstimate, BiasEstimator, GradientSize, Tau, tail_bound};
pub use decay::DecayFit;
#[cfg(feature = "burn")]
pub use device::LagGradients;
pub use direct::{DirectEstimate, DirectOutcome, DirectStatistics};
pub use error::EstimateError;
pub use interval::{KInterval, k_interval};
pub use norms::LagNorms;
pub use policy::{
    AdaptiveKConfig, ArtbpConfig, Decision, Estimate, Estimator, FixedKConfig, Measurement,
    Monitor, MonitorConfig, NextWindow, PolicyConfig, PolicyState, Position, ProbeRequest,
    RandomLengthConfig, Reason, Schedule, TruncationPolicy,
};
pub use profile::Averaging;
pub use scheme::Scheme;
pub use step_gradients::{StepGradient, parameter_norms};
