//! The lines of a table as the CSV reader gets them: without the first ones, and with one tabulator for every run of blanks.

use std::io::{self, Read};

/// Leaves out the first lines of a text, and turns runs of blanks into single tabulators.
pub(super) struct Lines<R> {
    inner: R,
    /// Lines still to be left out.
    skip: usize,
    blanks: bool,
    /// Whether nothing but blanks has been read of this line.
    at_start: bool,
    /// Whether blanks stand before what comes next.
    gap: bool,
    /// What there was no room for.
    left: Option<u8>,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(inner: R, skip: usize, blanks: bool) -> Self {
        Self {
            inner,
            skip,
            blanks,
            at_start: true,
            gap: false,
            left: None,
        }
    }

    /// What becomes of a byte: nothing, itself, or a tabulator and itself.
    fn turn(&mut self, byte: u8) -> [Option<u8>; 2] {
        if self.skip > 0 {
            // The line's end stays, so that errors count lines as the file has them.
            let end = byte == b'\n';
            self.skip -= usize::from(end);
            return [end.then_some(byte), None];
        }
        match byte {
            b' ' | b'\t' if self.blanks => {
                self.gap = !self.at_start;
                [None, None]
            }
            b'\n' | b'\r' => {
                (self.gap, self.at_start) = (false, true);
                [Some(byte), None]
            }
            _ => {
                self.at_start = false;
                let gap = std::mem::take(&mut self.gap);
                [gap.then_some(b'\t'), Some(byte)]
            }
        }
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut places = into.iter_mut();
        let mut written = 0;
        if self.left.is_some()
            && let Some(place) = places.next()
        {
            *place = self.left.take().unwrap_or_default();
            written = 1;
        }
        let mut from = [0; 4096];
        // Nothing at all would mean the end.
        while written == 0 && places.len() > 0 {
            // A byte may bring a tabulator along.
            let room = (places.len() / 2).clamp(1, from.len());
            let from = from.get_mut(..room).unwrap_or_default();
            let read = self.inner.read(from)?;
            if read == 0 {
                break;
            }
            for &byte in from.iter().take(read) {
                for byte in self.turn(byte).into_iter().flatten() {
                    match places.next() {
                        Some(place) => {
                            *place = byte;
                            written += 1;
                        }
                        None => self.left = Some(byte),
                    }
                }
            }
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// What comes of `text`, read `room` bytes at a time.
    fn read(text: &str, skip: usize, blanks: bool, room: usize) -> String {
        let mut lines = Lines::new(text.as_bytes(), skip, blanks);
        let (mut all, mut buffer) = (Vec::new(), vec![0; room]);
        loop {
            match lines.read(&mut buffer).unwrap() {
                0 => return String::from_utf8(all).unwrap(),
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    #[test]
    fn runs_of_blanks_become_one_tabulator_whatever_the_buffer_holds() {
        let text = "  a b\t c  \r\n \n1   2\t\t3\n";
        for room in 1..=40 {
            assert_eq!(
                read(text, 0, true, room),
                "a\tb\tc\r\n\n1\t2\t3\n",
                "{room}"
            );
            assert_eq!(read(text, 0, false, room), text, "{room}");
        }
    }

    #[test]
    fn lines_at_the_beginning_are_left_out_and_still_counted() {
        for room in [1, 2, 100] {
            assert_eq!(read("a b\nc\nd e\n", 2, true, room), "\n\nd\te\n");
            assert_eq!(read("a\nb", 5, false, room), "\n");
        }
        assert_eq!(read("", 1, true, 8), "");
    }
}
