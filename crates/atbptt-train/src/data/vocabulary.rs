//! Words and their ids.
//!
//! Ids count from 0 in order of first appearance: the train split first, then valid, then test, as in the code
//! released with Aicher et al. 2019 and in PyTorch's word language model.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::DataError;

/// The token that stands for the end of every line.
pub const END_OF_LINE: &str = "<eos>";
/// The token that stands for words outside the vocabulary.
pub const UNKNOWN: &str = "<unk>";

/// A two-way table of words and ids.
///
/// Serialized as the list of its words, in id order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Vocabulary {
    words: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// Id of `word`, added at the end when it is new.
    ///
    /// # Errors
    ///
    /// [`DataError::VocabularyFull`] when 32-bit ids run out.
    pub fn add(&mut self, word: &str) -> Result<u32, DataError> {
        if let Some(&id) = self.ids.get(word) {
            return Ok(id);
        }
        let id = u32::try_from(self.words.len()).map_err(|_| DataError::VocabularyFull {
            limit: u32::MAX as usize,
        })?;
        self.words.push(word.to_owned());
        self.ids.insert(word.to_owned(), id);
        Ok(id)
    }

    /// Id of `word`, if it is known.
    pub fn id(&self, word: &str) -> Option<u32> {
        self.ids.get(word).copied()
    }

    /// Word of `id`, if there is one.
    pub fn word(&self, id: u32) -> Option<&str> {
        self.words.get(id as usize).map(String::as_str)
    }

    /// Words in id order.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Number of words (types).
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Text of a token sequence, a line break after every `<eos>`; unknown ids show as `<?id>`.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut text = String::new();
        for &token in tokens {
            match self.word(token) {
                Some(END_OF_LINE) => text.push('\n'),
                Some(word) => {
                    if !(text.is_empty() || text.ends_with('\n')) {
                        text.push(' ');
                    }
                    text.push_str(word);
                }
                None => text.push_str(&format!(" <?{token}>")),
            }
        }
        text
    }

    /// SHA-256, in hexadecimal, of the words in id order.
    ///
    /// A checkpoint stores it: the same hash means the same id for every word.
    pub fn content_hash(&self) -> String {
        let mut hasher = Sha256::new();
        self.hash_into(&mut hasher);
        hex(&hasher.finalize())
    }

    /// Feeds the words, each preceded by its length, so that no two lists collide by concatenation.
    pub(super) fn hash_into(&self, hasher: &mut Sha256) {
        hasher.update((self.words.len() as u64).to_le_bytes());
        for word in &self.words {
            hasher.update((word.len() as u64).to_le_bytes());
            hasher.update(word.as_bytes());
        }
    }
}

impl TryFrom<Vec<String>> for Vocabulary {
    type Error = DataError;

    fn try_from(words: Vec<String>) -> Result<Self, DataError> {
        let mut ids = HashMap::with_capacity(words.len());
        for (position, word) in words.iter().enumerate() {
            let id = u32::try_from(position).map_err(|_| DataError::VocabularyFull {
                limit: u32::MAX as usize,
            })?;
            match ids.entry(word.clone()) {
                Entry::Vacant(free) => free.insert(id),
                Entry::Occupied(taken) => {
                    let first = *taken.get() as usize;
                    return Err(DataError::DuplicateWord {
                        word: word.clone(),
                        first,
                        second: position,
                    });
                }
            };
        }
        Ok(Self { words, ids })
    }
}

impl From<Vocabulary> for Vec<String> {
    fn from(vocabulary: Vocabulary) -> Self {
        vocabulary.words
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Vocabulary {
        let mut vocabulary = Vocabulary::default();
        for word in words {
            vocabulary.add(word).unwrap();
        }
        vocabulary
    }

    #[test]
    fn ids_follow_first_appearance() {
        let vocabulary = of(&["the", "cat", "the", END_OF_LINE]);
        assert_eq!(vocabulary.words(), ["the", "cat", END_OF_LINE]);
        assert_eq!(
            (vocabulary.id("cat"), vocabulary.id("dog")),
            (Some(1), None)
        );
        assert_eq!(
            (vocabulary.word(2), vocabulary.word(3)),
            (Some(END_OF_LINE), None)
        );
        assert_eq!(vocabulary.decode(&[0, 1, 2, 0]), "the cat\nthe");
    }

    #[test]
    fn json_keeps_ids_and_refuses_a_word_listed_twice() {
        let vocabulary = of(&["b", "a", "<eos>"]);
        let json = serde_json::to_string(&vocabulary).unwrap();
        assert_eq!(json, r#"["b","a","<eos>"]"#);
        assert_eq!(
            serde_json::from_str::<Vocabulary>(&json).unwrap(),
            vocabulary
        );
        let found = serde_json::from_str::<Vocabulary>(r#"["a","b","a"]"#)
            .unwrap_err()
            .to_string();
        assert!(found.contains(r#""a" stands at 0 and at 2"#), "{found}");
    }

    #[test]
    fn content_hash_sees_word_boundaries_and_order() {
        let hashes = [
            of(&["ab", "c"]),
            of(&["a", "bc"]),
            of(&["c", "ab"]),
            of(&["abc"]),
        ]
        .map(|v| v.content_hash());
        for (i, hash) in hashes.iter().enumerate() {
            assert_eq!(hash.len(), 64);
            assert!(!hashes[..i].contains(hash));
        }
        assert_eq!(of(&["ab", "c"]).content_hash(), hashes[0]);
    }
}
