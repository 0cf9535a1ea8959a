//! Burn's metrics in files, without a panic when the disk is full.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricEntry, MetricId, NumericEntry};

/// Writes metrics where Burn's `FileMetricLogger` does, `run/train/epoch-1/Loss.log` and so on, one line per window.
///
/// When a line cannot be written, Burn's logger panics in a thread of its own and ends the run. This one reports it once in the
/// log and goes on without the file, for the checkpoints hold what matters. Pass it to `SupervisedTraining::with_metric_logger`.
pub fn metric_files(run: &Path) -> impl MetricLogger + use<> {
    MetricFiles::new(run.to_owned())
}

/// One file per metric, split and epoch.
#[derive(Debug)]
struct MetricFiles {
    run: PathBuf,
    names: HashMap<MetricId, String>,
    epoch: Option<usize>,
    /// `None` once a file could not be written.
    open: HashMap<PathBuf, Option<BufWriter<File>>>,
    complained: bool,
}

impl MetricFiles {
    /// Files below a run folder.
    fn new(run: PathBuf) -> Self {
        Self {
            run,
            names: HashMap::new(),
            epoch: None,
            open: HashMap::new(),
            complained: false,
        }
    }

    fn path(&self, name: &str, epoch: usize, split: &Split) -> PathBuf {
        let mut folder = self.run.join(split.to_string());
        if let Split::Test(Some(tag)) = split {
            folder.push(tag.trim().replace(' ', "-").to_lowercase());
        }
        folder
            .join(format!("epoch-{epoch}"))
            .join(format!("{}.log", name.replace(' ', "_")))
    }

    fn log_entry(&mut self, entry: &MetricEntry, epoch: usize, split: &Split) {
        if entry.serialized_entry.is_not_available() {
            return;
        }
        let Some(name) = self.names.get(&entry.metric_id) else {
            return;
        };
        let path = self.path(name, epoch, split);
        let file = self
            .open
            .entry(path.clone())
            .or_insert_with_key(|path| create(path).ok());
        let Some(writer) = file else { return };
        if let Err(error) = writeln!(writer, "{}", entry.serialized_entry.serialized) {
            *file = None;
            self.complain(&path, &error);
        }
    }

    fn flush(&mut self) {
        let failed: Vec<(PathBuf, io::Error)> = self
            .open
            .iter_mut()
            .filter_map(|(path, file)| Some((path, file.as_mut()?.flush().err()?)))
            .map(|(path, error)| (path.clone(), error))
            .collect();
        for (path, error) in failed {
            if let Some(Some(file)) = self.open.insert(path.clone(), None) {
                // What is still buffered cannot be written either.
                let _ = file.into_parts();
            }
            self.complain(&path, &error);
        }
    }

    fn complain(&mut self, path: &Path, error: &io::Error) {
        if !self.complained {
            log::warn!(
                "metrics are not written any more, {}: {error}",
                path.display()
            );
            self.complained = true;
        }
    }
}

fn create(path: &Path) -> io::Result<BufWriter<File>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(BufWriter::new(File::create(path)?))
}

impl MetricLogger for MetricFiles {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        if self.epoch != Some(epoch) {
            self.flush();
            self.open.clear();
            self.epoch = Some(epoch);
        }
        let numeric = update.entries_numeric.iter().map(|update| &update.entry);
        for entry in update.entries.iter().chain(numeric) {
            self.log_entry(entry, epoch, split);
        }
    }

    fn read_numeric(
        &mut self,
        name: &str,
        epoch: usize,
        split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        self.flush();
        let text = fs::read_to_string(self.path(name, epoch, split)).unwrap_or_default();
        text.lines()
            .filter(|line| !line.is_empty())
            .map(NumericEntry::deserialize)
            .collect()
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.names
            .insert(definition.metric_id, definition.name.to_string());
    }

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {
        self.flush();
    }
}
