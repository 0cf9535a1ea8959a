//! The command line, and the settings it stands for.

use std::path::{Path, PathBuf};

use atbptt::core::{AdaptiveConfig, BiasEstimator, FixedK, Monitor, TruncationPolicy};
use atbptt::models::{LanguageModelConfig, Precision};
use atbptt::train::data::Corpus;
use atbptt::train::{Clip, Identity, OnNonFinite, ProbeConfig, Scheme, StepScaling, TbpttConfig};
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

/// `wiki2`, or `ptb`: the same program with another preset.
pub const PROGRAM: &str = env!("CARGO_BIN_NAME");

/// What the paper's two experiments differ in.
struct Preset {
    hidden: usize,
    batch: usize,
    scaling: ScalingArg,
}

/// The preset of this program.
fn preset() -> Preset {
    match PROGRAM {
        "ptb" => Preset {
            hidden: 900,
            batch: 32,
            scaling: ScalingArg::Sqrt,
        },
        _ => Preset {
            hidden: 512,
            batch: 16,
            scaling: ScalingArg::Linear,
        },
    }
}

/// Train an LSTM language model with adaptively truncated backpropagation through time.
///
/// Without options: WikiText-2 (downloaded once and cached; offline, a built-in corpus), scaled down so that two cores show a
/// result in about two minutes: 128 hidden units instead of 512, the first 200,000 tokens, 6 epochs instead of 50.
/// `--paper` gives the full settings of the WikiText-2 experiment of Aicher et al. (2019).
///
/// The program `ptb` is the same with the Penn Treebank settings: 900 units, batch 32, step size times √K; its text is the
/// folder given with --data, else `$ATBPTT_DATA/ptb`, else the built-in corpus.
#[derive(Parser, Debug)]
#[command(name = PROGRAM, version)]
pub struct Cli {
    /// Folder with train.txt, valid.txt and test.txt (or wiki.train.tokens, …); whitespace-separated words, one sentence
    /// per line. Used whole, unless --max-tokens is given. Default: download WikiText-2
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Use the built-in corpus, without trying to download
    #[arg(long, conflicts_with = "data")]
    builtin: bool,

    /// The full settings of the paper's experiment; single options still override
    #[arg(long)]
    paper: bool,

    /// Tolerated relative bias of the gradient, in (0, 1]; smaller means longer windows [default: 0.5; built-in corpus: 0.1]
    #[arg(long, value_name = "δ")]
    delta: Option<f64>,

    /// Keep K fixed at this many steps instead of adapting it (the bias is still measured)
    #[arg(long, value_name = "STEPS", conflicts_with_all = ["delta", "k0", "k_min", "k_max"])]
    fixed_k: Option<usize>,

    /// K before the first estimate, in steps [default: 100; built-in corpus: 40]
    #[arg(long, value_name = "STEPS")]
    k0: Option<usize>,

    /// Shortest K, in steps [default: 10; built-in corpus: 5]
    #[arg(long, value_name = "STEPS")]
    k_min: Option<usize>,

    /// Longest K, in steps; bounds memory [default: 300; built-in corpus: 100]
    #[arg(long, value_name = "STEPS")]
    k_max: Option<usize>,

    /// Largest lag W that a probe measures, in steps; its burn-in is a tenth of it [default: 400; built-in corpus: 100]
    #[arg(long, value_name = "STEPS")]
    window: Option<usize>,

    /// Probes averaged per estimate [default: 5]
    #[arg(long, value_name = "N")]
    probes: Option<usize>,

    /// Hidden units per layer, and features of the tied embedding [default: 128; --paper: 512, ptb 900]
    #[arg(long, value_name = "UNITS")]
    hidden: Option<usize>,

    /// LSTM layers [default: 1]
    #[arg(long, value_name = "N")]
    layers: Option<usize>,

    /// Dropout probability, in [0, 1) [default: 0.2]
    #[arg(long, value_name = "P")]
    dropout: Option<f64>,

    /// Type of training windows; weights, probes and evaluation stay f32 [default: f32]
    #[arg(long, value_enum)]
    precision: Option<PrecisionArg>,

    /// Parallel sequences [default: 16; ptb: 32]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,

    /// Passes over the training text [default: 6; --paper: 50]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,

    /// Base step size on the mean loss, before --step-scaling [default: 10]
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,

    /// How the step size grows with K [default: sqrt; wiki2 --paper: linear]
    #[arg(long, value_enum)]
    step_scaling: Option<ScalingArg>,

    /// How windows follow each other: overlapping = BPTT(2K−1; K), chunked = BPTT(K; K) [default: overlapping]
    #[arg(long, value_enum)]
    style: Option<StyleArg>,

    /// Seed of initial weights, dropout and probe windows [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Use only this many training tokens, and a tenth as many of validation and test; 0 = all
    /// [default: 200000 without --data, else all]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,

    /// Folder for configuration, metrics, checkpoints and plots [default: runs/wiki2-1 or runs/ptb-1, -2, …]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Write a checkpoint after every so many training windows, beside those at the ends of epochs; 0 = only those
    /// [default: 200]
    #[arg(long, value_name = "WINDOWS")]
    checkpoint_every: Option<u64>,

    /// What to do about a loss or gradient that is not finite. It never reaches the weights [default: stop]
    #[arg(long, value_enum)]
    on_nonfinite: Option<NonFiniteArg>,

    /// Go on with an earlier run, to the same bits as if it had never stopped: from the newest checkpoint of its folder, or
    /// from the checkpoint file given. Its settings are read from there; --epochs, --out, --checkpoint-every and
    /// --on-nonfinite may change, another text, model or rule for K is refused
    #[arg(long, value_name = "PATH", conflicts_with = "paper")]
    pub resume: Option<PathBuf>,

    /// Print plain lines instead of the terminal dashboard
    #[arg(long)]
    pub no_tui: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScalingArg {
    /// The same step size for every K
    None,
    /// Times √K
    Sqrt,
    /// Times K
    Linear,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StyleArg {
    /// BPTT(2K−1; K): every loss reaches back at least K steps
    Overlapping,
    /// BPTT(K; K): windows end to end, about half the work
    Chunked,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NonFiniteArg {
    /// End the run; its checkpoints stay
    Stop,
    /// Leave the window out, count it and go on
    Skip,
    /// Go back to the last checkpoint and halve the step size
    Restore,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PrecisionArg {
    /// 32 bits
    F32,
    /// 16 bits, the loss scaled up on the way back
    F16,
    /// 16 bits with the range of f32
    Bf16,
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::F16 => Self::F16,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

impl From<NonFiniteArg> for OnNonFinite {
    fn from(choice: NonFiniteArg) -> Self {
        match choice {
            NonFiniteArg::Stop => Self::Stop,
            NonFiniteArg::Skip => Self::Skip,
            NonFiniteArg::Restore => Self::Restore,
        }
    }
}

impl From<ScalingArg> for StepScaling {
    fn from(scaling: ScalingArg) -> Self {
        match scaling {
            ScalingArg::None => Self::None,
            ScalingArg::Sqrt => Self::SqrtK,
            ScalingArg::Linear => Self::LinearK,
        }
    }
}

impl From<StyleArg> for Scheme {
    fn from(style: StyleArg) -> Self {
        match style {
            StyleArg::Overlapping => Self::Overlapping,
            StyleArg::Chunked => Self::Chunked,
        }
    }
}

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Text {
    /// WikiText-2 from the network or the cache, else the built-in corpus.
    WikiText2OrBuiltIn,
    /// The built-in corpus.
    BuiltIn,
    /// A folder.
    Folder(PathBuf),
}

/// Everything that shapes a run; written to its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub text: Text,
    pub max_tokens: Option<usize>,
    pub batch: usize,
    pub hidden: usize,
    pub layers: usize,
    pub dropout: f64,
    #[serde(default)]
    pub precision: Precision,
    pub epochs: usize,
    pub lr: f64,
    pub weight_decay: f64,
    pub policy: Policy,
    pub probes: usize,
    pub training: TbpttConfig,
    pub checkpoint_every: u64,
    pub on_non_finite: OnNonFinite,
    /// What was scaled down from the paper's settings, in words.
    pub scaled: Vec<String>,
}

/// How K is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Policy {
    Adaptive {
        delta: f64,
        k0: usize,
        k_min: usize,
        k_max: usize,
    },
    Fixed {
        k: usize,
    },
}

impl Cli {
    /// The settings these options stand for.
    pub fn settings(&self) -> Settings {
        let pick = |quick: usize, paper: usize| if self.paper { paper } else { quick };
        let quick_text = self.data.is_none() && !self.paper;
        let max_tokens = match self.max_tokens {
            Some(0) => None,
            Some(limit) => Some(limit),
            None => quick_text.then_some(200_000),
        };
        let preset = preset();
        let hidden = self.hidden.unwrap_or(pick(128, preset.hidden));
        let epochs = self.epochs.unwrap_or(pick(6, 50));
        let scaling = self.step_scaling.unwrap_or(match self.paper {
            true => preset.scaling,
            false => ScalingArg::Sqrt,
        });
        let mut scaled = Vec::new();
        if !self.paper {
            if self.hidden.is_none() {
                scaled.push(format!("{hidden} hidden units (paper: {})", preset.hidden));
            }
            if let (None, Some(limit)) = (self.max_tokens, max_tokens) {
                scaled.push(format!("the first {limit} training tokens (paper: all)"));
            }
            if self.epochs.is_none() {
                scaled.push(format!("{epochs} epochs (paper: 50)"));
            }
            if self.step_scaling.is_none() && matches!(preset.scaling, ScalingArg::Linear) {
                scaled.push("step size times √K (paper: times K)".into());
            }
        }
        Settings {
            text: match (&self.data, self.builtin) {
                (Some(folder), _) => Text::Folder(folder.clone()),
                (None, true) => Text::BuiltIn,
                (None, false) if PROGRAM == "ptb" => match penn_treebank() {
                    Some(folder) => Text::Folder(folder),
                    None => Text::BuiltIn,
                },
                (None, false) => Text::WikiText2OrBuiltIn,
            },
            max_tokens,
            batch: self.batch.unwrap_or(preset.batch),
            hidden,
            layers: self.layers.unwrap_or(1),
            dropout: self.dropout.unwrap_or(0.2),
            precision: self.precision.map(Precision::from).unwrap_or_default(),
            epochs,
            lr: self.lr.unwrap_or(10.0),
            weight_decay: 1e-7,
            policy: match self.fixed_k {
                Some(k) => Policy::Fixed { k },
                None => {
                    let k_max = self.k_max.unwrap_or(300);
                    let k_min = self.k_min.unwrap_or(10.min(k_max));
                    Policy::Adaptive {
                        delta: self.delta.unwrap_or(0.5),
                        // Only a K₀ that was asked for may contradict the bounds.
                        k0: self.k0.unwrap_or(100.min(k_max).max(k_min)),
                        k_min,
                        k_max,
                    }
                }
            },
            probes: self.probes.unwrap_or(5),
            training: TbpttConfig {
                scheme: self.style.map(Scheme::from).unwrap_or_default(),
                step_scaling: scaling.into(),
                clip: Clip::PerK(1.0),
                probe: ProbeConfig::new(self.window.unwrap_or(400)),
                seed: self.seed.unwrap_or(1),
                eval_chunk: 100,
            },
            checkpoint_every: self.checkpoint_every.unwrap_or(200),
            on_non_finite: self.on_nonfinite.map(OnNonFinite::from).unwrap_or_default(),
            scaled,
        }
    }

    /// Fits what was left open to the built-in corpus, whose dependencies reach back at most 32 steps: shorter probes and
    /// windows, and a tolerance small enough to ask for them.
    pub fn fit_to_built_in(&self, settings: &mut Settings) {
        if self.paper {
            return;
        }
        let mut fitted = Vec::new();
        if self.window.is_none() {
            settings.training.probe = ProbeConfig::new(100);
            fitted.push("W = 100 (paper: 400)");
        }
        if let Policy::Adaptive {
            delta,
            k0,
            k_min,
            k_max,
        } = &mut settings.policy
        {
            if self.delta.is_none() {
                *delta = 0.1;
                fitted.push("δ = 0.1");
            }
            if self.k_max.is_none() {
                *k_max = 100.max(*k_min);
                fitted.push("K at most 100 (paper: 300)");
            }
            if self.k_min.is_none() {
                *k_min = 5.min(*k_max);
                fitted.push("at least 5 (paper: 10)");
            }
            if self.k0.is_none() {
                *k0 = 40.min(*k_max).max(*k_min);
                fitted.push("40 at first (paper: 100)");
            }
        }
        if !fitted.is_empty() {
            settings
                .scaled
                .push(format!("for the built-in text: {}", fitted.join(", ")));
        }
    }

    /// Changes the settings of an earlier run where options were given; whether it can go on with them is checked later.
    pub fn change(&self, settings: &mut Settings) {
        fn set<T>(setting: &mut T, given: Option<impl Into<T>>) {
            if let Some(given) = given {
                *setting = given.into();
            }
        }
        let text = match (&self.data, self.builtin) {
            (Some(folder), _) => Some(Text::Folder(folder.clone())),
            (None, true) => Some(Text::BuiltIn),
            (None, false) => None,
        };
        set(&mut settings.text, text);
        if let Some(limit) = self.max_tokens {
            settings.max_tokens = (limit > 0).then_some(limit);
        }
        match (&mut settings.policy, self.fixed_k) {
            (policy, Some(k)) => *policy = Policy::Fixed { k },
            (
                Policy::Adaptive {
                    delta,
                    k0,
                    k_min,
                    k_max,
                },
                None,
            ) => {
                set(delta, self.delta);
                set(k0, self.k0);
                set(k_min, self.k_min);
                set(k_max, self.k_max);
            }
            // A fixed K has none of these, unless the run is to become an adaptive one.
            (policy, None) => {
                if let Policy::Adaptive { .. } = self.settings().policy
                    && (self.delta, self.k0, self.k_min, self.k_max) != (None, None, None, None)
                {
                    *policy = self.settings().policy;
                }
            }
        }
        let training = &mut settings.training;
        set(&mut training.probe, self.window.map(ProbeConfig::new));
        set(&mut training.step_scaling, self.step_scaling);
        set(&mut training.scheme, self.style);
        set(&mut training.seed, self.seed);
        set(&mut settings.probes, self.probes);
        set(&mut settings.hidden, self.hidden);
        set(&mut settings.layers, self.layers);
        set(&mut settings.dropout, self.dropout);
        set(&mut settings.precision, self.precision);
        set(&mut settings.batch, self.batch);
        set(&mut settings.epochs, self.epochs);
        set(&mut settings.lr, self.lr);
        set(&mut settings.checkpoint_every, self.checkpoint_every);
        set(&mut settings.on_non_finite, self.on_nonfinite);
    }
}

impl Settings {
    /// Refuses what no run can use; the libraries check the rest.
    pub fn check(&self) -> outcome::Result<()> {
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(format!(
                "--lr must be above zero, got {}; 10 is the paper's choice",
                self.lr
            )
            .into());
        }
        if self.epochs == 0 {
            return Err(
                "--epochs must be at least 1, got 0; one pass over the text is the least there is"
                    .into(),
            );
        }
        Ok(())
    }

    /// The rule for K.
    pub fn policy(&self) -> outcome::Result<Box<dyn TruncationPolicy>> {
        Ok(match self.policy {
            Policy::Adaptive {
                delta,
                k0,
                k_min,
                k_max,
            } => Box::new(
                AdaptiveConfig::new(delta)
                    .with_k0(k0)
                    .with_k_min(k_min)
                    .with_k_max(k_max)
                    .with_probes(self.probes)
                    .init()?,
            ),
            Policy::Fixed { k } => Box::new(FixedK::new(k)?.with_monitor(Monitor {
                estimator: BiasEstimator::default(),
                probes: self.probes,
                ..Monitor::default()
            })?),
        })
    }

    /// How K is chosen, for the user.
    pub fn policy_in_words(&self) -> String {
        let probe = self.training.probe;
        let probes = format!(
            "{} probes of {} steps per epoch, after a burn-in of {}",
            self.probes, probe.window, probe.burn_in,
        );
        match self.policy {
            Policy::Adaptive {
                delta,
                k0,
                k_min,
                k_max,
            } => format!(
                "adaptive, relative gradient bias at most {delta}; {k0} steps at first, then within {k_min}..={k_max}; {probes}"
            ),
            Policy::Fixed { k } => format!("fixed at {k} steps; {probes} measure its bias"),
        }
    }

    /// What a run with these settings is made of; the strategy adds the rest.
    pub fn identity(&self, corpus: &Corpus, folder: &Path) -> outcome::Result<Identity> {
        Ok(Identity::new()
            .must_match("data", corpus.fingerprint())
            .must_match("vocabulary", corpus.vocabulary().content_hash())
            .must_match("hidden", self.hidden)
            .must_match("layers", self.layers)
            .must_match("dropout", self.dropout)
            .must_match("step size", self.lr)
            .must_match("weight decay", self.weight_decay)
            .must_match("rule for K", serde_json::to_string(&self.policy)?)
            .must_match("probes", self.probes)
            .may_change("text", format!("{:?}", self.text))
            .may_change("precision", self.precision.name())
            .may_change("run folder", folder.display())
            .may_change("checkpoint every", self.checkpoint_every)
            .may_change("on non-finite", format!("{:?}", self.on_non_finite)))
    }

    /// The tolerance, for plots.
    pub fn delta(&self) -> Option<f64> {
        match self.policy {
            Policy::Adaptive { delta, .. } => Some(delta),
            Policy::Fixed { .. } => None,
        }
    }

    /// The model over a vocabulary.
    pub fn model(&self, vocabulary: usize) -> LanguageModelConfig {
        LanguageModelConfig::new(vocabulary)
            .with_hidden(self.hidden)
            .with_layers(self.layers)
            .with_dropout(self.dropout)
            .with_precision(self.precision)
    }
}

/// Penn Treebank has no free download: where the tests look for it.
fn penn_treebank() -> Option<PathBuf> {
    let data = std::env::var_os("ATBPTT_DATA").unwrap_or_else(|| "../shared/data".into());
    let folder = PathBuf::from(data).join("ptb");
    folder.is_dir().then_some(folder)
}

/// Any error of this program: shown as one line, then exit code 1.
pub mod outcome {
    /// A result whose error is only ever shown.
    pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
}
