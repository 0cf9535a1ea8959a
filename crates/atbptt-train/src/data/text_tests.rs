use super::*;
use proptest::prelude::*;

/// Words; a line break per end of line.
fn words(reader: impl Read) -> Result<Vec<String>, DataError> {
    let mut found = Vec::new();
    for_each_word(reader, "here", |piece| {
        found.push(match piece {
            Piece::Word(word) => word.to_owned(),
            Piece::EndOfLine => "\n".into(),
        });
        Ok(true)
    })?;
    Ok(found)
}

/// Gives so many bytes at a time.
struct Dripping<'a>(&'a [u8], usize);

impl Read for Dripping<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.1.min(self.0.len()).min(into.len());
        let (now, later) = self.0.split_at(count);
        into[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

#[test]
fn a_last_line_without_newline_counts_and_an_empty_text_has_none() {
    assert_eq!(
        words(&b"a\n\nb c"[..]).unwrap(),
        ["a", "\n", "\n", "b", "c", "\n"]
    );
    assert_eq!(words(&b"a\r\nb\r\n"[..]).unwrap(), ["a", "\n", "b", "\n"]);
    assert!(words(&b""[..]).unwrap().is_empty());
}

#[test]
fn a_byte_order_mark_anywhere_is_no_part_of_a_word() {
    let text = "\u{feff}a b\nc\u{feff}d \u{feff}\n\u{feff}e";
    assert_eq!(
        words(text.as_bytes()).unwrap(),
        ["a", "b", "\n", "cd", "\n", "e", "\n"]
    );
    let mut characters = String::new();
    for_each_character(text.as_bytes(), "here", |c| {
        characters.push_str(c);
        Ok(true)
    })
    .unwrap();
    assert_eq!(characters, "a b\ncd \ne");
    // Nor of a text that a trained model reads.
    use crate::data::{TokenUnit, Vocabulary};
    let names = ["a", "b", "cd", "e", "<eos>"].map(String::from);
    let vocabulary = Vocabulary::try_from(names.to_vec()).unwrap();
    let ids = TokenUnit::Words.encode(&vocabulary, text).unwrap();
    assert_eq!(ids, [0, 1, 4, 2, 4, 3]);
    let names = ["a", " ", "b", "\n", "c", "d", "e"].map(String::from);
    let vocabulary = Vocabulary::try_from(names.to_vec()).unwrap();
    let ids = TokenUnit::Characters.encode(&vocabulary, text).unwrap();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 1, 3, 6]);
}

/// Line 3 starts at byte 6 ("ab\n" twice); its second byte, 0xff, is offset 7. An unfinished character at the end is
/// found where it begins.
#[test]
fn broken_utf8_is_reported_with_line_and_byte() {
    for (text, line, byte) in [
        (&b"ab\nab\nx\xffy\nab\n"[..], 3, 7),
        (&b"ab\n\xe4\xb8"[..], 2, 3),
        (&b"\xe4\xb8 a"[..], 1, 0),
    ] {
        for at_once in [1, 2, 100] {
            let found = words(Dripping(text, at_once));
            let place = matches!(found, Err(DataError::NotUtf8 { line: l, byte: b, .. }) if (l, b) == (line, byte));
            assert!(place, "{found:?}");
        }
    }
}

#[test]
fn reading_stops_where_enough_is_read() {
    let mut left = 2;
    // Bytes that are no text come later.
    for_each_word(&b"a b c \xff"[..], "here", |_| {
        left -= 1;
        Ok(left > 0)
    })
    .unwrap();
    assert_eq!(left, 0);
}

/// So many bytes without a line break, from a reader that holds none of them: words of 8 bytes.
struct Endless<'a> {
    left: usize,
    read: &'a std::cell::Cell<usize>,
}

impl Read for Endless<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = into.len().min(self.left) / 8 * 8;
        into[..count]
            .chunks_mut(8)
            .for_each(|word| word.copy_from_slice(b"abcdefg "));
        self.left -= count;
        self.read.set(self.read.get() + count);
        Ok(count)
    }
}

/// What is held is a block and the longest word. The words arrive as the text is read, not at its end.
#[test]
fn a_text_that_is_one_line_of_260_mib_is_read_in_bounded_memory() {
    let bytes = 260 << 20;
    let (mut count, mut ends, mut held) = (0, 0, 0);
    let read = std::cell::Cell::new(0);
    let text = Endless {
        left: bytes,
        read: &read,
    };
    for_each_word(text, "here", |piece| {
        match piece {
            Piece::Word(word) => {
                assert_eq!(word.len(), 7);
                held = held.max(read.get() - 8 * count);
                count += 1;
            }
            Piece::EndOfLine => ends += 1,
        }
        Ok(true)
    })
    .unwrap();
    assert_eq!((count, ends), (bytes / 8, 1));
    assert!(held <= 2 * BLOCK, "{held} bytes were read ahead");
}

#[test]
fn a_word_longer_than_any_is_refused_with_the_remedy() {
    let text = format!("a\n{}", "b".repeat(MAX_WORD + 1));
    let found = words(text.as_bytes()).unwrap_err().to_string();
    assert!(
        found.contains("line 2") && found.contains("characters"),
        "{found}"
    );
    let text = "b".repeat(MAX_WORD - BLOCK);
    assert_eq!(words(text.as_bytes()).unwrap().len(), 2);
}

#[test]
fn a_tokeniser_gets_lines_whole_and_long_lines_in_parts() {
    let long = "word ".repeat(40_000);
    let text = format!("\u{feff}a b\nc\n{long}\n{}", "中".repeat(30_000));
    let mut parts = Vec::new();
    for_each_part_of_lines(Dripping(text.as_bytes(), 1000), "here", |part| {
        parts.push(part.to_owned());
        Ok(true)
    })
    .unwrap();
    assert_eq!(parts[..2], ["a b\n", "c\n"]);
    assert_eq!(parts.concat(), text[3..]);
    assert!(parts.iter().all(|part| part.len() < 2 * BLOCK));
    // Cut before a blank.
    assert!(parts[2].ends_with("word") && parts[3].starts_with(" word"));
}

proptest! {
    /// However a text arrives, its words are those of the whole.
    #[test]
    fn prop_words_do_not_depend_on_blocks(text in "[a-z中é\u{feff} \r\n\u{2028}]{0,60}", at_once in 1usize..9) {
        let mut expected = Vec::new();
        for line in text.split_inclusive('\n') {
            let line = line.replace('\u{feff}', "");
            expected.extend(line.split_whitespace().map(str::to_owned));
            expected.push("\n".into());
        }
        prop_assert_eq!(words(Dripping(text.as_bytes(), at_once)).unwrap(), expected);
    }
}
