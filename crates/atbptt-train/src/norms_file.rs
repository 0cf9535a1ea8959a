//! Gradient norms from a JSON file, measured with any framework: [`LagNormsFile`].
//!
//! Place in the flow: beside training. Whoever measured norms elsewhere reads them here and hands them to
//! [`BiasEstimator`](atbptt_core::BiasEstimator); `examples/estimate.rs` is the command line over it.
//!
//! Norms are rows `[lag][sequence]`, lag 0 first. Three forms are read:
//!
//! ```text
//! [[1.0, 1.2], [0.7, 0.9], …]                                                    one probe
//! {"gradient_norms": [[…], …], "tau": 29, "mean_sum_norms": [0.0, …]}            one probe; the last two are optional
//! {"cases": [{"gradient_norms": …}, …]}                                          several
//! ```
//!
//! `tau`: lag from which on the profile counts as geometric, in steps. `mean_sum_norms`: the sizes `G(0..=lags)` of
//! [`LagNorms::with_mean_sum_norms`]. Other names are passed over.
//!
//! ```
//! use atbptt_core::BiasEstimator;
//! use atbptt_train::norms_file::{LagNormsFile, NormsFileError};
//!
//! let file = LagNormsFile::from_slice(b"[[1.0, 1.2], [0.5, 0.6], [0.25, 0.3], [0.125, 0.15]]")?;
//! let norms = &file.cases[0].norms;
//! assert_eq!((norms.lags(), norms.sequences()), (4, 2));
//! let estimate = BiasEstimator::new().estimate(norms)?;
//! assert!((estimate.beta() - 0.5).abs() < 1e-12);
//!
//! let error = LagNormsFile::from_slice(b"[[1.0, 1.2],\n [0.5, NaN]]").unwrap_err();
//! assert!(matches!(error, NormsFileError::NotANorm { lag: 1, sequence: 1, line: 2, .. }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Reading is total: any bytes give norms or a [`NormsFileError`]. Memory stays within a small multiple of the input,
//! whatever it claims, and nesting is bounded.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use atbptt_core::{EstimateError, LagNorms};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::error::Category;

/// Longest input, in bytes: 64 MiB, about three million norms written out in full.
pub const MAX_BYTES: usize = 64 << 20;

/// Most lags of one probe.
pub const MAX_LAGS: usize = 1 << 16;

/// Longest piece of a message that repeats the input, in characters.
const MAX_QUOTE: usize = 120;

/// What can be wrong with a file of norms. Lines and columns count from 1, lags, sequences and cases from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NormsFileError {
    /// The operating system refused.
    #[error("cannot read the norms: {0}; check that the file exists and is permitted")]
    Io(#[from] io::Error),
    /// The input is longer than [`MAX_BYTES`], or a probe has more than [`MAX_LAGS`] lags.
    #[error("norms may hold at most {limit} {what}; write fewer probes per file, or thin them out")]
    TooLarge {
        /// `bytes` or `lags`.
        what: &'static str,
        /// The most there may be.
        limit: usize,
    },
    /// The input is no JSON.
    #[error(
        "not JSON at line {line}, column {column}: {reason}; write the norms as [[…], …], one row per lag"
    )]
    NotJson {
        /// Line of the offence.
        line: usize,
        /// Column of the offence, in bytes.
        column: usize,
        /// The parser's words.
        reason: String,
    },
    /// The input is JSON, but not of one of the forms that are read.
    #[error(
        "{place} (line {line}, column {column}): {reason}; the form is [[…], …] or {{\"gradient_norms\": [[…], …]}}, one row per lag, one number per sequence"
    )]
    Shape {
        /// Where in the structure: `case 1, lag row 3, sequence 0`.
        place: String,
        /// Line of the offence.
        line: usize,
        /// Column of the offence, in bytes.
        column: usize,
        /// What was found and what was expected.
        reason: String,
    },
    /// A lag row is longer or shorter than the first.
    #[error("{}lag row {lag} (line {line}) has {got} norms, lag row 0 has {expected}; every lag needs one norm per sequence", in_case(*.case))]
    Ragged {
        /// Case, in a file of cases.
        case: Option<usize>,
        /// The first row whose length differs.
        lag: usize,
        /// Length of the first row.
        expected: usize,
        /// Length of this row; one more than expected stands for "too many".
        got: usize,
        /// Line where this showed.
        line: usize,
    },
    /// A norm that is negative, infinite or NaN.
    #[error("a gradient norm must be finite and at least 0, got {value} at {}lag {lag}, sequence {sequence} (line {line}, column {column}); drop that sequence, or repair its backward pass", in_case(*.case))]
    NotANorm {
        /// Case, in a file of cases.
        case: Option<usize>,
        /// Row of the value.
        lag: usize,
        /// Column of the value in its row.
        sequence: usize,
        /// The value.
        value: f64,
        /// Line of the value.
        line: usize,
        /// Column of the value's end, in bytes.
        column: usize,
    },
    /// There are no norms.
    #[error("{}no norms: {what} is empty; write at least one lag of one sequence", in_case(*.case))]
    Empty {
        /// Case, in a file of cases.
        case: Option<usize>,
        /// What is empty.
        what: &'static str,
    },
    /// The cumulative sizes do not fit the norms.
    #[error("{}{source}", in_case(*.case))]
    Sizes {
        /// Case, in a file of cases.
        case: Option<usize>,
        /// What is wrong with them.
        source: EstimateError,
    },
}

fn in_case(case: Option<usize>) -> String {
    case.map_or_else(String::new, |case| format!("case {case}, "))
}

/// The probes of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct LagNormsFile {
    /// At least one.
    pub cases: Vec<LagNormsCase>,
}

/// One probe.
#[derive(Clone, Debug, PartialEq)]
pub struct LagNormsCase {
    /// Its norms, with the cumulative sizes where the file has them.
    pub norms: LagNorms,
    /// Lag from which on the profile counts as geometric, in steps; unchecked. `None`: not in the file.
    pub tau: Option<usize>,
}

impl LagNormsFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`NormsFileError`], whatever the file holds.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NormsFileError> {
        Self::from_reader(File::open(path)?)
    }

    /// Reads to the end of `reader`, or to [`MAX_BYTES`].
    ///
    /// # Errors
    ///
    /// [`NormsFileError`], whatever comes.
    pub fn from_reader(reader: impl Read) -> Result<Self, NormsFileError> {
        let mut bytes = Vec::new();
        reader.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Self::from_slice(&bytes)
    }

    /// Reads bytes.
    ///
    /// # Errors
    ///
    /// [`NormsFileError`], whatever the bytes are.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, NormsFileError> {
        if bytes.len() > MAX_BYTES {
            return Err(NormsFileError::TooLarge {
                what: "bytes",
                limit: MAX_BYTES,
            });
        }
        // Some editors put a byte order mark before UTF-8.
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let mut at = Progress::default();
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let read = json.deserialize_any(Document { at: &mut at });
        let cases = read
            .and_then(|cases| json.end().map(|()| cases))
            .map_err(|error| at.explain(&error, bytes))?;
        if cases.is_empty() {
            return Err(NormsFileError::Empty {
                case: None,
                what: "the list of cases",
            });
        }
        Ok(Self { cases })
    }
}

/// How far reading has come, and what it found wrong: serde's errors carry text and a position, nothing else.
#[derive(Default)]
struct Progress {
    case: Option<usize>,
    part: Part,
    problem: Option<NormsFileError>,
}

#[derive(Clone, Copy, Default)]
enum Part {
    #[default]
    Top,
    Row {
        lag: usize,
    },
    Norm {
        lag: usize,
        sequence: usize,
    },
    Field(&'static str),
}

impl Progress {
    fn place(&self) -> String {
        let part = match self.part {
            Part::Top => "the top of the structure".into(),
            Part::Row { lag } => format!("lag row {lag}"),
            Part::Norm { lag, sequence } => format!("lag row {lag}, sequence {sequence}"),
            Part::Field(name) => format!("`{name}`"),
        };
        in_case(self.case) + &part
    }

    /// Remembers `problem` and gives serde something to stop with.
    fn stop<T, E: serde::de::Error>(&mut self, problem: NormsFileError) -> Result<T, E> {
        self.problem = Some(problem);
        Err(E::custom("stopped"))
    }

    /// The typed error behind one of serde's.
    fn explain(mut self, error: &serde_json::Error, bytes: &[u8]) -> NormsFileError {
        let (at_line, at_column) = (error.line(), error.column());
        if let Some(mut problem) = self.problem.take() {
            match &mut problem {
                NormsFileError::NotANorm { line, column, .. } => {
                    (*line, *column) = (at_line, at_column);
                }
                NormsFileError::Ragged { line, .. } => *line = at_line,
                _ => {}
            }
            return problem;
        }
        let text = error.to_string();
        // Line and column are said once, before the words.
        let words = text
            .rsplit_once(" at line ")
            .map_or(text.as_str(), |(words, _)| words);
        let reason: String = words.chars().take(MAX_QUOTE).collect();
        let (line, column) = (at_line, at_column);
        match (error.classify(), self.part) {
            (Category::Data, _) => NormsFileError::Shape {
                place: self.place(),
                line,
                column,
                reason,
            },
            // `NaN` and `Infinity` are no JSON, but that is how many writers put them; `1e999` is beyond f64.
            (_, Part::Norm { lag, sequence }) if not_finite(bytes, line, column).is_some() => {
                NormsFileError::NotANorm {
                    case: self.case,
                    lag,
                    sequence,
                    value: not_finite(bytes, line, column).unwrap_or(f64::NAN),
                    line,
                    column,
                }
            }
            _ => NormsFileError::NotJson {
                line,
                column,
                reason,
            },
        }
    }
}

/// The value of the word that covers `column` of `line`, if it spells a number that is not finite.
fn not_finite(bytes: &[u8], line: usize, column: usize) -> Option<f64> {
    let text = bytes
        .split(|byte| *byte == b'\n')
        .nth(line.checked_sub(1)?)?;
    let at = column.saturating_sub(1).min(text.len());
    let edge = |byte: &u8| b",[]{}: \t\r".contains(byte);
    let (before, after) = text.split_at_checked(at)?;
    let start = before.iter().rposition(edge).map_or(0, |i| i + 1);
    let end = after.iter().position(edge).map_or(text.len(), |i| at + i);
    let word = std::str::from_utf8(text.get(start..end)?).ok()?;
    word.parse().ok().filter(|value: &f64| !value.is_finite())
}

/// The top: rows, one case, or a list of cases.
struct Document<'a> {
    at: &'a mut Progress,
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Vec<LagNormsCase>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of lag rows, or an object with `gradient_norms` or `cases`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, rows: A) -> Result<Self::Value, A::Error> {
        let table = Rows { at: self.at }.visit_seq(rows)?;
        Ok(vec![table.into_case(self.at, None, None)?])
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        object(self.at, map, true)
    }
}

/// An object: one case, or (at the top) a list of them.
fn object<'de, A: MapAccess<'de>>(
    at: &mut Progress,
    mut map: A,
    top: bool,
) -> Result<Vec<LagNormsCase>, A::Error> {
    let (mut table, mut tau, mut sizes, mut cases) = (None, None, None, None);
    while let Some(name) = map.next_key_seed(Name)? {
        let repeated = match name {
            Key::Norms => {
                at.part = Part::Field("gradient_norms");
                table.replace(map.next_value_seed(Rows { at })?).is_some()
            }
            Key::Tau => {
                at.part = Part::Field("tau");
                tau.replace(map.next_value::<Option<u32>>()?).is_some()
            }
            Key::MeanSums => {
                at.part = Part::Field("mean_sum_norms");
                sizes
                    .replace(map.next_value::<Option<Vec<f64>>>()?)
                    .is_some()
            }
            Key::Cases if top => {
                at.part = Part::Field("cases");
                cases.replace(map.next_value_seed(Cases { at })?).is_some()
            }
            Key::Cases | Key::Other => {
                at.part = Part::Top;
                map.next_value::<IgnoredAny>()?;
                false
            }
        };
        if repeated {
            return Err(A::Error::custom("this name appears twice"));
        }
    }
    at.part = Part::Top;
    match (table, cases) {
        (Some(table), None) => {
            let tau = tau.flatten().map(|tau| tau as usize);
            Ok(vec![table.into_case(at, tau, sizes.flatten())?])
        }
        (None, Some(cases)) => Ok(cases),
        (None, None) if top => Err(A::Error::custom("neither `gradient_norms` nor `cases`")),
        (None, None) => Err(A::Error::custom("no `gradient_norms`")),
        (Some(_), Some(_)) => Err(A::Error::custom("both `gradient_norms` and `cases`")),
    }
}

enum Key {
    Norms,
    Tau,
    MeanSums,
    Cases,
    Other,
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Key, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Key, E> {
        Ok(match name {
            "gradient_norms" => Key::Norms,
            "tau" => Key::Tau,
            "mean_sum_norms" => Key::MeanSums,
            "cases" => Key::Cases,
            _ => Key::Other,
        })
    }
}

/// The list of cases.
struct Cases<'a> {
    at: &'a mut Progress,
}

impl<'de> DeserializeSeed<'de> for Cases<'_> {
    type Value = Vec<LagNormsCase>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Cases<'_> {
    type Value = Vec<LagNormsCase>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of objects with `gradient_norms`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut cases = Vec::new();
        loop {
            self.at.case = Some(cases.len());
            self.at.part = Part::Top;
            match list.next_element_seed(Case { at: self.at })? {
                Some(mut case) => cases.append(&mut case),
                None => break,
            }
        }
        self.at.case = None;
        Ok(cases)
    }
}

/// One element of the list of cases.
struct Case<'a> {
    at: &'a mut Progress,
}

impl<'de> DeserializeSeed<'de> for Case<'_> {
    type Value = Vec<LagNormsCase>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Case<'_> {
    type Value = Vec<LagNormsCase>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with `gradient_norms`")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        object(self.at, map, false)
    }
}

/// Norms as read: flat, sequences fastest.
#[derive(Default)]
struct Table {
    lags: usize,
    sequences: usize,
    values: Vec<f64>,
}

impl Table {
    fn into_case<E: serde::de::Error>(
        self,
        at: &mut Progress,
        tau: Option<usize>,
        sizes: Option<Vec<f64>>,
    ) -> Result<LagNormsCase, E> {
        let case = at.case;
        if self.values.is_empty() {
            let what = match self.lags {
                0 => "the list of lag rows",
                _ => "lag row 0",
            };
            return at.stop(NormsFileError::Empty { case, what });
        }
        let norms =
            LagNorms::from_flat(self.lags, self.sequences, &self.values).and_then(|norms| {
                match sizes {
                    Some(sizes) => norms.with_mean_sum_norms(sizes),
                    None => Ok(norms),
                }
            });
        match norms {
            Ok(norms) => Ok(LagNormsCase { norms, tau }),
            Err(source) => at.stop(NormsFileError::Sizes { case, source }),
        }
    }
}

/// The lag rows.
struct Rows<'a> {
    at: &'a mut Progress,
}

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Table;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Table, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Table;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of lag rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Table, A::Error> {
        let mut table = Table::default();
        loop {
            self.at.part = Part::Row { lag: table.lags };
            let (at, values) = (&mut *self.at, &mut table.values);
            let row = Row {
                at,
                values,
                lag: table.lags,
                expected: (table.lags > 0).then_some(table.sequences),
            };
            let Some(length) = rows.next_element_seed(row)? else {
                break;
            };
            table.sequences = length;
            table.lags += 1;
            if table.lags > MAX_LAGS {
                return self.at.stop(NormsFileError::TooLarge {
                    what: "lags",
                    limit: MAX_LAGS,
                });
            }
        }
        self.at.part = Part::Top;
        Ok(table)
    }
}

/// One lag row, appended to the table; gives its length.
struct Row<'a> {
    at: &'a mut Progress,
    values: &'a mut Vec<f64>,
    lag: usize,
    expected: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<usize, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of norms, one per sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut row: A) -> Result<usize, A::Error> {
        let (case, lag) = (self.at.case, self.lag);
        let mut sequence = 0;
        loop {
            self.at.part = Part::Norm { lag, sequence };
            let Some(value) = row.next_element::<f64>()? else {
                break;
            };
            if !(value.is_finite() && value >= 0.0) {
                return self.at.stop(NormsFileError::NotANorm {
                    case,
                    lag,
                    sequence,
                    value,
                    line: 0,
                    column: 0,
                });
            }
            self.values.push(value);
            sequence += 1;
            if self.expected.is_some_and(|expected| sequence > expected) {
                break;
            }
        }
        match self.expected {
            Some(expected) if sequence != expected => self.at.stop(NormsFileError::Ragged {
                case,
                lag,
                expected,
                got: sequence,
                line: 0,
            }),
            _ => Ok(sequence),
        }
    }
}

#[cfg(test)]
mod tests;
