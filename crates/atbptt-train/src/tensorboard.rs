//! Burn's metrics as TensorBoard event files.
//!
//! A file is a chain of records, each `length: u64, crc(length), bytes, crc(bytes)` in little endian with masked CRC-32C
//! checksums (the TFRecord framing), and the bytes of each are an `Event` message in protobuf encoding. Of the message only the
//! few fields that scalars need are written:
//!
//! ```text
//! Event   1 wall_time: double   2 step: int64   3 file_version: string   5 summary: Summary
//! Summary 1 value: Value (repeated)             Value 1 tag: string   2 simple_value: float
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, NumericMetricUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};

/// Writes numeric metrics as scalars for TensorBoard, into the folder `tensorboard` of a run's folder, one folder per split: of
/// training one value per window, of the other splits one per epoch. `tensorboard --logdir RUN/tensorboard` shows them.
///
/// - `windows`: training windows of the epochs that a resumed run has behind it, else 0; the x axis counts on from there
///
/// Pass it to `SupervisedTraining::with_metric_logger`, or call [`Run::with_tensorboard`](crate::run::Run::with_tensorboard).
/// Early stopping asks the logger that was registered first: register one that can answer, such as
/// [`metric_files`](crate::metric_files()), before this one. A file that cannot be written is reported once in the log, and the run
/// goes on without it.
///
/// A run that goes on starts new files from the epoch's first window: TensorBoard then shows the windows of an epoch that was
/// interrupted twice, with the same values.
pub fn tensorboard_files(run: &Path, windows: u64) -> impl MetricLogger + use<> {
    TensorBoardFiles::new(run, windows)
}

/// Event files, one per split.
#[derive(Debug)]
struct TensorBoardFiles {
    folder: PathBuf,
    names: HashMap<MetricId, String>,
    /// Training windows so far.
    step: u64,
    /// By split; `None` once a file could not be written.
    files: HashMap<String, Option<BufWriter<File>>>,
    /// Of every split but training: running values of the epoch, by metric.
    running: HashMap<String, BTreeMap<String, f64>>,
    complained: bool,
}

impl TensorBoardFiles {
    fn new(run: &Path, windows: u64) -> Self {
        Self {
            folder: run.join("tensorboard"),
            names: HashMap::new(),
            step: windows,
            files: HashMap::new(),
            running: HashMap::new(),
            complained: false,
        }
    }

    fn write(&mut self, split: &str, values: &BTreeMap<String, f64>) {
        let path = self.folder.join(split);
        let file = self.files.entry(split.to_owned()).or_insert_with(|| {
            let created = create(&path);
            if let Err(error) = &created {
                log::warn!("no TensorBoard files in {}: {error}", path.display());
            }
            created.ok()
        });
        let Some(writer) = file else { return };
        let written = write_record(writer, &scalars(now(), self.step, values));
        if let Err(error) = written {
            *file = None;
            if !std::mem::replace(&mut self.complained, true) {
                let path = path.display();
                log::warn!("TensorBoard files are not written any more, {path}: {error}");
            }
        }
    }

    fn flush(&mut self) {
        for file in self.files.values_mut() {
            if file.as_mut().is_some_and(|file| file.flush().is_err())
                && let Some(file) = file.take()
            {
                // What is still buffered cannot be written either.
                let _ = file.into_parts();
            }
        }
    }
}

impl MetricLogger for TensorBoardFiles {
    fn log(&mut self, update: MetricsUpdate, _epoch: usize, split: &Split) {
        // After the last window come the values of the whole epoch, which every file of Burn's has, too.
        let of_epoch = |update: &NumericMetricUpdate| {
            matches!(update.numeric_entry, Some(NumericEntry::Final(_)))
        };
        let of_epoch = update.entries_numeric.iter().any(of_epoch);
        let training = *split == Split::Train;
        if training && of_epoch {
            return;
        }
        let values = update.entries_numeric.iter().filter_map(|update| {
            let entry = match training || of_epoch {
                true => &update.numeric_entry,
                false => &update.running_entry,
            };
            let name = self.names.get(&update.entry.metric_id)?;
            Some((name.clone(), entry.as_ref()?.current()))
        });
        let values: BTreeMap<String, f64> = values.collect();
        if training {
            self.step += 1;
            if !values.is_empty() {
                self.write("train", &values);
            }
            return;
        }
        let known = values.into_iter().filter(|(_, value)| value.is_finite());
        self.running
            .entry(split.to_string())
            .or_default()
            .extend(known);
    }

    /// Nothing: what was written is for TensorBoard.
    fn read_numeric(
        &mut self,
        _name: &str,
        _epoch: usize,
        _split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        Ok(Vec::new())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.names
            .insert(definition.metric_id, definition.name.to_string());
    }

    fn log_epoch_summary(&mut self, summary: EpochSummary) {
        let split = summary.split.to_string();
        if let Some(values) = self.running.remove(&split) {
            self.write(&split, &values);
        }
        self.flush();
    }
}

/// A new file, which begins with the version of its format.
fn create(folder: &Path) -> io::Result<BufWriter<File>> {
    fs::create_dir_all(folder)?;
    let seconds = now() as u64;
    let mut nth = 0;
    let file = loop {
        // TensorBoard reads the files of a folder in the order of their names.
        let name = format!("events.out.tfevents.{seconds:010}.{nth}.atbptt");
        match File::create_new(folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && nth < 1000 => nth += 1,
            created => break created?,
        }
    };
    let mut file = BufWriter::new(file);
    let mut version = Vec::new();
    version.push(key(1, FIXED64));
    version.extend(now().to_le_bytes());
    bytes_field(&mut version, 3, b"brain.Event:2");
    write_record(&mut file, &version)?;
    Ok(file)
}

/// Seconds since 1970, which TensorBoard shows beside a value.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// Wire types of protobuf.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// What stands before a field of a message.
fn key(field: u8, wire: u8) -> u8 {
    (field << 3) | wire
}

/// An event with one scalar per name.
fn scalars(wall_time: f64, step: u64, values: &BTreeMap<String, f64>) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, value) in values {
        let mut scalar = Vec::new();
        bytes_field(&mut scalar, 1, name.as_bytes());
        scalar.push(key(2, FIXED32));
        scalar.extend((*value as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &scalar);
    }
    let mut event = vec![key(1, FIXED64)];
    event.extend(wall_time.to_le_bytes());
    event.push(key(2, VARINT));
    varint(&mut event, step);
    bytes_field(&mut event, 5, &summary);
    event
}

fn bytes_field(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(key(field, BYTES));
    varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// Seven bits a byte, the lowest first; all but the last have the eighth set.
fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn write_record(file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = (bytes.len() as u64).to_le_bytes();
    file.write_all(&length)?;
    file.write_all(&masked_crc(&length).to_le_bytes())?;
    file.write_all(bytes)?;
    file.write_all(&masked_crc(bytes).to_le_bytes())
}

/// CRC-32C, rotated and shifted: a checksum of bytes that hold checksums themselves should look different.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The Castagnoli polynomial, bit by bit: a window writes a few hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests;
