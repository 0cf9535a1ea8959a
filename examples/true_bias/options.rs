//! Options, and what can be wrong with them.

use std::path::PathBuf;

use atbptt::core::policy::{
    AdaptiveKConfig, MonitorConfig, PolicyConfig, Schedule, TruncationPolicy,
};
use atbptt::prelude::Scheme;
use clap::{Parser, ValueEnum};

use crate::common::Result;

/// Shortest K that a controller chooses, in steps: the library's default.
pub const SHORTEST: usize = 2;

/// Measure the true relative bias of truncated gradients beside its estimates while a small model learns.
#[derive(Parser, Clone, Debug)]
#[command(name = "true_bias", version)]
pub struct Cli {
    /// Folder of the copy task's digit files; without a task the copy task is generated
    #[arg(long, value_name = "DIR", group = "task")]
    pub copy: Option<PathBuf>,

    /// Folder with train.txt, valid.txt and test.txt: a small word-level language model
    #[arg(long, value_name = "DIR", group = "task")]
    pub text: Option<PathBuf>,

    /// A small language model of the built-in language, whose words agree over 4 and 12 steps
    #[arg(long, group = "task")]
    pub built_in: bool,

    /// Folder of one CAMELS basin, weather and river flow: a small LSTM on continuous values
    #[arg(long, value_name = "DIR", group = "task")]
    pub rivers: Option<PathBuf>,

    /// How training windows follow each other; the truth and the direct estimate are those of this scheme
    #[arg(long, value_enum, default_value_t = SchemeArg::Strided)]
    pub scheme: SchemeArg,

    /// Losses per update of strided windows, in steps
    #[arg(long, value_name = "STEPS", default_value_t = Scheme::DEFAULT_LOSSES)]
    pub losses: usize,

    /// Fixed K to train with, in steps: the bias is measured, not acted upon
    #[arg(long, value_name = "STEPS", default_value_t = 15)]
    pub train_k: usize,

    /// Truncation lengths to measure the bias of, in steps; best one step longer than cuts of the probes
    #[arg(
        long,
        value_name = "STEPS",
        value_delimiter = ',',
        default_value = "1,2,5,8,12,17,24,34"
    )]
    pub k: Vec<usize>,

    /// Tolerances that the estimates choose K by
    #[arg(
        long,
        value_name = "δ",
        value_delimiter = ',',
        default_value = "0.5,0.2,0.1"
    )]
    pub delta: Vec<f64>,

    /// Passes over the training data
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub epochs: usize,

    /// Measure every so many epochs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub every: usize,

    /// Window W of a probe, in steps; its burn-in is a fifth of it
    #[arg(long, value_name = "STEPS", default_value_t = 100)]
    pub window: usize,

    /// Batches of windows that the truth is taken over
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub batches: u64,

    /// Probes per estimate [default: the library's]
    #[arg(long, value_name = "N", default_value_t = MonitorConfig::default().probes as u64)]
    pub probes: u64,

    /// Controllers that watch the run side by side, each on its own probes
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub repeats: u64,

    /// Cuts of a probe's window: about 6, 12 or 24
    #[arg(long, value_enum, default_value_t = Cuts::Default)]
    pub cuts: Cuts,

    /// Updates of the weights before a controller's first estimate, which the next follow at twice as many each, until the
    /// interval is the shorter wait [default: the library's]; what is measured in between is held against the K in use
    #[arg(long, value_name = "N")]
    pub first: Option<u64>,

    /// Updates of the weights between a controller's estimates [default: an epoch's]
    #[arg(long, value_name = "N")]
    pub interval: Option<u64>,

    /// Probes that are measured for each controller, of which it takes as many as it asks for: more where noise hides the gradient
    /// [default: as many as --probes, and its number never changes]
    #[arg(long, value_name = "N")]
    pub max_probes: Option<u64>,

    /// Hysteresis of the controllers, in standard errors [default: the library's]
    #[arg(long, value_name = "Z")]
    pub hysteresis: Option<f64>,

    /// Share of the previous estimates in the controllers' moving averages [default: the library's]
    #[arg(long, value_name = "SHARE")]
    pub smoothing: Option<f64>,

    /// Leave the readings of lag norms out
    #[arg(long)]
    pub no_norms: bool,

    /// Try other settings on what runs have recorded, in place of training: their files measurements.jsonl. Of more probes than
    /// --probes asks for, each set of so many is a controller's
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "task")]
    pub replay: Vec<PathBuf>,

    /// Hidden units per layer [default: copy 50, text and built-in 64, rivers 32]
    #[arg(long, value_name = "UNITS")]
    pub hidden: Option<usize>,

    /// Dropout of a language model
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub dropout: f64,

    /// Seed of initial weights and windows
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Runs, of seeds one after the other, whose measurements are pooled
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seeds: u64,

    /// Base step size on the mean loss, times √(losses per update) [default: copy 1, text and built-in 10]
    #[arg(long, value_name = "RATE", conflicts_with = "rivers")]
    pub lr: Option<f64>,

    /// Use only this many tokens of the text
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub max_tokens: usize,

    /// Folder for checkpoints, points and figures
    #[arg(long, value_name = "DIR", default_value = "runs/true_bias")]
    pub out: PathBuf,
}

/// How windows follow each other.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum SchemeArg {
    /// BPTT(K−1+m; m): m losses per update, K the reach alone
    Strided,
    /// BPTT(2K−1; K)
    Overlapping,
    /// BPTT(K; K)
    Chunked,
}

/// How many cuts a probe's window has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cuts {
    /// Every second one of the default
    Sparse,
    /// The library's
    Default,
    /// The default ones and one between any two
    Dense,
}

impl Cli {
    /// The scheme in use.
    pub fn scheme(&self) -> Scheme {
        match self.scheme {
            SchemeArg::Strided => Scheme::Strided {
                losses: self.losses,
            },
            SchemeArg::Overlapping => Scheme::Overlapping,
            SchemeArg::Chunked => Scheme::Chunked,
        }
    }

    /// Probes that are measured for each controller.
    pub fn pool(&self) -> u64 {
        self.max_probes.unwrap_or(self.probes).max(self.probes)
    }

    /// One controller per tolerance, with the library's settings but for the longest K: the window.
    pub fn controllers(&self) -> Result<Vec<Box<dyn TruncationPolicy>>> {
        let mut monitor = MonitorConfig::default()
            .with_probes(self.probes as usize)
            .with_max_probes(self.pool() as usize);
        if let Some(smoothing) = self.smoothing {
            monitor = monitor.with_smoothing(smoothing);
        }
        let mut schedule = Schedule::default();
        if let Some(first) = self.first {
            schedule = schedule.with_first(Some(first));
        }
        if let Some(interval) = self.interval {
            schedule = schedule.with_every_updates(interval);
        }
        let monitor = monitor.with_schedule(schedule);
        let each = self.delta.iter().map(|&delta| {
            let config = AdaptiveKConfig::new(delta)
                .with_k_min(SHORTEST)
                .with_k0(self.train_k.max(SHORTEST))
                .with_k_max(self.window.max(self.train_k));
            let config = match self.hysteresis {
                Some(hysteresis) => config.with_hysteresis(hysteresis),
                None => config,
            };
            Ok(PolicyConfig::from(config.with_monitor(monitor)).init()?)
        });
        each.collect()
    }

    /// What can be wrong with the options is found before any work is done.
    pub fn check(&self) -> Result<()> {
        let repeated = (1..self.k.len()).find(|&i| self.k[..i].contains(&self.k[i]));
        for (option, value, least) in [
            ("--epochs", self.epochs as u64, 1),
            ("--every", self.every as u64, 1),
            ("--losses", self.losses as u64, 1),
            ("--batches", self.batches, 2),
            ("--probes", self.probes, 2),
            ("--repeats", self.repeats, 1),
            ("--seeds", self.seeds, 1),
        ] {
            if value < least {
                return Err(format!("{option} must be at least {least}").into());
            }
        }
        // Tolerances, shares and lengths, as the controller itself takes them.
        self.controllers()?;
        if let Some(i) = repeated {
            return Err(format!("--k names {} twice", self.k[i]).into());
        }
        match self.k.iter().find(|k| !(1..=self.window).contains(*k)) {
            Some(k) => Err(format!(
                "--k {k} does not lie between 1 and the window of {} steps; see --window",
                self.window
            )
            .into()),
            None => Ok(()),
        }
    }
}
