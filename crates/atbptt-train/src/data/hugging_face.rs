//! Tokenisers of Hugging Face, from a `tokenizer.json`: [`HuggingFaceTokenizer`].

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::text::io_error;
use super::vocabulary::hex;
use super::{DataError, Tokenizer, Vocabulary};

/// Any tokeniser that a `tokenizer.json` describes: BPE, WordPiece, Unigram, word level.
///
/// No special tokens are added, and padding and truncation that the file asks for are left out: a corpus is one long text.
///
/// ```no_run
/// use std::sync::Arc;
/// use atbptt_train::data::{Corpus, CorpusOptions, HuggingFaceTokenizer};
///
/// let tokenizer = Arc::new(HuggingFaceTokenizer::from_file("tokenizer.json")?);
/// let corpus = Corpus::from_folder_with("texts", tokenizer, &CorpusOptions::default(), None)?;
/// # Ok::<(), atbptt_train::data::DataError>(())
/// ```
pub struct HuggingFaceTokenizer {
    inner: tokenizers::Tokenizer,
    file: String,
    hash: String,
}

impl fmt::Debug for HuggingFaceTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HuggingFaceTokenizer")
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// Largest id that is believed: no vocabulary has as many tokens, and the names of all are held.
const MAX_ID: u32 = 1 << 24;

impl HuggingFaceTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] when it cannot be read, [`DataError::Tokenizer`] when it describes none.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|cause| io_error("read", path, cause))?;
        Self::from_bytes(&bytes)
    }

    /// Reads the contents of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`DataError::Tokenizer`] when they describe none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DataError> {
        let inner = guarded(|| {
            let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            inner.with_padding(None);
            inner.with_truncation(None)?;
            Ok(inner)
        })?;
        Ok(Self {
            inner,
            // What was read is JSON, and JSON is UTF-8.
            file: String::from_utf8_lossy(bytes).into_owned(),
            hash: hex(&Sha256::digest(bytes)),
        })
    }
}

/// Runs code of the tokeniser's, which panics on some files that it reads without complaint.
fn guarded<T>(act: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, DataError> {
    let reason = match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(cause) => match cause.downcast_ref::<String>() {
            Some(reason) => reason.clone(),
            None => cause
                .downcast_ref::<&str>()
                .map_or_else(|| "it panicked".to_owned(), ToString::to_string),
        },
    };
    Err(DataError::Tokenizer {
        reason: reason.replace('\n', " "),
    })
}

impl Tokenizer for HuggingFaceTokenizer {
    fn vocabulary(&self) -> Result<Vocabulary, DataError> {
        let named = guarded(|| Ok(self.inner.get_vocab(true)))?;
        let Some(&last) = named.values().max() else {
            return Err(DataError::Tokenizer {
                reason: "it has no token".into(),
            });
        };
        if last > MAX_ID {
            return Err(DataError::Tokenizer {
                reason: format!(
                    "its largest id is {last}, and {MAX_ID} is the largest that is believed"
                ),
            });
        }
        let mut words: Vec<Option<String>> = vec![None; last as usize + 1];
        for (word, id) in named {
            if let Some(place) = words.get_mut(id as usize) {
                *place = Some(word);
            }
        }
        // Some files leave ids out.
        let name =
            |(id, word): (usize, Option<String>)| word.unwrap_or(format!("<unused id {id}>"));
        let words: Vec<String> = words.into_iter().enumerate().map(name).collect();
        words.try_into()
    }

    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), DataError> {
        let encoded = guarded(|| self.inner.encode_fast(text, false))?;
        ids.extend_from_slice(encoded.get_ids());
        Ok(())
    }

    fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        guarded(|| self.inner.decode(ids, false))
    }

    fn fingerprint(&self) -> String {
        self.hash.clone()
    }

    fn file(&self) -> Option<&str> {
        Some(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::{Corpus, CorpusOptions, Split};

    /// Words of a vocabulary with a gap at id 3, split at blanks.
    const WORDS: &str = r#"{
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "the": 1, "cat": 2, "dog": 4}, "unk_token": "[UNK]"}
    }"#;

    #[test]
    fn any_tokenizer_json_makes_a_corpus() {
        let tokenizer = Arc::new(HuggingFaceTokenizer::from_bytes(WORDS.as_bytes()).unwrap());
        let texts = ["the cat the dog\nthe cow", "a cat", "dog"].map(str::as_bytes);
        let corpus =
            Corpus::from_readers_with(texts, tokenizer.clone(), &CorpusOptions::default()).unwrap();
        let mut ids = vec![0; corpus.len(Split::Train)];
        corpus.tokens(Split::Train).read(0, &mut ids).unwrap();
        // Not cut off after two, as the file asks for.
        assert_eq!(ids, [1, 2, 1, 4, 1, 0]);
        assert_eq!(
            corpus.vocabulary().words(),
            ["[UNK]", "the", "cat", "<unused id 3>", "dog"]
        );
        assert_eq!(corpus.decode(&[1, 2]).unwrap(), "the cat");
        assert_eq!(tokenizer.fingerprint().len(), 64);
    }

    /// The kinds of models that files have, each cutting one word into pieces of its own.
    #[test]
    fn pieces_of_words_are_those_of_each_kind_of_model() {
        let bpe = r#"{"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"<unk>": 0, "l": 1, "o": 2, "w": 3, "lo": 4, "low": 5}, "merges": ["l o", "lo w"]}"#;
        let word_piece = r###"{"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"<unk>": 0, "low": 1, "##low": 2}}"###;
        let unigram = r#"{"type": "Unigram", "unk_id": 0,
            "vocab": [["<unk>", 0.0], ["l", -9.0], ["o", -9.0], ["w", -9.0], ["low", -1.0], ["lowl", -0.1], ["ow", -0.2]]}"#;
        for (model, words, text, expected) in [
            (bpe, 6, "lowlo low", &[5, 4, 5][..]),
            (word_piece, 3, "lowlow wow", &[1, 2, 0]),
            (unigram, 7, "lowlow low", &[5, 6, 4]),
        ] {
            let (head, _) = WORDS.split_once("\"model\"").unwrap();
            let file = format!("{head}\"model\": {model}}}");
            let tokenizer = HuggingFaceTokenizer::from_bytes(file.as_bytes()).unwrap();
            let mut ids = Vec::new();
            tokenizer.encode(text, &mut ids).unwrap();
            assert_eq!(ids, expected, "{model}");
            assert_eq!(tokenizer.vocabulary().unwrap().len(), words);
        }
    }

    #[test]
    fn files_that_describe_no_tokeniser_are_refused() {
        let huge = WORDS.replace("\"dog\": 4", "\"dog\": 4294967295");
        let words = HuggingFaceTokenizer::from_bytes(huge.as_bytes())
            .unwrap()
            .vocabulary();
        assert!(matches!(words, Err(DataError::Tokenizer { .. })));
        for bytes in ["", "{}", "[1]", &WORDS.replace("WordLevel", "Wizard")] {
            let found = HuggingFaceTokenizer::from_bytes(bytes.as_bytes());
            assert!(matches!(found, Err(DataError::Tokenizer { .. })));
        }
        assert!(matches!(
            HuggingFaceTokenizer::from_file("no/such.json"),
            Err(DataError::Io { .. })
        ));
    }
}
