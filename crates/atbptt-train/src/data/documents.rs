//! Texts of unequal length, each a sequence of its own: [`Documents`].

use std::ops::Range;
use std::sync::Arc;

use atbptt_models::TokenBatch;
use burn::tensor::Device;
use sha2::{Digest, Sha256};

use super::packed::SequenceSet;
use super::vocabulary::hex;
use super::window_layout::WindowLayout;
use super::{DataError, TokenStore};
use crate::TrainError;

/// Texts that have nothing to do with each other: articles, messages, sentences, molecules. In a [`PackedSource`](super::PackedSource) the state is
/// reset where one begins, so that no document is read in the light of another, and every token is predicted once.
///
/// A document of n tokens has n − 1 steps, for nothing stands before its first token; with a
/// [start](Self::with_start) it has n.
///
/// ```
/// use atbptt_train::SequenceSource;
/// use atbptt_train::data::{Documents, PackedSource};
///
/// let documents = Documents::new([vec![5, 6, 7], vec![8], vec![9, 5]]).with_start(0);
/// assert_eq!(documents.token_count(), 6);
/// let source = PackedSource::new(documents, 2)?.with_shuffle(1);
/// assert_eq!((source.common_steps(), source.steps_counted()), (3, 6));
/// # Ok::<(), atbptt_train::data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Documents {
    store: Arc<dyn TokenStore>,
    /// Tokens of every document.
    ranges: Vec<Range<usize>>,
    /// What stands before every document.
    start: Option<u32>,
}

impl Documents {
    /// Documents of token ids.
    pub fn new(documents: impl IntoIterator<Item = impl AsRef<[u32]>>) -> Self {
        let (mut tokens, mut ranges) = (Vec::new(), Vec::new());
        for document in documents {
            let from = tokens.len();
            tokens.extend_from_slice(document.as_ref());
            ranges.push(from..tokens.len());
        }
        Self {
            store: Arc::new(tokens),
            ranges,
            start: None,
        }
    }

    /// The documents of a text: each ends with a token `end`, the last one with the text.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] from a store that cannot be read.
    pub fn ending_with(store: Arc<dyn TokenStore>, end: u32) -> Result<Self, DataError> {
        const AT_ONCE: usize = 1 << 16;
        let mut ranges = Vec::new();
        let (mut from, mut read) = (0, 0);
        let mut part = vec![0; AT_ONCE];
        while read < store.len() {
            part.truncate(store.len() - read);
            store.read(read, &mut part)?;
            for (at, _) in part.iter().enumerate().filter(|(_, token)| **token == end) {
                ranges.push(from..read + at + 1);
                from = read + at + 1;
            }
            read += part.len();
        }
        if from < store.len() {
            ranges.push(from..store.len());
        }
        Ok(Self {
            store,
            ranges,
            start: None,
        })
    }

    /// Every document begins after this token, such as `<eos>`, so that its first token is predicted too.
    pub fn with_start(mut self, token: u32) -> Self {
        self.start = Some(token);
        self
    }

    /// Number of tokens of all documents.
    pub fn token_count(&self) -> usize {
        self.ranges.iter().map(Range::len).sum()
    }

    /// SHA-256, in hexadecimal, of all documents: a run goes on with the data it began with.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`] from a store that cannot be read.
    pub fn content_hash(&self) -> Result<String, DataError> {
        let mut hasher = Sha256::new();
        hasher.update(u64::from(self.start.unwrap_or(u32::MAX)).to_le_bytes());
        let mut tokens = Vec::new();
        for range in &self.ranges {
            tokens.resize(range.len(), 0);
            self.store.read(range.start, &mut tokens)?;
            hasher.update((tokens.len() as u64).to_le_bytes());
            tokens
                .iter()
                .for_each(|token| hasher.update(token.to_le_bytes()));
        }
        Ok(hex(&hasher.finalize()))
    }

    /// Appends to `ids` the tokens that stand at steps `steps` of a document, and the one after them: as many inputs, each
    /// followed by its target.
    fn read(
        &self,
        document: usize,
        steps: Range<usize>,
        ids: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        let from = self.ranges.get(document).map_or(0, |range| range.start);
        ids.clear();
        ids.resize(steps.len() + 1, 0);
        let Some(start) = self.start else {
            return self.store.read(from + steps.start, ids);
        };
        let Some(before) = steps.start.checked_sub(1) else {
            let [first, rest @ ..] = ids.as_mut_slice() else {
                return Ok(());
            };
            *first = start;
            return self.store.read(from, rest);
        };
        self.store.read(from + before, ids)
    }
}

impl SequenceSet for Documents {
    type Batch = TokenBatch;

    fn len(&self) -> usize {
        self.ranges.len()
    }

    fn steps(&self, document: usize) -> usize {
        let tokens = self.ranges.get(document).map_or(0, Range::len);
        match self.start {
            Some(_) => tokens,
            None => tokens.saturating_sub(1),
        }
    }

    fn batch(&self, window: &WindowLayout, device: &Device) -> Result<TokenBatch, TrainError> {
        let (inputs, targets) = self.ids(window)?;
        Ok(window.token_batch(&inputs, &targets, device)?)
    }

    fn fingerprint(&self, window: &WindowLayout) -> Option<String> {
        let (inputs, targets) = self.ids(window).ok()?;
        let mut hasher = Sha256::new();
        window
            .begins()
            .iter()
            .for_each(|begins| hasher.update([u8::from(*begins)]));
        for id in inputs.iter().chain(&targets) {
            hasher.update(id.to_le_bytes());
        }
        Some(hex(&hasher.finalize()))
    }
}

impl Documents {
    /// Inputs and targets of a window, row-major `[batch, time]`.
    fn ids(&self, window: &WindowLayout) -> Result<(Vec<i64>, Vec<i64>), DataError> {
        let places = window.batch() * window.time();
        let (mut inputs, mut targets) = (Vec::with_capacity(places), Vec::with_capacity(places));
        let mut ids = Vec::new();
        for (row, end) in window.rows.iter().zip(1..) {
            for (document, steps) in &row.segments {
                self.read(*document, steps.clone(), &mut ids)?;
                let before = ids.iter().take(steps.len());
                inputs.extend(before.map(|&id| i64::from(id)));
                targets.extend(ids.iter().skip(1).map(|&id| i64::from(id)));
            }
            // What stands there does not count; every vocabulary has an id 0.
            inputs.resize(end * window.time(), 0);
            targets.resize(end * window.time(), 0);
        }
        Ok((inputs, targets))
    }
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
