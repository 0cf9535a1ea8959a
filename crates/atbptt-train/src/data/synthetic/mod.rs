//! The built-in language: text whose dependencies and perplexity floor are known.
//!
//! It needs no download, and it has something for adaptive truncation to find. A word like `(16.3` *opens* an
//! agreement; exactly 16 steps later the word `16.3)` *closes* it, announced one step ahead by the cue `|16`. The cue
//! tells when; which of the classes (the `3`) only a reader who remembers the opener can tell. Truncating
//! backpropagation to fewer than 16 steps therefore hides what makes closers of that distance predictable: learning
//! distance d needs `K >= d` steps.
//!
//! Between them stand filler words of 16 categories: a category depends on the one before (a bigram grammar), the word
//! within a category follows a Zipf law, and `<eos>` (the line end) is a step like any other. At most one agreement per
//! distance is open at a time.
//!
//! Draws are integer arithmetic on PCG64, so the same settings give the same text on every platform. Every word is
//! drawn with a known probability; their logarithms, summed, give the perplexity of a reader who knows the language perfectly
//! ([`Corpus::perplexity_floor`](super::Corpus::perplexity_floor)).
//!
//! ```
//! use atbptt_train::data::{Corpus, Split, SyntheticConfig};
//!
//! let corpus = Corpus::synthetic(&SyntheticConfig::default().with_seed(7).with_tokens(2_000, 500, 500))?;
//! let floor = corpus.perplexity_floor(Split::Train);
//! assert!(floor.is_some_and(|floor| floor > 20.0 && floor < 120.0));
//! # Ok::<(), atbptt_train::data::DataError>(())
//! ```

// Both index lists of their own, with numbers drawn below their lengths or checked by `fillers`.
#[allow(clippy::indexing_slicing)]
mod grammar;
#[allow(clippy::indexing_slicing)]
mod text;

use serde::{Deserialize, Serialize};

use self::grammar::{CATEGORIES, Grammar};
use self::text::SyntheticText;
use super::{DataError, Split};

/// Settings of the built-in language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyntheticConfig {
    /// Seed of the text (the language stays the same).
    pub seed: u64,
    /// Tokens of train, valid and test, `<eos>` included; at least 2 each.
    pub tokens: [usize; 3],
    /// Types of the language, `<eos>` included; at most 1,000,000. A short text may not use all of them.
    pub vocabulary: usize,
    /// Steps from an opener to its closer, each in 2..=4096 and different. The longest one is the `K` to find.
    pub distances: Vec<usize>,
    /// Classes of openers per distance, in 2..=1000: remembering one is worth `ln classes` nats.
    pub classes: usize,
    /// How often a free step opens an agreement, per thousand, in 1..=500.
    pub openers_per_thousand: u32,
}

impl Default for SyntheticConfig {
    /// 200,000 train tokens and 1,000 types: a small LSTM gets visibly better within two minutes on a CPU.
    ///
    /// The valid split's floor is perplexity 45.6. Burn's LSTM with 128 units, an embedding of 64 and Adam (step size
    /// 0.004, 20 sequences, plain chunks) came to 70.1 with windows of 40 steps (6 epochs, a minute on two cores), and
    /// with windows of 4 steps, which carry its state but no gradient over the longer distances, no lower than 77.4.
    fn default() -> Self {
        Self {
            seed: 1,
            tokens: [200_000, 20_000, 20_000],
            vocabulary: 1_000,
            distances: vec![4, 8, 16, 32],
            classes: 8,
            openers_per_thousand: 80,
        }
    }
}

impl SyntheticConfig {
    /// Sets the seed of the text.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the tokens of the three splits.
    pub fn with_tokens(mut self, train: usize, valid: usize, test: usize) -> Self {
        self.tokens = [train, valid, test];
        self
    }

    /// Sets the number of types.
    pub fn with_vocabulary(mut self, types: usize) -> Self {
        self.vocabulary = types;
        self
    }

    /// Sets the steps from openers to closers.
    pub fn with_distances(mut self, distances: impl Into<Vec<usize>>) -> Self {
        self.distances = distances.into();
        self
    }

    /// Sets the classes per distance.
    pub fn with_classes(mut self, classes: usize) -> Self {
        self.classes = classes;
        self
    }

    /// Sets how often a free step opens an agreement, per thousand.
    pub fn with_openers_per_thousand(mut self, rate: u32) -> Self {
        self.openers_per_thousand = rate;
        self
    }

    /// The lines of a split, one after the other.
    ///
    /// # Errors
    ///
    /// [`DataError::Synthetic`] when a setting is out of its range.
    pub(super) fn text(&self, split: Split) -> Result<SyntheticText, DataError> {
        let fillers = self.fillers()?;
        let index = split.index();
        let grammar = Grammar::new(
            fillers,
            &self.distances,
            self.classes,
            self.openers_per_thousand,
        );
        Ok(SyntheticText::new(
            grammar,
            *split.of(&self.tokens),
            self.seed,
            index as u64,
        ))
    }

    /// Checks every range and returns the number of filler words.
    fn fillers(&self) -> Result<usize, DataError> {
        let refuse = |rule, got: String, remedy| Err(DataError::Synthetic { rule, got, remedy });
        if let Some(few) = self.tokens.iter().find(|&&tokens| tokens < 2) {
            return refuse(
                "every split needs at least 2 tokens",
                few.to_string(),
                "ask for more tokens",
            );
        }
        if self.distances.is_empty()
            || !self
                .distances
                .iter()
                .all(|distance| (2..=4096).contains(distance))
        {
            let got = format!("{:?}", self.distances);
            return refuse(
                "distances lie in 2..=4096, at least one",
                got,
                "correct the list",
            );
        }
        let mut sorted = self.distances.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair.first() == pair.last()) {
            let got = format!("{:?}", self.distances);
            return refuse(
                "distances are all different",
                got,
                "list each distance once",
            );
        }
        if !(2..=1000).contains(&self.classes) {
            return refuse(
                "classes lie in 2..=1000",
                self.classes.to_string(),
                "choose a number in this range",
            );
        }
        if !(1..=500).contains(&self.openers_per_thousand) {
            let got = self.openers_per_thousand.to_string();
            return refuse(
                "openers per thousand lie in 1..=500",
                got,
                "choose a number in this range",
            );
        }
        let structure = 1 + self.distances.len() * (2 * self.classes + 1);
        match self.vocabulary.checked_sub(structure) {
            Some(fillers) if fillers >= CATEGORIES && self.vocabulary <= 1_000_000 => Ok(fillers),
            _ => refuse(
                "a vocabulary has room for <eos>, 2 * classes + 1 words per distance and 16 fillers, \
                 and at most 1,000,000 words",
                format!(
                    "{} ({structure} of them for <eos>, openers, closers and cues)",
                    self.vocabulary
                ),
                "change the vocabulary, or use fewer classes or distances",
            ),
        }
    }
}

/// The log-loss of a text for a reader who knows the language perfectly.
///
/// The floor is of this very text, not of texts of its length: exact bookkeeping, no sampling error to add.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SourceEntropy {
    /// Sum of −ln p over all tokens, in nats.
    nats: f64,
    /// Number of tokens.
    tokens: usize,
    /// Classes per distance.
    classes: usize,
    /// `(distance, number of closers)`, in the order of the settings.
    closers: Vec<(usize, usize)>,
}

impl SourceEntropy {
    /// Perplexity floor: `exp(nats / tokens)`. On average over texts no model is below it.
    pub(crate) fn perplexity(&self) -> f64 {
        self.per_token(self.nats)
    }

    /// Perplexity floor of a reader who sees only the `steps` words before the one to predict.
    ///
    /// A closer whose opener is out of sight costs `ln classes` more, since the class was drawn uniformly and nothing
    /// in between depends on it. Everything else such a reader may miss (which agreements are open) is not counted, so
    /// this is a lower bound; from the longest distance on it equals [`perplexity`](Self::perplexity).
    #[cfg(test)]
    fn perplexity_with_memory(&self, steps: usize) -> f64 {
        let unseen: usize = self
            .closers
            .iter()
            .filter(|(distance, _)| *distance > steps)
            .fold(0, |sum, (_, count)| sum.saturating_add(*count));
        self.per_token(self.nats + unseen as f64 * (self.classes.max(1) as f64).ln())
    }

    fn per_token(&self, nats: f64) -> f64 {
        if self.tokens == 0 {
            1.0
        } else {
            (nats / self.tokens as f64).exp()
        }
    }
}

#[cfg(test)]
mod tests;
