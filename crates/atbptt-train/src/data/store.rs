//! Where token ids lie.
//!
//! Streams read through [`TokenStore`], so that a split can be a vector today and a memory-mapped file
//! tomorrow without a change to any caller.

use std::fmt::Debug;

use super::DataError;

/// A sequence of token ids that can be read by range.
///
/// Implementations are shared between the training and the probe stream, hence `Send + Sync`. Reads take
/// `&self` and must give the same tokens every time.
pub trait TokenStore: Debug + Send + Sync {
    /// Number of tokens.
    fn len(&self) -> usize;

    /// Copies the tokens `start..start + into.len()` into `into`.
    ///
    /// # Errors
    ///
    /// [`DataError::OutOfRange`] when the range leaves the store; file-backed stores may add [`DataError::Io`].
    fn read(&self, start: usize, into: &mut [u32]) -> Result<(), DataError>;

    /// Whether there is no token at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Tokens held in memory: 4 bytes each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTokens(Vec<u32>);

impl MemoryTokens {
    /// The tokens as a slice.
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }
}

impl From<Vec<u32>> for MemoryTokens {
    fn from(tokens: Vec<u32>) -> Self {
        Self(tokens)
    }
}

impl TokenStore for MemoryTokens {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read(&self, start: usize, into: &mut [u32]) -> Result<(), DataError> {
        let count = into.len();
        let range = start
            .checked_add(count)
            .and_then(|end| self.0.get(start..end));
        let tokens = range.ok_or(DataError::OutOfRange {
            start,
            count,
            len: self.0.len(),
        })?;
        into.copy_from_slice(tokens);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_tokens_read_ranges_up_to_the_end() {
        let store = MemoryTokens::from(vec![3, 1, 4, 1, 5]);
        let mut out = [0; 2];
        store.read(3, &mut out).unwrap();
        assert_eq!(out, [1, 5]);
        store.read(5, &mut []).unwrap();
    }

    #[test]
    fn reading_past_the_end_is_an_error_even_at_the_largest_start() {
        let store = MemoryTokens::from(vec![3, 1, 4]);
        for start in [2, 3, usize::MAX] {
            let found = store.read(start, &mut [0; 2]);
            assert!(
                matches!(
                    found,
                    Err(DataError::OutOfRange {
                        count: 2,
                        len: 3,
                        ..
                    })
                ),
                "{start}: {found:?}"
            );
        }
    }
}
