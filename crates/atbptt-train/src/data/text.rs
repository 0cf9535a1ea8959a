//! Texts, read in blocks of bounded size and checked to be UTF-8: as words, or as characters.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::DataError;

/// A mark that some programs put before a text; joined files hold it anywhere. No part of any word.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Bytes read at once.
const BLOCK: usize = 1 << 16;

/// No language has a word of a mebibyte.
const MAX_WORD: usize = 1 << 20;

/// What a text of words is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// What stands between blanks.
    Word(&'a str),
    /// The end of a line, or of a last line without a line break.
    EndOfLine,
}

/// Calls `take` with all words and ends of lines until it answers `false` or the text ends. Memory does not grow with the
/// length of lines. `origin` names the text in errors.
pub(super) fn for_each_word(
    reader: impl Read,
    origin: &str,
    mut take: impl FnMut(Piece<'_>) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    // The beginning of a word that the next block goes on with, and whether its line has begun.
    let (mut begun, mut in_line, mut line) = (String::new(), false, 1);
    let mut stopped = false;
    for_each_block(reader, origin, |mut block| {
        while let Some(at) = block.find(char::is_whitespace) {
            let (word, rest) = block.split_at(at);
            let mut rest = rest.chars();
            let ends_line = rest.next() == Some('\n');
            block = rest.as_str();
            in_line = true;
            begun.push_str(word);
            if !finish_word(&mut begun, &mut take)? {
                stopped = true;
                return Ok(false);
            }
            if ends_line {
                (in_line, line) = (false, line + 1);
                if !take(Piece::EndOfLine)? {
                    stopped = true;
                    return Ok(false);
                }
            }
        }
        in_line |= !block.is_empty();
        begun.push_str(block);
        match begun.len() <= MAX_WORD {
            true => Ok(true),
            false => Err(DataError::WordTooLong {
                origin: origin.to_owned(),
                line,
                limit: MAX_WORD,
            }),
        }
    })?;
    if !stopped && finish_word(&mut begun, &mut take)? && in_line {
        take(Piece::EndOfLine)?;
    }
    Ok(())
}

/// Hands a word on, if there is one, without byte order marks.
fn finish_word(
    word: &mut String,
    take: &mut impl FnMut(Piece<'_>) -> Result<bool, DataError>,
) -> Result<bool, DataError> {
    if word.contains(BYTE_ORDER_MARK) {
        word.retain(|c| c != BYTE_ORDER_MARK);
    }
    let more = word.is_empty() || take(Piece::Word(word))?;
    word.clear();
    Ok(more)
}

/// `text` without byte order marks.
pub(super) fn without_marks(text: &str) -> Cow<'_, str> {
    match text.contains(BYTE_ORDER_MARK) {
        true => Cow::Owned(text.replace(BYTE_ORDER_MARK, "")),
        false => Cow::Borrowed(text),
    }
}

/// Calls `take` with every character, line breaks too and byte order marks not, until it answers `false` or the text ends.
pub(super) fn for_each_character(
    reader: impl Read,
    origin: &str,
    mut take: impl FnMut(&str) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    let mut buffer = [0; 4];
    for_each_block(reader, origin, |block| {
        for character in block.chars().filter(|c| *c != BYTE_ORDER_MARK) {
            if !take(character.encode_utf8(&mut buffer))? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Calls `take` with every byte until it answers `false` or the text ends.
pub(super) fn for_each_byte(
    mut reader: impl Read,
    origin: &str,
    mut take: impl FnMut(u8) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    let mut block = vec![0; BLOCK];
    loop {
        let read = read(&mut reader, &mut block, origin)?;
        for &byte in block.iter().take(read) {
            if !take(byte)? {
                return Ok(());
            }
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// Calls `take` with every line and its line break, byte order marks left out, or with parts of a long line, cut at a blank
/// where there is one.
pub(super) fn for_each_part_of_lines(
    reader: impl Read,
    origin: &str,
    mut take: impl FnMut(&str) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    let mut begun = String::new();
    let mut stopped = false;
    for_each_block(reader, origin, |block| {
        begun.extend(block.chars().filter(|c| *c != BYTE_ORDER_MARK));
        let mut from = 0;
        while let Some(rest) = begun.get(from..) {
            let end = match rest.find('\n') {
                Some(at) => at + 1,
                None if rest.len() < BLOCK => break,
                None => match rest.rfind(char::is_whitespace) {
                    Some(at) if at > 0 => at,
                    _ => rest.len(),
                },
            };
            if !take(rest.get(..end).unwrap_or_default())? {
                stopped = true;
                return Ok(false);
            }
            from += end;
        }
        begun.drain(..from);
        Ok(true)
    })?;
    if !stopped && !begun.is_empty() {
        take(&begun)?;
    }
    Ok(())
}

/// Calls `take` with the text block by block, no character cut in two.
pub(super) fn for_each_block(
    mut reader: impl Read,
    origin: &str,
    mut take: impl FnMut(&str) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    // The beginning of a character that the next block goes on with stands first.
    let mut block = vec![0; BLOCK];
    let (mut held, mut offset, mut line) = (0, 0_u64, 1);
    loop {
        let read = read(
            &mut reader,
            block.get_mut(held..).unwrap_or_default(),
            origin,
        )?;
        let filled = block.get(..held + read).unwrap_or_default();
        let (valid, broken) = match std::str::from_utf8(filled) {
            Ok(text) => (text, false),
            Err(cause) => {
                let valid = filled.get(..cause.valid_up_to()).unwrap_or_default();
                // An unfinished character may be finished by the next block.
                let broken = cause.error_len().is_some() || read == 0;
                (std::str::from_utf8(valid).unwrap_or_default(), broken)
            }
        };
        let more = take(valid)?;
        line += valid.bytes().filter(|byte| *byte == b'\n').count();
        offset += valid.len() as u64;
        if broken && more {
            return Err(DataError::NotUtf8 {
                origin: origin.to_owned(),
                line,
                byte: offset,
            });
        }
        if !more || read == 0 {
            return Ok(());
        }
        let (from, to) = (valid.len(), filled.len());
        block.copy_within(from..to, 0);
        held = to - from;
    }
}

fn read(reader: &mut impl Read, into: &mut [u8], origin: &str) -> Result<usize, DataError> {
    loop {
        match reader.read(into) {
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            read => return read.map_err(|cause| io_error("read", origin, cause)),
        }
    }
}

/// A [`DataError::Io`] for `path`.
pub(super) fn io_error(
    action: &'static str,
    path: impl AsRef<Path>,
    cause: std::io::Error,
) -> DataError {
    DataError::Io {
        action,
        path: path.as_ref().to_owned(),
        cause,
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
