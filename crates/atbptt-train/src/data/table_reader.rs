//! Rows of a CSV file, and the numbers in them.

use std::io::Read;

use csv::{ByteRecord, ReaderBuilder};

use super::error::beginning;
use super::table_error::{TableError, short};
use super::table_lines::Lines;
use super::table_options::TableOptions;

/// A file on its way into a table.
pub(super) struct Reading<'a, R> {
    reader: csv::Reader<Lines<R>>,
    record: ByteRecord,
    origin: &'a str,
    options: &'a TableOptions,
    row: u64,
    /// Line at which `record` begins.
    line: u64,
    /// Whether the line feed behind `record` is still to be read.
    feed_is_left: bool,
    /// Whether `record` holds a row that was not taken yet.
    waiting: bool,
}

impl<'a, R: Read> Reading<'a, R> {
    pub(super) fn new(
        reader: R,
        origin: &'a str,
        options: &'a TableOptions,
    ) -> Result<Self, TableError> {
        let refused = |rule| TableError::Setting {
            what: "the delimiter",
            rule,
            got: options.delimiter.to_string(),
        };
        let delimiter = u8::try_from(options.delimiter)
            .ok()
            .filter(|byte| byte.is_ascii() && !b"\"\r\n.".contains(byte))
            .ok_or_else(|| {
                refused("one ASCII character other than a quote, a point or a line break")
            })?;
        if options.decimal_comma && delimiter == b',' {
            return Err(refused(
                "another than the comma where decimals have one; files with decimal commas mostly have `;`",
            ));
        }
        let blanks = delimiter == b' ';
        let reader = ReaderBuilder::new()
            .delimiter(if blanks { b'\t' } else { delimiter })
            .has_headers(false)
            .from_reader(Lines::new(reader, options.skip_first, blanks));
        Ok(Self {
            reader,
            record: ByteRecord::new(),
            origin,
            options,
            row: 0,
            line: 0,
            feed_is_left: false,
            waiting: false,
        })
    }

    /// Reads the next record; false at the end.
    fn read(&mut self) -> Result<bool, TableError> {
        let read = self.reader.read_byte_record(&mut self.record);
        let feed_was_left = self.feed_is_left;
        if let Ok(true) = read {
            self.count_lines();
        }
        read.map_err(|error| {
            let line = error.position().map_or(0, csv::Position::line) + u64::from(feed_was_left);
            let reason = match error.kind() {
                csv::ErrorKind::UnequalLengths {
                    expected_len, len, ..
                } => format!("{len} columns, where the first row has {expected_len}"),
                csv::ErrorKind::Io(cause) => beginning(&cause.to_string()),
                other => beginning(&format!("{other:?}")),
            };
            TableError::Malformed {
                origin: self.origin.to_owned(),
                row: self.row + 1,
                line,
                reason,
            }
        })
    }

    /// Number of the next row and its line.
    pub(super) fn next(&mut self) -> Result<Option<(u64, u64)>, TableError> {
        if !std::mem::take(&mut self.waiting) && !self.read()? {
            return Ok(None);
        }
        self.row += 1;
        Ok(Some((self.row, self.line)))
    }

    /// Takes down the line at which the record begins. Where lines end with both a carriage return and a line feed, the reader
    /// stops between them, and the record after it seems to begin a line too early.
    fn count_lines(&mut self) {
        let begins = self.record.position().map_or(0, csv::Position::line);
        self.line = begins + u64::from(self.feed_is_left);
        let within = self.record.as_slice().iter().filter(|b| **b == b'\n');
        self.feed_is_left = self.reader.position().line() == self.line + within.count() as u64;
    }

    /// Where the named columns stand.
    pub(super) fn places(&mut self, asked: &[&str]) -> Result<Vec<usize>, TableError> {
        let some = self.read()?;
        let names: Vec<String> = match self.options.header {
            true => self
                .record
                .iter()
                .map(|name| trimmed(&String::from_utf8_lossy(name)).to_owned())
                .collect(),
            false => {
                self.waiting = some;
                (1..=self.record.len()).map(|n| n.to_string()).collect()
            }
        };
        let place = |name: &&str| {
            let mut places = names.iter().enumerate().filter(|(_, other)| other == name);
            match (places.next(), places.next()) {
                (Some((place, _)), None) => Ok(place),
                (Some(_), Some(_)) => Err(TableError::AmbiguousColumn {
                    origin: self.origin.to_owned(),
                    column: beginning(name),
                }),
                (None, _) => Err(TableError::NoColumn {
                    origin: self.origin.to_owned(),
                    column: beginning(name),
                    hint: self.hint(&names),
                    found: names.clone(),
                }),
            }
        };
        asked.iter().map(place).collect()
    }

    /// Why a column may not be there.
    fn hint(&self, names: &[String]) -> &'static str {
        let of_one = match names {
            [one] => one.as_str(),
            _ => "",
        };
        let other = [';', '\t', ',', ' ']
            .into_iter()
            .find(|other| *other != self.options.delimiter && of_one.contains(*other));
        match other {
            Some(';') => "; is `;` the delimiter?",
            Some('\t') => "; is a tabulator the delimiter?",
            Some(' ') => "; are columns lined up by blanks? Then a blank is the delimiter",
            Some(_) => "; is `,` the delimiter?",
            None if !self.options.header => "; without a header, columns are called 1, 2, …",
            None => "",
        }
    }

    /// The number in a column of the current record; NaN where it is missing.
    pub(super) fn number(
        &self,
        place: usize,
        name: &str,
        row: u64,
        line: u64,
    ) -> Result<f64, TableError> {
        let field = self.record.get(place).unwrap_or_default();
        let text = String::from_utf8_lossy(field);
        let text = trimmed(&text);
        let missing = &self.options.missing;
        if text.is_empty()
            || missing
                .iter()
                .any(|mark| mark.trim().eq_ignore_ascii_case(text))
        {
            return Ok(f64::NAN);
        }
        let value: Option<f64> = match self.options.decimal_comma {
            true if text.contains('.') => None,
            true => text.replacen(',', ".", 1).parse().ok(),
            false => text.parse().ok(),
        };
        match value.filter(|value| (*value as f32).is_finite()) {
            Some(value) => Ok(value),
            None => Err(TableError::NotANumber {
                origin: self.origin.to_owned(),
                row,
                line,
                column: beginning(name),
                found: short(text),
                hint: match (text.contains(','), text.contains('.')) {
                    (true, false) if !self.options.decimal_comma => {
                        "; are decimals written with a comma?"
                    }
                    (_, true) if self.options.decimal_comma => {
                        "; are decimals written with a point?"
                    }
                    _ => "; correct it, or say that it stands for a missing value",
                },
            }),
        }
    }
}

/// Without blanks, byte order marks, and quotes that a blank before them made part of the value.
fn trimmed(field: &str) -> &str {
    let blank = |c: char| c.is_whitespace() || c == '\u{feff}';
    let text = field.trim_matches(blank);
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    inner.map_or(text, |text| text.trim_matches(blank))
}
