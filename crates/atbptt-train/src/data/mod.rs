//! From files to batches: the head of the training data flow.
//!
//! ```text
//! folder ────┐
//! download ──┼─► corpus ──► token store ─┬─► token source ────────┐
//! synthetic ─┘      └─► vocabulary       └─► documents ─► packed ─┼─► windows [batch, time, …] ──► training
//! CSV ──► table ──► series ──► normalisation ──► packed ──────────┤
//! Burn's Dataset + Batcher ──► packed ────────────────────────────┘
//! ```
//!
//! - [`Table`]: columns of a CSV file; [`Series`], [`SeriesSet`], [`Normalisation`]: continuous series of them;
//! - [`PackedSource`]: sequences of unequal length in parallel streams, every step counted once. They are a [`SeriesSet`],
//!   [`Documents`], the items of a Burn `Dataset` ([`DatasetSequences`]), or a [`SequenceSet`] of your own;
//! - [`corpus`]: three splits of one text as token ids, from a folder or from the built-in language;
//! - [`vocabulary`]: word ↔ id, with a content hash;
//! - [`TokenStore`]: where token ids lie, in memory or, for large texts, in a file ([`FileTokens`]);
//!   [`TokenSource`](crate::TokenSource): a text cut into parallel sequences, read in windows;
//! - [`synthetic`]: a language with known dependency lengths and a known perplexity floor;
//! - `download` (feature `download`): WikiText-2, cached and checked.
//!
//! Shapes use the crate's words: `batch` sequences in parallel, `time` steps of a window.
//!
//! ```
//! use atbptt_models::SequenceBatch;
//! use atbptt_train::SequenceSource;
//! use atbptt_train::data::{Corpus, SyntheticConfig};
//! use burn::tensor::Device;
//!
//! let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(20_000, 2_000, 2_000))?;
//! let source = corpus.training(8)?;
//! let window = source.window(0, 35, &Device::default())?;
//! assert_eq!((window.sequences(), window.steps()), (8, 35));
//! # Ok::<(), atbptt_train::TrainError>(())
//! ```

mod builder;
pub mod corpus;
mod corpus_options;
mod corpus_source;
mod dataset_source;
mod documents;
#[cfg(feature = "download")]
pub mod download;
mod error;
#[cfg(feature = "tokenizers")]
mod hugging_face;
mod kept;
mod normalisation;
mod packed;
mod series;
mod split;
mod store;
mod stream;
pub mod synthetic;
mod table;
mod table_error;
mod table_lines;
mod table_options;
mod table_reader;
mod text;
pub mod token_file;
mod token_unit;
mod tokenizer;
pub mod vocabulary;
mod window_layout;

pub use corpus::Corpus;
pub use corpus_options::CorpusOptions;
pub use dataset_source::DatasetSequences;
pub use documents::Documents;
#[cfg(feature = "download")]
pub use download::WikiText2;
pub use error::DataError;
pub(crate) use error::beginning;
#[cfg(feature = "tokenizers")]
pub use hugging_face::HuggingFaceTokenizer;
pub use normalisation::{Normalisation, Scale};
pub use packed::{PackedSource, SequenceSet};
pub use series::{Series, SeriesSet};
pub use split::Split;
pub use store::TokenStore;
#[doc(hidden)] // What sources of tokens are made of, for the tests to look into.
pub use stream::{TokenStream, Window};
pub use synthetic::SyntheticConfig;
pub use table::Table;
pub use table_error::TableError;
pub use table_options::{Missing, TableOptions};
pub use token_file::FileTokens;
pub use token_unit::TokenUnit;
pub use tokenizer::{TextTokens, Tokenizer};
pub use vocabulary::Vocabulary;
pub use window_layout::WindowLayout;

/// Folder of the real test data: `ATBPTT_DATA`, or `../shared/data` beside the workspace.
///
/// `None`, with the reason on standard error, when the dataset is not there: the test then has nothing to check.
#[cfg(test)]
pub(crate) fn real_data(dataset: &str) -> Option<std::path::PathBuf> {
    let root = std::env::var_os("ATBPTT_DATA").map_or_else(
        || std::path::PathBuf::from("../../../shared/data"),
        std::path::PathBuf::from,
    );
    let folder = root.join(dataset);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!(
        "skipped: no folder {}; set ATBPTT_DATA to run this test",
        folder.display()
    );
    None
}
