//! Text corpora: what was read can be written and read again, and streams count every token once.
//!
//! Bytes: options (the first: which splits add words, then unit and smallest count), then the three texts, separated by 0x1C
//! (file separator).

use std::collections::HashSet;
use std::sync::Arc;

use atbptt_train::data::{
    Corpus, CorpusOptions, Split, TokenStore, TokenStream, TokenUnit, Vocabulary,
};

use super::check_message;

pub fn corpus(data: &[u8]) {
    let [rule, limit, eval_limit, batch, window, text @ ..] = data else {
        return;
    };
    let options = CorpusOptions {
        max_tokens: (*limit < 200).then_some(usize::from(*limit)),
        max_eval_tokens: (*eval_limit < 200).then_some(usize::from(*eval_limit)),
        words_of_train_only: rule % 2 != 0,
        unit: match rule / 2 % 4 {
            1 => TokenUnit::Characters,
            2 => TokenUnit::Bytes,
            _ => TokenUnit::Words,
        },
        min_count: usize::from(rule / 8 % 4),
    };
    let mut texts = text.splitn(3, |byte| *byte == 0x1C);
    let texts = [(); 3].map(|()| texts.next().unwrap_or_default());
    let corpus = match Corpus::from_readers(texts, &options) {
        Ok(corpus) => corpus,
        Err(error) => {
            assert!(
                options.max_tokens == Some(0)
                    || options.max_eval_tokens == Some(0)
                    || texts.iter().any(|text| is_refused(text, options.unit)),
                "{error} for plain text"
            );
            return check_message(&error);
        }
    };
    check_vocabulary(corpus.vocabulary());
    let [train, valid, test] = Split::ALL.map(|split| {
        let tokens = read(&*corpus.tokens(split));
        let limit = match split {
            Split::Train => options.max_tokens,
            _ => options.max_eval_tokens,
        };
        assert!(!tokens.is_empty() && tokens.len() <= limit.unwrap_or(usize::MAX));
        let words = corpus.vocabulary().len();
        assert!(tokens.iter().all(|&id| (id as usize) < words));
        tokens
    });

    // Written as text and read again it is the same corpus, unless words were left out or characters are not to be told
    // apart.
    let again =
        [&train, &valid, &test].map(|tokens| corpus.decode(tokens).expect("tokens of the text"));
    let exact = match options.unit {
        TokenUnit::Words => options.min_count < 2,
        TokenUnit::Characters => {
            options.min_count < 2 && again.iter().all(|text| !text.contains('\u{fffd}'))
        }
        _ => again.iter().all(|text| !text.contains('\u{fffd}')),
    };
    if exact {
        let again = Corpus::from_readers(again.each_ref().map(String::as_bytes), &options)
            .expect("its own text");
        assert_eq!(again.fingerprint(), corpus.fingerprint());
        assert_eq!(again.vocabulary(), corpus.vocabulary());
    }
    for warning in corpus.warnings() {
        check_message(warning);
    }

    check_streams(&train, usize::from(*batch), usize::from(*window));
}

/// Not UTF-8, or without a token.
fn is_refused(text: &[u8], unit: TokenUnit) -> bool {
    let text = match (unit, std::str::from_utf8(text)) {
        (TokenUnit::Bytes, _) => return text.is_empty(),
        (_, Ok(text)) => text,
        (_, Err(_)) => return true,
    };
    match unit {
        TokenUnit::Characters => text.chars().all(|c| c == '\u{feff}'),
        _ => text.is_empty(),
    }
}

fn read(store: &dyn TokenStore) -> Vec<u32> {
    let mut tokens = vec![0; store.len()];
    store.read(0, &mut tokens).expect("all of a store");
    assert!(store.read(1, &mut tokens).is_err() || tokens.is_empty());
    tokens
}

pub fn check_vocabulary(vocabulary: &Vocabulary) {
    let words: HashSet<&String> = vocabulary.words().iter().collect();
    assert_eq!(words.len(), vocabulary.len(), "a word twice");
    for (id, word) in (0..).zip(vocabulary.words()) {
        assert_eq!(
            (vocabulary.id(word), vocabulary.word(id)),
            (Some(id), Some(word.as_str()))
        );
    }
    let json = serde_json::to_string(vocabulary).expect("words are text");
    let back: Vocabulary = serde_json::from_str(&json).expect("its own JSON");
    assert_eq!(
        (&back, back.content_hash()),
        (vocabulary, vocabulary.content_hash())
    );
}

/// Whatever batch and window: windows stay in the text, and an exact stream counts every token once.
fn check_streams(tokens: &[u32], batch: usize, window: usize) {
    let store: Arc<dyn TokenStore> = Arc::new(tokens.to_vec());
    match TokenStream::for_training(store.clone(), batch) {
        Ok(stream) => {
            assert!(batch * (stream.steps() + 1) <= tokens.len());
            assert!(stream.window(stream.steps(), window.max(1)).is_err());
            if let Ok(first) = stream.window(0, window) {
                assert!(first.valid.iter().all(|&valid| valid == window));
                for (b, row) in first.inputs.chunks(window).enumerate() {
                    let start = b * (stream.steps() + 1);
                    let expected = &tokens[start..start + window];
                    assert!(row.iter().zip(expected).all(|(a, b)| *a == i64::from(*b)));
                }
            }
        }
        Err(error) => {
            assert!(batch == 0 || tokens.len() / batch < 2);
            check_message(&error);
        }
    }
    let Ok(stream) = TokenStream::exact(store, batch) else {
        return assert!(batch == 0 || tokens.len() - 1 < batch);
    };
    assert_eq!(stream.targets(), tokens.len() - 1);
    if window == 0 {
        return assert!(stream.window(0, 0).is_err());
    }
    let mut counted = 0;
    for start in (0..stream.steps()).step_by(window) {
        let len = window.min(stream.steps() - start);
        let chunk = stream.window(start, len);
        counted += chunk.expect("a chunk of the stream").count();
    }
    assert_eq!(counted, stream.targets());
}
