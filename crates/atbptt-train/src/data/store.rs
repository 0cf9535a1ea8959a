//! Where token ids lie.
//!
//! Sources read through [`TokenStore`], so that a split can lie in memory or, where it is large, in a file.

use std::fmt::Debug;
use std::sync::Arc;

use super::DataError;

/// A sequence of token ids that can be read by range: a `Vec<u32>`, or a [`FileTokens`](super::FileTokens).
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

/// Tokens held in memory.
impl TokenStore for Vec<u32> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn read(&self, start: usize, into: &mut [u32]) -> Result<(), DataError> {
        let count = into.len();
        let range = start
            .checked_add(count)
            .and_then(|end| self.get(start..end));
        let tokens = range.ok_or(DataError::OutOfRange {
            start,
            count,
            len: self.as_slice().len(),
        })?;
        into.copy_from_slice(tokens);
        Ok(())
    }
}

/// Shares a store, such as a split of a corpus.
impl<S: TokenStore + ?Sized> TokenStore for Arc<S> {
    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn read(&self, start: usize, into: &mut [u32]) -> Result<(), DataError> {
        self.as_ref().read(start, into)
    }
}

/// A store with one token before it.
///
/// Evaluation starts a split from `<eos>`: then its first word, too, follows something, and is predicted.
#[derive(Clone, Debug)]
pub(super) struct Preceded {
    first: u32,
    tokens: Arc<dyn TokenStore>,
}

impl Preceded {
    /// `tokens`, with `first` before them.
    pub(super) fn new(first: u32, tokens: Arc<dyn TokenStore>) -> Self {
        Self { first, tokens }
    }
}

impl TokenStore for Preceded {
    fn len(&self) -> usize {
        self.tokens.len().saturating_add(1)
    }

    fn read(&self, start: usize, into: &mut [u32]) -> Result<(), DataError> {
        let Some(inner) = start.checked_sub(1) else {
            let [first, rest @ ..] = into else {
                return Ok(());
            };
            self.tokens.read(0, rest)?;
            *first = self.first;
            return Ok(());
        };
        self.tokens.read(inner, into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preceded_store_reads_the_first_token_then_the_others() {
        let store = Preceded::new(9, Arc::new(vec![1, 2, 3]));
        assert_eq!(store.len(), 4);
        let mut all = [0; 4];
        store.read(0, &mut all).unwrap();
        assert_eq!(all, [9, 1, 2, 3]);
        let mut tail = [0; 2];
        store.read(2, &mut tail).unwrap();
        assert_eq!(tail, [2, 3]);
        store.read(4, &mut []).unwrap();
        assert!(store.read(3, &mut tail).is_err() && store.read(0, &mut [0; 5]).is_err());
    }

    #[test]
    fn a_vector_reads_ranges_up_to_the_end() {
        let store = vec![3, 1, 4, 1, 5];
        let mut out = [0; 2];
        store.read(3, &mut out).unwrap();
        assert_eq!(out, [1, 5]);
        store.read(5, &mut []).unwrap();
    }

    #[test]
    fn reading_past_the_end_is_an_error_even_at_the_largest_start() {
        let store = vec![3, 1, 4];
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
