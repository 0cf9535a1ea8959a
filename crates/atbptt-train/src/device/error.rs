//! Why there is no device to run on.

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
        "the backend `{name}` is not compiled in; build with `--features {name}`, or name one of these instead: {}",
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
    /// An address of a server that is none.
    #[error(
        "`{name}` is no address of a server: {rule}; write `ws://HOST:PORT`, or `ws://HOST:PORT/1` for the second of a server's \
         devices"
    )]
    Address {
        /// The name received.
        name: String,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// An address in a program that is built without remote devices.
    #[error(
        "{address} is a device of another process, which this program is not built for; build with `--features remote`"
    )]
    NotServed {
        /// The address.
        address: String,
    },
    /// Nobody answers at an address.
    #[error(
        "no server answers at {address} ({reason}); check its name and port, and that it runs: \
         `cargo run --release --features remote --example serve` starts one"
    )]
    Unreachable {
        /// The address.
        address: String,
        /// The system's own words.
        reason: String,
    },
    /// Somebody answers at an address, but offers no device.
    #[error(
        "what answers at {address} offers no such device: {reason}; check the port and the device's number, and that the server \
         is built with the same release of Burn"
    )]
    Refused {
        /// The address.
        address: String,
        /// What came of asking.
        reason: String,
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
