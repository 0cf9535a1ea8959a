//! Files of Hugging Face's tokenisers: whatever they say, a corpus has the ids of its vocabulary, or there is an error.
//!
//! Bytes: the file, then a text, separated by 0x1C (file separator).

use std::sync::Arc;

use atbptt_train::data::{Corpus, CorpusOptions, HuggingFaceTokenizer, Split, Tokenizer};

use super::{check_message, corpus};

pub fn tokenizer(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0x1C);
    let file = parts.next().unwrap_or_default();
    let text = parts.next().unwrap_or(b"a text\nof two lines");
    let tokenizer = match HuggingFaceTokenizer::from_bytes(file) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return check_message(&error),
    };
    match tokenizer.vocabulary() {
        Ok(vocabulary) => corpus::check_vocabulary(&vocabulary),
        Err(error) => return check_message(&error),
    }
    let options = CorpusOptions::default();
    let corpus = match Corpus::from_readers_with([text; 3], Arc::new(tokenizer), &options) {
        Ok(corpus) => corpus,
        Err(error) => return check_message(&error),
    };
    let mut ids = vec![0; corpus.len(Split::Train)];
    let tokens = corpus.tokens(Split::Train);
    tokens.read(0, &mut ids).expect("all of a store");
    let words = corpus.vocabulary().len();
    assert!(!ids.is_empty() && ids.iter().all(|&id| (id as usize) < words));
    assert_eq!(corpus.len(Split::Train), corpus.len(Split::Test));
    if let Err(error) = corpus.decode(&ids) {
        check_message(&error);
    }
}
