//! Options for the rule that chooses K and for the windows it is about, and what they make of the settings.

use std::path::PathBuf;

use atbptt::core::policy::{
    AdaptiveKConfig, ArtbpConfig, Estimator, FixedKConfig, MonitorConfig, PolicyConfig,
    RandomLengthConfig,
};
use atbptt::core::{BiasEstimator, GradientSize};
use atbptt::train::{Clip, ProbeConfig, Scheme, StepScaling, TbpttConfig};
use clap::{Args, ValueEnum};

use super::Result;
use super::history::replay;

/// Which rule chooses K. At most one of them; without one, K adapts.
#[derive(Args, Debug, Default)]
pub struct PolicyArgs {
    /// Tolerated relative bias of the gradient, in (0, 1]; smaller means longer windows
    #[arg(long, value_name = "δ", group = "policy")]
    pub delta: Option<f64>,

    /// Fixed K; the bias is still measured
    #[arg(long, value_name = "STEPS", group = "policy")]
    pub fixed_k: Option<usize>,

    /// The K that an earlier run took, window by window: a control that tells when K adapts from how it adapts
    #[arg(long, value_name = "RUN", group = "policy")]
    pub replay_k: Option<PathBuf>,

    /// Plain chunks of K steps, BPTT(K; K)
    #[arg(long, value_name = "STEPS", group = "policy")]
    pub chunked_k: Option<usize>,

    /// Chunks of random length around K, as AWD-LSTM trains (Merity et al. 2018)
    #[arg(long, value_name = "STEPS", group = "policy")]
    pub random_k: Option<usize>,

    /// Unbiased random truncation with mean length K (ARTBP, Tallec & Ollivier 2017)
    #[arg(long, value_name = "STEPS", group = "policy")]
    pub artbp_k: Option<usize>,

    /// Where K adapts: K before the first estimate, in steps
    #[arg(long, value_name = "STEPS")]
    pub k0: Option<usize>,

    /// Where K adapts: shortest K, in steps
    #[arg(long, value_name = "STEPS")]
    pub k_min: Option<usize>,

    /// Longest K, in steps; bounds memory. Where it is not given, --artbp-k goes up to 20 times its mean
    #[arg(long, value_name = "STEPS")]
    pub k_max: Option<usize>,

    /// How windows follow each other where K adapts or is fixed
    #[arg(long, value_enum, conflicts_with_all = ["chunked_k", "random_k", "artbp_k"])]
    pub style: Option<StyleArg>,

    /// Losses per update of strided windows, in steps per sequence, whatever K is
    #[arg(long, value_name = "M", conflicts_with_all = ["chunked_k", "random_k", "artbp_k"])]
    pub losses: Option<usize>,

    /// How the step size grows with K
    #[arg(long, value_enum)]
    pub step_scaling: Option<ScalingArg>,

    /// Longest gradient of a window, whatever K is; 0 = any
    #[arg(long, value_name = "NORM")]
    pub clip: Option<f64>,

    /// What the bias is estimated from
    #[arg(long, value_enum)]
    pub estimate: Option<EstimateArg>,

    /// What the bias is compared with where it is estimated from norms
    #[arg(long, value_enum)]
    pub gradient_size: Option<SizeArg>,

    /// Probes per estimate
    #[arg(long, value_name = "N")]
    pub probes: Option<usize>,

    /// Largest lag W that a probe measures, in steps; its burn-in grows with it
    #[arg(long, value_name = "STEPS")]
    pub window: Option<usize>,
}

/// How windows follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StyleArg {
    /// BPTT(K−1+m; m): a fixed number m of losses per update, each reaching back at least K steps
    Strided,
    /// BPTT(2K−1; K): K losses per update, each reaching back at least K steps
    Overlapping,
    /// BPTT(K; K): windows end to end, about half the work
    Chunked,
}

/// How the step size grows with K.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ScalingArg {
    /// The same step size for every K
    None,
    /// Times √K
    Sqrt,
    /// Times K
    Linear,
}

/// What the bias is estimated from.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum EstimateArg {
    /// The gradients of the weights themselves
    Direct,
    /// Norms of the states' gradients
    Norms,
}

/// Size of the gradient in the relative bias.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SizeArg {
    /// Sum of the norms of all lags
    Sum,
    /// The same without lag 0, the gradient of what the decoder sees
    States,
    /// Norm of the batch-mean sum: smaller, and it depends on the batch
    MeanSum,
    /// The same without lag 0
    MeanStates,
}

impl From<SizeArg> for GradientSize {
    fn from(size: SizeArg) -> Self {
        match size {
            SizeArg::Sum => Self::SumOfNorms,
            SizeArg::States => Self::SumOfStateNorms,
            SizeArg::MeanSum => Self::NormOfMeanSum,
            SizeArg::MeanStates => Self::NormOfMeanStateSum,
        }
    }
}

impl PolicyArgs {
    /// Whether K will adapt in a new run.
    pub fn is_adaptive(&self) -> bool {
        let others = [self.fixed_k, self.chunked_k, self.random_k, self.artbp_k];
        others.iter().all(Option::is_none) && self.replay_k.is_none()
    }

    /// The rule that was asked for, else the one `before`; its bias watched as before where nothing else is asked for.
    pub fn rule(&self, before: &PolicyConfig, seed: u64) -> Result<PolicyConfig> {
        let watched = monitor(before)?;
        let mut rule: PolicyConfig = match (self.delta, before) {
            _ if let Some(run) = &self.replay_k => replay(run)?.into(),
            (Some(delta), PolicyConfig::Adaptive(before)) => {
                let mut same = before.clone();
                same.delta = delta;
                same.into()
            }
            (Some(delta), _) => AdaptiveKConfig::new(delta).into(),
            (None, _) => match (self.fixed_k.or(self.chunked_k), self.random_k, self.artbp_k) {
                (Some(k), ..) => FixedKConfig::new(k).into(),
                // AWD-LSTM's spread of 5 steps belongs to a base of 70; a short base keeps half of it at most.
                (_, Some(k), _) => RandomLengthConfig::new(k)
                    .with_spread((k as f64 / 4.0).min(5.0))
                    .into(),
                (.., Some(k)) => ArtbpConfig::new(k)
                    .with_longest(k.saturating_mul(20))
                    .into(),
                _ => before.clone(),
            },
        };
        match &mut rule {
            PolicyConfig::Adaptive(rule) => {
                rule.k_max = self.k_max.unwrap_or(rule.k_max);
                rule.k_min = self.k_min.unwrap_or(rule.k_min.min(rule.k_max));
                // Only a K₀ that was asked for may contradict the bounds.
                let k0 = rule.k0.min(rule.k_max).max(rule.k_min);
                rule.k0 = self.k0.unwrap_or(k0);
            }
            PolicyConfig::RandomLength(rule) => rule.seed = seed,
            PolicyConfig::Artbp(rule) => {
                rule.seed = seed;
                rule.longest = self.k_max.unwrap_or(rule.longest);
            }
            _ => {}
        }
        if let (Some(k), Some(k_max)) = (typical_k(&rule), self.k_max)
            && k > k_max
        {
            return Err(format!(
                "--k-max {k_max} is below the {k} steps asked for; raise it or leave it out"
            )
            .into());
        }
        Ok(rule.with_monitor(self.monitor(watched)?))
    }

    /// How the bias is watched.
    fn monitor(&self, before: MonitorConfig) -> Result<MonitorConfig> {
        let mut monitor = match (self.estimate, before.estimator) {
            (None, _)
            | (Some(EstimateArg::Direct), Estimator::Direct)
            | (Some(EstimateArg::Norms), Estimator::Norms(_)) => before,
            (Some(EstimateArg::Direct), _) => MonitorConfig::default(),
            (Some(EstimateArg::Norms), _) => {
                MonitorConfig::default().with_estimator(Estimator::Norms(BiasEstimator::default()))
            }
        };
        monitor.probes = self.probes.unwrap_or(monitor.probes);
        match (&mut monitor.estimator, self.gradient_size) {
            (Estimator::Norms(norms) | Estimator::Paper(norms), Some(size)) => {
                norms.gradient_size = size.into();
            }
            (_, Some(_)) => {
                return Err(
                    "--gradient-size is about an estimate from norms; add --estimate norms, or leave it out"
                        .into(),
                );
            }
            (_, None) => {}
        }
        Ok(monitor)
    }

    /// Windows, step size, clip and probes that were asked for, else those of `before`.
    pub fn training(&self, mut training: TbpttConfig) -> Result<TbpttConfig> {
        let chunks = self.chunked_k.or(self.random_k).or(self.artbp_k);
        training.scheme = match (self.style, self.losses, training.scheme) {
            _ if chunks.is_some() => Scheme::Chunked,
            (None | Some(StyleArg::Strided), Some(losses), _) => Scheme::Strided { losses },
            (Some(_), Some(_), _) => {
                return Err(
                    "--losses belongs to strided windows, in the other styles K sets it; leave out one of --style and --losses"
                        .into(),
                );
            }
            (Some(StyleArg::Strided), None, Scheme::Strided { losses }) => {
                Scheme::Strided { losses }
            }
            (Some(StyleArg::Strided), None, _) => Scheme::default(),
            (Some(StyleArg::Overlapping), None, _) => Scheme::Overlapping,
            (Some(StyleArg::Chunked), None, _) => Scheme::Chunked,
            (None, None, kept) => kept,
        };
        training.step_scaling = match self.step_scaling {
            Some(ScalingArg::None) => StepScaling::None,
            Some(ScalingArg::Sqrt) => StepScaling::SqrtK,
            Some(ScalingArg::Linear) => StepScaling::LinearK,
            None => training.step_scaling,
        };
        training.clip = match self.clip {
            Some(0.0) => Clip::None,
            Some(norm) => Clip::Norm(norm),
            None => training.clip,
        };
        if let Some(window) = self.window {
            let probe = &training.probe;
            let burn_in = window.saturating_mul(probe.burn_in) / probe.window.max(1);
            training.probe = ProbeConfig::new(window).with_burn_in(burn_in);
        }
        Ok(training)
    }
}

/// How a rule watches the bias; as the default does, where it does not.
pub fn monitor(rule: &PolicyConfig) -> Result<MonitorConfig> {
    Ok(watched(rule)?.unwrap_or_default())
}

/// How a rule watches the bias, if it does.
pub fn watched(rule: &PolicyConfig) -> Result<Option<MonitorConfig>> {
    let policy = rule.init()?;
    Ok(policy.monitor().config().copied())
}

/// The tolerance of a rule that has one.
pub fn tolerance(rule: &PolicyConfig) -> Option<f64> {
    match rule {
        PolicyConfig::Adaptive(rule) => Some(rule.delta),
        _ => None,
    }
}

/// K of a rule that does not adapt, or around which it draws.
fn typical_k(rule: &PolicyConfig) -> Option<usize> {
    match rule {
        PolicyConfig::Fixed(rule) => Some(rule.k),
        PolicyConfig::RandomLength(rule) => Some(rule.base),
        PolicyConfig::Artbp(rule) => Some(rule.mean_length),
        _ => None,
    }
}

/// How K is chosen, in a few words.
pub fn rule_in_words(rule: &PolicyConfig, scheme: Scheme) -> String {
    let steps = |k: usize| match k {
        1 => "1 step".to_owned(),
        k => format!("{k} steps"),
    };
    match (rule, scheme) {
        (PolicyConfig::Adaptive(rule), _) => {
            format!("adaptive, relative bias at most {}", rule.delta)
        }
        (PolicyConfig::Fixed(rule), Scheme::Chunked) => {
            format!("plain chunks of {}", steps(rule.k))
        }
        (PolicyConfig::Fixed(rule), _) => format!("fixed at {}", steps(rule.k)),
        (PolicyConfig::Scheduled(_), _) => "as an earlier run took it".into(),
        (PolicyConfig::RandomLength(rule), _) => {
            format!("random lengths around {}", steps(rule.base))
        }
        (PolicyConfig::Artbp(rule), _) => format!(
            "unbiased random truncation, {} on average",
            steps(rule.mean_length)
        ),
        _ => "by a rule of its own".into(),
    }
}
