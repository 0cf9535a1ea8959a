//! Which device a program runs on: `BURN_DEVICE` read without panics, and a line that says what was found.
//!
//! Place in the flow: before everything else. A device is looked for and opened here, so that a missing driver or a backend
//! that is not compiled in is one clear error and not a panic in the first tensor.

mod address;
mod error;
#[cfg(feature = "wgpu")]
mod graphics;
mod open;
#[cfg(feature = "remote")]
mod remote;
#[cfg(feature = "remote")]
mod watch;

use std::fmt;

use burn::tensor::Device;

use self::address::Address;
use self::open::open;

pub use error::DeviceError;
#[cfg(feature = "remote")]
pub(crate) use watch::Watch;

/// The variable that names a device.
pub const DEVICE_VARIABLE: &str = "BURN_DEVICE";

/// What devices of other processes are called.
pub(crate) const REMOTE: &str = "remote";

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

/// A device, and what it calls itself.
#[derive(Clone, Debug)]
pub struct NamedDevice {
    /// The device, without gradient tracking.
    pub device: Device,
    /// The backend, as `BURN_DEVICE` names it.
    pub backend: &'static str,
    /// The hardware's own name, or the server's address; empty for CPU backends.
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

impl NamedDevice {
    /// Whether it belongs to another process.
    pub(crate) fn is_remote(&self) -> bool {
        self.backend == REMOTE
    }

    /// Why its server does not answer, for a device of another process whose server does not.
    #[cfg(feature = "remote")]
    pub(crate) fn lost(&self) -> Option<String> {
        if !self.is_remote() {
            return None;
        }
        remote::listens(&Address::parse(&self.adapter).ok()?).err()
    }
}

/// Backends compiled into this program, best first: the names that `BURN_DEVICE` accepts.
pub fn compiled_backends() -> Vec<&'static str> {
    let compiled = BACKENDS.iter().filter(|(_, compiled)| *compiled);
    compiled.map(|(name, _)| *name).collect()
}

/// Compiled backends that need no hardware.
#[cfg(feature = "cube")]
fn cpu_backends() -> Vec<&'static str> {
    let compiled = compiled_backends().into_iter();
    compiled
        .filter(|name| matches!(*name, "flex" | "ndarray"))
        .collect()
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

/// The devices that `names` gives, separated by commas, for a run that they share: `flex,flex`, `cuda:0,cuda:1`,
/// `ws://first:3000,ws://second:3000`.
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
/// counted from zero; of graphics APIs, among the discrete ones. `ws://host:port` is the first device that a server of another
/// process or machine offers, `ws://host:port/1` the second; it needs the feature `remote`.
///
/// # Errors
///
/// As [`device_from_env`]; [`DeviceError::Number`] for a number that is none, or of a backend with one device;
/// [`DeviceError::Address`], [`DeviceError::Unreachable`] and [`DeviceError::Refused`] for an address, within seconds.
pub fn device_by_name(name: &str) -> Result<NamedDevice, DeviceError> {
    if Address::is_meant(name) {
        let address = Address::parse(name)?;
        #[cfg(feature = "remote")]
        return remote::open(&address);
        #[cfg(not(feature = "remote"))]
        return Err(DeviceError::NotServed {
            address: address.to_string(),
        });
    }
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

/// Refuses a device whose backend this library has no operations for, such as LibTorch's: the first of them would panic.
/// Training, probes and evaluation check the same.
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

/// By its backend alone; one of another process by the address it was opened by.
impl From<Device> for NamedDevice {
    fn from(device: Device) -> Self {
        let kind = kind_of(&device);
        let backend = match kind.as_str() {
            "Flex" => "flex",
            "NdArray" => "ndarray",
            "Remote" => REMOTE,
            "Cube Cuda" => "cuda",
            "Cube Hip" => "rocm",
            "Cube Wgpu" => "wgpu",
            _ => "device",
        };
        let device = device.without_autodiff();
        Self {
            #[cfg(feature = "remote")]
            adapter: remote::address_of(&device).unwrap_or_default(),
            #[cfg(not(feature = "remote"))]
            adapter: String::new(),
            device,
            backend,
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
        "Remote" if cfg!(feature = "remote") => Ok(()),
        name => Err(DeviceError::Unlisted {
            name: name.into(),
            compiled: compiled_backends(),
        }),
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
        let text = check_backend("Device<LibTorch(Cpu)>")
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("cannot run this library's operations") && text.contains("flex"),
            "{text}"
        );
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
