//! Lines of text, read one at a time and checked to be UTF-8.

use std::io::BufRead;
use std::path::Path;

use super::DataError;

/// Calls `take` with every line (without its end) until it answers `false` or the text ends.
///
/// A last line without a newline counts; a byte order mark at the start does not. `origin` names the text in errors.
pub(super) fn for_each_line(
    mut reader: impl BufRead,
    origin: &str,
    mut take: impl FnMut(&str) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    let mut buffer = Vec::new();
    let mut offset = 0_u64;
    for line in 1.. {
        buffer.clear();
        let read = reader
            .read_until(b'\n', &mut buffer)
            .map_err(|cause| io_error("read", origin, cause))?;
        if read == 0 {
            break;
        }
        let text = std::str::from_utf8(&buffer).map_err(|cause| DataError::NotUtf8 {
            origin: origin.to_owned(),
            line,
            byte: offset + cause.valid_up_to() as u64,
        })?;
        let text = if line == 1 {
            text.strip_prefix('\u{feff}').unwrap_or(text)
        } else {
            text
        };
        if !take(text)? {
            break;
        }
        offset += read as u64;
    }
    Ok(())
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
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Result<Vec<String>, DataError> {
        let mut found = Vec::new();
        for_each_line(bytes, "here", |line| {
            found.push(line.trim_end().to_owned());
            Ok(true)
        })?;
        Ok(found)
    }

    #[test]
    fn a_last_line_without_newline_counts_and_an_empty_text_has_none() {
        assert_eq!(lines(b"a\n\nb").unwrap(), ["a", "", "b"]);
        assert_eq!(lines(b"a\r\nb\r\n").unwrap(), ["a", "b"]);
        assert!(lines(b"").unwrap().is_empty());
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_first_word() {
        assert_eq!(lines("\u{feff}a b\n".as_bytes()).unwrap(), ["a b"]);
    }

    /// Line 3 starts at byte 6 ("ab\n" twice); its second byte, 0xff, is offset 7.
    #[test]
    fn broken_utf8_is_reported_with_line_and_byte() {
        let found = lines(b"ab\nab\nx\xffy\nab\n");
        assert!(
            matches!(
                found,
                Err(DataError::NotUtf8 {
                    line: 3,
                    byte: 7,
                    ..
                })
            ),
            "{found:?}"
        );
    }
}
