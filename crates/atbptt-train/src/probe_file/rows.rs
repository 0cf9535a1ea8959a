//! Lag rows as they stand in a file, checked while they are read: a row too long, too short or too many ends the reading.

use std::fmt;

use atbptt_core::{EstimateError, LagNorms};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};

use super::MAX_LAGS;

pub(super) const NORM_RULE: &str = "a gradient norm must be finite and at least 0";
pub(super) const NORM_REMEDY: &str = "drop that sequence, or repair its backward pass";

/// Norms, sequences fastest.
#[derive(Default)]
pub(super) struct Rows {
    lags: usize,
    sequences: usize,
    values: Vec<f64>,
}

impl Rows {
    pub(super) fn into_norms(self) -> Result<LagNorms, EstimateError> {
        LagNorms::from_flat(self.lags, self.sequences, &self.values)
    }
}

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Rows;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of lag rows")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Rows, A::Error> {
                let mut rows = Rows::default();
                loop {
                    let row = Row {
                        values: &mut rows.values,
                        expected: (rows.lags > 0).then_some(rows.sequences),
                    };
                    let Some(length) = list.next_element_seed(row)? else {
                        break;
                    };
                    rows.sequences = length;
                    rows.lags += 1;
                    if rows.lags > MAX_LAGS {
                        let text = format!("more than {MAX_LAGS} lags; thin them out");
                        return Err(A::Error::custom(text));
                    }
                }
                match rows.lags {
                    0 => Err(A::Error::custom("the list of lag rows is empty")),
                    _ => Ok(rows),
                }
            }
        }
        json.deserialize_seq(List)
    }
}

/// One lag row, appended to the values; gives its length.
struct Row<'a> {
    values: &'a mut Vec<f64>,
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
        let mut length = 0;
        while let Some(Norm(value)) = row.next_element()? {
            length += 1;
            if self.expected.is_some_and(|expected| length > expected) {
                break;
            }
            self.values.push(value);
        }
        match self.expected {
            Some(expected) if length != expected => {
                let more = if length > expected { " or more" } else { "" };
                Err(A::Error::custom(format!(
                    "{length}{more} norms where lag row 0 has {expected}; every lag needs one norm per sequence"
                )))
            }
            None if length == 0 => Err(A::Error::custom("the first lag row is empty")),
            _ => Ok(length),
        }
    }
}

/// A number that is a norm.
struct Norm(f64);

impl<'de> Deserialize<'de> for Norm {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(json)?;
        match value.is_finite() && value >= 0.0 {
            true => Ok(Self(value)),
            false => Err(D::Error::custom(format!(
                "{NORM_RULE}, got {value}; {NORM_REMEDY}"
            ))),
        }
    }
}
