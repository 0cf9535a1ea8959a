//! The sections that are numbers: windows of the epoch so far, and the carried state.

use atbptt_models::RecurrentState;
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::CheckpointFault;
use crate::TrainError;
use crate::output::StepReport;

/// A window of the epoch so far, as metrics read it: what Burn's metrics are told again when a run is resumed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct WindowRow {
    pub report: StepReport,
    /// Learning rate of the step.
    pub lr: f64,
    /// Losses counted per sequence, this window's included.
    pub counted: usize,
}

/// Numbers of a row, of eight bytes each.
const ROW: usize = 9;

pub(super) fn windows_to(rows: &[WindowRow]) -> Vec<u8> {
    let number = |value: Option<f64>| value.unwrap_or(f64::NAN).to_le_bytes();
    let count = |value: usize| (value as u64).to_le_bytes();
    let row = |row: &WindowRow| -> [[u8; 8]; ROW] {
        let report = &row.report;
        [
            report.loss_sum.to_le_bytes(),
            count(report.count),
            count(report.k),
            number(report.relative_bias),
            number(report.decay),
            report.seconds.to_le_bytes(),
            row.lr.to_le_bytes(),
            count(row.counted),
            count(usize::from(report.clipped)),
        ]
    };
    rows.iter().flat_map(row).flatten().collect()
}

pub(super) fn windows_from(bytes: &[u8]) -> Result<Vec<WindowRow>, CheckpointFault> {
    let (words, rest) = bytes.as_chunks::<8>();
    let (rows, left) = words.as_chunks::<ROW>();
    if !(rest.is_empty() && left.is_empty()) {
        return Err(CheckpointFault::Malformed {
            reason: format!(
                "the windows take {} bytes, no multiple of {}",
                bytes.len(),
                8 * ROW
            ),
        });
    }
    let finite = |word: [u8; 8]| Some(f64::from_le_bytes(word)).filter(|value| value.is_finite());
    let count = |word: [u8; 8]| {
        usize::try_from(u64::from_le_bytes(word))
            .ok()
            .filter(|&count| (count as u64) < super::state::MOST)
            .ok_or_else(|| CheckpointFault::Malformed {
                reason: "a window's counter is beyond any run".into(),
            })
    };
    let flag = |word: [u8; 8]| match u64::from_le_bytes(word) {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CheckpointFault::Malformed {
            reason: "whether a window was clipped is neither 0 nor 1".into(),
        }),
    };
    rows.iter()
        .map(
            |&[loss, tokens, k, bias, decay, seconds, lr, counted, clipped]| {
                Ok(WindowRow {
                    report: StepReport {
                        loss_sum: f64::from_le_bytes(loss),
                        count: count(tokens)?,
                        k: count(k)?,
                        relative_bias: finite(bias),
                        decay: finite(decay),
                        clipped: flag(clipped)?,
                        seconds: f64::from_le_bytes(seconds),
                    },
                    lr: f64::from_le_bytes(lr),
                    counted: count(counted)?,
                })
            },
        )
        .collect()
}

/// The parts of a recurrent state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Carried(Vec<Part>);

/// `[batch, features]`, row by row, in `f32` (which halves convert to exactly) or `f64`.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    shape: [usize; 2],
    values: Values,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Carried {
    /// A state, given in parts of its sequences, in their order.
    pub(crate) fn new<S: RecurrentState>(states: &[S]) -> Result<Self, TrainError> {
        let mut states = states.iter();
        let Some(first) = states.next() else {
            return Ok(Self(Vec::new()));
        };
        let mut carried = Self::of(first)?;
        for state in states {
            let more = Self::of(state)?;
            carried
                .0
                .iter_mut()
                .zip(more.0)
                .for_each(|(part, more)| part.append(more));
        }
        Ok(carried)
    }

    fn of<S: RecurrentState>(state: &S) -> Result<Self, TrainError> {
        let part = |part: Tensor<2>| {
            let shape = part.dims();
            let double = part.dtype() == DType::F64;
            let data = part.detach().try_into_data();
            let data = data.map_err(|error| TrainError::Read {
                reason: format!("{error:?}"),
            })?;
            let values = match double {
                true => Values::Double(data.iter::<f64>().collect()),
                false => Values::Single(data.iter::<f32>().collect()),
            };
            Ok(Part { shape, values })
        };
        Ok(Self(
            state
                .parts()
                .into_iter()
                .map(part)
                .collect::<Result<_, TrainError>>()?,
        ))
    }

    /// The state in the structure and types of `template`; `None` when the parts do not fit it.
    pub(crate) fn state<S: RecurrentState>(&self, template: S, device: &Device) -> Option<S> {
        let expected = template.parts();
        let fits = self.0.len() == expected.len()
            && self
                .0
                .iter()
                .zip(&expected)
                .all(|(part, like)| part.shape == like.dims());
        fits.then(|| {
            let tensors = self.0.iter().zip(&expected).map(|(part, like)| {
                let data = match &part.values {
                    Values::Single(values) => TensorData::new(values.clone(), part.shape),
                    Values::Double(values) => TensorData::new(values.clone(), part.shape),
                };
                Tensor::from_data(data, (device, like.dtype()))
            });
            let tensors = tensors.collect();
            template.with_parts(tensors)
        })
    }

    /// Number of parts, then of each: rows, columns, bytes per value, values.
    pub(super) fn to_bytes(carried: Option<&Self>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(Self(parts)) = carried else {
            return bytes;
        };
        for Part { shape, values } in parts {
            let width: u64 = match values {
                Values::Single(_) => 4,
                Values::Double(_) => 8,
            };
            for number in [shape[0] as u64, shape[1] as u64, width] {
                bytes.extend(number.to_le_bytes());
            }
            match values {
                Values::Single(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
                Values::Double(values) => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            }
        }
        bytes
    }

    pub(super) fn from_bytes(mut bytes: &[u8]) -> Result<Option<Self>, CheckpointFault> {
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let (part, rest) = Part::split(bytes).ok_or_else(|| CheckpointFault::Malformed {
                reason: "the carried state is incomplete".into(),
            })?;
            parts.push(part);
            bytes = rest;
        }
        Ok((!parts.is_empty()).then_some(Self(parts)))
    }
}

impl Part {
    /// Adds more sequences, of as many features.
    fn append(&mut self, more: Self) {
        self.shape[0] += more.shape[0];
        match (&mut self.values, more.values) {
            (Values::Single(values), Values::Single(more)) => values.extend(more),
            (Values::Double(values), Values::Double(more)) => values.extend(more),
            // Parts of one state on several devices are of one type.
            (Values::Double(values), Values::Single(more)) => {
                values.extend(more.into_iter().map(f64::from));
            }
            (Values::Single(values), Values::Double(more)) => {
                values.extend(more.into_iter().map(|value| value as f32));
            }
        }
    }

    /// Takes a part off the front.
    fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<24>()?;
        let (words, _) = head.as_chunks::<8>();
        let mut numbers = words
            .iter()
            .map(|&word| usize::try_from(u64::from_le_bytes(word)).ok());
        let (rows, columns, width) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let length = rows.checked_mul(columns)?.checked_mul(width)?;
        // The bytes are there before anything of their size is made.
        let (values, rest) = rest.split_at_checked(length)?;
        let values = match width {
            4 => {
                let (values, _) = values.as_chunks::<4>();
                Values::Single(values.iter().map(|&v| f32::from_le_bytes(v)).collect())
            }
            8 => {
                let (values, _) = values.as_chunks::<8>();
                Values::Double(values.iter().map(|&v| f64::from_le_bytes(v)).collect())
            }
            _ => return None,
        };
        let shape = [rows, columns];
        Some((Self { shape, values }, rest))
    }
}
