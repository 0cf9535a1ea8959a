//! Options that all experiments have, and the settings they stand for.

use std::path::PathBuf;

use atbptt::core::policy::{Estimator, FixedKConfig, PolicyConfig};
use atbptt::core::{BiasEstimator, GradientSize};
use atbptt::train::run::Display;
use atbptt::train::{
    Clip, FusedSgd, NamedDevice, OnNonFinite, Scheme, StepScaling, TbpttConfig, device_from_env,
    devices_by_names,
};
use burn::optim::ModuleOptimizer;
use clap::{Args, Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use super::Result;
use super::rule::{self, PolicyArgs};

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

/// What a run needs whatever it trains.
#[derive(Args, Clone, Debug)]
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

    /// Train on several devices of one backend as one run, each with sequences of its own: names as `BURN_DEVICE` takes them,
    /// separated by commas, such as `flex,flex`, `cuda:0,cuda:1`, or `ws://host:3000` for a device of another process or machine;
    /// see docs/DEVICES.md [default: the one that BURN_DEVICE names]
    #[arg(long, value_name = "NAMES")]
    pub devices: Option<String>,

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

/// Their names, for the user.
pub fn in_words(devices: &[NamedDevice]) -> String {
    let names: Vec<String> = devices.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Everything about a run but its data and its model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The rule for K, and how the bias is watched.
    pub policy: PolicyConfig,
    pub training: TbpttConfig,
    pub batch: usize,
    pub epochs: usize,
    pub lr: f64,
    pub weight_decay: f64,
    pub checkpoint_every: Option<u64>,
    pub on_non_finite: OnNonFinite,
}

impl Plan {
    /// One sequence read once, without weight decay; a run that stops at values that are not finite.
    pub fn new(policy: impl Into<PolicyConfig>) -> Self {
        Self {
            policy: policy.into(),
            training: TbpttConfig::default(),
            batch: 1,
            epochs: 1,
            lr: 1.0,
            weight_decay: 0.0,
            checkpoint_every: None,
            on_non_finite: OnNonFinite::Stop,
        }
    }

    /// These settings with what the user asked for: of a new run, or of one to go on with.
    pub fn with_options(mut self, policy: &PolicyArgs, run: &RunArgs) -> Result<Self> {
        self.training.seed = run.seed.unwrap_or(self.training.seed);
        self.training = policy.training(self.training)?;
        self.policy = policy.rule(&self.policy, self.training.seed)?;
        self.epochs = run.epochs.unwrap_or(self.epochs);
        self.batch = run.batch.unwrap_or(self.batch);
        self.lr = run.lr.unwrap_or(self.lr);
        self.checkpoint_every = run.checkpoint_every.or(self.checkpoint_every);
        self.on_non_finite = match run.on_nonfinite {
            Some(NonFiniteArg::Stop) => OnNonFinite::Stop,
            Some(NonFiniteArg::Skip) => OnNonFinite::Skip,
            Some(NonFiniteArg::Restore) => OnNonFinite::Restore,
            None => self.on_non_finite,
        };
        Ok(self)
    }

    /// These settings for SnAp-1, with an update every so many steps, else as they are: chunks say when weights change, and nothing
    /// is measured, for nothing is truncated.
    pub fn with_snap(mut self, steps: Option<usize>) -> Result<Self> {
        if let Some(steps) = steps {
            if steps == 0 {
                return Err("--snap must be at least 1: the steps between two updates".into());
            }
            self.training.scheme = Scheme::Chunked;
            self.policy = FixedKConfig::new(steps).into();
        }
        if let PolicyConfig::Fixed(rule) = &mut self.policy {
            rule.monitor = None;
        }
        Ok(self)
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
        let training = &self.training;
        let monitor = rule::monitor(&self.policy).unwrap_or_default();
        let adaptive = match &self.policy {
            PolicyConfig::Adaptive(rule) => vec![
                ("delta", rule.delta.to_string()),
                ("k0", rule.k0.to_string()),
                ("k_min", rule.k_min.to_string()),
                ("k_max", rule.k_max.to_string()),
            ],
            _ => Vec::new(),
        };
        let (style, losses) = match training.scheme {
            Scheme::Strided { losses } => ("strided", losses.to_string()),
            Scheme::Overlapping => ("overlapping", "K".into()),
            Scheme::Chunked => ("chunked", "K".into()),
        };
        let step_scaling = match training.step_scaling {
            StepScaling::None => "none",
            StepScaling::SqrtK => "sqrt",
            StepScaling::LinearK => "linear",
            _ => "another",
        };
        let clip = match training.clip {
            Clip::None => "0".into(),
            Clip::Norm(norm) => norm.to_string(),
            Clip::PerK(norm) => format!("{norm}/K"),
            _ => "another".into(),
        };
        let (estimate, norms) = match monitor.estimator {
            Estimator::Norms(norms) | Estimator::Paper(norms) => ("norms", norms),
            _ => ("direct", BiasEstimator::default()),
        };
        let size = match norms.gradient_size {
            GradientSize::SumOfNorms => "sum",
            GradientSize::SumOfStateNorms => "states",
            GradientSize::NormOfMeanSum => "mean-sum",
            GradientSize::NormOfMeanStateSum => "mean-states",
            GradientSize::DebiasedNormOfMeanSum => "debiased",
            GradientSize::DebiasedNormOfMeanStateSum => "debiased-states",
            _ => "another",
        };
        let rest = [
            ("style", style.into()),
            ("losses", losses),
            ("step_scaling", step_scaling.into()),
            ("clip", clip),
            ("estimate", estimate.into()),
            ("gradient_size", size.into()),
            ("probes", monitor.probes.to_string()),
            ("window", training.probe.window.to_string()),
            ("epochs", self.epochs.to_string()),
            ("batch", self.batch.to_string()),
            ("lr", self.lr.to_string()),
            ("seed", training.seed.to_string()),
            (
                "checkpoint_every",
                self.checkpoint_every.map_or(
                    "200, or fewer where writing takes 5 % of the time".into(),
                    |windows| windows.to_string(),
                ),
            ),
            ("on_nonfinite", "stop".into()),
        ];
        adaptive.into_iter().chain(rest).collect()
    }

    /// Refuses what no run can use; the libraries check the rest.
    pub fn check(&self) -> Result<()> {
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(format!(
                "--lr must be above zero, got {}; leave it out for the default",
                self.lr
            )
            .into());
        }
        for (name, value) in [("--epochs", self.epochs), ("--batch", self.batch)] {
            if value == 0 {
                return Err(format!("{name} must be at least 1, got 0").into());
            }
        }
        Ok(self.policy.init().map(|_| ())?)
    }

    /// Stochastic gradient descent with weight decay, as in the paper.
    pub fn optimizer(&self) -> Result<ModuleOptimizer> {
        Ok(FusedSgd::new().with_weight_decay(self.weight_decay)?.init())
    }

    /// The tolerance, for plots.
    pub fn delta(&self) -> Option<f64> {
        rule::tolerance(&self.policy)
    }

    /// The rule for K in a few words.
    pub fn rule_in_words(&self) -> String {
        rule::rule_in_words(&self.policy, self.training.scheme)
    }

    /// The rule for K in a few words, or, with SnAp-1, that there is none.
    pub fn gradient_in_words(&self, snap: bool) -> String {
        match (snap, &self.policy) {
            (true, PolicyConfig::Fixed(rule)) => {
                format!("SnAp-1, an update every {} steps", rule.k)
            }
            _ => self.rule_in_words(),
        }
    }

    /// How K is chosen and windows are cut, for the user.
    pub fn in_words(&self) -> String {
        let training = &self.training;
        let range = match &self.policy {
            PolicyConfig::Adaptive(rule) => format!(
                "; {} steps at first, then within {}..={}",
                rule.k0, rule.k_min, rule.k_max
            ),
            _ => String::new(),
        };
        let losses = match training.scheme {
            Scheme::Strided { losses } => format!("; {losses} losses per update"),
            Scheme::Overlapping => "; K losses per update, windows of 2K−1 steps".into(),
            Scheme::Chunked => "; K losses per update, windows of K steps".into(),
        };
        let Ok(Some(monitor)) = rule::watched(&self.policy) else {
            return format!(
                "{}{range}{losses}; the bias is not measured",
                self.rule_in_words()
            );
        };
        let (few, most) = (monitor.probes, monitor.max_probes);
        let probes = match monitor.estimator {
            Estimator::Direct if most > few => format!("{few} to {most} direct probes"),
            Estimator::Direct => format!("{few} direct probes"),
            _ => format!("{few} probes of norms"),
        };
        let often = match monitor.schedule.first {
            Some(first) => format!(
                "after {first}, {}, {}, … updates and every epoch",
                2 * first,
                4 * first
            ),
            None => "every epoch".into(),
        };
        format!(
            "{}{range}{losses}; {probes} of {} steps {often}",
            self.rule_in_words(),
            training.probe.window,
        )
    }
}

impl RunArgs {
    /// Where to train: opened, so that a wrong name is found before any work is done.
    pub fn devices(&self) -> Result<Vec<NamedDevice>> {
        Ok(match &self.devices {
            Some(names) => devices_by_names(names)?,
            None => vec![device_from_env()?],
        })
    }

    /// What the program shows while it trains.
    pub fn display(&self) -> Display {
        match self.quiet {
            true => Display::Silent,
            false => Display::Lines,
        }
    }
}
