//! What was measured of a run, in a file: so that other settings of the estimate are tried without training again.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use atbptt::core::direct::default_contexts;
use atbptt::core::policy::Position;
use atbptt::core::{BiasEstimate, DirectEstimate, DirectStatistics};
use atbptt::prelude::Scheme;
use serde::{Deserialize, Serialize};

use crate::common::Result;
use crate::options::{Cli, Cuts};

/// One measured epoch.
#[derive(Serialize, Deserialize, Clone)]
pub struct Record {
    pub task: String,
    pub seed: u64,
    pub at: Position,
    pub updates_per_epoch: f64,
    pub scheme: Scheme,
    pub train_loss: f64,
    pub truth: DirectEstimate,
    /// The probes of each controller.
    pub statistics: Vec<DirectStatistics>,
    /// The readings of their norms; none where they were not asked for.
    pub norms: Vec<Vec<Option<BiasEstimate>>>,
}

/// About six cuts: every second one of the default.
fn sparse_contexts(window: usize) -> Vec<usize> {
    let all = default_contexts(window);
    let last = all.last().copied();
    let mut some: Vec<usize> = all.into_iter().step_by(2).collect();
    some.extend(last);
    some.dedup();
    some
}

/// About two dozen cuts: the default ones and one between any two of them that are more than a step apart.
pub fn dense_contexts(window: usize) -> Vec<usize> {
    let all = default_contexts(window);
    let middle = |pair: &[usize]| ((pair[0] * pair[1]) as f64).sqrt().round() as usize;
    let mut dense: Vec<usize> = all.windows(2).map(middle).chain(all.clone()).collect();
    dense.sort_unstable();
    dense.dedup();
    dense
}

impl Cuts {
    /// In steps before the first loss, for a probe window of `window` steps.
    pub fn contexts(self, window: usize) -> Vec<usize> {
        match self {
            Self::Sparse => sparse_contexts(window),
            Self::Default => default_contexts(window),
            Self::Dense => dense_contexts(window),
        }
    }
}

impl Record {
    /// With probes and cuts as the options ask for: sets of fewer probes, each for a controller of its own.
    fn part_for(self, cli: &Cli) -> Result<Self> {
        let window = self.truth.window();
        if window != cli.window {
            return Err(
                format!("its probe windows have {window} steps; add --window {window}").into(),
            );
        }
        let mut statistics = Vec::new();
        let mut norms = Vec::new();
        for (index, all) in self.statistics.iter().enumerate() {
            let contexts = cli.cuts.contexts(all.window());
            let cut = match contexts == all.contexts() {
                true => all.clone(),
                false => all.at_contexts(&contexts)?,
            };
            // A short stream has fewer windows than may be asked for.
            let windows = cut.population().unwrap_or(usize::MAX);
            for set in cut.in_sets_of(windows.min(cli.pool() as usize))? {
                statistics.push(set);
                // Norms are of all probes together, whatever the sets.
                norms.extend(self.norms.get(index).cloned());
            }
        }
        if statistics.is_empty() {
            return Err("it has fewer probes than --probes or --max-probes asks for".into());
        }
        Ok(Self {
            statistics,
            norms,
            ..self
        })
    }
}

/// Writes one line per measured epoch.
pub struct Recorder {
    file: BufWriter<File>,
}

impl Recorder {
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self {
            file: BufWriter::new(File::create(path)?),
        })
    }

    pub fn add(&mut self, record: &Record) -> Result<()> {
        serde_json::to_writer(&mut self.file, record)?;
        self.file.write_all(b"\n")?;
        Ok(self.file.flush()?)
    }
}

/// Reads what was recorded, with probes and cuts as the options ask for.
pub fn read(path: &Path, cli: &Cli) -> Result<Vec<Record>> {
    let wrong = |error: String| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut records = Vec::new();
    for line in BufReader::new(file).lines() {
        let record: Record =
            serde_json::from_str(&line?).map_err(|error| wrong(error.to_string()))?;
        records.push(
            record
                .part_for(cli)
                .map_err(|error| wrong(error.to_string()))?,
        );
    }
    match records.is_empty() {
        true => Err(wrong("nothing was recorded".into()).into()),
        false => Ok(records),
    }
}
