//! The command line, and the settings it stands for.

use std::path::PathBuf;

use atbptt::core::policy::{AdaptiveKConfig, MonitorConfig, PolicyConfig};
use atbptt::core::{BiasEstimator, GradientSize};
use atbptt::models::{LanguageModelConfig, Precision, RecurrentModel};
use atbptt::train::data::Corpus;
use atbptt::train::run::{DataPath, Run};
use atbptt::train::{ProbeConfig, Scheme, StepScaling, TbpttConfig};
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use super::common::Result;
use super::common::options::{Plan, RunArgs};
use super::common::rule::PolicyArgs;
use super::common::start::Settings;
use super::text::{Reading, ReadingArgs, Text};

/// `wiki2`, or `ptb`: the same program with another preset.
pub const PROGRAM: &str = env!("CARGO_BIN_NAME");

/// Defaults of the options that all experiments have, as the help tells them.
pub fn defaults() -> Vec<(&'static str, String)> {
    let cli = Cli::parse_from([PROGRAM]);
    let paper = Cli::parse_from([PROGRAM, "--paper"]).preset();
    let mut built_in = cli.preset();
    built_in.task.text = Text::BuiltIn;
    cli.fit_to_built_in(&mut built_in);
    let others = [
        ("--paper", &paper.plan),
        ("built-in corpus", &built_in.plan),
    ];
    cli.preset().plan.defaults(&others)
}

/// Best of those tried on validation; see docs/EXAMPLES.md.
const LEARNING_RATE: f64 = 10.0;

/// What the paper's two experiments differ in.
struct Preset {
    hidden: usize,
    batch: usize,
    scaling: StepScaling,
}

/// The preset of this program.
fn preset() -> Preset {
    match PROGRAM {
        "ptb" => Preset {
            hidden: 900,
            batch: 32,
            scaling: StepScaling::SqrtK,
        },
        _ => Preset {
            hidden: 512,
            batch: 16,
            scaling: StepScaling::LinearK,
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
    /// per line. Used whole, unless --max-tokens is given [default: wiki2: WikiText-2, downloaded; ptb: `$ATBPTT_DATA/ptb`]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Use the built-in corpus, without trying to download
    #[arg(long, conflicts_with = "data")]
    builtin: bool,

    /// The full settings of the paper's experiment, its estimator of the bias (norms of the states alone, τ = 0.9 W) included;
    /// single options still override
    #[arg(long, conflicts_with = "resume")]
    pub paper: bool,

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

    /// Use only this many training tokens, and a tenth as many of validation and test; 0 = all
    /// [default: 200000 without --data and --paper, else all]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,

    #[command(flatten)]
    reading: ReadingArgs,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten)]
    pub run: RunArgs,

    /// Print plain lines instead of the terminal dashboard
    #[arg(long)]
    pub no_tui: bool,
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

/// Text and model of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Language {
    pub text: Text,
    pub reading: Reading,
    pub max_tokens: Option<usize>,
    pub hidden: usize,
    pub layers: usize,
    pub dropout: f64,
    pub precision: Precision,
    /// What was scaled down from the paper's settings, in words.
    pub scaled: Vec<String>,
}

impl Cli {
    /// The experiment's settings, scaled down unless `--paper`.
    pub fn preset(&self) -> Settings<Language> {
        let pick = |quick: usize, paper: usize| if self.paper { paper } else { quick };
        let preset = preset();
        let quick_text = self.data.is_none() && !self.paper;
        let task = Language {
            text: match PROGRAM {
                "ptb" => penn_treebank().map_or(Text::BuiltIn, Text::Folder),
                _ => Text::WikiText2OrBuiltIn,
            },
            reading: Reading::default(),
            max_tokens: quick_text.then_some(200_000),
            hidden: pick(128, preset.hidden),
            layers: 1,
            dropout: 0.2,
            precision: Precision::default(),
            scaled: Vec::new(),
        };
        let rule = AdaptiveKConfig::new(0.5);
        let (rule, mut training, lr) = match self.paper {
            true => {
                let estimator = BiasEstimator::paper()
                    .with_fit_lag_zero(false)
                    .with_gradient_size(GradientSize::SumOfStateNorms);
                let rule = rule
                    .with_k0(100)
                    .with_k_min(10)
                    .with_k_max(300)
                    .with_monitor(MonitorConfig::paper(estimator));
                let mut training = TbpttConfig::paper();
                training.step_scaling = preset.scaling;
                (rule, training, 10.0)
            }
            false => {
                let rule = rule.with_k0(20).with_k_min(2).with_k_max(200);
                (rule, TbpttConfig::default(), LEARNING_RATE)
            }
        };
        training.seed = 1;
        let plan = Plan {
            training,
            batch: preset.batch,
            epochs: pick(6, 50),
            lr,
            weight_decay: 1e-7,
            ..Plan::new(rule)
        };
        let mut settings = Settings { task, plan };
        if !self.paper {
            settings.task.scaled = self.scaled(&settings);
        }
        settings
    }

    /// In what `settings`, where no option overrides them, fall short of the paper's.
    fn scaled(&self, settings: &Settings<Language>) -> Vec<String> {
        let (task, preset) = (&settings.task, preset());
        let mut scaled = Vec::new();
        if self.hidden.is_none() {
            let hidden = task.hidden;
            scaled.push(format!("{hidden} hidden units (paper: {})", preset.hidden));
        }
        if let (None, Some(limit)) = (self.max_tokens, task.max_tokens) {
            scaled.push(format!("the first {limit} training tokens (paper: all)"));
        }
        if self.run.epochs.is_none() {
            scaled.push(format!("{} epochs (paper: 50)", settings.plan.epochs));
        }
        if self.policy.style.is_none() && settings.plan.training.scheme == Scheme::default() {
            scaled.push("strided windows (paper: 2K−1 steps, the last K of them counted)".into());
        }
        scaled
    }

    /// Puts what the user asked for into the settings.
    pub fn apply(&self, mut settings: Settings<Language>) -> Result<Settings<Language>> {
        let task = &mut settings.task;
        match (&self.data, self.builtin) {
            (Some(folder), _) => task.text = Text::Folder(DataPath::new(folder)?),
            (None, true) => task.text = Text::BuiltIn,
            (None, false) => {}
        }
        self.reading.apply(&mut task.reading);
        if let Some(limit) = self.max_tokens {
            task.max_tokens = (limit > 0).then_some(limit);
        }
        task.hidden = self.hidden.unwrap_or(task.hidden);
        task.layers = self.layers.unwrap_or(task.layers);
        task.dropout = self.dropout.unwrap_or(task.dropout);
        task.precision = match self.precision {
            Some(PrecisionArg::F32) => Precision::F32,
            Some(PrecisionArg::F16) => Precision::F16,
            Some(PrecisionArg::Bf16) => Precision::Bf16,
            None => task.precision,
        };
        settings.plan = settings.plan.with_options(&self.policy, &self.run)?;
        Ok(settings)
    }

    /// Fits what was left open to the built-in corpus, whose dependencies reach back at most 32 steps: shorter probes and
    /// windows, and a tolerance small enough to ask for them.
    pub fn fit_to_built_in(&self, settings: &mut Settings<Language>) {
        if self.paper || settings.task.text != Text::BuiltIn {
            return;
        }
        let (plan, asked) = (&mut settings.plan, &self.policy);
        let mut fitted = Vec::new();
        if asked.window.is_none() {
            plan.training.probe = ProbeConfig::new(100);
            fitted.push("W = 100 (else 400)".to_owned());
        }
        if let PolicyConfig::Adaptive(rule) = &mut plan.policy {
            if asked.delta.is_none() {
                rule.delta = 0.1;
                fitted.push("δ = 0.1 (else 0.5)".into());
            }
            if asked.k_max.is_none() {
                rule.k_max = 100.max(rule.k_min).max(asked.k0.unwrap_or(1));
                fitted.push(format!("K at most {} (else 200)", rule.k_max));
            }
        }
        if !fitted.is_empty() {
            let fitted = format!("for the built-in text: {}", fitted.join(", "));
            settings.task.scaled.push(fitted);
        }
    }
}

impl Language {
    /// The model over a vocabulary.
    pub fn model(&self, vocabulary: usize) -> LanguageModelConfig {
        LanguageModelConfig::new(vocabulary)
            .with_hidden(self.hidden)
            .with_layers(self.layers)
            .with_dropout(self.dropout)
            .with_precision(self.precision)
    }

    /// Adds text and model to what a run is made of.
    pub fn identify<M: RecurrentModel>(&self, run: Run<M>, corpus: &Corpus) -> Run<M> {
        run.must_match("data", corpus.fingerprint())
            .must_match("vocabulary", corpus.vocabulary().content_hash())
            .must_match("hidden", self.hidden)
            .must_match("layers", self.layers)
            .must_match("dropout", self.dropout)
            .may_change("text", format!("{:?}", self.text))
            .may_change("precision", self.precision.name())
    }
}

/// Penn Treebank has no free download: where the tests look for it.
fn penn_treebank() -> Option<DataPath> {
    let data = std::env::var_os("ATBPTT_DATA").unwrap_or_else(|| "../shared/data".into());
    let folder = PathBuf::from(data).join("ptb");
    folder.is_dir().then(|| DataPath::new(folder).ok())?
}
