//! Shared by the integration tests: devices, golden files, comparisons.
#![allow(dead_code, clippy::expect_used)]
#![allow(deprecated)] // Burn deprecates NdArray; it stays a supported backend here.

use std::path::PathBuf;

use atbptt_models::RecurrentState;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};

/// Every CPU backend that is compiled in.
pub fn devices() -> Vec<(&'static str, Device)> {
    let flex = [("flex", Device::flex())];
    #[cfg(feature = "ndarray")]
    let flex = [flex, [("ndarray", Device::ndarray())]].concat();
    flex.into_iter().collect()
}

/// The CPU backends, and for f32 the GPU too where there is one (software devices count).
pub fn devices_for(dtype: DType) -> Vec<(&'static str, Device)> {
    let gpu = (dtype == DType::F32).then(gpu).flatten();
    let gpu = gpu.map(|device| ("gpu", device));
    devices().into_iter().chain(gpu).collect()
}

/// Every backend, in f32.
pub fn all_devices() -> Vec<(&'static str, Device)> {
    devices_for(DType::F32)
}

/// Held while the process's way to run windows is set to something.
pub static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Runs `check` by each way of the kernels of CubeCL backends to run a window; once where none is compiled in.
pub fn with_each_time_loop(check: impl Fn()) {
    #[cfg(all(feature = "cube", feature = "_internals"))]
    {
        use atbptt_models::ops::internals::{TimeLoop, set_time_loop};
        let _turn = TURN.lock();
        for time_loop in [TimeLoop::OnDevice, TimeLoop::OnHost, TimeLoop::Fused] {
            set_time_loop(time_loop);
            check();
        }
        set_time_loop(TimeLoop::Auto);
    }
    #[cfg(not(all(feature = "cube", feature = "_internals")))]
    check();
}

/// A device of a CubeCL backend, CUDA before wgpu, or `None` after printing once why the tests on it are skipped.
pub fn gpu() -> Option<Device> {
    static GPU: std::sync::OnceLock<Option<Device>> = std::sync::OnceLock::new();
    GPU.get_or_init(|| {
        let device = find_gpu();
        match &device {
            Ok(device) => println!("the GPU of these tests: {device:?}"),
            Err(reason) => println!("skipped on the GPU: {reason}"),
        }
        device.ok()
    })
    .clone()
}

#[cfg(feature = "cuda")]
fn find_gpu() -> Result<Device, &'static str> {
    match Device::enumerate(burn::tensor::DeviceType::Cuda).is_empty() {
        true => Err("no CUDA device"),
        false => Ok(Device::cuda(0)),
    }
}

#[cfg(all(feature = "wgpu", not(feature = "cuda")))]
fn find_gpu() -> Result<Device, &'static str> {
    use burn::tensor::{DeviceKind, DeviceType};
    match Device::enumerate(DeviceType::Wgpu).is_empty() {
        true => Err("no adapter; install a Vulkan driver, such as mesa-vulkan-drivers"),
        false => Ok(Device::wgpu(DeviceKind::DefaultDevice)),
    }
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn find_gpu() -> Result<Device, &'static str> {
    Err("built without the features `wgpu` and `cuda`")
}

/// The most precise float type of a test device: GPUs have no f64 that all of them share.
pub fn finest(device: &Device) -> DType {
    match devices().iter().any(|(_, cpu)| cpu == device) {
        true => DType::F64,
        false => DType::F32,
    }
}

/// `f64` on CPU backends; on a GPU, f32's own tolerance.
pub fn by_precision(device: &Device, f64: f64, f32: f64) -> f64 {
    match finest(device) {
        DType::F64 => f64,
        _ => f32,
    }
}

/// The golden folder's file, or `None` after printing why the test is skipped.
pub fn golden(name: &str) -> Option<serde_json::Value> {
    let folder = std::env::var_os("ATBPTT_GOLDEN")
        .map_or_else(|| PathBuf::from("../../../shared/golden"), PathBuf::from);
    let path = folder.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).expect("golden files are JSON")),
        Err(error) => {
            println!(
                "skipped: {} cannot be read ({error}); set ATBPTT_GOLDEN",
                path.display()
            );
            None
        }
    }
}

/// All numbers of a nested JSON array, in order, and its dimensions.
pub fn numbers(value: &serde_json::Value) -> (Vec<f64>, Vec<usize>) {
    match value {
        serde_json::Value::Array(items) => {
            let mut all = Vec::new();
            let mut dims = Vec::new();
            for item in items {
                let (part, inner) = numbers(item);
                all.extend(part);
                dims = inner;
            }
            dims.insert(0, items.len());
            (all, dims)
        }
        number => (vec![number.as_f64().expect("a number")], Vec::new()),
    }
}

/// A JSON array as a tensor of `dtype`.
pub fn tensor<const D: usize>(
    value: &serde_json::Value,
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    let (all, dims) = numbers(value);
    assert_eq!(dims.len(), D);
    Tensor::from_data(TensorData::new(all, dims), (device, dtype))
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Largest |a − b| / max(1, |b|).
pub fn worst(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len(), "as many values as expected");
    got.iter()
        .zip(expected)
        .map(|(a, b)| {
            let d = (a - b).abs() / b.abs().max(1.0);
            if d.is_nan() { f64::INFINITY } else { d }
        })
        .fold(0.0, f64::max)
}

thread_local! {
    /// Largest difference that `assert_close` has seen on this thread since it was last asked.
    static LARGEST: std::cell::Cell<f64> = const { std::cell::Cell::new(0.0) };
}

/// The largest difference so far, and a new start.
pub fn take_largest() -> f64 {
    LARGEST.replace(0.0)
}

pub fn assert_close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    let worst = worst(got, expected);
    LARGEST.set(LARGEST.get().max(worst));
    assert!(
        worst <= tolerance,
        "{what}: off by {worst:e}, tolerance {tolerance:e}"
    );
}

/// Deterministic values in (−1, 1), different for every `seed`.
pub fn noise(seed: u64, count: usize) -> Vec<f64> {
    (0..count as u64)
        .map(|i| {
            let mut z = (seed << 32 | i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

/// A tensor of [`noise`] times `scale`.
pub fn noise_tensor<const D: usize>(
    seed: u64,
    dims: [usize; D],
    scale: f64,
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    let all = noise(seed, dims.iter().product());
    let all: Vec<f64> = all.into_iter().map(|x| x * scale).collect();
    Tensor::from_data(TensorData::new(all, dims), (device, dtype))
}

/// Every float parameter replaced by [`noise`] times `scale`, in `dtype`: weights that depend on no random generator.
pub fn with_noise<M: Module>(module: M, seed: u64, scale: f64, dtype: DType) -> M {
    struct Noise {
        seed: u64,
        scale: f64,
        dtype: DType,
    }
    impl ModuleMapper for Noise {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.seed += 1;
            let (seed, scale, dtype) = (self.seed, self.scale, self.dtype);
            param.map(|old| {
                let device = old.device();
                let new = noise_tensor::<D>(seed, old.dims(), scale, &device, dtype);
                match device.is_autodiff() {
                    true => new.require_grad(),
                    false => new,
                }
            })
        }
    }
    module.map(&mut Noise { seed, scale, dtype })
}

/// Gradients of all float parameters in visiting order, zeros for a parameter without one.
pub fn weight_gradients<M: Module>(module: &M, grads: &Gradients) -> Vec<f64> {
    struct Collect<'a> {
        grads: &'a Gradients,
        all: Vec<f64>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let weight = param.val();
            match weight.grad(self.grads) {
                Some(grad) => self.all.extend(values(grad)),
                None => self
                    .all
                    .extend(vec![0.0; weight.dims().iter().product::<usize>()]),
            }
        }
    }
    let mut collect = Collect {
        grads,
        all: Vec::new(),
    };
    module.visit(&mut collect);
    collect.all
}

/// All float parameters in visiting order.
pub fn weights<M: Module>(module: &M) -> Vec<f64> {
    struct Collect(Vec<f64>);
    impl ModuleVisitor for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(values(param.val()));
        }
    }
    let mut collect = Collect(Vec::new());
    module.visit(&mut collect);
    collect.0
}

/// All values of a state, part after part.
pub fn state_values<S: RecurrentState>(state: &S) -> Vec<f64> {
    state.parts().into_iter().flat_map(values).collect()
}
