//! From a text to a training source and to an exact evaluation source, the one way everywhere.
//!
//! Training drops the remainder of the text, so that all sequences have the same length. Evaluation drops nothing: every
//! token of a corpus' split counts once, the first one too, which follows an `<eos>`.

use std::sync::Arc;

use crate::TrainError;
use crate::data::{Corpus, DataError, Documents, Split, TokenStore, TokenStream};
use crate::source::TokenSource;

impl Corpus {
    /// The training split as `batch` parallel sequences of equal length.
    ///
    /// ```
    /// use atbptt_train::SequenceSource;
    /// use atbptt_train::data::{Corpus, Split, SyntheticConfig};
    ///
    /// let corpus = Corpus::synthetic(&SyntheticConfig::default().with_tokens(4_000, 500, 500))?;
    /// assert_eq!(corpus.training(8)?.common_steps(), 499);
    /// // Evaluation counts every token of the split.
    /// assert_eq!(corpus.evaluation(Split::Valid, 8)?.targets(), 500);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TrainError::Data`] unless every sequence gets two tokens.
    pub fn training(&self, batch: usize) -> Result<TokenSource, TrainError> {
        TokenSource::training(self.tokens(Split::Train), batch)
    }

    /// A split as `batch` parallel sequences that predict each of its tokens once, for validation and test. The state
    /// starts fresh at the `batch − 1` seams, so `batch = 1` is exact to the last digit, and a larger one faster.
    ///
    /// # Errors
    ///
    /// [`TrainError::Data`] when the split has fewer tokens than `batch`.
    pub fn evaluation(&self, split: Split, batch: usize) -> Result<TokenSource, TrainError> {
        TokenSource::evaluation(self.evaluation_tokens(split), batch)
    }

    /// The lines of a split, each a document of its own: the state is reset where one begins, and every token, the ends of lines
    /// too, is predicted once. For texts whose lines have nothing to do with each other.
    ///
    /// ```
    /// use atbptt_train::data::{Corpus, CorpusOptions, PackedSource, Split};
    ///
    /// let texts = ["a b a\nb\n", "b a\n", "a\n"].map(str::as_bytes);
    /// let corpus = Corpus::from_readers(texts, &CorpusOptions::default())?;
    /// let source = PackedSource::new(corpus.lines(Split::Train)?, 2)?;
    /// assert_eq!(source.steps_counted(), corpus.len(Split::Train));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`DataError::UnknownToken`] where the vocabulary has no token for the end of a line; [`DataError::Io`] from a store that
    /// cannot be read.
    pub fn lines(&self, split: Split) -> Result<Documents, DataError> {
        let end = self.end_of_line().ok_or_else(|| DataError::UnknownToken {
            token: "the end of a line".into(),
        })?;
        Ok(Documents::ending_with(self.tokens(split), end)?.with_start(end))
    }
}

impl TokenSource {
    /// Token ids, such as a `Vec<u32>` or a [`FileTokens`](crate::data::FileTokens), as `batch` parallel sequences of equal length,
    /// for training; the remainder at their end is dropped.
    ///
    /// # Errors
    ///
    /// [`TrainError::Data`] unless every sequence gets two tokens.
    pub fn training(tokens: impl TokenStore + 'static, batch: usize) -> Result<Self, TrainError> {
        Ok(Self::new(TokenStream::for_training(
            Arc::new(tokens),
            batch,
        )?))
    }

    /// Token ids as `batch` parallel sequences that predict each but the first once, for evaluation. Put the token that
    /// stands before the text, such as `<eos>`, in front of it to predict the first one too.
    ///
    /// # Errors
    ///
    /// [`TrainError::Data`] unless every sequence gets one token to predict.
    pub fn evaluation(tokens: impl TokenStore + 'static, batch: usize) -> Result<Self, TrainError> {
        Ok(Self::new(TokenStream::exact(Arc::new(tokens), batch)?))
    }

    /// Number of targets: the losses that a pass over the source counts.
    pub fn targets(&self) -> usize {
        self.stream().targets()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SyntheticConfig;
    use crate::source::SequenceSource;

    /// A source built from the split's own tokens skips the first one: nothing stands before it.
    #[test]
    fn an_evaluation_source_counts_every_token_of_its_split() {
        let language = SyntheticConfig::default().with_tokens(4_000, 503, 211);
        let corpus = Corpus::synthetic(&language).unwrap();
        for batch in [1, 7, 16] {
            for split in [Split::Valid, Split::Test] {
                let source = corpus.evaluation(split, batch).unwrap();
                assert_eq!(source.targets(), corpus.len(split));
            }
        }
        let training = corpus.training(16).unwrap();
        assert_eq!((training.sequences(), training.common_steps()), (16, 249));
    }

    #[test]
    fn a_vector_of_tokens_is_a_source_in_one_line() {
        let tokens: Vec<u32> = (0..21).collect();
        let training = TokenSource::training(tokens.clone(), 4).unwrap();
        assert_eq!((training.common_steps(), training.targets()), (4, 16));
        let evaluation = TokenSource::evaluation(tokens, 4).unwrap();
        assert_eq!(evaluation.targets(), 20);
        assert!(matches!(
            TokenSource::training(vec![1, 2, 3], 2),
            Err(TrainError::Data(_))
        ));
    }
}
