//! Tokenisers of one's own: [`Tokenizer`].

use std::fmt::Debug;
use std::sync::Arc;

use super::text::without_marks;
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

    /// The text of a `tokenizer.json` that describes it: a trained model keeps it, so that nothing else is needed to use the model.
    /// Default: there is none.
    fn file(&self) -> Option<&str> {
        None
    }
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

    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
    ) -> Result<Vec<u32>, DataError> {
        match self {
            Self::Unit(unit) => unit.encode(vocabulary, text),
            Self::Own(tokenizer) => {
                let mut ids = Vec::new();
                // Line by line, as corpora are read.
                for line in without_marks(text).split_inclusive('\n') {
                    tokenizer.encode(line, &mut ids)?;
                }
                Ok(ids)
            }
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

/// How the texts of a trained model are cut into tokens, and put together again.
///
/// [`TrainedModel::tokens`](crate::run::TrainedModel::tokens) reads it from a run folder.
#[derive(Clone, Debug)]
pub struct TextTokens {
    tokens: Tokens,
    vocabulary: Vocabulary,
}

impl TextTokens {
    /// By a unit and a vocabulary.
    pub fn of_unit(unit: TokenUnit, vocabulary: Vocabulary) -> Self {
        let tokens = Tokens::Unit(unit);
        Self { tokens, vocabulary }
    }

    /// By a tokeniser.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::vocabulary`].
    pub fn of_tokenizer(tokenizer: Arc<dyn Tokenizer>) -> Result<Self, DataError> {
        let vocabulary = tokenizer.vocabulary()?;
        let tokens = Tokens::Own(tokenizer);
        Ok(Self { tokens, vocabulary })
    }

    /// Names of all tokens.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The token that stands before a text: the end of a line. `None` where there is none.
    pub fn end_of_line(&self) -> Option<u32> {
        self.tokens.end_of_line(&self.vocabulary)
    }

    /// Tokens of a text.
    ///
    /// # Errors
    ///
    /// As [`TokenUnit::encode`] and [`Tokenizer::encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.tokens.encode(&self.vocabulary, text)
    }

    /// The text of tokens.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::decode`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        self.tokens.decode(&self.vocabulary, tokens)
    }
}
