//! Windows of continuous series: [`SeriesBatch`].

use std::ops::Range;

use burn::tensor::{Bool, Device, Tensor, TensorData};

use crate::ModelError;
use crate::batch::SequenceBatch;
use crate::ops::checks::same_device;

/// Continuous inputs and targets, with marks where a target is missing and where a new sequence begins.
///
/// How many targets there are at every step, and where sequences begin, is known on the host, so that nobody waits for the
/// device to learn it.
#[derive(Clone, Debug)]
pub struct SeriesBatch {
    inputs: Tensor<3>,
    targets: Tensor<3>,
    present: Option<Tensor<3, Bool>>,
    reset: Option<Tensor<2, Bool>>,
    /// Targets per step, over all sequences.
    counts: Vec<usize>,
    /// Per step, whether some sequence begins there.
    begins: Vec<bool>,
}

/// Sizes of a window of series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesShape {
    /// Parallel sequences.
    pub batch: usize,
    /// Steps.
    pub time: usize,
    /// Inputs per step.
    pub inputs: usize,
    /// Targets per step.
    pub targets: usize,
}

impl SeriesBatch {
    /// A batch from host memory.
    ///
    /// - `inputs`: row-major `[batch, time, in]`
    /// - `targets`: row-major `[batch, time, out]`; NaN where there is no target, and no loss
    /// - `begins`: row-major `[batch, time]`, true where a step begins a new sequence: the state is reset before it
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when a length does not fit, [`ModelError::Empty`] when a size is zero.
    pub fn from_host(
        inputs: Vec<f32>,
        mut targets: Vec<f32>,
        begins: Option<Vec<bool>>,
        shape: SeriesShape,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let SeriesShape { batch, time, .. } = shape;
        check_sizes(shape)?;
        let steps = batch.checked_mul(time);
        let lengths = [
            ("inputs", inputs.len(), shape.inputs),
            ("targets", targets.len(), shape.targets),
            ("reset mask", begins.as_ref().map_or(0, Vec::len), 1),
        ];
        for (what, got, width) in lengths {
            let absent = what == "reset mask" && begins.is_none();
            if !absent && steps.and_then(|steps| steps.checked_mul(width)) != Some(got) {
                return Err(ModelError::shape(
                    what,
                    [got],
                    format!("{batch} sequences of {time} steps of {width}"),
                    "give one value per sequence, step and feature",
                ));
            }
        }
        let present: Vec<bool> = targets.iter().map(|target| !target.is_nan()).collect();
        let mut counts = vec![0; time];
        for row in present.chunks(time * shape.targets) {
            for (count, step) in counts.iter_mut().zip(row.chunks(shape.targets)) {
                *count += step.iter().filter(|present| **present).count();
            }
        }
        let present = present.contains(&false).then(|| {
            targets
                .iter_mut()
                .filter(|target| target.is_nan())
                .for_each(|target| *target = 0.0);
            Tensor::from_data(
                TensorData::new(present, [batch, time, shape.targets]),
                device,
            )
        });
        let some = begins.filter(|begins| begins.contains(&true));
        let (reset, begins) = match some {
            None => (None, vec![false; time]),
            Some(rows) => (
                Some(Tensor::from_data(
                    TensorData::new(rows.clone(), [batch, time]),
                    device,
                )),
                columns(&rows, time),
            ),
        };
        let tensor = |values: Vec<f32>, width: usize| {
            Tensor::from_data(TensorData::new(values, [batch, time, width]), device)
        };
        Ok(Self {
            inputs: tensor(inputs, shape.inputs),
            targets: tensor(targets, shape.targets),
            present,
            reset,
            counts,
            begins,
        })
    }

    /// A batch from tensors, inputs `[batch, time, in]` and targets `[batch, time, out]`, every target counted.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when the first two sizes differ, [`ModelError::Empty`] when one is zero,
    /// [`ModelError::Device`] when they are not in one place.
    pub fn from_tensors(inputs: Tensor<3>, targets: Tensor<3>) -> Result<Self, ModelError> {
        let [batch, time, features] = inputs.dims();
        let [target_batch, target_time, out] = targets.dims();
        same_device("targets", &targets.device(), &inputs.device())?;
        if [target_batch, target_time] != [batch, time] {
            return Err(ModelError::shape(
                "targets",
                [target_batch, target_time, out],
                format!("[{batch}, {time}, out]"),
                "give targets for every sequence and step; mark those that are missing with `with_present`",
            ));
        }
        check_sizes(SeriesShape {
            batch,
            time,
            inputs: features,
            targets: out,
        })?;
        Ok(Self {
            inputs,
            targets,
            present: None,
            reset: None,
            counts: vec![batch * out; time],
            begins: vec![false; time],
        })
    }

    /// Marks, `[batch, time, out]`, where there is a target: elsewhere no loss is counted, whatever the targets hold. Reads
    /// the marks back once.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when the marks are shaped otherwise than the targets, [`ModelError::Device`] when they are
    /// elsewhere, [`ModelError::Read`] when they cannot be read.
    pub fn with_present(mut self, present: Tensor<3, Bool>) -> Result<Self, ModelError> {
        same_device(
            "marks of targets",
            &present.device(),
            &self.targets.device(),
        )?;
        let [batch, time, out] = self.targets.dims();
        if present.dims() != [batch, time, out] {
            return Err(ModelError::shape(
                "marks of targets",
                present.dims(),
                format!("[{batch}, {time}, {out}]"),
                "give one mark per target",
            ));
        }
        let marks = read(present.clone())?;
        self.counts = vec![0; time];
        for row in marks.chunks((time * out).max(1)) {
            for (count, step) in self.counts.iter_mut().zip(row.chunks(out.max(1))) {
                *count += step.iter().filter(|mark| **mark).count();
            }
        }
        // What is no number must not reach the loss, not even times zero.
        self.targets = self.targets.mask_fill(present.clone().bool_not(), 0.0);
        self.present = Some(present);
        Ok(self)
    }

    /// Marks, `[batch, time]`, the steps that begin a new sequence: the state is reset and the gradient cut before them.
    /// Reads the marks back once.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when the marks are not `[batch, time]`, [`ModelError::Device`] when they are elsewhere,
    /// [`ModelError::Read`] when they cannot be read.
    pub fn with_reset(mut self, reset: Tensor<2, Bool>) -> Result<Self, ModelError> {
        same_device("reset mask", &reset.device(), &self.inputs.device())?;
        let [batch, time, _] = self.inputs.dims();
        if reset.dims() != [batch, time] {
            return Err(ModelError::shape(
                "reset mask",
                reset.dims(),
                format!("[{batch}, {time}]"),
                "give one value per sequence and step",
            ));
        }
        self.begins = columns(&read(reset.clone())?, time);
        self.reset = Some(reset);
        Ok(self)
    }

    /// Inputs `[batch, time, in]`.
    pub fn inputs(&self) -> &Tensor<3> {
        &self.inputs
    }

    /// Targets `[batch, time, out]`; zero where there is none.
    pub fn targets(&self) -> &Tensor<3> {
        &self.targets
    }

    /// True where there is a target, `[batch, time, out]`; `None`: everywhere.
    pub fn present(&self) -> Option<&Tensor<3, Bool>> {
        self.present.as_ref()
    }

    /// Where new sequences begin, `[batch, time]`; `None`: nowhere.
    pub fn reset(&self) -> Option<&Tensor<2, Bool>> {
        self.reset.as_ref()
    }

    /// Steps at which some sequence begins, ascending.
    pub fn reset_steps(&self) -> Vec<usize> {
        let steps = self.begins.iter().enumerate();
        steps
            .filter_map(|(t, begins)| begins.then_some(t))
            .collect()
    }

    /// Number of targets: the number of terms in a loss over them.
    pub fn count(&self) -> usize {
        self.counts.iter().sum()
    }
}

/// Per step, whether any row of `[batch, time]` is marked.
fn columns(marks: &[bool], time: usize) -> Vec<bool> {
    let mut any = vec![false; time];
    for row in marks.chunks(time.max(1)) {
        for (any, mark) in any.iter_mut().zip(row) {
            *any |= mark;
        }
    }
    any
}

fn read<const D: usize>(marks: Tensor<D, Bool>) -> Result<Vec<bool>, ModelError> {
    let data = marks.try_into_data().map_err(|error| ModelError::Read {
        reason: error.to_string(),
    })?;
    Ok(data.iter::<bool>().collect())
}

fn check_sizes(shape: SeriesShape) -> Result<(), ModelError> {
    let sizes = [
        ("sequences", shape.batch),
        ("time steps", shape.time),
        ("inputs", shape.inputs),
        ("targets", shape.targets),
    ];
    match sizes.into_iter().find(|(_, size)| *size == 0) {
        Some((missing, _)) => Err(ModelError::Empty {
            what: "a window of series",
            missing,
        }),
        None => Ok(()),
    }
}

impl SequenceBatch for SeriesBatch {
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
        let end = start + length;
        let begins = self.begins.get(start..end).unwrap_or_default().to_vec();
        let counts = self.counts.get(start..end).unwrap_or_default().to_vec();
        let mask = self.reset.as_ref().filter(|_| begins.contains(&true));
        Self {
            inputs: self.inputs.clone().narrow(1, start, length),
            targets: self.targets.clone().narrow(1, start, length),
            present: self
                .present
                .as_ref()
                .map(|present| present.clone().narrow(1, start, length)),
            reset: mask.map(|reset| reset.clone().narrow(1, start, length)),
            counts,
            begins,
        }
    }

    fn with_reset_at(&self, step: usize) -> Option<Self> {
        let [sequences, steps, _] = self.inputs.dims();
        let marks: Vec<bool> = (0..sequences * steps).map(|i| i % steps == step).collect();
        let marks = TensorData::new(marks, [sequences, steps]);
        Some(Self {
            reset: Some(Tensor::from_data(marks, &self.inputs.device())),
            begins: (0..steps).map(|at| at == step).collect(),
            ..self.clone()
        })
    }
}
