use std::collections::BTreeMap;

use atbptt_models::{LanguageModel, LanguageModelConfig, LstmLayer, RecurrentModel, SequenceBatch};
use burn::tensor::Tensor;
use proptest::prelude::*;

use super::*;
use crate::data::PackedSource;
use crate::data::{Corpus, CorpusOptions, Split};
use crate::evaluate::evaluate;
use crate::source::SequenceSource;

/// Documents of these lengths, no token twice: document d has tokens 1 + 100 d, 2 + 100 d, ….
fn documents(lengths: &[usize]) -> Documents {
    let tokens = |(d, &length): (usize, &usize)| -> Vec<u32> {
        (0..length).map(|t| (1 + 100 * d + t) as u32).collect()
    };
    Documents::new(lengths.iter().enumerate().map(tokens))
}

fn numbers<const D: usize>(tensor: &Tensor<D, burn::tensor::Int>) -> Vec<i64> {
    tensor.clone().into_data().iter::<i64>().collect()
}

/// Which token is predicted from which, how often, in a pass by windows of `len`.
fn pairs(source: &PackedSource<Documents>, len: usize) -> BTreeMap<(i64, i64), usize> {
    let mut seen = BTreeMap::new();
    let mut start = 0;
    while start < source.common_steps() {
        let time = len.min(source.common_steps() - start);
        let window = source.window(start, time, &Device::default()).unwrap();
        let (inputs, targets) = (numbers(window.inputs()), numbers(window.targets()));
        let pairs: Vec<(i64, i64)> = inputs.into_iter().zip(targets).collect();
        let counts = |at: usize| window.present().is_none_or(|present| present[at]);
        let counted = (0..pairs.len()).filter(|&at| counts(at));
        let mut terms = 0;
        for at in counted {
            *seen.entry(pairs[at]).or_insert(0) += 1;
            terms += 1;
        }
        assert_eq!(window.count(), terms);
        start += time;
    }
    seen
}

/// [1 2 3] and [101 102] side by side, then [201] after the second one: with a start, every token once, and a reset where a
/// document begins.
#[test]
fn a_window_has_the_documents_tokens_their_resets_and_what_does_not_count() {
    let set = documents(&[3, 2, 1]).with_start(0);
    let source = PackedSource::new(set, 2).unwrap();
    let window = source.window(0, 3, &Device::default()).unwrap();
    assert_eq!(numbers(window.inputs()), [0, 1, 2, 0, 101, 0]);
    assert_eq!(numbers(window.targets()), [1, 2, 3, 101, 102, 201]);
    let reset = window.reset().unwrap().clone().into_data();
    let reset: Vec<bool> = reset.iter::<bool>().collect();
    assert_eq!(reset, [true, false, false, true, false, true]);
    assert!(window.present().is_none() && window.count() == 6);

    // Without a start, the first token of a document is no target, and a document of one token has no step.
    let source = PackedSource::new(documents(&[3, 2, 1]), 2).unwrap();
    let window = source.window(0, 2, &Device::default()).unwrap();
    assert_eq!(numbers(window.inputs())[..3], [1, 2, 101]);
    assert_eq!(numbers(window.targets())[..3], [2, 3, 102]);
    let there = [true, true, true, false];
    assert_eq!((window.present(), window.count()), (Some(&there[..]), 3));
    // Cut, the marks go along.
    assert!(window.slice(0..1).present().is_none());
    assert_eq!(window.slice(1..2).present(), Some(&[true, false][..]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prop_every_token_is_predicted_once_from_the_one_before_it_in_its_document(
        lengths in proptest::collection::vec(2usize..30, 3..12), batch in 1usize..4, len in 1usize..20, epoch in 1usize..4,
    ) {
        for start in [None, Some(0)] {
            let set = documents(&lengths);
            let set = match start {
                Some(token) => set.with_start(token),
                None => set,
            };
            let tokens = set.token_count();
            let source = PackedSource::new(set, batch).unwrap().with_shuffle(5).epoch(epoch);
            let seen = pairs(&source, len);
            let expected = match start {
                Some(_) => tokens,
                None => tokens - lengths.len(),
            };
            prop_assert_eq!(seen.len(), expected);
            for ((input, target), times) in seen {
                let first = target % 100 == 1;
                prop_assert_eq!(input, if first { 0 } else { target - 1 });
                prop_assert_eq!(times, 1);
            }
        }
    }
}

/// The loss of documents in parallel is the sum of their losses alone, and so is its gradient's: no document sees another.
#[test]
fn documents_side_by_side_have_the_loss_of_each_alone() {
    let device = Device::flex();
    device.seed(4);
    let config = LanguageModelConfig::new(40)
        .with_hidden(6)
        .with_dropout(0.0);
    let model: LanguageModel<LstmLayer> = config.init(&device).unwrap();
    let texts: Vec<Vec<u32>> = [9, 4, 7, 2, 5]
        .iter()
        .map(|&length| (0..length).map(|t| (t * t + length) % 40).collect())
        .collect();
    let loss = |texts: &[Vec<u32>], batch, chunk| {
        let source = PackedSource::new(Documents::new(texts).with_start(0), batch).unwrap();
        evaluate(&model, &source, chunk, &device).unwrap()
    };
    let alone: f64 = texts
        .iter()
        .map(|text| loss(std::slice::from_ref(text), 1, 50).sum)
        .sum();
    for batch in 1..4 {
        for chunk in [1, 3, 50] {
            let together = loss(&texts, batch, chunk);
            assert_eq!(together.count, 27);
            assert!(
                (together.sum - alone).abs() < 1e-4 * alone,
                "{} is not {alone}",
                together.sum
            );
        }
    }
}

/// A window in which nothing counts has a loss of zero, and a gradient of zero, also in half precision.
#[test]
fn tokens_that_do_not_count_have_no_loss_and_no_nan() {
    let device = Device::flex().autodiff();
    let config = LanguageModelConfig::new(9).with_hidden(4).with_dropout(0.0);
    let model: LanguageModel<LstmLayer> = config.init(&device).unwrap();
    let batch = TokenBatch::from_host(&[1, 2, 3, 4], &[2, 3, 4, 5], 2, 2, &device).unwrap();
    let loss = |present: Vec<bool>| {
        let batch = batch.clone().with_present(present).unwrap();
        let (features, _) = model.forward(&batch, None).unwrap();
        let loss = model.loss(features, &batch).unwrap();
        let grads = loss.sum.backward();
        let grad = model.softmax_bias.val().grad(&grads);
        let grad = grad.map(|grad| grad.abs().sum().into_scalar::<f64>());
        (loss.sum.into_scalar::<f64>(), loss.count, grad)
    };
    let (sum, count, grad) = loss(vec![false; 4]);
    assert_eq!((sum, count), (0.0, 0));
    assert!(grad.is_none_or(|grad| grad == 0.0));
    let each: Vec<f64> = (0..4)
        .map(|only| loss((0..4).map(|at| at == only).collect()).0)
        .collect();
    let (whole, count, _) = loss(vec![true; 4]);
    assert_eq!(count, 4);
    assert!((each.iter().sum::<f64>() - whole).abs() < 1e-5);
    assert!(batch.with_present(vec![true; 3]).is_err());
}

#[test]
fn the_lines_of_a_corpus_are_documents_of_which_every_token_counts() {
    let texts = ["a b c\n\nb a\n", "c\n", "a\nb\n"].map(str::as_bytes);
    let corpus = Corpus::from_readers(texts, &CorpusOptions::default()).unwrap();
    for (split, lines, tokens) in [
        (Split::Train, 3, 8),
        (Split::Valid, 1, 2),
        (Split::Test, 2, 4),
    ] {
        let documents = corpus.lines(split).unwrap();
        assert_eq!((documents.len(), documents.token_count()), (lines, tokens));
        let source = PackedSource::new(documents, 1).unwrap();
        assert_eq!(
            (source.steps_counted(), corpus.len(split)),
            (tokens, tokens)
        );
    }
}

#[test]
fn a_hash_tells_documents_apart_where_their_tokens_are_cut_otherwise() {
    let hash = |documents: Documents| documents.content_hash().unwrap();
    let hashes = [
        hash(documents(&[3, 2])),
        hash(Documents::new([vec![1, 2, 3, 101], vec![102]])),
        hash(documents(&[3, 2]).with_start(0)),
    ];
    assert_eq!(hashes[0], hash(documents(&[3, 2])));
    assert!(hashes[0] != hashes[1] && hashes[0] != hashes[2] && hashes[1] != hashes[2]);
    // The last document may lack its end.
    let store = Arc::new(vec![5, 0, 6, 7]);
    let two = Documents::ending_with(store, 0).unwrap();
    assert_eq!((two.len(), two.steps(0), two.steps(1)), (2, 1, 1));
}
