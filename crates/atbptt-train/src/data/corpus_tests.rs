use std::fs;

use tempfile::TempDir;

use super::*;
use crate::data::corpus_source::Dataset;
use crate::data::real_data;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn read(folder: &TempDir, options: CorpusOptions) -> Result<Corpus, DataError> {
    Corpus::from_folder(folder.path(), &options)
}

fn ids(corpus: &Corpus, split: Split) -> Vec<u32> {
    let mut tokens = vec![0; corpus.len(split)];
    corpus.tokens(split).read(0, &mut tokens).unwrap();
    tokens
}

const SMALL: [(&str, &[u8]); 3] = [
    ("train.txt", b" the cat \n\nthe dog"),
    ("valid.txt", b"a cat\n"),
    ("test.txt", b"the end\n"),
];

#[test]
fn penn_treebank_has_its_published_counts() {
    let Some(path) = real_data("ptb") else { return };
    let corpus = Corpus::from_folder(path, &CorpusOptions::default()).unwrap();
    assert_eq!(
        Split::ALL.map(|split| corpus.len(split)),
        Dataset::PennTreebank.tokens()
    );
    assert_eq!(corpus.vocabulary().len(), 10_000);
    assert_eq!(corpus.vocabulary().word(0), Some("aer"));
    assert!(corpus.description().starts_with("Penn Treebank of"));
    assert!(!corpus.description().contains("not comparable"));
}

#[test]
fn a_cut_wikitext_2_says_that_perplexity_is_not_comparable() {
    let Some(path) = real_data("wikitext-2") else {
        return;
    };
    let corpus = Corpus::from_folder(&path, &CorpusOptions::default()).unwrap();
    assert_eq!(
        Split::ALL.map(|split| corpus.len(split)),
        [1_838_438, 217_646, 245_569]
    );
    assert_eq!(corpus.vocabulary().len(), 32_582);
    assert!(matches!(
        corpus.source,
        Source::Folder {
            dataset: Some(Dataset::WikiText2),
            ..
        }
    ));
    let said = corpus.description();
    assert!(said.contains("not the full 2,088,628 tokens"), "{said}");
}

/// Ids by first appearance: the 0, cat 1, `<eos>` 2, dog 3 from train; a 4 from valid; end 5 from test.
#[test]
fn every_line_ends_with_eos_even_when_it_is_empty() {
    let corpus = read(&folder(&SMALL), CorpusOptions::default()).unwrap();
    assert_eq!(ids(&corpus, Split::Train), [0, 1, 2, 2, 0, 3, 2]);
    assert_eq!(ids(&corpus, Split::Valid), [4, 1, 2]);
    assert_eq!(ids(&corpus, Split::Test), [0, 5, 2]);
    assert!(
        corpus
            .description()
            .contains("7 train / 3 valid / 3 test tokens, 6 types")
    );
}

#[test]
fn all_three_naming_customs_give_the_same_corpus() {
    let plain = read(&folder(&SMALL), CorpusOptions::default()).unwrap();
    for (before, after) in [("wiki.", ".tokens"), ("ptb.", ".txt"), ("", ".tokens")] {
        let names = Split::ALL.map(|split| format!("{before}{}{after}", split.name()));
        let files = [0, 1, 2].map(|i| (names[i].as_str(), SMALL[i].1));
        let found = read(&folder(&files), CorpusOptions::default()).unwrap();
        assert_eq!(found.fingerprint(), plain.fingerprint());
    }
}

#[test]
fn a_train_only_vocabulary_maps_new_words_to_unk() {
    let options = CorpusOptions::default().with_words_of_train_only(true);
    let corpus = read(&folder(&SMALL), options).unwrap();
    assert_eq!(
        corpus.vocabulary().words(),
        ["the", "cat", "<eos>", "dog", "<unk>"]
    );
    assert_eq!(ids(&corpus, Split::Valid), [4, 1, 2]);
    assert_eq!(ids(&corpus, Split::Test), [0, 4, 2]);
    // Even a train split cut before its first <eos> leaves an id for it.
    let cut = read(&folder(&SMALL), options.with_max_tokens(1)).unwrap();
    assert_eq!(cut.vocabulary().words(), ["the", "<eos>", "<unk>"]);
    assert_eq!(ids(&cut, Split::Test), [0, 2, 1]);
}

#[test]
fn limits_keep_the_first_tokens() {
    let options = CorpusOptions::default()
        .with_max_tokens(3)
        .with_max_eval_tokens(2);
    let corpus = read(&folder(&SMALL), options).unwrap();
    assert_eq!(ids(&corpus, Split::Train), [0, 1, 2]);
    assert_eq!(Split::ALL.map(|split| corpus.len(split)), [3, 2, 2]);
    let none = read(&folder(&SMALL), CorpusOptions::default().with_max_tokens(0));
    assert!(matches!(none, Err(DataError::ZeroLimit)));
    // A limit beyond the text is no limit.
    let all = read(
        &folder(&SMALL),
        CorpusOptions::default().with_max_tokens(100),
    )
    .unwrap();
    assert_eq!(all.len(Split::Train), 7);
}

#[test]
fn fingerprints_follow_the_content() {
    let first = read(&folder(&SMALL), CorpusOptions::default()).unwrap();
    assert_eq!(first.fingerprint().len(), 64);
    let cut = read(&folder(&SMALL), CorpusOptions::default().with_max_tokens(6)).unwrap();
    assert_ne!(cut.fingerprint(), first.fingerprint());
    // Same ids, other word.
    let mut renamed = SMALL;
    renamed[0].1 = b" the cow \n\nthe dog";
    renamed[1].1 = b"a cow\n";
    let renamed = read(&folder(&renamed), CorpusOptions::default()).unwrap();
    assert_eq!(ids(&renamed, Split::Train), ids(&first, Split::Train));
    assert_ne!(renamed.fingerprint(), first.fingerprint());
}

#[test]
fn a_missing_folder_or_file_is_named_with_what_was_tried() {
    let nowhere = Corpus::from_folder("/no/such/folder", &CorpusOptions::default());
    assert!(matches!(nowhere, Err(DataError::FolderMissing { .. })));
    let found = read(&folder(&SMALL[..2]), CorpusOptions::default()).unwrap_err();
    assert!(matches!(
        found,
        DataError::SplitMissing { split: "test", .. }
    ));
    assert!(
        found
            .to_string()
            .contains("tried test.txt, wiki.test.tokens, ptb.test.txt"),
        "{found}"
    );
}

#[test]
fn an_empty_file_is_an_error_and_a_blank_line_is_not() {
    let mut files = SMALL;
    files[1].1 = b"";
    let found = read(&folder(&files), CorpusOptions::default());
    assert!(
        matches!(found, Err(DataError::EmptySplit { ref origin }) if origin.ends_with("valid.txt")),
        "{found:?}"
    );
    files[1].1 = b"\n";
    assert_eq!(
        read(&folder(&files), CorpusOptions::default())
            .unwrap()
            .len(Split::Valid),
        1
    );
}

/// "one\n" is 4 bytes, "two\n" ends at 8, so the 0xe9 after "caf" is byte 11, on line 3.
#[test]
fn latin_1_is_refused_with_file_line_and_byte() {
    let mut files = SMALL;
    files[2].1 = b"one\ntwo\ncaf\xe9 noir\n";
    let found = read(&folder(&files), CorpusOptions::default()).unwrap_err();
    assert!(
        matches!(&found, DataError::NotUtf8 { origin, line: 3, byte: 11 } if origin.ends_with("test.txt")),
        "{found:?}"
    );
    assert!(found.to_string().contains("re-encode"));
}

#[test]
fn the_built_in_corpus_says_that_it_is_not_real_text() {
    let corpus = Corpus::synthetic(&SyntheticConfig::default()).unwrap();
    let said = corpus.description();
    assert!(
        said.starts_with("built-in synthetic corpus (seed 1, agreement over 4, 8, 16, 32 steps"),
        "{said}"
    );
    assert!(said.ends_with("NOT real text"), "{said}");
    assert!(corpus.perplexity_floor(Split::Test).is_some());
}

/// The generated lines, written as files, come back as the same corpus: one reader serves both.
#[test]
fn the_built_in_corpus_survives_a_round_through_files() {
    let config = SyntheticConfig::default().with_tokens(5_000, 1_000, 1_000);
    let target = tempfile::tempdir().unwrap();
    for split in Split::ALL {
        let lines: Vec<String> = config.text(split).unwrap().collect();
        fs::write(
            target.path().join(format!("{}.txt", split.name())),
            lines.join("\n"),
        )
        .unwrap();
    }
    let direct = Corpus::synthetic(&config).unwrap();
    assert_eq!(
        read(&target, CorpusOptions::default())
            .unwrap()
            .fingerprint(),
        direct.fingerprint()
    );
}

#[test]
fn large_numbers_are_grouped_by_three() {
    assert_eq!(
        [0, 999, 1_000, 2_088_628].map(grouped),
        ["0", "999", "1,000", "2,088,628"]
    );
}

/// The same tokens, words and fingerprint from files as from memory; kept files are used again, damaged ones made anew.
#[test]
fn a_large_folder_is_the_same_corpus_from_files() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("train", "a b c\nb a\n"),
        ("valid", "c d\n"),
        ("test", "a\n"),
    ] {
        std::fs::write(folder.path().join(format!("{name}.txt")), text).unwrap();
    }
    let options = CorpusOptions::default();
    let memory = Corpus::from_folder(folder.path(), &options).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let read = || Corpus::from_large_folder(folder.path(), &options, cache.path()).unwrap();
    let tokens = |corpus: &Corpus, split| {
        let store = corpus.tokens(split);
        let mut all = vec![0; store.len()];
        store.read(0, &mut all).unwrap();
        all
    };
    let check = |corpus: &Corpus| {
        assert_eq!(corpus.fingerprint(), memory.fingerprint());
        assert_eq!(corpus.vocabulary(), memory.vocabulary());
        assert_eq!(corpus.description(), memory.description());
        for split in Split::ALL {
            assert_eq!(tokens(corpus, split), tokens(&memory, split));
        }
    };
    check(&read());
    let place = std::fs::read_dir(cache.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let written = || {
        std::fs::metadata(place.join("train.tokens"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let first = written();
    check(&read());
    assert_eq!(written(), first, "used again");
    std::fs::write(place.join("train.tokens"), "broken").unwrap();
    check(&read());
    // Another text has other files.
    std::fs::write(folder.path().join("train.txt"), "a b c\n").unwrap();
    assert_ne!(read().fingerprint(), memory.fingerprint());
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 2);
}

const CHINESE: &str = "天地玄黄\n宇宙洪荒\n";

fn texts(texts: [&str; 3], options: CorpusOptions) -> Result<Corpus, DataError> {
    Corpus::from_readers(texts.map(str::as_bytes), &options)
}

#[test]
fn characters_are_tokens_where_asked_for_blanks_and_line_breaks_too() {
    let options = CorpusOptions::default().with_unit(TokenUnit::Characters);
    let corpus = texts(["a b\na", CHINESE, "b"], options).unwrap();
    assert_eq!(ids(&corpus, Split::Train), [0, 1, 2, 3, 0]);
    assert_eq!(corpus.decode(&ids(&corpus, Split::Valid)).unwrap(), CHINESE);
    // The text after the end of a line.
    let mut first = [9];
    corpus
        .evaluation_tokens(Split::Test)
        .read(0, &mut first)
        .unwrap();
    assert_eq!((first, corpus.unit()), ([3], Some(TokenUnit::Characters)));
    let options = options.with_words_of_train_only(true);
    let corpus = texts(["ab", "ac", "b"], options).unwrap();
    assert_eq!(corpus.vocabulary().words(), ["a", "b", "\n", "<unk>"]);
    assert_eq!(
        corpus.decode(&ids(&corpus, Split::Valid)).unwrap(),
        "a\u{fffd}"
    );
}

#[test]
fn bytes_are_tokens_where_asked_for_whatever_the_text() {
    let options = CorpusOptions::default()
        .with_unit(TokenUnit::Bytes)
        .with_min_count(5);
    let corpus = Corpus::from_readers(
        [&b"a\xff\n"[..], &b"\xe5\xa4\xa9"[..], &b"\0"[..]],
        &options,
    )
    .unwrap();
    assert_eq!(ids(&corpus, Split::Train), [97, 255, 10]);
    assert_eq!(corpus.vocabulary().len(), 256);
    assert_eq!(corpus.vocabulary().word(255), Some("<0xFF>"));
    assert_eq!(corpus.decode(&ids(&corpus, Split::Valid)).unwrap(), "天");
}

/// a stands three times, b twice, c once; d three times, but in the test split, and that is too late.
#[test]
fn words_below_the_smallest_count_become_unk() {
    let options = CorpusOptions::default()
        .with_words_of_train_only(true)
        .with_min_count(2);
    let corpus = texts(["a c b a\n", "a b c\n", "d d d b\n"], options).unwrap();
    assert_eq!(corpus.vocabulary().words(), ["a", "<eos>", "<unk>"]);
    assert_eq!(ids(&corpus, Split::Train), [0, 2, 2, 0, 1]);
    let all = texts(
        ["a c b a\n", "a b c\n", "d d d b\n"],
        options.with_words_of_train_only(false),
    )
    .unwrap();
    // Over all splits, only nothing is rare but what stands once.
    assert_eq!(
        all.vocabulary().words(),
        ["a", "c", "b", "<eos>", "d", "<unk>"]
    );
}

#[test]
fn rare_words_are_left_out_of_large_texts_too() {
    let files = folder(&SMALL);
    let options = CorpusOptions::default().with_min_count(2);
    let small = read(&files, options).unwrap();
    assert_eq!(small.vocabulary().words(), ["the", "cat", "<eos>", "<unk>"]);
    let cache = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let large = Corpus::from_large_folder(files.path(), &options, cache.path()).unwrap();
        assert_eq!(large.fingerprint(), small.fingerprint());
    }
    let place = fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 4);
}

#[test]
fn a_text_without_blanks_gets_a_warning_with_the_remedy() {
    let chinese = CHINESE.repeat(10);
    let corpus = texts([&chinese, CHINESE, "a b\n"], CorpusOptions::default()).unwrap();
    let [warning] = corpus.warnings() else {
        panic!("{:?}", corpus.warnings());
    };
    assert!(
        warning.contains("20 of 20 lines are one word each") && warning.contains("characters"),
        "{warning}"
    );
    let characters = CorpusOptions::default().with_unit(TokenUnit::Characters);
    assert!(
        texts([&chinese, CHINESE, "a"], characters)
            .unwrap()
            .warnings()
            .is_empty()
    );
    let words = "one word\n".repeat(20);
    assert!(
        texts([&words, &words, &words], CorpusOptions::default())
            .unwrap()
            .warnings()
            .is_empty()
    );
    // From a cache, too.
    let files = folder(&[
        ("train.txt", chinese.as_bytes()),
        ("valid.txt", b"a b"),
        ("test.txt", b"a b"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let large =
            Corpus::from_large_folder(files.path(), &CorpusOptions::default(), cache.path());
        assert_eq!(large.unwrap().warnings().len(), 1);
    }
}

/// Pairs of bytes; anything else it refuses.
#[derive(Debug)]
struct Pairs;

impl Tokenizer for Pairs {
    fn vocabulary(&self) -> Result<Vocabulary, DataError> {
        ["ab", "cd", "\n"].map(str::to_owned).to_vec().try_into()
    }
    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), DataError> {
        let mut rest = text;
        while !rest.is_empty() {
            let words = ["ab", "cd", "\n", "x"];
            let found = (0..).zip(words).find(|(_, word)| rest.starts_with(word));
            let (id, word) = found.ok_or_else(|| DataError::Tokenizer {
                reason: format!("{rest:?} is no token"),
            })?;
            ids.push(id);
            rest = &rest[word.len()..];
        }
        Ok(())
    }
    fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        let vocabulary = self.vocabulary()?;
        Ok(ids.iter().filter_map(|id| vocabulary.word(*id)).collect())
    }
    fn fingerprint(&self) -> String {
        "pairs".into()
    }
}

#[test]
fn a_tokeniser_of_ones_own_cuts_the_text() {
    let options = CorpusOptions::default().with_max_eval_tokens(2);
    let read = |test: &str| {
        let texts = ["abcd\nab", "cd\nab\n", test].map(str::as_bytes);
        Corpus::from_readers_with(texts, Arc::new(Pairs), &options)
    };
    let corpus = read("ab").unwrap();
    assert_eq!(ids(&corpus, Split::Train), [0, 1, 2, 0]);
    assert_eq!(ids(&corpus, Split::Valid), [1, 2]);
    assert_eq!(
        (corpus.decode(&[1, 0, 2]).unwrap(), corpus.unit()),
        ("cdab\n".into(), None)
    );
    assert_eq!(corpus.evaluation_tokens(Split::Test).len(), 2);
    let message = |test| read(test).unwrap_err().to_string();
    assert!(message("abz").contains("\"z\" is no token"));
    assert!(message("x").contains("id 3 is not in its vocabulary of 3 tokens"));
    // From a cache, too.
    let files = folder(&[
        ("train.txt", b"abcd\nab"),
        ("valid.txt", b"cd\nab\n"),
        ("test.txt", b"ab"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let large =
            Corpus::from_folder_with(files.path(), Arc::new(Pairs), &options, Some(cache.path()));
        assert_eq!(large.unwrap().fingerprint(), corpus.fingerprint());
    }
}
