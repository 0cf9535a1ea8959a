//! What can be wrong with a checkpoint.

use std::io;

use super::Difference;

/// What is wrong with a checkpoint; [`TrainError::Checkpoint`](crate::TrainError::Checkpoint) adds the file and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointFault {
    /// The operating system refused.
    #[error("cannot be {action}: {cause}")]
    Io {
        /// `read`, `written`, …
        action: &'static str,
        /// The operating system's answer.
        #[source]
        cause: io::Error,
    },
    /// The file is something else.
    #[error("is no checkpoint: it begins with {found:?}")]
    Foreign {
        /// The first bytes of the file, as text.
        found: String,
    },
    /// The file was written by another version of this library.
    #[error("has format version {found}, and this program reads version {supported}")]
    Version {
        /// Version of the file.
        found: u32,
        /// Version of this library.
        supported: u32,
    },
    /// The file is longer or shorter than it says.
    #[error("is cut short or padded: {found} bytes where {expected} are expected")]
    Length {
        /// Bytes there should be.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The file was changed after it was written.
    #[error("is damaged: its checksum does not match its contents")]
    Checksum,
    /// The contents make no sense, although the checksum matches.
    #[error("cannot be used: {reason}")]
    Malformed {
        /// What makes no sense.
        reason: String,
    },
    /// The file is whole; what it is to be loaded into is of another kind or of other sizes.
    #[error("does not fit the {what} it is loaded into: {reason}")]
    Mismatch {
        /// `model`, `optimiser` or `learning-rate scheduler`.
        what: &'static str,
        /// Where they differ.
        reason: String,
    },
    /// The checkpoint belongs to another run.
    #[error("belongs to another run: {}", list(differences))]
    OtherRun {
        /// What differs, and may not.
        differences: Vec<Difference>,
    },
}

/// Differences in a line; a model of other sizes differs in many places.
fn list(differences: &[Difference]) -> String {
    const SHOWN: usize = 6;
    let mut text: Vec<String> = differences
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    if differences.len() > SHOWN {
        text.push(format!("and {} more", differences.len() - SHOWN));
    }
    text.join("; ")
}
