//! The three parts of a corpus and the files they are read from.

use std::path::{Path, PathBuf};

use super::DataError;

/// The parts of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What decides between models and when to stop.
    Valid,
    /// What is reported, once.
    Test,
}

impl Split {
    /// All splits, in the order in which they feed the vocabulary.
    pub const ALL: [Split; 3] = [Split::Train, Split::Valid, Split::Test];

    /// `train`, `valid` or `test`.
    pub const fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "valid",
            Split::Test => "test",
        }
    }

    /// File names that are accepted for the split, in the order in which they are tried.
    pub fn file_names(self) -> [String; 4] {
        let name = self.name();
        [
            format!("{name}.txt"),
            format!("wiki.{name}.tokens"),
            format!("ptb.{name}.txt"),
            format!("{name}.tokens"),
        ]
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// The split's own of three.
    pub(super) fn of<T>(self, [train, valid, test]: &[T; 3]) -> &T {
        match self {
            Split::Train => train,
            Split::Valid => valid,
            Split::Test => test,
        }
    }

    pub(super) fn of_mut<T>(self, [train, valid, test]: &mut [T; 3]) -> &mut T {
        match self {
            Split::Train => train,
            Split::Valid => valid,
            Split::Test => test,
        }
    }

    /// The file of this split in `folder`; if there is none, the error lists the names that were tried.
    pub(super) fn find_in(self, folder: &Path) -> Result<PathBuf, DataError> {
        let tried = self.file_names();
        let found = tried
            .iter()
            .map(|name| folder.join(name))
            .find(|path| path.is_file());
        found.ok_or_else(|| DataError::SplitMissing {
            folder: folder.to_owned(),
            split: self.name(),
            tried: tried.to_vec(),
        })
    }
}
