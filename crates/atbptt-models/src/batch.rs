//! Windows of training data.

use std::ops::Range;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::ModelError;
use crate::ops::checks::same_device;

/// A window of inputs and targets that can be cut in time.
pub trait SequenceBatch: Clone + Send + 'static {
    /// Number of time steps.
    fn steps(&self) -> usize;
    /// Number of sequences.
    fn sequences(&self) -> usize;
    /// The steps `range` of the window; `range` lies within `0..steps()` and is not empty, or is cut to that.
    fn slice(&self, range: Range<usize>) -> Self;
    /// The same window, all its sequences beginning anew at `step`; `None` for batches that mark no resets, the default.
    fn with_reset_at(&self, _step: usize) -> Option<Self> {
        None
    }
}

/// Token ids and the ids that follow them.
///
/// The largest id is known on the host, so that a model can refuse ids it has no embedding for without waiting for
/// the device.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    inputs: Tensor<2, Int>,
    targets: Tensor<2, Int>,
    reset: Option<Tensor<2, Bool>>,
    /// Row-major `[batch, time]`: whether a target counts; `None`: all do.
    present: Option<Vec<bool>>,
    smallest: i64,
    largest: i64,
}

impl TokenBatch {
    /// A batch from host memory.
    ///
    /// - `inputs`, `targets`: row-major `[batch, time]`; `targets` is `inputs` one step later
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when the lengths do not fit, [`ModelError::Empty`] when there is nothing,
    /// [`ModelError::Token`] for an id that does not fit 32 bits.
    pub fn from_host(
        inputs: &[i64],
        targets: &[i64],
        batch: usize,
        time: usize,
        device: &Device,
    ) -> Result<Self, ModelError> {
        for (what, missing, size) in [
            ("tokens", "sequences", batch),
            ("tokens", "time steps", time),
        ] {
            if size == 0 {
                return Err(ModelError::Empty { what, missing });
            }
        }
        for (what, ids) in [("inputs", inputs), ("targets", targets)] {
            if batch.checked_mul(time) != Some(ids.len()) {
                return Err(ModelError::shape(
                    what,
                    [ids.len()],
                    format!("{batch} sequences of {time} steps"),
                    "give one id per sequence and step",
                ));
            }
        }
        let ids = || inputs.iter().chain(targets).copied();
        let (smallest, largest) = (ids().min().unwrap_or(0), ids().max().unwrap_or(0));
        for token in [smallest, largest] {
            if i32::try_from(token).is_err() {
                return Err(ModelError::Token {
                    token,
                    vocabulary: i32::MAX as usize,
                });
            }
        }
        let tensor = |ids: &[i64]| {
            Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [batch, time]), device)
        };
        Ok(Self {
            inputs: tensor(inputs),
            targets: tensor(targets),
            reset: None,
            present: None,
            smallest,
            largest,
        })
    }

    /// A batch from tensors `[batch, time]`; reads the smallest and largest id back from the device once.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when the shapes differ, [`ModelError::Empty`] when there is nothing,
    /// [`ModelError::Device`] or [`ModelError::DType`] when they differ in these, [`ModelError::Read`] when the read-back
    /// fails.
    pub fn from_tensors(
        inputs: Tensor<2, Int>,
        targets: Tensor<2, Int>,
    ) -> Result<Self, ModelError> {
        let [batch, time] = inputs.dims();
        same_device("targets", &targets.device(), &inputs.device())?;
        if targets.dtype() != inputs.dtype() {
            return Err(ModelError::DType {
                what: "targets",
                expected: format!("{:?}", inputs.dtype()),
                got: format!("{:?}", targets.dtype()),
            });
        }
        if targets.dims() != [batch, time] {
            return Err(ModelError::shape(
                "targets",
                targets.dims(),
                format!("[{batch}, {time}]"),
                "give one target per input",
            ));
        }
        for (missing, size) in [("sequences", batch), ("time steps", time)] {
            if size == 0 {
                return Err(ModelError::Empty {
                    what: "tokens",
                    missing,
                });
            }
        }
        let all = Tensor::cat(vec![inputs.clone(), targets.clone()], 0);
        let extremes = Tensor::cat(vec![all.clone().min(), all.max()], 0);
        let extremes: Vec<i64> = extremes
            .try_into_data()
            .map_err(|error| ModelError::Read {
                reason: error.to_string(),
            })?
            .iter::<i64>()
            .collect();
        Ok(Self {
            inputs,
            targets,
            reset: None,
            present: None,
            smallest: extremes.first().copied().unwrap_or(0),
            largest: extremes.last().copied().unwrap_or(0),
        })
    }

    /// Marks, `[batch, time]`, the steps that begin a new sequence: the state is zeroed and the gradient cut before
    /// them.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when the mask is not `[batch, time]`, [`ModelError::Device`] when it is elsewhere.
    pub fn with_reset(mut self, reset: Tensor<2, Bool>) -> Result<Self, ModelError> {
        same_device("reset mask", &reset.device(), &self.inputs.device())?;
        if reset.dims() != self.inputs.dims() {
            return Err(ModelError::shape(
                "reset mask",
                reset.dims(),
                format!("{:?}", self.inputs.dims()),
                "give one value per sequence and step",
            ));
        }
        self.reset = Some(reset);
        Ok(self)
    }

    /// Marks, row-major `[batch, time]`, where there is a target: elsewhere no loss is counted, whatever id stands there.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when the marks are not one per sequence and step.
    pub fn with_present(mut self, present: Vec<bool>) -> Result<Self, ModelError> {
        let [batch, time] = self.inputs.dims();
        if present.len() != batch * time {
            return Err(ModelError::shape(
                "marks of targets",
                [present.len()],
                format!("{batch} sequences of {time} steps"),
                "give one mark per sequence and step",
            ));
        }
        self.present = present.contains(&false).then_some(present);
        Ok(self)
    }

    /// Input ids `[batch, time]`.
    pub fn inputs(&self) -> &Tensor<2, Int> {
        &self.inputs
    }

    /// Target ids `[batch, time]`.
    pub fn targets(&self) -> &Tensor<2, Int> {
        &self.targets
    }

    /// Where new sequences begin, `[batch, time]`.
    pub fn reset(&self) -> Option<&Tensor<2, Bool>> {
        self.reset.as_ref()
    }

    /// Where there is a target, row-major `[batch, time]`; `None`: everywhere.
    pub fn present(&self) -> Option<&[bool]> {
        self.present.as_deref()
    }

    /// Number of targets: the number of terms in a loss over them.
    pub fn count(&self) -> usize {
        match &self.present {
            Some(present) => present.iter().filter(|there| **there).count(),
            None => self.targets.dims().iter().product(),
        }
    }

    /// Refuses ids that a model of `vocabulary` words has no embedding for.
    ///
    /// # Errors
    ///
    /// [`ModelError::Token`] with the id.
    pub fn check(&self, vocabulary: usize) -> Result<(), ModelError> {
        let words = i64::try_from(vocabulary).unwrap_or(i64::MAX);
        for token in [self.smallest, self.largest] {
            if !(0..words).contains(&token) {
                return Err(ModelError::Token { token, vocabulary });
            }
        }
        Ok(())
    }
}

impl SequenceBatch for TokenBatch {
    fn steps(&self) -> usize {
        self.inputs.dims()[1]
    }

    fn sequences(&self) -> usize {
        self.inputs.dims()[0]
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let steps = self.steps();
        let start = range.start.min(steps.saturating_sub(1));
        let length = range.end.min(steps).saturating_sub(start).max(1);
        Self {
            inputs: self.inputs.clone().narrow(1, start, length),
            targets: self.targets.clone().narrow(1, start, length),
            reset: self
                .reset
                .as_ref()
                .map(|reset| reset.clone().narrow(1, start, length)),
            present: self.present.as_ref().and_then(|present| {
                let rows = present.chunks(steps.max(1));
                let part: Vec<bool> = rows
                    .flat_map(|row| row.get(start..start + length).unwrap_or_default())
                    .copied()
                    .collect();
                part.contains(&false).then_some(part)
            }),
            ..*self
        }
    }

    fn with_reset_at(&self, step: usize) -> Option<Self> {
        let [sequences, steps] = self.inputs.dims();
        let marks: Vec<bool> = (0..sequences * steps).map(|i| i % steps == step).collect();
        let device = self.inputs.device();
        let reset = Tensor::from_data(TensorData::new(marks, [sequences, steps]), &device);
        Some(Self {
            reset: Some(reset),
            ..self.clone()
        })
    }
}
