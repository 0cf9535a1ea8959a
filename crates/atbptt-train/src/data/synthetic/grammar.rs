//! The fixed part of the built-in language: its words and their probabilities, as integer weights.

/// Categories of filler words.
pub(super) const CATEGORIES: usize = 16;

/// A weighted choice between 0, 1, 2, …: running sums of integer weights.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    sums: Vec<u64>,
}

impl Choice {
    fn new(weights: impl Iterator<Item = u64>) -> Self {
        let sums = weights.scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self {
            sums: sums.collect(),
        }
    }

    /// Sum of all weights.
    pub(super) fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(1)
    }

    /// The item at `point`, in `0..total()`, and its probability.
    pub(super) fn at(&self, point: u64) -> (usize, f64) {
        let item = self.sums.partition_point(|&sum| sum <= point);
        let before = item
            .checked_sub(1)
            .and_then(|i| self.sums.get(i))
            .copied()
            .unwrap_or(0);
        let upto = self.sums.get(item).copied().unwrap_or(before);
        (item, (upto - before) as f64 / self.total() as f64)
    }
}

/// Words and probabilities of the language.
#[derive(Clone, Debug)]
pub(super) struct Grammar {
    /// Filler words of a category; the weight of the word of rank r over all categories is 2^32 / (r + 3): a Zipf law.
    pub(super) words: Vec<Choice>,
    /// Which successor of a category: weights 8, 4, 2, 1, 1.
    pub(super) successor: Choice,
    pub(super) distances: Vec<usize>,
    pub(super) classes: usize,
    pub(super) openers_per_thousand: u32,
}

/// How often a free step ends the line, per thousand: lines have about 20 words.
pub(super) const LINE_ENDS_PER_THOUSAND: u32 = 50;

impl Grammar {
    pub(super) fn new(
        fillers: usize,
        distances: &[usize],
        classes: usize,
        openers_per_thousand: u32,
    ) -> Self {
        let weight = |rank: usize| (1_u64 << 32) / (rank as u64 + 3);
        let category = |first: usize| Choice::new((first..fillers).step_by(CATEGORIES).map(weight));
        Self {
            words: (0..CATEGORIES).map(category).collect(),
            successor: Choice::new([8, 4, 2, 1, 1].into_iter()),
            distances: distances.to_vec(),
            classes,
            openers_per_thousand,
        }
    }

    /// Category of the `choice`-th successor of `category`.
    ///
    /// For every choice a permutation of the categories (5 is odd), so in the long run all are equally frequent.
    pub(super) fn successor_of(category: usize, choice: usize) -> usize {
        (5 * category + 3 * choice + 1) % CATEGORIES
    }

    /// The `index`-th filler word of a category: syllables, the more frequent the shorter.
    pub(super) fn filler(category: usize, index: usize) -> String {
        const CONSONANTS: &[u8; 14] = b"bdfgklmnprstvz";
        const VOWELS: &[u8; 5] = b"aeiou";
        let mut rank = index * CATEGORIES + category;
        let mut word = String::new();
        loop {
            let syllable = rank % 70;
            word.push(char::from(CONSONANTS[syllable / 5]));
            word.push(char::from(VOWELS[syllable % 5]));
            // Bijective numeration: 70 words of one syllable, 4,900 of two, and so on, all different.
            match (rank / 70).checked_sub(1) {
                Some(rest) => rank = rest,
                None => return word,
            }
        }
    }

    pub(super) fn opener(distance: usize, class: usize) -> String {
        format!("({distance}.{class}")
    }

    pub(super) fn cue(distance: usize) -> String {
        format!("|{distance}")
    }

    pub(super) fn closer(distance: usize, class: usize) -> String {
        format!("{distance}.{class})")
    }
}
