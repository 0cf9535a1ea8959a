//! How a text becomes a corpus.

use super::{TokenUnit, VocabularyRule};

/// How a folder is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CorpusOptions {
    /// Most tokens of the train split; `None` keeps all. Cut for quick trials.
    pub max_tokens: Option<usize>,
    /// Most tokens of valid and of test; `None` keeps all.
    pub max_eval_tokens: Option<usize>,
    /// Which splits may add words (those kept by the limits above).
    pub vocabulary: VocabularyRule,
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

    /// Sets which splits may add words.
    pub fn with_vocabulary(mut self, rule: VocabularyRule) -> Self {
        self.vocabulary = rule;
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
