//! Devices behind a graphics API.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use burn::backend::WgpuBackend;
use burn::tensor::DeviceKind::{DefaultDevice, DiscreteGpu};
use burn::tensor::wgpu::{WgpuInitError, wgpu};
use burn::tensor::{Device, DeviceKind};

use super::{DeviceError, NamedDevice, cpu_backends};
use crate::panics::quietly;

const REMEDY: &str = "install its Vulkan driver and loader (Debian: `libvulkan1` and the driver's package, or \
                      `mesa-vulkan-drivers` for a software device)";

/// A device is opened once per process; later callers get the same one.
static OPENED: LazyLock<Mutex<Opened>> = LazyLock::new(Mutex::default);

/// By backend and number.
type Opened = HashMap<(&'static str, Option<usize>), NamedDevice>;

pub(super) fn open(
    backend: &'static str,
    api: WgpuBackend,
    number: Option<usize>,
) -> Result<NamedDevice, DeviceError> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = opened.get(&(backend, number)) {
        return Ok(device.clone());
    }
    let kind = number.map_or(DefaultDevice, DiscreteGpu);
    let options = Device::wgpu_options().device_kind(kind.clone());
    let options = match api {
        WgpuBackend::Auto => options,
        api => options.graphics_api(api),
    };
    let failed = |reason: String| DeviceError::Open {
        name: backend,
        reason,
        others: cpu_backends(),
    };
    let device = match quietly(|| options.init_with_setup()).map_err(failed)? {
        Ok((device, setup)) => {
            let info = setup.adapter.get_info();
            let version = [&info.driver, &info.driver_info].map(|part| part.trim().to_string());
            let mut driver = vec![format!("{:?}", info.backend)];
            driver.extend(version.into_iter().filter(|part| !part.is_empty()));
            NamedDevice {
                device,
                backend,
                adapter: info.name,
                driver: driver.join(", "),
                software: info.device_type == wgpu::DeviceType::Cpu,
            }
        }
        // Somebody made a tensor on it before: it is open, and says its name alone.
        Err(WgpuInitError::Registration { .. }) => {
            let device = named(backend, kind);
            let name = quietly(|| device.identity().map(|identity| identity.name));
            let adapter = name.map_err(failed)?.unwrap_or_default();
            NamedDevice {
                software: adapter.contains("llvmpipe") || adapter.contains("SwiftShader"),
                device,
                backend,
                adapter,
                driver: String::new(),
            }
        }
        Err(
            error @ (WgpuInitError::AdapterUnavailable { .. }
            | WgpuInitError::UnsupportedGraphicsApi { .. }),
        ) => {
            return Err(DeviceError::NoAdapter {
                name: backend,
                reason: error.to_string(),
                remedy: REMEDY,
                others: cpu_backends(),
            });
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    opened.insert((backend, number), device.clone());
    Ok(device)
}

/// The device as Burn's own constructors name it.
fn named(backend: &str, kind: DeviceKind) -> Device {
    match backend {
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::vulkan(kind),
        #[cfg(feature = "metal")]
        "metal" => Device::metal(kind),
        #[cfg(feature = "webgpu")]
        "webgpu" => Device::webgpu(kind),
        _ => Device::wgpu(kind),
    }
}
