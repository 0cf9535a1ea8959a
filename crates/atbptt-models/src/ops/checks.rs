//! Checks of what operations are given: what does not fit is named, with the shape, device or type that would. Backends
//! panic on such tensors.

use burn::tensor::{Device, Int, Tensor};

use super::cell::Cell;
use super::weights::{SequenceOptions, Weights};
use crate::ModelError;

/// Refuses what does not fit a layer of `cell`.
pub(super) fn sequence(
    cell: Cell,
    input: &Tensor<3>,
    weights: &Weights,
    state: &Tensor<2>,
    options: &SequenceOptions,
) -> Result<(), ModelError> {
    let [time, batch, inputs] = input.dims();
    // The odd one out is the one to name: the input, where the weights agree.
    let agree = match (&weights.recurrent, &weights.bias) {
        (Some(recurrent), _) => alike("input weight", &weights.input, recurrent).is_ok(),
        (None, Some(bias)) => alike("input weight", &weights.input, bias).is_ok(),
        (None, None) => true,
    };
    match agree {
        true => alike("input", input, &weights.input)?,
        false => alike("input weight", &weights.input, input)?,
    }
    if let Some(recurrent) = &weights.recurrent {
        alike("recurrent weight", recurrent, input)?;
    }
    let recurrent_bias = weights.recurrent_bias.as_ref();
    for (what, bias) in [
        ("bias", weights.bias.as_ref()),
        ("recurrent bias", recurrent_bias),
    ] {
        bias.map_or(Ok(()), |bias| alike(what, bias, input))?;
    }
    alike("state", state, input)?;
    for (what, tensor) in [("taps", &options.taps), ("reset mask", &options.reset_mask)] {
        tensor
            .as_ref()
            .map_or(Ok(()), |tensor| alike(what, tensor, input))?;
    }
    for (size, missing) in [(time, "time steps"), (batch, "sequences")] {
        if size == 0 {
            return Err(ModelError::Empty {
                what: "input",
                missing,
            });
        }
    }
    let hidden = match &weights.recurrent {
        Some(recurrent) => recurrent.dims()[0],
        None => weights.input.dims()[1] / cell.gates(),
    };
    if inputs == 0 || hidden == 0 {
        return Err(ModelError::Empty {
            what: "layer",
            missing: "features",
        });
    }
    let (gates, parts) = (cell.gates() * hidden, cell.state_parts() * hidden);
    recurrent_weight(cell, weights.recurrent.as_ref(), hidden)?;
    matrix("input weight", &weights.input, [inputs, gates])?;
    if let Some(bias) = &weights.bias {
        vector("bias", bias, gates)?;
    }
    match recurrent_bias {
        Some(bias) if cell.has_recurrent_bias() => vector("recurrent bias", bias, hidden)?,
        Some(bias) => return Err(unused("recurrent bias", &bias.dims(), cell)),
        None => {}
    }
    if state.dims() != [batch, parts] {
        return Err(ModelError::shape(
            "state",
            state.dims(),
            format!("[{batch}, {parts}]"),
            "pass the state of as many sequences as the input has",
        ));
    }
    let per_step = [
        (
            "taps",
            &options.taps,
            parts,
            "give one tap per step and sequence",
        ),
        (
            "reset mask",
            &options.reset_mask,
            1,
            "give one value per step and sequence",
        ),
    ];
    for (what, tensor, features, remedy) in per_step {
        if let Some(tensor) = tensor
            && tensor.dims() != [time, batch, features]
        {
            let expected = format!("[{time}, {batch}, {features}]");
            return Err(ModelError::shape(what, tensor.dims(), expected, remedy));
        }
    }
    Ok(())
}

/// Refuses a recurrent weight of the wrong shape, one that is missing, and one that the cell would not use.
fn recurrent_weight(
    cell: Cell,
    weight: Option<&Tensor<2>>,
    hidden: usize,
) -> Result<(), ModelError> {
    let gates = cell.recurrent_gates() * hidden;
    match weight {
        Some(weight) if gates > 0 => matrix("recurrent weight", weight, [hidden, gates]),
        Some(weight) => Err(unused("recurrent weight", &weight.dims(), cell)),
        None if gates > 0 => Err(ModelError::shape(
            "recurrent weight",
            [0, 0],
            format!("[{hidden}, {gates}]"),
            "give the weight of the recurrent product, which this cell has",
        )),
        None => Ok(()),
    }
}

/// A weight that the cell has no use for.
fn unused(what: &'static str, dims: &[usize], cell: Cell) -> ModelError {
    ModelError::shape(
        what,
        dims,
        format!("none with the cell {}", cell.name()),
        "leave it out, or choose the cell that it belongs to",
    )
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
