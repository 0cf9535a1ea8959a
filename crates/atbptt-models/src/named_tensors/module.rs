//! The parameters of a module by their paths: taken out, and put back.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor, TensorData};

use crate::ModelError;

use super::{HostTensor, Values, read};

/// All parameters of `module`, by their paths.
pub(super) fn take<M: Module>(module: &M) -> Result<BTreeMap<String, HostTensor>, ModelError> {
    let mut collect = Collect {
        path: Vec::new(),
        found: BTreeMap::new(),
        failed: None,
    };
    module.visit(&mut collect);
    match collect.failed {
        Some(error) => Err(error),
        None => Ok(collect.found),
    }
}

/// The shapes of all parameters of `module`, by their paths.
pub(super) fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = Shapes::default();
    module.visit(&mut shapes);
    shapes.found
}

/// `module` with `weights`, whose names and shapes were checked, in place of its own; else the name of a tensor that holds
/// another kind of number than the model's.
pub(super) fn put<M: Module>(
    module: M,
    weights: BTreeMap<String, HostTensor>,
) -> Result<M, String> {
    let mut put = Put {
        path: Vec::new(),
        weights,
        failed: None,
    };
    let module = module.map(&mut put);
    match put.failed {
        Some(name) => Err(name),
        None => Ok(module),
    }
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
