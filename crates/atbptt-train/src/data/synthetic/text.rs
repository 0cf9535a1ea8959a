//! Drawing the lines of the built-in language.

use std::collections::VecDeque;

use atbptt_core::seed::{GAMMA, scramble};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

use super::SourceEntropy;
use super::grammar::{Grammar, LINE_ENDS_PER_THOUSAND};

/// The lines of one split, drawn as they are asked for.
///
/// Iterate through [`by_ref`](Iterator::by_ref) to keep it for [`into_entropy`](Self::into_entropy).
#[derive(Clone, Debug)]
pub(crate) struct SyntheticText {
    grammar: Grammar,
    random: Pcg64,
    /// Tokens that are still to come, the final `<eos>` included.
    left: usize,
    /// What is settled for this step (front) and the following ones.
    plan: VecDeque<Option<Planned>>,
    /// Category of the last filler word; a line starts as if after category 0.
    category: usize,
    entropy: SourceEntropy,
}

/// A step that an earlier opener has settled: `channel` is the index of the distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planned {
    Cue { channel: usize },
    Closer { channel: usize, class: usize },
}

impl SyntheticText {
    pub(super) fn new(grammar: Grammar, tokens: usize, seed: u64, split: u64) -> Self {
        let longest = grammar.distances.iter().copied().max().unwrap_or(0);
        let closers = grammar
            .distances
            .iter()
            .map(|&distance| (distance, 0))
            .collect();
        let entropy = SourceEntropy {
            nats: 0.0,
            tokens: 0,
            classes: grammar.classes,
            closers,
        };
        Self {
            random: generator(seed, split),
            left: tokens,
            plan: VecDeque::from(vec![None; longest + 1]),
            category: 0,
            entropy,
            grammar,
        }
    }

    /// Entropy of the source on the lines drawn so far.
    pub(crate) fn into_entropy(self) -> SourceEntropy {
        self.entropy
    }

    /// Uniform in `0..bound`, by the high half of a product (Lemire 2019); its bias, at most `bound / 2^64`, is ignored.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.random.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    fn pay(&mut self, probability: f64) {
        self.entropy.nats -= probability.ln();
    }

    /// Draws one token; `None` is `<eos>`. `line` is the number of words that the line has.
    fn step(&mut self, line: usize) -> Option<String> {
        self.left -= 1;
        self.entropy.tokens += 1;
        let planned = self.plan.pop_front().flatten();
        self.plan.push_back(None);
        match planned {
            Some(Planned::Cue { channel }) => Some(Grammar::cue(self.grammar.distances[channel])),
            Some(Planned::Closer { channel, class }) => {
                let (distance, count) = &mut self.entropy.closers[channel];
                *count += 1;
                Some(Grammar::closer(*distance, class))
            }
            // The text has a known length: its last line end is certain, and leaves no empty line before it.
            None if self.left == 0 => None,
            None => self.free_step(line > 0 && self.left > 1),
        }
    }

    /// A step that no opener has settled: a line end, an opener or a filler word.
    fn free_step(&mut self, may_end: bool) -> Option<String> {
        let channels = self.free_channels();
        let end = if may_end { LINE_ENDS_PER_THOUSAND } else { 0 };
        let open = if channels.is_empty() {
            0
        } else {
            self.grammar.openers_per_thousand
        };
        let point = self.below(1000) as u32;
        if point < end {
            self.pay(f64::from(end) / 1000.0);
            self.category = 0;
            return None;
        }
        if point < end + open {
            self.pay(f64::from(open) / 1000.0 / (channels.len() * self.grammar.classes) as f64);
            let channel = channels[self.below(channels.len() as u64) as usize];
            return Some(self.open(channel));
        }
        self.pay(f64::from(1000 - end - open) / 1000.0);
        Some(self.filler())
    }

    /// Distances whose cue and closer steps are free, inside the text, and not waiting for a closer.
    ///
    /// After a pop the front of the plan is the next step: index `distance − 1` is the closer's step.
    fn free_channels(&self) -> Vec<usize> {
        let free = |&channel: &usize| {
            let closer = self.grammar.distances[channel] - 1;
            // The step after the closer exists, be it the last <eos>.
            let inside = closer + 1 < self.left;
            // For a distance of 2 the cue is the next step, index 0; distances below 2 are refused.
            let settled = self.plan[closer].is_some() || self.plan[closer - 1].is_some();
            let waiting = self.plan.iter().flatten().any(
                |planned| matches!(planned, Planned::Closer { channel: c, .. } if *c == channel),
            );
            inside && !settled && !waiting
        };
        (0..self.grammar.distances.len()).filter(free).collect()
    }

    fn open(&mut self, channel: usize) -> String {
        let class = self.below(self.grammar.classes as u64) as usize;
        let distance = self.grammar.distances[channel];
        self.plan[distance - 2] = Some(Planned::Cue { channel });
        self.plan[distance - 1] = Some(Planned::Closer { channel, class });
        Grammar::opener(distance, class)
    }

    fn filler(&mut self) -> String {
        let point = self.below(self.grammar.successor.total());
        let (choice, probability) = self.grammar.successor.at(point);
        self.pay(probability);
        self.category = Grammar::successor_of(self.category, choice);
        let point = self.below(self.grammar.words[self.category].total());
        let (index, probability) = self.grammar.words[self.category].at(point);
        self.pay(probability);
        Grammar::filler(self.category, index)
    }
}

impl Iterator for SyntheticText {
    /// A line, without its end; the reader adds `<eos>`.
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.left == 0 {
            return None;
        }
        let mut line = String::new();
        let mut words = 0;
        while let Some(word) = self.step(words) {
            if words > 0 {
                line.push(' ');
            }
            line.push_str(&word);
            words += 1;
        }
        Some(line)
    }
}

/// PCG64 with its state spelt out by SplitMix64 (Steele et al. 2014), not by a seeding helper that may change.
fn generator(seed: u64, split: u64) -> Pcg64 {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(GAMMA);
        u128::from(scramble(state))
    };
    // One state per split, far apart on the generator's cycle.
    let mut states = (0..3).map(|_| (next() << 64) | next());
    let state = states.nth(split as usize).unwrap_or_default();
    Pcg64::new(state, 0x0a02_bdbf_7bb3_c0a7_ac28_fa16_a64a_bf96)
}
