//! What one token of a text is: [`TokenUnit`].

use serde::{Deserialize, Serialize};

use super::text::without_marks;
use super::vocabulary::{END_OF_LINE, UNKNOWN};
use super::{DataError, Vocabulary};

/// What one token of a text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TokenUnit {
    /// What white space separates, and `<eos>` for the end of every line.
    #[default]
    Words,
    /// Unicode characters, blanks and line breaks too: for texts without blanks, such as Chinese, and for models that
    /// spell.
    Characters,
    /// Bytes: 256 tokens whatever the text, which need not be UTF-8.
    Bytes,
}

/// The token at the end of a line of characters.
const LINE_BREAK: &str = "\n";

impl TokenUnit {
    /// The token that stands before a text when its first token is to be predicted: the end of a line.
    pub fn end_of_line(self, vocabulary: &Vocabulary) -> Option<u32> {
        match self {
            Self::Words => vocabulary.id(END_OF_LINE),
            Self::Characters => vocabulary.id(LINE_BREAK),
            Self::Bytes => Some(u32::from(b'\n')),
        }
    }

    /// Tokens of a text by the vocabulary of another one: words and characters that it does not know become its `<unk>`. Byte order
    /// marks are no part of either.
    ///
    /// ```
    /// use atbptt_train::data::{TokenUnit, Vocabulary};
    ///
    /// let vocabulary = Vocabulary::try_from(["the", "cat", "<eos>", "<unk>"].map(String::from).to_vec())?;
    /// let tokens = TokenUnit::Words.encode(&vocabulary, "the cat\nthe dog")?;
    /// assert_eq!(tokens, [0, 1, 2, 0, 3]);
    /// # Ok::<(), atbptt_train::data::DataError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`DataError::UnknownToken`] for the first that the vocabulary does not know, where it has no `<unk>`.
    pub fn encode(self, vocabulary: &Vocabulary, text: &str) -> Result<Vec<u32>, DataError> {
        let unknown = vocabulary.id(UNKNOWN);
        let id = |token: &str| {
            let id = vocabulary.id(token).or(unknown);
            id.ok_or_else(|| DataError::UnknownToken {
                token: token.to_owned(),
            })
        };
        match self {
            Self::Words => {
                let text = without_marks(text);
                let lines = text.split_inclusive('\n');
                let tokens = lines.flat_map(|line| {
                    let end = line.ends_with('\n').then_some(END_OF_LINE);
                    line.split_whitespace().chain(end)
                });
                tokens.map(id).collect()
            }
            Self::Characters => {
                let mut buffer = [0; 4];
                without_marks(text)
                    .chars()
                    .map(|character| id(character.encode_utf8(&mut buffer)))
                    .collect()
            }
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
        }
    }

    /// Text of a token sequence. Unknown words show as `<unk>`, unknown characters and broken bytes as U+FFFD.
    pub fn decode(self, vocabulary: &Vocabulary, tokens: &[u32]) -> String {
        match self {
            Self::Words => vocabulary.decode(tokens),
            Self::Characters => tokens
                .iter()
                .map(|&token| match vocabulary.word(token) {
                    Some(UNKNOWN) | None => "\u{fffd}",
                    Some(character) => character,
                })
                .collect(),
            Self::Bytes => {
                let bytes: Vec<u8> = tokens
                    .iter()
                    .map(|&token| u8::try_from(token).unwrap_or(b'?'))
                    .collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    /// The words that a vocabulary of this unit has before any text is read.
    pub(super) fn beginning(self) -> Result<Vocabulary, DataError> {
        let bytes = 0..match self {
            Self::Bytes => 256,
            Self::Words | Self::Characters => 0,
        };
        bytes
            .map(|byte| format!("<0x{byte:02X}>"))
            .collect::<Vec<_>>()
            .try_into()
    }

    /// The token that every text of this unit may need, whatever its vocabulary was made from.
    pub(super) fn always(self) -> &'static str {
        match self {
            Self::Words => END_OF_LINE,
            Self::Characters | Self::Bytes => LINE_BREAK,
        }
    }
}
