//! NamedTensors outside a model: named tensors in host memory, read from and written to safetensors files.
//!
//! Place in the flow: [`NamedTensors::of`] takes them out of any module by the module's own paths, such as
//! `layers.layers.0.input_weight`, [`NamedTensors::into_module`] puts them back; [`interop`](crate::interop) translates them from and
//! to PyTorch's names and layouts. Floats are kept as f32, whatever a file holds.
//!
//! ```
//! use atbptt_models::{LstmConfig, NamedTensors};
//! use burn::tensor::Device;
//!
//! let device = Device::default();
//! let lstm = LstmConfig::new(3, 4).init(&device)?;
//! let file: Vec<u8> = NamedTensors::of(&lstm)?.to_safetensors(&[("note", "an example")])?;
//! let back = NamedTensors::from_safetensors(&file)?.into_module(LstmConfig::new(3, 4).init(&device)?)?;
//! assert_eq!(NamedTensors::of(&back)?, NamedTensors::of(&lstm)?);
//! # Ok::<(), atbptt_models::ModelError>(())
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, View};

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
        let mut collect = Collect {
            path: Vec::new(),
            found: BTreeMap::new(),
            failed: None,
        };
        module.visit(&mut collect);
        match collect.failed {
            Some(error) => Err(error),
            None => Ok(Self {
                tensors: collect.found,
                origin: Origin::default(),
            }),
        }
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
        let expected: BTreeMap<String, Vec<usize>> = {
            let mut shapes = Shapes::default();
            module.visit(&mut shapes);
            shapes.found
        };
        let expected = expected
            .iter()
            .map(|(name, shape)| (name.as_str(), shape.as_slice()));
        self.check(expected, |_| None)?;
        let mut put = Put {
            path: Vec::new(),
            weights: self.tensors,
            failed: None,
        };
        let module = module.map(&mut put);
        let Some(name) = put.failed else {
            return Ok(module);
        };
        Err(ModelError::Weights {
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

/// Tensors of a safetensors file, or why it is none.
fn parse(bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>, String> {
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
fn open_pytorch(_: &Path) -> Result<BTreeMap<String, HostTensor>, String> {
    Err("is a file of `torch.save`, which needs the feature `pytorch`; build with it, or save as safetensors".into())
}

/// A `state_dict` that `torch.save` wrote.
#[cfg(feature = "pytorch")]
fn open_pytorch(path: &Path) -> Result<BTreeMap<String, HostTensor>, String> {
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

/// Takes parameters out.
struct Collect {
    path: Vec<String>,
    found: BTreeMap<String, HostTensor>,
    failed: Option<ModelError>,
}

impl Collect {
    fn add(&mut self, shape: Vec<usize>, values: Result<Values, ModelError>) {
        match values {
            Ok(values) => {
                let tensor = HostTensor { shape, values };
                self.found.insert(self.path.join("."), tensor);
            }
            Err(error) => self.failed = Some(error),
        }
    }
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let data = read(tensor.try_into_data());
        self.add(shape, data.map(|d| Values::Float(d.iter().collect())));
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let data = read(tensor.try_into_data());
        self.add(shape, data.map(|d| Values::Int(d.iter().collect())));
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let data = read(tensor.try_into_data());
        let bytes = |d: TensorData| d.iter::<bool>().map(u8::from).collect();
        self.add(shape, data.map(|d| Values::Bool(bytes(d))));
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

/// Shapes of all parameters.
#[derive(Default)]
struct Shapes {
    path: Vec<String>,
    found: BTreeMap<String, Vec<usize>>,
}

impl Shapes {
    fn add(&mut self, shape: &[usize]) {
        self.found.insert(self.path.join("."), shape.to_vec());
    }
}

impl ModuleVisitor for Shapes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(&param.val().dims());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(&param.val().dims());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add(&param.val().dims());
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

/// Puts parameters back whose names and shapes were checked.
struct Put {
    path: Vec<String>,
    weights: BTreeMap<String, HostTensor>,
    /// A tensor of another kind than the parameter of its name.
    failed: Option<String>,
}

impl Put {
    /// The values found for the parameter at hand, as `kind` reads them, with its shape.
    fn find<const D: usize, V>(
        &mut self,
        kind: impl FnOnce(Values) -> Option<V>,
    ) -> Option<(V, [usize; D])> {
        let name = self.path.join(".");
        let HostTensor { shape, values } = self.weights.remove(&name)?;
        let found = kind(values).zip(shape.try_into().ok());
        if found.is_none() {
            self.failed = Some(name);
        }
        found
    }
}

impl ModuleMapper for Put {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let found = self.find::<D, _>(|values| match values {
            Values::Float(values) => Some(values),
            _ => None,
        });
        let Some((values, shape)) = found else {
            return param;
        };
        let (id, old) = (param.id, param.val());
        let new = Tensor::<D>::from_data(TensorData::new(values, shape), &old.device());
        let new = new.cast(old.dtype()).detach();
        Param::initialized(id, new.set_require_grad(old.is_require_grad()))
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let found = self.find::<D, _>(|values| match values {
            Values::Int(values) => Some(values),
            _ => None,
        });
        let Some((values, shape)) = found else {
            return param;
        };
        let (id, device) = (param.id, param.val().device());
        let data = TensorData::new(values, shape);
        Param::initialized(id, Tensor::from_data(data, &device))
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        let found = self.find::<D, _>(|values| match values {
            Values::Bool(values) => Some(values),
            _ => None,
        });
        let Some((values, shape)) = found else {
            return param;
        };
        let (id, device) = (param.id, param.val().device());
        let values: Vec<bool> = values.into_iter().map(|value| value != 0).collect();
        let data = TensorData::new(values, shape);
        Param::initialized(id, Tensor::from_data(data, &device))
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}
