//! What probes measured, from a JSON file, with any framework: [`open`].
//!
//! Place in the flow: beside training. Whoever measured elsewhere (`python/atbptt_probe.py` does it for PyTorch) reads it here
//! and hands norms to [`BiasEstimator`](atbptt_core::BiasEstimator), direct statistics to
//! [`DirectStatistics::estimate`]; `examples/estimate.rs` is the command line over it.
//!
//! Three forms are read:
//!
//! ```text
//! [[1.0, 1.2], [0.7, 0.9], …]                                    gradient norms, rows [lag][sequence], lag 0 first
//! {"gradient_norms": [[…], …], "tau": 29, "mean_sum_norms": […], "sum_squares": […],
//!  "direct": {"window": …, "losses": …, "contexts": […], "probes": …, "gram": […]}}
//! {"cases": [{"gradient_norms": …}, {"direct": …}, …]}           several
//! ```
//!
//! An object holds norms, direct statistics or both; the rest is optional. `tau`: lag from which on the profile counts as
//! geometric, in steps. `mean_sum_norms`: the sizes `G(0..=lags)` of [`LagNorms::with_mean_sum_norms`]; `sum_squares`: the
//! squares of [`LagNorms::with_sum_squares`]. `direct`: the arguments of [`DirectStatistics::new`]. Other names are passed
//! over.
//!
//! ```
//! use atbptt_core::BiasEstimator;
//! use atbptt_train::probe_file;
//!
//! let cases = probe_file::from_slice(b"[[1.0, 1.2], [0.5, 0.6], [0.25, 0.3], [0.125, 0.15]]")?;
//! let norms = cases[0].norms.as_ref().ok_or("no norms")?;
//! assert_eq!((norms.lags(), norms.sequences()), (4, 2));
//! let estimate = BiasEstimator::new().estimate(norms)?;
//! assert!((estimate.beta() - 0.5).abs() < 1e-12);
//!
//! let error = probe_file::from_slice(b"[[1.0, 1.2],\n [0.5, NaN]]").unwrap_err();
//! let said = "a gradient norm must be finite and at least 0, got NaN at lag 1, sequence 1 (line 2, column";
//! assert!(error.to_string().starts_with(said));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Reading is total: any bytes give a file or a [`ProbeFileError`]. Memory stays within a small multiple of the input,
//! whatever it claims, and nesting is bounded.

mod rows;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use atbptt_core::LagNorms;
use atbptt_core::direct::DirectStatistics;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_path_to_error::Segment;

use rows::{NORM_RULE, Rows};

/// Longest input, in bytes: 64 MiB, about three million norms written out in full.
pub const MAX_BYTES: usize = 64 << 20;

/// Most lags of one probe.
pub const MAX_LAGS: usize = 1 << 16;

/// Most cases of one file.
pub const MAX_CASES: usize = 1 << 16;

/// Longest piece of a message that repeats the input, in characters.
const MAX_QUOTE: usize = 200;

/// What can be wrong with a file of measurements. Lines and columns count from 1; lags, sequences and cases from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeFileError {
    /// The operating system refused.
    #[error("cannot read the norms: {0}; check that the file exists and is permitted")]
    Io(#[from] io::Error),
    /// The input is longer than [`MAX_BYTES`].
    #[error(
        "a file of measurements may hold at most {limit} bytes; write fewer probes per file, or thin them out"
    )]
    TooLarge {
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
    /// The input is JSON, but something in it is not what it should be.
    #[error("{reason} at {place} (line {line}, column {column}); {remedy}")]
    Content {
        /// Where in the structure: ``case 1, lag 3, sequence 0``, or a path such as `direct.gram[7]`.
        place: String,
        /// Line of the offence, or of the end of the structure that is wrong as a whole.
        line: usize,
        /// Column of the same, in bytes.
        column: usize,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
}

/// One set of measurements: of one model at one time. At least one of `norms` and `direct` is there.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Raw")]
pub struct ProbeCase {
    /// Gradient norms per lag, with the cumulative sizes where the file has them.
    pub norms: Option<LagNorms>,
    /// Lag from which on the profile counts as geometric, in steps; unchecked. `None`: not in the file.
    pub tau: Option<usize>,
    /// Inner products of piece gradients.
    pub direct: Option<DirectStatistics>,
}

/// The measurements of a file, at least one.
///
/// # Errors
///
/// [`ProbeFileError`], whatever the file holds.
pub fn open(path: impl AsRef<Path>) -> Result<Vec<ProbeCase>, ProbeFileError> {
    from_reader(File::open(path)?)
}

/// Reads to the end of `reader`, or to [`MAX_BYTES`].
///
/// # Errors
///
/// [`ProbeFileError`], whatever comes.
pub fn from_reader(reader: impl Read) -> Result<Vec<ProbeCase>, ProbeFileError> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    from_slice(&bytes)
}

/// Reads bytes.
///
/// # Errors
///
/// [`ProbeFileError`], whatever the bytes are.
pub fn from_slice(bytes: &[u8]) -> Result<Vec<ProbeCase>, ProbeFileError> {
    if bytes.len() > MAX_BYTES {
        return Err(ProbeFileError::TooLarge { limit: MAX_BYTES });
    }
    // Some editors put a byte order mark before UTF-8.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let bare = bytes.trim_ascii_start().starts_with(b"[");
    let read = match bare {
        true => serde_path_to_error::deserialize(&mut json).map(|rows| {
            let raw = Raw {
                gradient_norms: Some(rows),
                ..Raw::default()
            };
            Top::Case(Box::new(raw))
        }),
        false => serde_path_to_error::deserialize::<_, Raw>(&mut json).map(Top::from),
    };
    let top = read.map_err(|error| explain(error.path(), error.inner(), bytes))?;
    let nowhere = serde_path_to_error::Track::new().path();
    let cases = match top {
        Top::Cases(cases) => Ok(cases),
        Top::Case(raw) => ProbeCase::try_from(*raw).map(|case| vec![case]),
        Top::Both => Err("both `gradient_norms` or `direct` and `cases`".into()),
    };
    cases
        .map_err(serde_json::Error::custom)
        .and_then(|cases| json.end().map(|()| cases))
        .map_err(|error| explain(&nowhere, &error, bytes))
}

/// An object as it stands in the file.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    gradient_norms: Option<Rows>,
    tau: Option<u32>,
    mean_sum_norms: Option<Vec<f64>>,
    sum_squares: Option<Vec<f64>>,
    direct: Option<DirectStatistics>,
    cases: Option<Cases>,
}

/// The top of a file.
enum Top {
    Case(Box<Raw>),
    Cases(Vec<ProbeCase>),
    Both,
}

impl From<Raw> for Top {
    fn from(mut raw: Raw) -> Self {
        let alone = raw.gradient_norms.is_none() && raw.direct.is_none();
        match raw.cases.take() {
            None => Self::Case(Box::new(raw)),
            Some(Cases(cases)) if alone => Self::Cases(cases),
            Some(_) => Self::Both,
        }
    }
}

impl TryFrom<Raw> for ProbeCase {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        if raw.cases.is_some() {
            return Err("a case holds `cases`".into());
        }
        let norms = raw.gradient_norms.map(|rows| rows.into_norms());
        let norms = match (norms, raw.mean_sum_norms) {
            (Some(norms), Some(sizes)) => {
                Some(norms.and_then(|norms| norms.with_mean_sum_norms(sizes)))
            }
            (norms, _) => norms,
        };
        let norms = match (norms, raw.sum_squares) {
            (Some(norms), Some(squares)) => {
                Some(norms.and_then(|norms| norms.with_sum_squares(squares)))
            }
            (norms, _) => norms,
        };
        let norms = norms.transpose().map_err(|error| error.to_string())?;
        if norms.is_none() && raw.direct.is_none() {
            return Err("neither `gradient_norms` nor `cases` nor `direct`".into());
        }
        Ok(Self {
            norms,
            tau: raw.tau.map(|tau| tau as usize),
            direct: raw.direct,
        })
    }
}

/// A list of cases, checked one by one, so that a long list of nothing does not fill the memory.
struct Cases(Vec<ProbeCase>);

impl<'de> Deserialize<'de> for Cases {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Cases;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a list of objects with `gradient_norms` or `direct`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Cases, A::Error> {
                let mut cases = Vec::new();
                while let Some(case) = list.next_element()? {
                    if cases.len() == MAX_CASES {
                        let text = format!("more than {MAX_CASES} cases; write several files");
                        return Err(A::Error::custom(text));
                    }
                    cases.push(case);
                }
                match cases.is_empty() {
                    true => Err(A::Error::custom("the list of cases is empty")),
                    false => Ok(Cases(cases)),
                }
            }
        }
        json.deserialize_seq(List)
    }
}

/// Where a path leads, in words, and the lag and sequence if it leads to a norm.
fn place(path: &serde_path_to_error::Path) -> (String, bool) {
    let mut segments: &[Segment] = &path.iter().cloned().collect::<Vec<_>>();
    let mut words = Vec::new();
    if let [Segment::Map { key }, Segment::Seq { index }, rest @ ..] = segments
        && key == "cases"
    {
        words.push(format!("case {index}"));
        segments = rest;
    }
    let rows = match segments {
        [Segment::Map { key }, rest @ ..] if key == "gradient_norms" => Some(rest),
        // A file that is a list is one of rows.
        [Segment::Seq { .. }, ..] if words.is_empty() => Some(segments),
        _ => None,
    };
    let mut is_norm = false;
    match (rows, segments) {
        (Some([Segment::Seq { index: lag }, Segment::Seq { index }, ..]), _) => {
            is_norm = true;
            words.push(format!("lag {lag}, sequence {index}"));
        }
        (Some([Segment::Seq { index }, ..]), _) => words.push(format!("lag row {index}")),
        (_, []) if words.is_empty() => words.push("the top of the structure".into()),
        (_, []) => {}
        _ => {
            let mut path = String::new();
            for segment in segments {
                let dot = match segment {
                    Segment::Seq { .. } => "",
                    _ if path.is_empty() => "",
                    _ => ".",
                };
                path.push_str(&format!("{dot}{segment}"));
            }
            words.push(format!("`{}`", shortened(&path)));
        }
    }
    (words.join(", "), is_norm)
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_QUOTE).collect()
}

/// The typed error behind one of serde's.
fn explain(
    path: &serde_path_to_error::Path,
    error: &serde_json::Error,
    bytes: &[u8],
) -> ProbeFileError {
    // What is wrong with all of it has no place of its own.
    let (line, column) = (error.line().max(1), error.column().max(1));
    let text = error.to_string();
    // Line and column are said once, beside the place.
    let words = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(words, _)| words);
    let (place, is_norm) = place(path);
    // `NaN` and `Infinity` are no JSON, but that is how many writers put them; `1e999` is beyond f64.
    let spelled = not_finite(bytes, line, column).filter(|_| is_norm);
    let words = match (error.classify(), spelled) {
        (Category::Data, _) => words.to_owned(),
        (_, Some(value)) => format!("{NORM_RULE}, got {value}; {}", rows::NORM_REMEDY),
        _ => {
            return ProbeFileError::NotJson {
                line,
                column,
                reason: shortened(words),
            };
        }
    };
    let form = "the form is [[…], …] or {\"gradient_norms\": [[…], …], \"direct\": {…}}, one row per lag, one number per sequence";
    let (reason, remedy) = words.split_once("; ").unwrap_or((&words, form));
    ProbeFileError::Content {
        place,
        line,
        column,
        reason: shortened(reason),
        remedy: shortened(remedy),
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

#[cfg(test)]
mod tests;
