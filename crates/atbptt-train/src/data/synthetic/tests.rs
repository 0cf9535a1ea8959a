use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::data::Corpus;

/// Words of a split with `<eos>` after every line.
fn words(config: &SyntheticConfig, split: Split) -> Vec<String> {
    let lines = config.text(split).unwrap();
    lines
        .flat_map(|line| {
            line.split(' ')
                .map(str::to_owned)
                .chain(["<eos>".to_owned()])
                .collect::<Vec<_>>()
        })
        .collect()
}

/// `(16.3` as (16, "16.3)").
fn opened(word: &str) -> Option<(usize, String)> {
    let (distance, class) = word.strip_prefix('(')?.split_once('.')?;
    Some((distance.parse().unwrap(), format!("{distance}.{class})")))
}

fn check_agreement(config: &SyntheticConfig, split: Split) -> usize {
    let text = words(config, split);
    let mut answered = 0;
    for (step, word) in text.iter().enumerate() {
        if let Some((distance, closer)) = opened(word) {
            assert!(config.distances.contains(&distance));
            assert_eq!(text[step + distance], closer, "opener at step {step}");
            assert_eq!(
                text[step + distance - 1],
                format!("|{distance}"),
                "opener at step {step}"
            );
            answered += 1;
        }
    }
    assert_eq!(
        text.iter().filter(|word| word.ends_with(')')).count(),
        answered,
        "closers without an opener"
    );
    answered
}

#[test]
fn every_opener_is_closed_exactly_its_distance_later() {
    let config = SyntheticConfig::default();
    let answered = check_agreement(&config, Split::Train);
    let mut text = config.text(Split::Train).unwrap();
    text.by_ref().for_each(drop);
    let entropy = text.into_entropy();
    assert_eq!(
        entropy
            .closers
            .iter()
            .map(|(_, count)| count)
            .sum::<usize>(),
        answered
    );
    // Every distance is there often enough to be learnt.
    assert!(
        entropy.closers.iter().all(|&(_, count)| count > 1_000),
        "{:?}",
        entropy.closers
    );
}

/// Changes only when the language or the generator changes, and then on purpose: results on it no longer compare.
#[test]
fn the_default_text_is_pinned() {
    let corpus = Corpus::synthetic(&SyntheticConfig::default()).unwrap();
    assert_eq!(
        corpus.fingerprint(),
        "1fec1fad929778340f51b51f3db822beebe42d2b6f168dfb05753ebbc86c021d"
    );
    assert_eq!(corpus.vocabulary().len(), 1_000);
    assert_eq!(
        Split::ALL.map(|split| corpus.tokens(split).len()),
        [200_000, 20_000, 20_000]
    );
}

#[test]
fn seeds_and_splits_give_different_texts_of_the_same_language() {
    let config = SyntheticConfig::default().with_tokens(500, 500, 500);
    let [train, valid, test] = Split::ALL.map(|split| words(&config, split));
    assert_eq!(train, words(&config, Split::Train));
    let other = words(&config.clone().with_seed(2), Split::Train);
    assert!(train != valid && valid != test && train != test && train != other);
}

/// A reader who counts word frequencies of the train split does far worse than the floor, and the floor
/// rises as memory is taken away: by ln 8 per closer out of sight.
#[test]
fn the_floor_lies_below_the_unigram_model_and_falls_with_memory() {
    let config = SyntheticConfig::default();
    let corpus = Corpus::synthetic(&config).unwrap();
    let entropy = corpus.source_entropy(Split::Train).unwrap();
    let text = words(&config, Split::Train);
    let mut counts = HashMap::new();
    text.iter()
        .for_each(|word| *counts.entry(word).or_insert(0_usize) += 1);
    let total = text.len() as f64;
    let unigram = counts
        .values()
        .map(|&n| -(n as f64 / total) * (n as f64 / total).ln())
        .sum::<f64>()
        .exp();
    let floor = entropy.perplexity();
    eprintln!(
        "floor {floor:.2}, unigram {unigram:.2}, by memory {:?}",
        [0, 4, 8, 16, 32].map(|k| entropy.perplexity_with_memory(k))
    );
    assert!(
        floor > 20.0 && floor * 3.0 < unigram,
        "floor {floor}, unigram {unigram}"
    );
    assert_eq!(entropy.perplexity_with_memory(32), floor);
    let closers: usize = entropy.closers.iter().map(|(_, count)| count).sum();
    let blind = floor * (closers as f64 * 8_f64.ln() / total).exp();
    assert!((entropy.perplexity_with_memory(3) / blind - 1.0).abs() < 1e-12);
    for (less, more) in [(3, 4), (4, 8), (8, 16), (16, 32)] {
        assert!(entropy.perplexity_with_memory(less) > entropy.perplexity_with_memory(more));
    }
    assert_eq!(
        entropy.perplexity_with_memory(4),
        entropy.perplexity_with_memory(7)
    );
}

/// One class pair and one distance of 2: the bookkeeping against a hand count.
///
/// `<eos>` and 2·2 + 1 structure words leave 16 of 22 types: one filler per category, which costs only its category.
#[test]
fn the_first_word_costs_what_its_probability_says() {
    let config = SyntheticConfig::default()
        .with_tokens(2, 2, 2)
        .with_vocabulary(22)
        .with_distances([2])
        .with_classes(2)
        .with_openers_per_thousand(500);
    // 2 tokens: a filler (no opener fits, no line end may come first), then the certain <eos>.
    let mut text = config.text(Split::Train).unwrap();
    let line = text.next().unwrap();
    assert_eq!(text.next(), None);
    // Successors of category 0 are 1, 4, 7, 10, 13 with probability 1/2, 1/4, 1/8, 1/16, 1/16.
    let probabilities = HashMap::from([
        ("be", 0.5),
        ("bu", 0.25),
        ("di", 0.125),
        ("fa", 0.0625),
        ("fo", 0.0625),
    ]);
    let expected: f64 = -f64::ln(probabilities[line.as_str()]);
    assert!(
        (text.into_entropy().nats - expected).abs() < 1e-12,
        "{line}"
    );
}

#[test]
fn settings_out_of_range_are_refused_with_the_rule() {
    let config = SyntheticConfig::default;
    let rows = [
        (config().with_tokens(1, 100, 100), "at least 2 tokens"),
        (config().with_distances([]), "distances lie in"),
        (config().with_distances([4, 1]), "distances lie in"),
        (config().with_distances([4097]), "distances lie in"),
        (config().with_distances([4, 8, 4]), "all different"),
        (config().with_classes(1), "classes lie in"),
        (config().with_classes(usize::MAX), "classes lie in"),
        (
            config().with_openers_per_thousand(0),
            "openers per thousand",
        ),
        (
            config().with_openers_per_thousand(501),
            "openers per thousand",
        ),
        // 1 + 4 (2·8 + 1) = 69 structure words and 16 fillers: 85 is the smallest vocabulary.
        (config().with_vocabulary(84), "has room for"),
        (config().with_vocabulary(1_000_001), "has room for"),
    ];
    for (config, rule) in rows {
        let found = config.text(Split::Train).unwrap_err().to_string();
        assert!(found.contains(rule), "{found}");
    }
    assert!(config().with_vocabulary(85).text(Split::Train).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn prop_lengths_are_exact_and_agreement_holds_for_all_settings(
        seed: u64,
        tokens in 2_usize..2_000,
        distances in prop::collection::btree_set(2_usize..60, 1..5),
        classes in 2_usize..5,
        rate in 1_u32..=500,
    ) {
        let config = SyntheticConfig::default()
            .with_seed(seed)
            .with_tokens(tokens, tokens, tokens)
            .with_distances(distances.into_iter().collect::<Vec<_>>())
            .with_classes(classes)
            .with_openers_per_thousand(rate);
        check_agreement(&config, Split::Valid);
        let text = words(&config, Split::Valid);
        prop_assert_eq!(text.len(), tokens);
        prop_assert!(text.iter().all(|word| !word.is_empty()));
        let mut lines = config.text(Split::Valid).unwrap();
        lines.by_ref().for_each(drop);
        let entropy = lines.into_entropy();
        prop_assert_eq!(entropy.tokens, tokens);
        prop_assert!(entropy.nats.is_finite() && entropy.nats >= 0.0);
    }
}
