//! Devices of other processes and machines, by the address of the server that offers them.
//!
//! Burn's client waits for a server that may yet come, and for an answer that never does. Here a server is looked for first, in
//! limited time.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use burn::remote::{ConnectError, RemoteHost};
use burn::tensor::Device;

use super::address::Address;
use super::{DeviceError, NamedDevice};
use crate::panics;

/// For a connection to be accepted.
const ACCEPT: Duration = Duration::from_secs(3);
/// For a host's name to be found, and for a server to answer on an open connection.
const ANSWER: Duration = Duration::from_secs(10);

/// Devices that were opened, with the addresses they were opened by.
static OPENED: Mutex<Vec<(Device, String)>> = Mutex::new(Vec::new());

/// The device at `address`, connected.
pub(super) fn open(address: &Address) -> Result<NamedDevice, DeviceError> {
    let unreachable = |reason: String| DeviceError::Unreachable {
        address: address.to_string(),
        reason,
    };
    panics::install();
    listens(address).map_err(unreachable)?;
    let (url, index) = (address.url(), address.device);
    let connect = move || {
        let host = RemoteHost::websocket(&url);
        Device::remote_options(&host).device_index(index).init()
    };
    let device = match within(ANSWER, connect) {
        Some(Ok(device)) => device,
        Some(Err(error)) => {
            return Err(DeviceError::Refused {
                address: address.to_string(),
                reason: in_our_words(&error),
            });
        }
        None => {
            return Err(DeviceError::Refused {
                address: address.to_string(),
                reason: format!("it has not answered for {} s", ANSWER.as_secs()),
            });
        }
    };
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if opened.iter().all(|(known, _)| *known != device) {
        opened.push((device.clone(), address.to_string()));
    }
    drop(opened);
    Ok(NamedDevice {
        device,
        backend: super::REMOTE,
        adapter: address.to_string(),
        driver: String::new(),
        software: false,
    })
}

/// The address by which a device was opened.
pub(super) fn address_of(device: &Device) -> Option<String> {
    let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = opened.iter().find(|(known, _)| known == device);
    known.map(|(_, address)| address.clone())
}

/// Whether somebody accepts connections at `address`; why not, if not.
pub(super) fn listens(address: &Address) -> Result<(), String> {
    let places = places(address)?;
    match places.is_empty() {
        true => Err(format!("the name `{}` has no address", address.host)),
        false => knock(&places),
    }
}

/// Where the host of `address` is.
pub(super) fn places(address: &Address) -> Result<Vec<SocketAddr>, String> {
    let (host, port) = (address.host.clone(), address.port);
    let bare = host.trim_matches(['[', ']']).to_owned();
    let find = move || (bare.as_str(), port).to_socket_addrs();
    match within(ANSWER, find) {
        Some(Ok(found)) => Ok(found.collect()),
        Some(Err(error)) => Err(format!("no host is called `{host}`: {error}")),
        None => Err(format!("the name `{host}` was not found in time")),
    }
}

/// Whether one of `places` accepts a connection; why not, if none does.
pub(super) fn knock(places: &[SocketAddr]) -> Result<(), String> {
    let mut failed = "its address is not known".to_owned();
    for place in places {
        match TcpStream::connect_timeout(place, ACCEPT) {
            Ok(_) => return Ok(()),
            Err(error) => failed = error.to_string(),
        }
    }
    Err(failed)
}

/// What `work` gives on a thread of its own, which is left behind when it takes longer.
fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let work = move || {
        let _ = sender.send(work());
    };
    thread::Builder::new().spawn(work).ok()?;
    receiver.recv_timeout(limit).ok()
}

/// Why a server was found and yet gives no device.
fn in_our_words(error: &ConnectError) -> String {
    match error {
        ConnectError::NoSuchDevice { device_count: 1 } => {
            "it offers one device, whose number is 0".into()
        }
        ConnectError::NoSuchDevice { device_count } => {
            format!("it offers {device_count} devices, counted from 0")
        }
        other => other.to_string(),
    }
}
