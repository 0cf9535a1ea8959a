//! How a text becomes a corpus.

use super::TokenUnit;

/// How a folder is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CorpusOptions {
    /// Most tokens of the train split; `None` keeps all. Cut for quick trials.
    pub max_tokens: Option<usize>,
    /// Most tokens of valid and of test; `None` keeps all.
    pub max_eval_tokens: Option<usize>,
    /// Whether the train split alone adds words; other words of valid and test become `<unk>`. Choose it for text that was never
    /// preprocessed. By default train, valid and test add theirs, in this order (as far as the limits above keep them): published
    /// perplexities on PTB and WikiText-2 count this way.
    pub words_of_train_only: bool,
    /// How often a word must stand in these splits to be in the vocabulary; rarer ones become `<unk>`. 0 and 1 keep all.
    pub min_count: usize,
    /// What one token is.
    pub unit: TokenUnit,
}

impl CorpusOptions {
    /// Keeps at most `limit` tokens of the train split.
    pub fn with_max_tokens(mut self, limit: usize) -> Self {
        self.max_tokens = Some(limit);
        self
    }

    /// Keeps at most `limit` tokens of valid and of test.
    pub fn with_max_eval_tokens(mut self, limit: usize) -> Self {
        self.max_eval_tokens = Some(limit);
        self
    }

    /// Sets [`CorpusOptions::words_of_train_only`].
    pub fn with_words_of_train_only(mut self, words_of_train_only: bool) -> Self {
        self.words_of_train_only = words_of_train_only;
        self
    }

    /// Sets how often a word must stand in these splits; rarer ones become `<unk>`.
    pub fn with_min_count(mut self, count: usize) -> Self {
        self.min_count = count;
        self
    }

    /// Sets what one token is.
    pub fn with_unit(mut self, unit: TokenUnit) -> Self {
        self.unit = unit;
        self
    }
}
