//! Where a corpus came from, and whether it is a published text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::synthetic::SourceEntropy;
use super::{Split, SyntheticConfig, TokenStore};

/// A published text that is recognised by its token counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dataset {
    /// Penn Treebank in Mikolov's preprocessing.
    PennTreebank,
    /// WikiText-2, word level.
    WikiText2,
}

impl Dataset {
    const ALL: [Dataset; 2] = [Dataset::PennTreebank, Dataset::WikiText2];

    /// The name people use.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Dataset::PennTreebank => "Penn Treebank",
            Dataset::WikiText2 => "WikiText-2",
        }
    }

    /// Published tokens of train, valid and test, `<eos>` included.
    pub(super) const fn tokens(self) -> [usize; 3] {
        match self {
            Dataset::PennTreebank => [929_589, 73_760, 82_430],
            Dataset::WikiText2 => [2_088_628, 217_646, 245_569],
        }
    }
}

/// Where a corpus came from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    /// Text files.
    Folder {
        /// The folder.
        path: PathBuf,
        /// The published text that its valid and test splits are, if known.
        dataset: Option<Dataset>,
    },
    /// Texts that were not read from a folder.
    Readers,
    /// The built-in language: not real text.
    Synthetic {
        /// Its settings.
        config: SyntheticConfig,
        /// Entropy of the source on train, valid and test.
        entropy: [SourceEntropy; 3],
    },
}

/// A folder, with the published text that its sizes give away.
pub(super) fn folder_source(folder: &Path, splits: &[Arc<dyn TokenStore>; 3]) -> Source {
    let [_, valid, test] = Split::ALL.map(|split| split.of(splits).len());
    // Their tokens are words.
    let dataset = Dataset::ALL
        .into_iter()
        .find(|known| known.tokens()[1..] == [valid, test]);
    Source::Folder {
        path: folder.to_owned(),
        dataset,
    }
}
