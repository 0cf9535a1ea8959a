//! Tensors from the bytes of files: safetensors, and what `torch.save` wrote.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, View};

use super::{HostTensor, Values, short};

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::Float(_) => Dtype::F32,
            Values::Int(_) => Dtype::I64,
            Values::Bool(_) => Dtype::BOOL,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.values {
            Values::Float(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Int(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Bool(values) => Cow::Borrowed(values),
        }
    }

    fn data_len(&self) -> usize {
        let width = match self.values {
            Values::Float(_) => 4,
            Values::Int(_) => 8,
            Values::Bool(_) => 1,
        };
        width * self.values.len()
    }
}

/// Tensors of a safetensors file, or why it cannot be read as one.
pub(super) fn parse(bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| {
        let error = short(&error.to_string());
        format!("are no safetensors file: {error}; export them again")
    })?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let values = values(view.dtype(), view.data()).ok_or_else(|| {
            format!(
                "hold `{}` as {:?}, which this library does not read; export it as F32",
                short(name),
                view.dtype()
            )
        })?;
        let shape = view.shape().to_vec();
        tensors.insert(name.to_owned(), HostTensor { shape, values });
    }
    Ok(tensors)
}

fn values(dtype: Dtype, bytes: &[u8]) -> Option<Values> {
    fn of<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
    }
    Some(match dtype {
        Dtype::F32 => Values::Float(of(bytes, f32::from_le_bytes)),
        Dtype::F64 => Values::Float(of(bytes, |b| f64::from_le_bytes(b) as f32)),
        Dtype::BF16 => Values::Float(of(bytes, |b: [u8; 2]| {
            f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
        })),
        Dtype::F16 => Values::Float(of(bytes, |b| half_to_f32(u16::from_le_bytes(b)))),
        Dtype::I64 => Values::Int(of(bytes, i64::from_le_bytes)),
        Dtype::I32 => Values::Int(of(bytes, |b| i64::from(i32::from_le_bytes(b)))),
        Dtype::BOOL => Values::Bool(bytes.to_vec()),
        _ => return None,
    })
}

/// IEEE 754 binary16 as binary32; every value has one.
fn half_to_f32(half: u16) -> f32 {
    burn::tensor::f16::from_bits(half).to_f32()
}

#[cfg(not(feature = "pytorch"))]
pub(super) fn open_pytorch(_: &Path) -> Result<BTreeMap<String, HostTensor>, String> {
    Err("is a file of `torch.save`, which needs the feature `pytorch`; build with it, or save as safetensors".into())
}

/// A `state_dict` that `torch.save` wrote.
#[cfg(feature = "pytorch")]
pub(super) fn open_pytorch(path: &Path) -> Result<BTreeMap<String, HostTensor>, String> {
    use burn::store::pytorch_reader::{DType, PytorchReader};
    let unusable = |reason: &str| {
        let reason = short(&reason.replace('\n', " "));
        format!(
            "cannot be read as a file of `torch.save`: {reason}; save `model.state_dict()` again"
        )
    };
    let length = std::fs::metadata(path)
        .map_err(|error| format!("cannot be read: {error}; check the path"))?
        .len();
    // The reader is made for files one trusts; what it makes of others shall not end the program.
    let read = std::panic::catch_unwind(|| {
        let copy = super::torch_zip::without_spare_record(path).map_err(|error| {
            format!("cannot be read, or copied to a temporary file: {error}; check the path")
        })?;
        let path = copy.as_ref().map_or(path, |copy| copy.path());
        let reader = PytorchReader::new(path).map_err(|error| unusable(&error.to_string()))?;
        // Tensors may share numbers, as tied weights do, but a small file need not ask for all memory.
        let most = length.saturating_mul(16).saturating_add(1 << 26);
        let sizes = reader.tensors().values();
        let bytes = sizes.fold(0u64, |sum, t| sum.saturating_add(t.byte_len() as u64));
        if bytes > most {
            return Err(unusable("its tensors are much larger than the file"));
        }
        let mut read = BTreeMap::new();
        for (name, tensor) in reader.tensors() {
            let mut bytes = tensor
                .read()
                .map_err(|error| unusable(&error.to_string()))?;
            let dtype = match tensor.dtype() {
                DType::F64 => Dtype::F64,
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                DType::I64 => Dtype::I64,
                DType::I32 => Dtype::I32,
                DType::Bool => Dtype::BOOL,
                other => {
                    let name = short(name);
                    return Err(format!(
                        "hold `{name}` as {other:?}, which this library does not read; save it as float32"
                    ));
                }
            };
            if cfg!(target_endian = "big") {
                let width = tensor.dtype().size();
                bytes.chunks_mut(width).for_each(<[u8]>::reverse);
            }
            let values = values(dtype, &bytes).ok_or_else(|| unusable("a type is unknown"))?;
            let shape = tensor.shape().to_vec();
            if shape.iter().product::<usize>() != values.len() {
                return Err(unusable("a tensor is not as long as its shape says"));
            }
            read.insert(name.clone(), HostTensor { shape, values });
        }
        Ok(read)
    });
    read.unwrap_or_else(|_| Err(unusable("the reader gave up")))
}
