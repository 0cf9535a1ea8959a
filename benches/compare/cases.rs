//! The cases, by the peer's names, and what is measured of each.

use std::time::Duration;

use atbptt::train::{NamedDevice, Scheme};
use serde::{Deserialize, Serialize};

use crate::Result;

/// A recurrent layer over a window, as many inputs as hidden units.
#[derive(Clone, Copy)]
pub struct LayerCase {
    pub cell: Cell,
    pub batch: usize,
    pub hidden: usize,
    pub steps: usize,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Cell {
    Lstm,
    Gru,
}

impl Cell {
    pub fn gates(self) -> usize {
        match self {
            Self::Lstm => 4,
            Self::Gru => 3,
        }
    }
}

impl LayerCase {
    const fn new(cell: Cell, batch: usize, hidden: usize, steps: usize) -> Self {
        Self {
            cell,
            batch,
            hidden,
            steps,
        }
    }

    pub fn name(self) -> String {
        let cell = match self.cell {
            Cell::Lstm => "lstm",
            Cell::Gru => "gru",
        };
        let Self {
            batch,
            hidden,
            steps,
            ..
        } = self;
        format!("layer/{cell}/b{batch}/h{hidden}/t{steps}")
    }
}

/// A one-layer LSTM language model with tied softmax.
#[derive(Clone, Copy)]
pub struct TrainCase {
    pub name: &'static str,
    pub batch: usize,
    pub hidden: usize,
    pub vocabulary: usize,
    pub k: usize,
    pub scheme: Scheme,
}

impl TrainCase {
    const fn new(
        name: &'static str,
        batch: usize,
        hidden: usize,
        vocabulary: usize,
        k: usize,
    ) -> Self {
        Self {
            name,
            batch,
            hidden,
            vocabulary,
            k,
            scheme: Scheme::Overlapping,
        }
    }

    /// BPTT(K−1+m; m) with m of [`STRIDED_LOSSES`].
    const fn strided(self, name: &'static str) -> Self {
        let losses = STRIDED_LOSSES;
        Self {
            name,
            scheme: Scheme::Strided { losses },
            ..self
        }
    }

    /// Losses of an update.
    pub fn tokens(self) -> usize {
        self.batch * self.scheme.losses(self.k)
    }

    pub fn name(self) -> String {
        let Self {
            name,
            batch,
            hidden,
            vocabulary,
            k,
            ..
        } = self;
        format!("train/{name}/b{batch}/h{hidden}/v{vocabulary}/k{k}")
    }
}

/// Sizes that any machine runs in seconds: to rehearse a measurement, not to make one.
const REHEARSAL: usize = 8;

impl LayerCase {
    pub fn shrunk(self) -> Self {
        Self {
            batch: 4,
            hidden: 2 * REHEARSAL,
            steps: REHEARSAL,
            ..self
        }
    }
}

impl TrainCase {
    pub fn shrunk(self) -> Self {
        Self {
            batch: 4,
            hidden: 2 * REHEARSAL,
            vocabulary: 100,
            k: REHEARSAL,
            ..self
        }
    }
}

pub const LAYERS: [LayerCase; 4] = [
    LayerCase::new(Cell::Lstm, 16, 512, 100),
    LayerCase::new(Cell::Lstm, 32, 900, 100),
    LayerCase::new(Cell::Lstm, 64, 50, 100),
    LayerCase::new(Cell::Gru, 16, 512, 100),
];

/// A layer is run for so long before it is timed, and timed for so long at least, as on the peer's side: the median of three runs of
/// some milliseconds says more of the moment than of the layer.
pub const LEAST_TIME: Duration = Duration::from_millis(500);

/// Losses per update of strided windows: the library's default.
const STRIDED_LOSSES: usize = Scheme::DEFAULT_LOSSES;

const WIKI2: TrainCase = TrainCase::new("wiki2", 16, 512, 33_278, 100);
const PTB: TrainCase = TrainCase::new("ptb", 32, 900, 10_000, 100);

pub const TRAIN: [TrainCase; 5] = [
    WIKI2,
    PTB,
    TrainCase::new("wiki2-k300", 16, 512, 33_278, 300),
    WIKI2.strided("wiki2-strided"),
    PTB.strided("ptb-strided"),
];

/// One case on one side; the peer prints the same fields.
#[derive(Clone, Serialize, Deserialize)]
pub struct Measured {
    pub case: String,
    /// Median over the repeats.
    pub seconds: f64,
    /// Loss tokens, for `train/*`.
    pub tokens_per_second: f64,
    /// Peak resident set of the process, which ran this case alone, in MiB.
    pub rss_mb: f64,
    /// Program and version.
    pub peer: String,
    /// Where it ran.
    #[serde(default)]
    pub device: String,
    /// Memory that the device's allocator holds at the end, in MiB; none on CPU backends, and the peer does not say.
    #[serde(default)]
    pub device_mb: Option<f64>,
}

impl Measured {
    pub fn new(
        case: String,
        tokens: usize,
        times: Vec<Duration>,
        device: &NamedDevice,
    ) -> Result<Self> {
        let pool = device.device.memory_pool_usage();
        let seconds = times.iter().map(Duration::as_secs_f64).collect();
        let seconds = median(seconds).ok_or("nothing was timed")?;
        Ok(Self {
            case,
            seconds,
            tokens_per_second: tokens as f64 / seconds,
            rss_mb: peak_rss_mb().unwrap_or(f64::NAN),
            peer: format!("atbptt {}", env!("CARGO_PKG_VERSION")),
            device: device.to_string(),
            device_mb: pool.map(|pool| (pool.bytes_reserved as f64 / (1 << 20) as f64).round()),
        })
    }

    pub fn line(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

/// The middle value, or the mean of the two in the middle; `None` of no values.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let [low, high] = [values.len().checked_sub(1)? / 2, values.len() / 2];
    Some((values.get(low)? + values.get(high)?) / 2.0)
}

/// Peak resident set of this process, in MiB; `None` where the system does not say.
pub fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some((kib / 1024.0).round())
}
