//! Weights outside a model: named tensors in host memory, read from and written to safetensors files.
//!
//! Place in the flow: [`NamedTensors::of`] takes them out of any module by the module's own paths, such as
//! `layers.layers.0.input_weight`, [`NamedTensors::into_module`] puts them back; [`interop`](crate::interop) translates them from and
//! to PyTorch's names and layouts. Floats are kept as f32, whatever a file holds.
//!
//! ```
//! use atbptt_models::{LstmLayer, NamedTensors, StackConfig};
//! use burn::tensor::Device;
//!
//! let device = Device::default();
//! let lstm = StackConfig::<LstmLayer>::new(3, 4).init(&device)?;
//! let file: Vec<u8> = NamedTensors::of(&lstm)?.to_safetensors(&[("note", "an example")])?;
//! let back = NamedTensors::from_safetensors(&file)?.into_module(StackConfig::<LstmLayer>::new(3, 4).init(&device)?)?;
//! assert_eq!(NamedTensors::of(&back)?, NamedTensors::of(&lstm)?);
//! # Ok::<(), atbptt_models::ModelError>(())
//! ```

mod file;
mod module;
#[cfg(feature = "pytorch")]
mod torch_zip;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use self::file::{open_pytorch, parse};
use crate::ModelError;

/// Named tensors in host memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedTensors {
    tensors: BTreeMap<String, HostTensor>,
    /// Where they come from, for messages.
    origin: Origin,
}

/// Does not count in comparisons.
#[derive(Clone, Debug)]
struct Origin(String);

impl Default for Origin {
    fn default() -> Self {
        Self("the weights".into())
    }
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Shape and values of one tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
struct HostTensor {
    shape: Vec<usize>,
    values: Values,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    Float(Vec<f32>),
    Int(Vec<i64>),
    Bool(Vec<u8>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::Float(values) => values.len(),
            Self::Int(values) => values.len(),
            Self::Bool(values) => values.len(),
        }
    }
}

impl HostTensor {
    fn float<const D: usize>(self, device: &Device) -> Option<Tensor<D>> {
        let shape: [usize; D] = self.shape.try_into().ok()?;
        match self.values {
            Values::Float(values) => {
                Some(Tensor::from_data(TensorData::new(values, shape), device))
            }
            _ => None,
        }
    }

    fn of<const D: usize>(tensor: Tensor<D>) -> Result<Self, ModelError> {
        let shape = tensor.dims().to_vec();
        let data = read(tensor.try_into_data())?;
        Ok(Self {
            shape,
            values: Values::Float(data.iter::<f32>().collect()),
        })
    }
}

fn read<E: std::fmt::Debug>(data: Result<TensorData, E>) -> Result<TensorData, ModelError> {
    data.map_err(|error| ModelError::Read {
        reason: format!("{error:?}"),
    })
}

impl NamedTensors {
    /// All parameters of a module, by their paths in it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Read`] when a tensor cannot be read back from its device.
    pub fn of<M: Module>(module: &M) -> Result<Self, ModelError> {
        Ok(Self {
            tensors: module::take(module)?,
            origin: Origin::default(),
        })
    }

    /// Names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape of a tensor, if there is one of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// The tensors whose names begin with `prefix`, called by the rest of their names: those of one part of a model
    /// (`rnn.`), or of all of one that was saved inside another thing (`state_dict.`, `module.`).
    pub fn within(&self, prefix: &str) -> Self {
        let tensors = self.tensors.iter();
        let inside = tensors.filter_map(|(name, tensor)| {
            let rest = name.strip_prefix(prefix)?;
            Some((rest.to_owned(), tensor.clone()))
        });
        Self {
            tensors: inside.collect(),
            origin: self.origin.clone(),
        }
    }

    /// Takes a tensor of floats out, onto `device`; `None` when there is none of this name and rank.
    pub fn take<const D: usize>(&mut self, name: &str, device: &Device) -> Option<Tensor<D>> {
        let fits = |tensor: &HostTensor| {
            tensor.shape.len() == D && matches!(tensor.values, Values::Float(_))
        };
        self.tensors.get(name).filter(|tensor| fits(tensor))?;
        self.tensors.remove(name)?.float(device)
    }

    /// Adds a tensor of floats.
    ///
    /// # Errors
    ///
    /// [`ModelError::Read`] when it cannot be read back from its device.
    pub fn insert<const D: usize>(
        &mut self,
        name: impl Into<String>,
        tensor: Tensor<D>,
    ) -> Result<(), ModelError> {
        self.tensors.insert(name.into(), HostTensor::of(tensor)?);
        Ok(())
    }

    /// Whether two names stand for the same values.
    pub(crate) fn same(&self, one: &str, other: &str) -> bool {
        self.tensors.get(one) == self.tensors.get(other)
    }

    /// Reads a file: safetensors, or with the feature `pytorch` a `state_dict` that `torch.save` wrote (`.pt`, `.pth`, `.bin`).
    ///
    /// # Errors
    ///
    /// [`ModelError::Weights`] when it cannot be read, or is no such file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let read = match extension {
            Some("pt" | "pth" | "bin") => open_pytorch(path),
            _ => std::fs::read(path)
                .map_err(|error| format!("cannot be read: {error}; check the path"))
                .and_then(|bytes| parse(&bytes)),
        };
        match read {
            Ok(tensors) => Ok(Self {
                tensors,
                origin: Origin(origin),
            }),
            Err(reason) => Err(ModelError::Weights { origin, reason }),
        }
    }

    /// Reads the bytes of a safetensors file. Floats of any width become f32.
    ///
    /// # Errors
    ///
    /// [`ModelError::Weights`], whatever the bytes are.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, ModelError> {
        let origin = Origin::default();
        match parse(bytes) {
            Ok(tensors) => Ok(Self { tensors, origin }),
            Err(reason) => Err(ModelError::Weights {
                origin: origin.0,
                reason,
            }),
        }
    }

    /// The bytes of a safetensors file with these tensors and a few words about them.
    ///
    /// # Errors
    ///
    /// [`ModelError::Weights`] when the names take more room than the format has.
    pub fn to_safetensors(&self, words: &[(&str, &str)]) -> Result<Vec<u8>, ModelError> {
        let words: HashMap<String, String> = words
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let words = (!words.is_empty()).then_some(words);
        safetensors::serialize(&self.tensors, words)
            .map_err(|error| self.fault(format!("cannot be written as safetensors: {error}")))
    }

    /// `module` with these weights in place of its own.
    ///
    /// # Errors
    ///
    /// [`ModelError::Weights`] with all names that are missing or unused, or the first shape that differs.
    pub fn into_module<M: Module>(self, module: M) -> Result<M, ModelError> {
        let expected = module::shapes(&module);
        let expected = expected
            .iter()
            .map(|(name, shape)| (name.as_str(), shape.as_slice()));
        self.check(expected, |_| None)?;
        module::put(module, self.tensors).map_err(|name| ModelError::Weights {
            origin: self.origin.0,
            reason: format!(
                "do not fit the model: `{name}` holds another kind of number than the model's; export it again"
            ),
        })
    }

    /// Refuses tensors that are not those of `expected` by name and shape. `explain` may know why names are left over.
    pub(crate) fn check<'a>(
        &self,
        expected: impl IntoIterator<Item = (&'a str, &'a [usize])>,
        explain: impl FnOnce(&[&str]) -> Option<String>,
    ) -> Result<(), ModelError> {
        let expected: BTreeMap<&str, &[usize]> = expected.into_iter().collect();
        let unused: Vec<&str> = self
            .names()
            .filter(|name| !expected.contains_key(name))
            .collect();
        let missing: Vec<&str> = expected
            .keys()
            .copied()
            .filter(|name| !self.tensors.contains_key(*name))
            .collect();
        if !(unused.is_empty() && missing.is_empty()) {
            let mut reason = match explain(&unused) {
                Some(reason) => reason,
                None => {
                    "do not fit the model: load them into the model they were saved from".into()
                }
            };
            for (what, names) in [("missing", missing), ("unused", unused)] {
                if !names.is_empty() {
                    reason += &format!("; {what}: {}", listed(&names));
                }
            }
            return Err(self.fault(reason));
        }
        let differs = expected.iter().find_map(|(name, shape)| {
            let found = self.shape(name)?;
            (found != *shape).then_some((name, shape, found))
        });
        match differs {
            Some((name, shape, found)) => Err(self.fault(format!(
                "do not fit the model: `{name}` has shape {}, and the model asks for {shape:?}; build the model with \
                 the sizes it was saved with",
                short(&format!("{found:?}")),
            ))),
            None => Ok(()),
        }
    }

    pub(crate) fn fault(&self, reason: String) -> ModelError {
        ModelError::Weights {
            origin: self.origin.0.clone(),
            reason,
        }
    }
}

/// As much of a name or of another library's words as a message has room for.
fn short(text: &str) -> String {
    const MAX_SHOWN: usize = 100;
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => text.get(..end).unwrap_or(text).to_owned() + "…",
        None => text.to_owned(),
    }
}

/// Names as a message has room for them.
fn listed(names: &[&str]) -> String {
    const MAX_SHOWN: usize = 12;
    let shown: Vec<String> = names
        .iter()
        .take(MAX_SHOWN)
        .map(|name| short(name))
        .collect();
    match names.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
