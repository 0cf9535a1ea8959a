//! Shape checks of the sequence operations: what does not fit is named, with the shape that would.

use burn::tensor::{Device, Int, Tensor};

use super::tensor::SequenceOptions;
use crate::ModelError;

/// What a sequence operation is given.
pub(super) struct Sequence<'a> {
    pub gates: usize,
    pub parts: usize,
    pub input: &'a Tensor<3>,
    pub input_weight: &'a Tensor<2>,
    pub recurrent_weight: &'a Tensor<2>,
    pub bias: &'a Tensor<1>,
    pub state: &'a Tensor<2>,
    pub options: &'a SequenceOptions,
}

pub(super) fn sequence(s: &Sequence<'_>) -> Result<(), ModelError> {
    let [time, batch, inputs] = s.input.dims();
    let [hidden, _] = s.recurrent_weight.dims();
    for (size, missing) in [(time, "time steps"), (batch, "sequences")] {
        if size == 0 {
            return Err(ModelError::Empty {
                what: "input",
                missing,
            });
        }
    }
    if inputs == 0 || hidden == 0 {
        return Err(ModelError::Empty {
            what: "layer",
            missing: "features",
        });
    }
    let (gates, parts) = (s.gates * hidden, s.parts * hidden);
    matrix("recurrent weight", s.recurrent_weight, [hidden, gates])?;
    matrix("input weight", s.input_weight, [inputs, gates])?;
    vector("bias", s.bias, gates)?;
    if s.state.dims() != [batch, parts] {
        return Err(ModelError::shape(
            "state",
            s.state.dims(),
            format!("[{batch}, {parts}]"),
            "pass the state of as many sequences as the input has",
        ));
    }
    if let Some(taps) = &s.options.taps
        && taps.dims() != [time, batch, parts]
    {
        return Err(ModelError::shape(
            "taps",
            taps.dims(),
            format!("[{time}, {batch}, {parts}]"),
            "give one tap per step and sequence",
        ));
    }
    if let Some(keep) = &s.options.keep
        && keep.dims() != [time, batch, 1]
    {
        return Err(ModelError::shape(
            "reset mask",
            keep.dims(),
            format!("[{time}, {batch}, 1]"),
            "give one value per step and sequence",
        ));
    }
    let device = s.recurrent_weight.device();
    let others = [
        ("input", Some(s.input.device())),
        ("input weight", Some(s.input_weight.device())),
        ("bias", Some(s.bias.device())),
        ("state", Some(s.state.device())),
        ("taps", s.options.taps.as_ref().map(Tensor::device)),
        ("reset mask", s.options.keep.as_ref().map(Tensor::device)),
    ];
    others
        .into_iter()
        .try_for_each(|(what, other)| same_device(what, other, &device))
}

/// Refuses a tensor that is elsewhere: backends end the program over it.
pub(crate) fn same_device(
    what: &'static str,
    got: Option<Device>,
    model: &Device,
) -> Result<(), ModelError> {
    match got {
        Some(got) if got != *model => Err(ModelError::Device {
            what,
            got: named(got),
            expected: named(model.clone()),
        }),
        _ => Ok(()),
    }
}

/// A device in words, such as `Flex`, gradient tracking left out.
fn named(device: Device) -> String {
    let text = format!("{:?}", device.inner());
    match text
        .strip_prefix("Device<")
        .and_then(|t| t.strip_suffix('>'))
    {
        Some(inner) => inner.into(),
        None => text,
    }
}

fn matrix(what: &'static str, got: &Tensor<2>, expected: [usize; 2]) -> Result<(), ModelError> {
    if got.dims() == expected {
        return Ok(());
    }
    Err(ModelError::shape(
        what,
        got.dims(),
        format!("{expected:?}"),
        "gates lie side by side, and rows match the features they multiply",
    ))
}

pub(super) fn vector(
    what: &'static str,
    got: &Tensor<1>,
    expected: usize,
) -> Result<(), ModelError> {
    if got.dims() == [expected] {
        return Ok(());
    }
    Err(ModelError::shape(
        what,
        got.dims(),
        format!("[{expected}]"),
        "give one value per gate and hidden unit",
    ))
}

pub(super) fn linear_nll(
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    targets: &Tensor<1, Int>,
) -> Result<(), ModelError> {
    let [rows, features] = hidden.dims();
    let [classes, _] = weight.dims();
    if rows == 0 {
        return Err(ModelError::Empty {
            what: "hidden",
            missing: "rows",
        });
    }
    if features == 0 || classes == 0 {
        return Err(ModelError::Empty {
            what: "softmax weight",
            missing: "classes or features",
        });
    }
    matrix("softmax weight", weight, [classes, features])?;
    if let Some(bias) = bias {
        vector("softmax bias", bias, classes)?;
    }
    if targets.dims() != [rows] {
        return Err(ModelError::shape(
            "targets",
            targets.dims(),
            format!("[{rows}]"),
            "give one class per row",
        ));
    }
    let device = weight.device();
    same_device("hidden", Some(hidden.device()), &device)?;
    same_device("targets", Some(targets.device()), &device)?;
    same_device("softmax bias", bias.map(Tensor::device), &device)
}
