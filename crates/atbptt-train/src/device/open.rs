//! The device of one backend, opened.

use burn::tensor::Device;

#[cfg(any(feature = "cuda", feature = "rocm"))]
use super::cpu_backends;
#[cfg(feature = "wgpu")]
use super::graphics;
use super::{DeviceError, NamedDevice};
#[cfg(any(feature = "cuda", feature = "rocm"))]
use crate::panics::quietly;

#[allow(deprecated)] // Burn deprecates NdArray; it stays a supported backend here.
#[cfg_attr(not(feature = "cube"), allow(unused_variables))]
pub(super) fn open(
    backend: &'static str,
    number: Option<usize>,
) -> Result<NamedDevice, DeviceError> {
    match backend {
        #[cfg(feature = "flex")]
        "flex" => Ok(plain(backend, Device::flex())),
        #[cfg(feature = "ndarray")]
        "ndarray" => Ok(plain(backend, Device::ndarray())),
        #[cfg(feature = "wgpu")]
        "wgpu" => graphics::open(backend, burn::backend::WgpuBackend::Auto, number),
        #[cfg(feature = "vulkan")]
        "vulkan" => graphics::open(backend, burn::backend::WgpuBackend::Vulkan, number),
        #[cfg(feature = "metal")]
        "metal" => graphics::open(backend, burn::backend::WgpuBackend::Metal, number),
        #[cfg(feature = "webgpu")]
        "webgpu" => graphics::open(backend, burn::backend::WgpuBackend::WebGpu, number),
        #[cfg(feature = "cuda")]
        "cuda" => compute(backend, || Device::cuda(number.unwrap_or(0))),
        #[cfg(feature = "rocm")]
        "rocm" => compute(backend, || Device::rocm(number.unwrap_or(0))),
        _ => Err(DeviceError::NoBackend),
    }
}

#[cfg(any(feature = "flex", feature = "ndarray"))]
fn plain(backend: &'static str, device: Device) -> NamedDevice {
    NamedDevice {
        device,
        backend,
        adapter: String::new(),
        driver: String::new(),
        software: false,
    }
}

/// CUDA and ROCm load their libraries at run time, and panic without them.
#[cfg(any(feature = "cuda", feature = "rocm"))]
fn compute(backend: &'static str, device: impl Fn() -> Device) -> Result<NamedDevice, DeviceError> {
    let opened = quietly(|| {
        let device = device();
        let adapter = device.identity().map(|identity| identity.name);
        (device, adapter.unwrap_or_default())
    });
    match opened {
        Ok((device, adapter)) => Ok(NamedDevice {
            device,
            backend,
            adapter,
            driver: String::new(),
            software: false,
        }),
        Err(reason) => Err(DeviceError::NoAdapter {
            name: backend,
            reason,
            remedy: "install the vendor's driver and its compute libraries",
            others: cpu_backends(),
        }),
    }
}
