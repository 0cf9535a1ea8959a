//! Checks of what operations are given: what does not fit is named, with the shape, device or type that would. Backends
//! panic on such tensors.

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
    // The odd one out is the one to name: the input, where the weights agree.
    match alike("input weight", s.input_weight, s.recurrent_weight) {
        Ok(()) => alike("input", s.input, s.recurrent_weight)?,
        Err(_) => {
            alike("input weight", s.input_weight, s.input)?;
            alike("recurrent weight", s.recurrent_weight, s.input)?;
        }
    }
    alike("bias", s.bias, s.input)?;
    alike("state", s.state, s.input)?;
    if let Some(taps) = &s.options.taps {
        alike("taps", taps, s.input)?;
    }
    if let Some(keep) = &s.options.keep {
        alike("reset mask", keep, s.input)?;
    }
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
    Ok(())
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

/// Refuses a tensor on another device than `other`, or of another type.
pub(crate) fn alike<const D: usize, const E: usize>(
    what: &'static str,
    got: &Tensor<D>,
    other: &Tensor<E>,
) -> Result<(), ModelError> {
    same_device(what, &got.device(), &other.device())?;
    if got.dtype() == other.dtype() {
        return Ok(());
    }
    Err(ModelError::DType {
        what,
        expected: format!("{:?}", other.dtype()),
        got: format!("{:?}", got.dtype()),
    })
}

/// Refuses two devices. With and without autodiff, a device is the same.
pub(crate) fn same_device(
    what: &'static str,
    got: &Device,
    expected: &Device,
) -> Result<(), ModelError> {
    if got == expected {
        return Ok(());
    }
    Err(ModelError::Device {
        what,
        expected: named(expected.clone()),
        got: named(got.clone()),
    })
}

/// Refuses ids that are not below `limit`, on devices where looking costs no wait: those of the CPU backends, which panic on
/// them.
pub(super) fn ids_below<const D: usize>(
    ids: &Tensor<D, Int>,
    limit: usize,
) -> Result<(), ModelError> {
    if !on_host(&ids.device()) {
        return Ok(());
    }
    let read = ids.clone().try_into_data();
    let read = read.map_err(|error| ModelError::Read {
        reason: error.to_string(),
    })?;
    let limit_id = i64::try_from(limit).unwrap_or(i64::MAX);
    match read.iter::<i64>().find(|id| !(0..limit_id).contains(id)) {
        Some(token) => Err(ModelError::Token {
            token,
            vocabulary: limit,
        }),
        None => Ok(()),
    }
}

fn on_host(device: &Device) -> bool {
    #[allow(unused_mut)] // Without CPU backends.
    let mut host = false;
    #[cfg(feature = "flex")]
    {
        host = host || *device == Device::flex();
    }
    #[cfg(feature = "ndarray")]
    {
        #[allow(deprecated)]
        let ndarray = Device::ndarray();
        host = host || *device == ndarray;
    }
    host
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
    alike("softmax weight", weight, hidden)?;
    if let Some(bias) = bias {
        alike("softmax bias", bias, hidden)?;
    }
    same_device("targets", &targets.device(), &hidden.device())?;
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
    ids_below(targets, classes)
}
