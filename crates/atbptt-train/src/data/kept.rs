//! A corpus in token files: written once, found again and checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::text::io_error;
use super::vocabulary::hex;
use super::{DataError, FileTokens, Split, TokenStore, Vocabulary};
use crate::files;

/// Words and tokens of a whole corpus.
pub(super) struct Kept {
    pub(super) vocabulary: Vocabulary,
    pub(super) splits: [Arc<dyn TokenStore>; 3],
    pub(super) fingerprint: String,
    pub(super) warnings: Vec<String>,
}

impl Kept {
    /// Token files of an earlier time; `None` when there are none, or one of them is damaged.
    pub(super) fn open(place: &Path) -> Option<Self> {
        let index = std::fs::read(place.join("vocabulary.json")).ok()?;
        let (vocabulary, fingerprint, warnings, seal): (Vocabulary, String, Vec<String>, String) =
            serde_json::from_slice(&index).ok()?;
        if seal != Self::seal(&vocabulary, &fingerprint, &warnings) {
            log::warn!("{} is damaged; it is made again", place.display());
            return None;
        }
        let open = |split| match FileTokens::open(token_path(place, split)) {
            Ok(tokens) => Some(Arc::new(tokens) as Arc<dyn TokenStore>),
            Err(error) => {
                log::warn!("{error}");
                None
            }
        };
        let [train, valid, test] = Split::ALL.map(open);
        Some(Self {
            vocabulary,
            splits: [train?, valid?, test?],
            fingerprint,
            warnings,
        })
    }

    /// Checksum of what the token files' checksums do not cover.
    fn seal(vocabulary: &Vocabulary, fingerprint: &str, warnings: &[String]) -> String {
        let mut hasher = Sha256::new();
        vocabulary.hash_into(&mut hasher);
        hasher.update(fingerprint);
        for warning in warnings {
            hasher.update((warning.len() as u64).to_le_bytes());
            hasher.update(warning);
        }
        hex(&hasher.finalize())
    }

    /// The last file to be written: without it the others do not count.
    pub(super) fn write(&self, place: &Path) -> Result<(), DataError> {
        let path = place.join("vocabulary.json");
        let fail = |cause| io_error("write", &path, cause);
        let seal = Self::seal(&self.vocabulary, &self.fingerprint, &self.warnings);
        let text = serde_json::to_vec(&(&self.vocabulary, &self.fingerprint, &self.warnings, seal));
        let text = text.map_err(|e| fail(e.into()))?;
        files::write(&path, &text).map_err(fail)
    }
}

/// Where the tokens of a split lie.
pub(super) fn token_path(place: &Path, split: Split) -> PathBuf {
    place.join(format!("{}.tokens", split.name()))
}
