//! Tokenisers of one's own: [`Tokenizer`].

use std::fmt::Debug;
use std::sync::Arc;

use super::{DataError, TokenUnit, Vocabulary};

/// Cuts texts into tokens of a vocabulary that it knows beforehand.
///
/// [`TokenUnit`] names those that this crate has; `HuggingFaceTokenizer` (feature `tokenizers`) reads any `tokenizer.json`.
pub trait Tokenizer: Debug + Send + Sync {
    /// Names of all tokens, in the order of their ids.
    ///
    /// # Errors
    ///
    /// [`DataError::Tokenizer`] when there are none, or ids have large gaps.
    fn vocabulary(&self) -> Result<Vocabulary, DataError>;

    /// Appends the ids of a part of a text: a line with its line break, or a part of a long one.
    ///
    /// # Errors
    ///
    /// [`DataError::Tokenizer`] when the text has none.
    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), DataError>;

    /// The text of ids.
    ///
    /// # Errors
    ///
    /// [`DataError::Tokenizer`] when an id has none.
    fn decode(&self, ids: &[u32]) -> Result<String, DataError>;

    /// What tells this tokeniser from others, such as a hash of its file.
    fn fingerprint(&self) -> String;
}

/// How a corpus was cut into tokens.
#[derive(Clone, Debug)]
pub(super) enum Tokens {
    Unit(TokenUnit),
    Own(Arc<dyn Tokenizer>),
}

impl Tokens {
    pub(super) fn end_of_line(&self, vocabulary: &Vocabulary) -> Option<u32> {
        match self {
            Self::Unit(unit) => unit.end_of_line(vocabulary),
            Self::Own(tokenizer) => {
                let mut ids = Vec::new();
                tokenizer.encode("\n", &mut ids).ok()?;
                ids.last().copied()
            }
        }
    }

    pub(super) fn decode(
        &self,
        vocabulary: &Vocabulary,
        tokens: &[u32],
    ) -> Result<String, DataError> {
        match self {
            Self::Unit(unit) => Ok(unit.decode(vocabulary, tokens)),
            Self::Own(tokenizer) => tokenizer.decode(tokens),
        }
    }

    /// What tells these tokens from others of the same text.
    pub(super) fn fingerprint(&self) -> String {
        match self {
            Self::Unit(unit) => format!("{unit:?}"),
            Self::Own(tokenizer) => tokenizer.fingerprint(),
        }
    }
}
