//! Options that all experiments have, and the settings they stand for.

use std::fmt;
use std::path::PathBuf;

use atbptt::core::policy::{
    AdaptiveKConfig, ArtbpConfig, FixedKConfig, MonitorConfig, PolicyConfig, RandomLengthConfig,
};
use atbptt::core::{BiasEstimator, GradientSize};
use atbptt::train::run::Display;
use atbptt::train::{FusedSgd, OnNonFinite, ProbeConfig, Scheme, StepScaling, TbpttConfig};
use burn::optim::ModuleOptimizer;
use clap::{Args, Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use super::Result;

/// Which rule chooses K. At most one of them; without one, K adapts.
#[derive(Args, Debug, Default)]
pub struct PolicyArgs {
    /// Tolerated relative bias of the gradient, in (0, 1]; smaller means longer windows
    #[arg(long, value_name = "δ", group = "policy")]
    pub delta: Option<f64>,

    /// Fixed K, windows of BPTT(2K−1; K); the bias is still measured
    #[arg(long, value_name = "STEPS", group = "policy")]
    pub fixed_k: Option<usize>,

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

    /// Largest lag W that a probe measures, in steps; its burn-in grows with it
    #[arg(long, value_name = "STEPS")]
    pub window: Option<usize>,

    /// Probes averaged per estimate
    #[arg(long, value_name = "N")]
    pub probes: Option<usize>,

    /// What the bias is compared with
    #[arg(long, value_enum)]
    pub gradient_size: Option<SizeArg>,

    /// How windows follow each other where K adapts or is fixed
    #[arg(long, value_enum, conflicts_with_all = ["chunked_k", "random_k", "artbp_k"])]
    pub style: Option<StyleArg>,

    /// Losses per update, in steps, whatever K is: strided windows, as --style strided, but M of them instead of 20
    #[arg(long, value_name = "M", conflicts_with_all = ["style", "chunked_k", "random_k", "artbp_k"])]
    pub losses: Option<usize>,

    /// How the step size grows with K
    #[arg(long, value_enum)]
    pub step_scaling: Option<ScalingArg>,
}

/// How windows follow each other.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StyleArg {
    /// BPTT(K−1+m; m): a fixed number of losses per update, each reaching back at least K steps
    Strided,
    /// BPTT(2K−1; K): every loss reaches back at least K steps
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

/// What to do about values that are not finite.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum NonFiniteArg {
    /// End the run; its checkpoints stay
    Stop,
    /// Leave the window out, count it and go on
    Skip,
    /// Go back to the last checkpoint and halve the step size
    Restore,
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

/// What a run needs whatever it trains.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Passes over the training data
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,

    /// Parallel sequences
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,

    /// Base step size on the mean loss
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,

    /// Seed of initial weights, random lengths and probe windows
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Folder for configuration, metrics, checkpoints and plots [default: runs/NAME-1, -2, …]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Write a checkpoint after every so many training windows, beside those at the ends of epochs; 0 = only those
    #[arg(long, value_name = "WINDOWS")]
    pub checkpoint_every: Option<u64>,

    /// What to do about a loss or gradient that is not finite. It never reaches the weights
    #[arg(long, value_enum)]
    pub on_nonfinite: Option<NonFiniteArg>,

    /// Go on with an earlier run, to the same bits as if it had never stopped: from the newest checkpoint of its folder, or
    /// from the checkpoint file given; from an older one only into another folder. Its settings are read from there; --epochs, --out, --checkpoint-every and
    /// --on-nonfinite may change, other data, another model or another rule for K is refused
    #[arg(long, value_name = "PATH")]
    pub resume: Option<PathBuf>,

    /// Print no progress, only the result
    #[arg(long)]
    pub quiet: bool,
}

/// Reads the command line. `defaults` of options, which differ from program to program, go into their help.
pub fn parse<C: Parser>(defaults: &[(&'static str, String)]) -> C {
    let with_default = |command: clap::Command, (option, default): &(&'static str, String)| {
        command.mut_arg(option, |arg| {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            arg.help(format!("{help} [default: {default}]"))
        })
    };
    let mut matches = defaults
        .iter()
        .fold(C::command(), with_default)
        .get_matches();
    C::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit())
}

/// How K is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    Adaptive { delta: f64 },
    Fixed { k: usize },
    Chunked { k: usize },
    Random { k: usize },
    Artbp { k: usize },
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adaptive { delta } => write!(f, "adaptive, relative bias at most {delta}"),
            Self::Fixed { k } => write!(f, "fixed at {k} steps"),
            Self::Chunked { k } => write!(f, "plain chunks of {k} steps"),
            Self::Random { k } => write!(f, "random lengths around {k} steps"),
            Self::Artbp { k } => write!(f, "unbiased random truncation, {k} steps on average"),
        }
    }
}

impl Policy {
    /// Whether K follows the estimate.
    pub fn is_adaptive(self) -> bool {
        matches!(self, Self::Adaptive { .. })
    }
}

/// Everything about a run but its data and its model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub policy: Policy,
    pub k0: usize,
    pub k_min: usize,
    pub k_max: usize,
    pub probes: usize,
    pub estimator: BiasEstimator,
    pub training: TbpttConfig,
    pub batch: usize,
    pub epochs: usize,
    pub lr: f64,
    pub weight_decay: f64,
    pub checkpoint_every: u64,
    pub on_non_finite: OnNonFinite,
}

impl Plan {
    /// Windows between two checkpoints, unless asked otherwise.
    pub const CHECKPOINT_EVERY: u64 = 200;

    /// These settings with what the user asked for: of a new run, or of one to go on with.
    pub fn with_options(mut self, policy: &PolicyArgs, run: &RunArgs) -> Self {
        if let Some(rule) = policy.policy().filter(|rule| *rule != self.policy) {
            self.policy = rule;
            self.training.scheme = match rule {
                Policy::Adaptive { .. } | Policy::Fixed { .. } => match self.training.scheme {
                    Scheme::Chunked => Scheme::Overlapping,
                    kept => kept,
                },
                Policy::Chunked { .. } | Policy::Random { .. } | Policy::Artbp { .. } => {
                    Scheme::Chunked
                }
            };
            // A bound that nobody asked for stands in no rule's way.
            self.k_max = match rule {
                Policy::Adaptive { .. } => self.k_max,
                Policy::Fixed { k } | Policy::Chunked { k } | Policy::Random { k } => {
                    self.k_max.max(k)
                }
                Policy::Artbp { k } => k.saturating_mul(20),
            };
        }
        self.k_max = policy.k_max.unwrap_or(self.k_max);
        self.k_min = policy.k_min.unwrap_or(self.k_min.min(self.k_max));
        // Only a K₀ that was asked for may contradict the bounds.
        let k0 = self.k0.min(self.k_max).max(self.k_min);
        self.k0 = policy.k0.unwrap_or(k0);
        self.probes = policy.probes.unwrap_or(self.probes);
        self.estimator.gradient_size = match policy.gradient_size {
            Some(SizeArg::Sum) => GradientSize::SumOfNorms,
            Some(SizeArg::States) => GradientSize::SumOfStateNorms,
            Some(SizeArg::MeanSum) => GradientSize::NormOfMeanSum,
            Some(SizeArg::MeanStates) => GradientSize::NormOfMeanStateSum,
            None => self.estimator.gradient_size,
        };
        self.epochs = run.epochs.unwrap_or(self.epochs);
        self.batch = run.batch.unwrap_or(self.batch);
        self.lr = run.lr.unwrap_or(self.lr);
        self.checkpoint_every = run.checkpoint_every.unwrap_or(self.checkpoint_every);
        self.on_non_finite = match run.on_nonfinite {
            Some(NonFiniteArg::Stop) => OnNonFinite::Stop,
            Some(NonFiniteArg::Skip) => OnNonFinite::Skip,
            Some(NonFiniteArg::Restore) => OnNonFinite::Restore,
            None => self.on_non_finite,
        };
        let training = &mut self.training;
        training.seed = run.seed.unwrap_or(training.seed);
        training.scheme = match (policy.style, policy.losses) {
            (_, Some(losses)) => Scheme::Strided { losses },
            (Some(StyleArg::Strided), None) => Scheme::default(),
            (Some(StyleArg::Overlapping), None) => Scheme::Overlapping,
            (Some(StyleArg::Chunked), None) => Scheme::Chunked,
            (None, None) => training.scheme,
        };
        training.step_scaling = match policy.step_scaling {
            Some(ScalingArg::None) => StepScaling::None,
            Some(ScalingArg::Sqrt) => StepScaling::SqrtK,
            Some(ScalingArg::Linear) => StepScaling::LinearK,
            None => training.step_scaling,
        };
        if let Some(window) = policy.window {
            let probe = &training.probe;
            let burn_in = window.saturating_mul(probe.burn_in) / probe.window.max(1);
            training.probe = ProbeConfig::new(window).with_burn_in(burn_in);
        }
        self
    }

    /// These settings as the defaults of options, and where `others`, each for a case with a name, differ from them.
    pub fn defaults(&self, others: &[(&str, &Plan)]) -> Vec<(&'static str, String)> {
        let mut defaults = self.as_options();
        for (index, (_, default)) in defaults.iter_mut().enumerate() {
            let usual = default.clone();
            for (case, other) in others {
                let (_, other) = &other.as_options()[index];
                if *other != usual {
                    default.push_str(&format!("; {case}: {other}"));
                }
            }
        }
        defaults
    }

    /// These settings, by the option that changes each of them.
    fn as_options(&self) -> Vec<(&'static str, String)> {
        let delta = self.delta().map(|delta| ("delta", delta.to_string()));
        let training = &self.training;
        let rest = [
            ("k0", self.k0.to_string()),
            ("k_min", self.k_min.to_string()),
            ("k_max", self.k_max.to_string()),
            ("window", training.probe.window.to_string()),
            ("probes", self.probes.to_string()),
            (
                "gradient_size",
                match self.estimator.gradient_size {
                    GradientSize::SumOfNorms => "sum",
                    GradientSize::SumOfStateNorms => "states",
                    GradientSize::NormOfMeanSum => "mean-sum",
                    GradientSize::NormOfMeanStateSum => "mean-states",
                    GradientSize::DebiasedNormOfMeanSum => "debiased",
                    GradientSize::DebiasedNormOfMeanStateSum => "debiased-states",
                }
                .into(),
            ),
            (
                "style",
                match training.scheme {
                    Scheme::Strided { .. } => "strided",
                    Scheme::Overlapping => "overlapping",
                    Scheme::Chunked => "chunked",
                }
                .into(),
            ),
            (
                "step_scaling",
                match training.step_scaling {
                    StepScaling::None => "none",
                    StepScaling::SqrtK => "sqrt",
                    StepScaling::LinearK => "linear",
                }
                .into(),
            ),
            ("epochs", self.epochs.to_string()),
            ("batch", self.batch.to_string()),
            ("lr", self.lr.to_string()),
            ("seed", training.seed.to_string()),
            ("checkpoint_every", self.checkpoint_every.to_string()),
            ("on_nonfinite", "stop".into()),
        ];
        delta.into_iter().chain(rest).collect()
    }

    /// Refuses what no run can use; the libraries check the rest.
    pub fn check(&self) -> Result<()> {
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(format!(
                "--lr must be above zero, got {}; leave it out for the paper's choice",
                self.lr
            )
            .into());
        }
        for (name, value) in [("--epochs", self.epochs), ("--batch", self.batch)] {
            if value == 0 {
                return Err(format!("{name} must be at least 1, got 0").into());
            }
        }
        match self.policy {
            Policy::Fixed { k }
            | Policy::Chunked { k }
            | Policy::Random { k }
            | Policy::Artbp { k }
                if k > self.k_max =>
            {
                Err(format!(
                    "--k-max {} is below the {k} steps asked for; raise it or leave it out",
                    self.k_max
                )
                .into())
            }
            _ => Ok(self.policy().init().map(|_| ())?),
        }
    }

    /// The rule for K.
    pub fn policy(&self) -> PolicyConfig {
        let monitor = MonitorConfig::paper(self.estimator).with_probes(self.probes);
        let seed = self.training.seed;
        let config: PolicyConfig = match self.policy {
            Policy::Adaptive { delta } => AdaptiveKConfig::new(delta)
                .with_k0(self.k0)
                .with_k_min(self.k_min)
                .with_k_max(self.k_max)
                .into(),
            Policy::Fixed { k } | Policy::Chunked { k } => FixedKConfig::new(k).into(),
            // AWD-LSTM's spread of 5 steps belongs to a base of 70; a short base keeps half of it at most.
            Policy::Random { k } => RandomLengthConfig::new(k)
                .with_spread((k as f64 / 4.0).min(5.0))
                .with_seed(seed)
                .into(),
            Policy::Artbp { k } => ArtbpConfig::new(k)
                .with_longest(self.k_max)
                .with_seed(seed)
                .into(),
        };
        config.with_monitor(monitor)
    }

    /// Stochastic gradient descent with weight decay, as in the paper.
    pub fn optimizer(&self) -> Result<ModuleOptimizer> {
        Ok(FusedSgd::new().with_weight_decay(self.weight_decay)?.init())
    }

    /// The tolerance, for plots.
    pub fn delta(&self) -> Option<f64> {
        match self.policy {
            Policy::Adaptive { delta } => Some(delta),
            _ => None,
        }
    }

    /// How K is chosen, for the user.
    pub fn in_words(&self) -> String {
        let probe = &self.training.probe;
        let range = match self.policy {
            Policy::Adaptive { .. } => format!(
                "; {} steps at first, then within {}..={}",
                self.k0, self.k_min, self.k_max
            ),
            _ => String::new(),
        };
        format!(
            "{}{range}; {} probes of {} steps per epoch, after a burn-in of {}",
            self.policy, self.probes, probe.window, probe.burn_in,
        )
    }
}

impl RunArgs {
    /// What the program shows while it trains.
    pub fn display(&self) -> Display {
        match self.quiet {
            true => Display::Silent,
            false => Display::Lines,
        }
    }
}

impl PolicyArgs {
    /// Whether K will adapt in a new run.
    pub fn is_adaptive(&self) -> bool {
        self.policy().is_none_or(Policy::is_adaptive)
    }

    /// What was asked for.
    pub fn policy(&self) -> Option<Policy> {
        let length = |k: Option<usize>, make: fn(usize) -> Policy| k.map(make);
        self.delta
            .map(|delta| Policy::Adaptive { delta })
            .or(length(self.fixed_k, |k| Policy::Fixed { k }))
            .or(length(self.chunked_k, |k| Policy::Chunked { k }))
            .or(length(self.random_k, |k| Policy::Random { k }))
            .or(length(self.artbp_k, |k| Policy::Artbp { k }))
    }
}
