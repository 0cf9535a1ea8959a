//! Which device a program runs on: `BURN_DEVICE` read without panics, and a line that says what was found.
//!
//! Place in the flow: before everything else. A device is looked for and opened here, so that a missing driver or a backend
//! that is not compiled in is one clear error and not a panic in the first tensor.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;

use burn::tensor::Device;

/// The variable that names a device.
pub const DEVICE_VARIABLE: &str = "BURN_DEVICE";

/// Backends by the names that `BURN_DEVICE` knows, best first, with the feature of this crate that compiles each in.
const BACKENDS: [(&str, bool); 8] = [
    ("cuda", cfg!(feature = "cuda")),
    ("metal", cfg!(feature = "metal")),
    ("rocm", cfg!(feature = "rocm")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("webgpu", cfg!(feature = "webgpu")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("flex", cfg!(feature = "flex")),
    ("ndarray", cfg!(feature = "ndarray")),
];

/// Why there is no device to run on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No backend has this name.
    #[error(
        "no backend is called `{name}`; compiled in: {}. BURN_DEVICE and `--devices` name one; without them the first is used",
        compiled.join(", ")
    )]
    Unknown {
        /// The name received.
        name: String,
        /// What is compiled in.
        compiled: Vec<&'static str>,
    },
    /// The backend exists, but not in this program.
    #[error(
        "the backend `{name}` is not compiled in; build with `--features {name}`, or set BURN_DEVICE to one of: {}",
        compiled.join(", ")
    )]
    NotCompiled {
        /// The backend.
        name: String,
        /// What is compiled in.
        compiled: Vec<&'static str>,
    },
    /// The backend found no device on this machine.
    #[error(
        "the backend `{name}` found no device ({reason}); {remedy}{}",
        or_another(.others)
    )]
    NoAdapter {
        /// The backend.
        name: &'static str,
        /// Its own words.
        reason: String,
        /// What to install.
        remedy: &'static str,
        /// Compiled backends that need no GPU.
        others: Vec<&'static str>,
    },
    /// A device is there but could not be opened.
    #[error(
        "the backend `{name}` could not open its device: {reason}; check the driver{}",
        or_another(.others)
    )]
    Open {
        /// The backend.
        name: &'static str,
        /// Its own words.
        reason: String,
        /// Compiled backends that need no GPU.
        others: Vec<&'static str>,
    },
    /// The backend is Burn's, but this library has no operations for it.
    #[error(
        "the backend `{name}` cannot run this library's operations; put the model on one of: {}",
        compiled.join(", ")
    )]
    Unlisted {
        /// The backend.
        name: String,
        /// What is compiled in and can.
        compiled: Vec<&'static str>,
    },
    /// A device of a backend by a number that it cannot have.
    #[error(
        "{rule}, got `{name}`; name the backend alone, or a GPU backend with a number, such as `cuda:1`"
    )]
    Number {
        /// The name received.
        name: String,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// No device was named.
    #[error(
        "no device was named; give names separated by commas, such as `flex,flex` or `cuda:0,cuda:1`"
    )]
    NoName,
    /// Devices of several backends were to share a run.
    #[error(
        "all devices of a run must be of one backend, got {first} and {other}: their numbers differ, and the faster would wait; \
         name devices of one backend"
    )]
    Mixed {
        /// The first device's.
        first: String,
        /// Another's.
        other: String,
    },
    /// No backend at all.
    #[error("no backend is compiled in; build with `--features flex` or `--features wgpu`")]
    NoBackend,
}

fn or_another(others: &[&'static str]) -> String {
    match others.first() {
        Some(other) => format!(", or run on the CPU with BURN_DEVICE={other}"),
        None => String::new(),
    }
}

/// A device, and what it calls itself.
#[derive(Clone, Debug)]
pub struct NamedDevice {
    /// The device, without gradient tracking.
    pub device: Device,
    /// The backend, as `BURN_DEVICE` names it.
    pub backend: &'static str,
    /// The hardware's own name; empty for CPU backends.
    pub adapter: String,
    /// Graphics API and driver, where the backend tells.
    pub driver: String,
    /// Whether a "GPU" is software on the CPU, such as llvmpipe: right, but slow.
    pub software: bool,
}

impl fmt::Display for NamedDevice {
    /// `wgpu: NVIDIA H100 (Vulkan, 550.54)`, `flex`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.backend)?;
        if !self.adapter.is_empty() {
            write!(f, ": {}", self.adapter)?;
        }
        if !self.driver.is_empty() {
            write!(f, " ({})", self.driver)?;
        }
        if self.software {
            f.write_str(", a software adapter: slow")?;
        }
        Ok(())
    }
}

/// Backends compiled into this program, best first: the names that `BURN_DEVICE` accepts.
pub fn compiled_backends() -> Vec<&'static str> {
    let compiled = BACKENDS.iter().filter(|(_, compiled)| *compiled);
    compiled.map(|(name, _)| *name).collect()
}

/// The device that `BURN_DEVICE` names, else the best backend's that is compiled in (GPUs before CPUs).
///
/// The device is opened: if this returns, it works. No other backend is taken in silence when the chosen one has no device.
///
/// # Errors
///
/// [`DeviceError`] for an unknown name, a backend that is not compiled in, and hardware that is missing or does not open.
pub fn device_from_env() -> Result<NamedDevice, DeviceError> {
    let name = std::env::var_os(DEVICE_VARIABLE).map(|name| name.to_string_lossy().into_owned());
    match name {
        Some(name) => device_by_name(&name),
        None => match compiled_backends().first() {
            Some(best) => device_by_name(best),
            None => Err(DeviceError::NoBackend),
        },
    }
}

/// The devices that `names` gives, separated by commas, for a run that they share: `flex,flex`, `cuda:0,cuda:1`.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// let devices = atbptt_train::devices_by_names("flex, flex")?;
/// assert_eq!((devices.len(), devices[1].backend), (2, "flex"));
/// # }
/// # Ok::<(), atbptt_train::DeviceError>(())
/// ```
///
/// # Errors
///
/// As [`device_by_name`]; [`DeviceError::NoName`] for none, [`DeviceError::Mixed`] for several backends.
pub fn devices_by_names(names: &str) -> Result<Vec<NamedDevice>, DeviceError> {
    let names = names
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let devices = names.map(device_by_name).collect::<Result<Vec<_>, _>>()?;
    check_alike(&devices)?;
    Ok(devices)
}

/// Refuses no device, devices that cannot run this library's operations, and devices of several backends.
pub(crate) fn check_alike(devices: &[NamedDevice]) -> Result<(), DeviceError> {
    let Some(first) = devices.first() else {
        return Err(DeviceError::NoName);
    };
    for device in devices {
        check_device(&device.device)?;
    }
    let kind = |device: &NamedDevice| kind_of(&device.device);
    match devices.iter().find(|device| kind(device) != kind(first)) {
        Some(other) => Err(DeviceError::Mixed {
            first: first.backend.into(),
            other: other.backend.into(),
        }),
        None => Ok(()),
    }
}

/// The device of the backend `name`, in any case. `cuda:1`, `rocm:1`, `wgpu:1` and the like name another card than the first,
/// counted from zero; of graphics APIs, among the discrete ones.
///
/// # Errors
///
/// As [`device_from_env`]; [`DeviceError::Number`] for a number that is none, or of a backend with one device.
pub fn device_by_name(name: &str) -> Result<NamedDevice, DeviceError> {
    let (lower, number) = match name.trim().to_lowercase().split_once(':') {
        None => (name.trim().to_lowercase(), None),
        Some((backend, number)) => {
            let number = number.trim().parse();
            let number = number.map_err(|_| DeviceError::Number {
                name: name.into(),
                rule: "what follows the colon must be a number from zero",
            })?;
            (backend.trim().to_owned(), Some(number))
        }
    };
    let Some(&(backend, compiled)) = BACKENDS.iter().find(|(known, _)| *known == lower) else {
        return Err(DeviceError::Unknown {
            name: name.into(),
            compiled: compiled_backends(),
        });
    };
    if !compiled {
        return Err(DeviceError::NotCompiled {
            name: backend.into(),
            compiled: compiled_backends(),
        });
    }
    if number.is_some() && matches!(backend, "flex" | "ndarray") {
        return Err(DeviceError::Number {
            name: name.into(),
            rule: "a CPU backend has one device and no number",
        });
    }
    open(backend, number)
}

/// Refuses a device whose backend this library has no operations for, such as LibTorch's or a remote one: the first of them
/// would panic. Training, probes and evaluation check the same.
///
/// # Errors
///
/// [`DeviceError::Unlisted`].
pub fn check_device(device: &Device) -> Result<(), DeviceError> {
    check_backend(&format!("{:?}", device.clone().without_autodiff()))
}

/// What a device calls its backend, such as `Flex` or `Cube Wgpu`.
fn kind_of(device: &Device) -> String {
    let text = format!("{:?}", device.clone().without_autodiff());
    let words = text.strip_prefix("Device<").unwrap_or(&text);
    let mut words = words.split(|c: char| !c.is_alphanumeric());
    match words.next().unwrap_or_default() {
        "Cube" => format!("Cube {}", words.next().unwrap_or_default()),
        name => name.into(),
    }
}

/// By its backend alone.
impl From<Device> for NamedDevice {
    fn from(device: Device) -> Self {
        let kind = kind_of(&device);
        let backend = match kind.as_str() {
            "Flex" => "flex",
            "NdArray" => "ndarray",
            "Remote" => "remote",
            "Cube Cuda" => "cuda",
            "Cube Hip" => "rocm",
            "Cube Wgpu" => "wgpu",
            _ => "device",
        };
        Self {
            device: device.without_autodiff(),
            backend,
            adapter: String::new(),
            driver: String::new(),
            software: false,
        }
    }
}

/// By what a device calls itself: `Device<Flex(…)>`.
fn check_backend(device: &str) -> Result<(), DeviceError> {
    let name = device.strip_prefix("Device<").unwrap_or(device);
    let name = name.split(|c: char| !c.is_alphanumeric()).next();
    match name.unwrap_or(device) {
        "Flex" | "NdArray" | "Cube" => Ok(()),
        name => Err(DeviceError::Unlisted {
            name: name.into(),
            compiled: compiled_backends(),
        }),
    }
}

/// Compiled backends that need no hardware.
#[cfg(feature = "cube")]
fn cpu_backends() -> Vec<&'static str> {
    let compiled = compiled_backends().into_iter();
    compiled
        .filter(|name| matches!(*name, "flex" | "ndarray"))
        .collect()
}

#[allow(deprecated)] // Burn deprecates NdArray; it stays a supported backend here.
#[cfg_attr(not(feature = "cube"), allow(unused_variables))]
fn open(backend: &'static str, number: Option<usize>) -> Result<NamedDevice, DeviceError> {
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

/// Runs `f`; a panic in it becomes its message, and prints nothing.
#[cfg_attr(
    not(any(feature = "cuda", feature = "rocm", feature = "wgpu", test)),
    allow(dead_code)
)]
fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    // The hook is one per process: two callers at once would put back each other's.
    static HOOK: Mutex<()> = Mutex::new(());
    let _turn = HOOK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    panic::set_hook(hook);
    result.map_err(|cause| {
        cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "no reason given".into())
    })
}

#[cfg(feature = "wgpu")]
mod graphics {
    //! Devices behind a graphics API.

    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use burn::backend::WgpuBackend;
    use burn::tensor::DeviceKind::{DefaultDevice, DiscreteGpu};
    use burn::tensor::wgpu::{WgpuInitError, wgpu};
    use burn::tensor::{Device, DeviceKind};

    use super::{DeviceError, NamedDevice, cpu_backends, quietly};

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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_refused_with_the_names_that_are_compiled_in() {
        let error = device_by_name("abacus").unwrap_err();
        assert_eq!(
            error,
            DeviceError::Unknown {
                name: "abacus".into(),
                compiled: compiled_backends()
            }
        );
        let text = error.to_string();
        assert!(text.contains("`abacus`") && text.contains("flex"), "{text}");
    }

    /// CUDA is never compiled in where these tests run.
    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_backend_that_is_not_compiled_in_is_refused_with_its_feature() {
        let text = device_by_name("CUDA").unwrap_err().to_string();
        assert!(
            text.contains("`cuda` is not compiled in") && text.contains("--features cuda"),
            "{text}"
        );
    }

    #[test]
    fn a_backend_without_our_operations_is_refused_with_a_sentence() {
        for device in [
            "Device<LibTorch(Cpu)>",
            "Device<Remote(RemoteDevice { id: 0 })>",
        ] {
            let text = check_backend(device).unwrap_err().to_string();
            assert!(
                text.contains("cannot run this library's operations") && text.contains("flex"),
                "{text}"
            );
        }
        for name in compiled_backends() {
            // Without hardware there is no device to check.
            let Ok(found) = device_by_name(name) else {
                continue;
            };
            assert_eq!(check_device(&found.device), Ok(()), "{name}");
            assert_eq!(check_device(&found.device.autodiff()), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_list_of_devices_names_each_and_refuses_what_it_cannot_have() {
        let devices = devices_by_names(" flex,FLEX, ").unwrap();
        assert_eq!(devices.len(), 2);
        assert_eq!(devices_by_names(" , ").unwrap_err(), DeviceError::NoName);
        for (names, part) in [
            ("flex,abacus", "`abacus`"),
            ("flex:1", "one device and no number"),
            ("flex:x", "must be a number"),
        ] {
            let text = devices_by_names(names).unwrap_err().to_string();
            assert!(text.contains(part), "{names}: {text}");
        }
        #[cfg(feature = "ndarray")]
        assert_eq!(
            devices_by_names("ndarray,flex").unwrap_err(),
            DeviceError::Mixed {
                first: "ndarray".into(),
                other: "flex".into()
            }
        );
    }

    #[test]
    fn cpu_backends_open_in_any_case_of_their_name() {
        let names = [("flex", "flex"), (" FLEX ", "flex")];
        #[cfg(feature = "ndarray")]
        let names = [names, [("NdArray", "ndarray"), ("ndarray", "ndarray")]].concat();
        for (name, shown) in names {
            let device = device_by_name(name).unwrap();
            assert_eq!(device.to_string(), shown);
            assert!(!device.device.is_autodiff() && !device.software);
        }
    }

    #[test]
    fn a_panic_while_opening_becomes_its_message() {
        assert_eq!(quietly(|| 3), Ok(3));
        assert_eq!(
            quietly(|| -> u8 { panic!("no {}", "driver") }),
            Err("no driver".into())
        );
    }

    #[test]
    fn errors_name_a_device_that_needs_no_driver() {
        let error = DeviceError::NoAdapter {
            name: "wgpu",
            reason: "none".into(),
            remedy: "install a driver",
            others: vec!["flex"],
        };
        let text = error.to_string();
        assert!(
            text.contains("install a driver") && text.contains("BURN_DEVICE=flex"),
            "{text}"
        );
    }
}
