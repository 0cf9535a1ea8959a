//! The servers of a run, watched while it trains.
//!
//! Place in the flow: the loop, for as long as it uses devices of other processes. Two things are waited for without end in
//! Burn 0.22.1, and a run would stand still without a word:
//!
//! - **An answer of a machine that has vanished** (switched off, cable pulled). TCP keeps what was sent and not acknowledged for
//!   a quarter of an hour. Here a connection of our own is tried every few seconds. It is accepted by the server's operating
//!   system, however busy the server is; a server that accepts none for half a minute is given up: the connections to all servers
//!   of the run are cut, so that whoever waits for one gets an error.
//! - **A tensor on its way from one server to another.** A server that is asked for a tensor it does not have yet looks, and then
//!   waits to be told of the next that comes. One that comes in between is not told of
//!   (`burn-communication`, `get_exposed_tensor_bytes`), and only the next one wakes it: where the one that was missed is the last
//!   before the client waits, nothing moves any more. So every server hands a number on every second.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use burn::remote::{ConnectError, RemoteHost};
use burn::tensor::{Device, Tensor};

use super::NamedDevice;
use super::address::Address;
use super::remote::{knock, places};
use crate::panics;

/// Between one try to connect to a server and the next.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Without a connection for as long, a server is lost. Burn's connections that are idle are given up after as long, too.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Between one number handed on and the next.
const HAND_ON_EVERY: Duration = Duration::from_secs(1);

/// A server that a run uses devices of.
struct Server {
    address: Address,
    places: Vec<SocketAddr>,
}

/// Watches until it is dropped.
pub(crate) struct Watch {
    /// Each thread ends when its own is dropped.
    _threads: Vec<Sender<()>>,
    lost: Arc<Mutex<Option<(Address, String)>>>,
}

impl Watch {
    /// Over the servers of `devices`, on threads of its own.
    pub(crate) fn over(devices: &[NamedDevice]) -> Self {
        let mut servers: Vec<Server> = Vec::new();
        for device in devices.iter().filter(|device| device.is_remote()) {
            let Ok(address) = Address::parse(&device.adapter) else {
                continue;
            };
            if servers
                .iter()
                .all(|known| known.address.url() != address.url())
            {
                servers.push(Server {
                    places: places(&address).unwrap_or_default(),
                    address,
                });
            }
        }
        let urls: Vec<String> = servers.iter().map(|server| server.address.url()).collect();
        let lost = Arc::new(Mutex::new(None));
        let seen = lost.clone();
        let mut threads = vec![spawn(move |stop| ask(&servers, &seen, &stop))];
        if urls.len() > 1 {
            threads.push(spawn(move |stop| hand_on(&urls, &stop)));
        }
        Self {
            _threads: threads,
            lost,
        }
    }

    /// Why the server of `device` was given up, if it was.
    pub(crate) fn lost(&self, device: &NamedDevice) -> Option<String> {
        let address = Address::parse(&device.adapter).ok()?;
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let of_device = |(lost, _): &&(Address, String)| lost.url() == address.url();
        lost.as_ref().filter(of_device).map(|(_, why)| why.clone())
    }
}

/// Runs `watch` on a thread until the sender is dropped; a thread that cannot be had is done without.
fn spawn(watch: impl FnOnce(Receiver<()>) + Send + 'static) -> Sender<()> {
    let (sender, receiver) = channel();
    let named = thread::Builder::new().name("atbptt-servers".into());
    if let Err(error) = named.spawn(move || watch(receiver)) {
        log::warn!("servers are not watched: {error}");
    }
    sender
}

/// Whether to go on, after `pause`.
fn goes_on(stop: &Receiver<()>, pause: Duration) -> bool {
    stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
}

/// Tries every server again and again, and cuts the connections of one that is lost.
fn ask(servers: &[Server], lost: &Mutex<Option<(Address, String)>>, stop: &Receiver<()>) {
    let mut answered = vec![Instant::now(); servers.len()];
    while goes_on(stop, ASK_EVERY) {
        for (server, answered) in servers.iter().zip(&mut answered) {
            let Err(reason) = knock(&server.places) else {
                *answered = Instant::now();
                continue;
            };
            if answered.elapsed() < LOST_AFTER {
                log::warn!("{} does not answer: {reason}", server.address);
                continue;
            }
            let seconds = answered.elapsed().as_secs();
            let why = format!("no connection for {seconds} s: {reason}");
            log::error!("{} is given up: {why}", server.address);
            let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.get_or_insert_with(|| (server.address.clone(), why));
            drop(lost);
            // Others may wait for what it was to hand on to them.
            servers.iter().for_each(|server| cut(&server.places));
        }
    }
}

/// Has every server hand a number on to the next one.
fn hand_on(urls: &[String], stop: &Receiver<()>) {
    // A credential makes a session of its own, whose work waits for none of the run's and keeps none of it waiting.
    let open = |url: &String| {
        let host = RemoteHost::websocket(url).with_credential("watch");
        Device::remote_options(&host).init()
    };
    let opened = panics::caught(|| urls.iter().map(open).collect::<Result<_, ConnectError>>());
    let devices: Vec<Device> = match opened {
        Ok(Ok(devices)) => devices,
        Ok(Err(error)) => return log::warn!("servers are not watched: {error}"),
        Err(reason) => return log::warn!("servers are not watched: {reason}"),
    };
    while goes_on(stop, HAND_ON_EVERY) {
        let all = || {
            for (from, to) in devices.iter().zip(devices.iter().cycle().skip(1)) {
                drop(Tensor::<1>::from_floats([0.0], from).to_device(to));
            }
        };
        // A server that is gone; the run is told by what it asks itself.
        if let Err(reason) = panics::caught(all) {
            return log::debug!("no number was handed on: {reason}");
        }
    }
}

/// Ends this process' connections to `places`.
///
/// They are Burn's, which gives nobody access to them; a process' open files are listed by their numbers.
#[cfg(unix)]
fn cut(places: &[SocketAddr]) {
    use nix::sys::socket::{Shutdown, SockaddrStorage, getpeername, shutdown};
    let open = std::fs::read_dir("/dev/fd").into_iter().flatten().flatten();
    let numbers = open.filter_map(|file| file.file_name().to_str()?.parse().ok());
    // Listed first: the list itself is an open file.
    let numbers: Vec<std::os::fd::RawFd> = numbers.collect();
    for number in numbers {
        let Ok(peer) = getpeername::<SockaddrStorage>(number) else {
            continue;
        };
        let v4 = peer.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
        let v6 = peer
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6((*v6).into()));
        let Some(peer) = v4.or(v6) else {
            continue;
        };
        if places.iter().any(|place| same(place, &peer)) {
            let _ = shutdown(number, Shutdown::Both);
        }
    }
}

/// Elsewhere the operating system's own time counts.
#[cfg(not(unix))]
fn cut(_: &[SocketAddr]) {}

/// An address of IPv4 may be written as one of IPv6.
#[cfg(unix)]
fn same(a: &SocketAddr, b: &SocketAddr) -> bool {
    a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_to_a_lost_server_are_cut_and_those_to_others_are_not() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let places = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap());
        let [mut lost, other] = places.map(|place| TcpStream::connect(place).unwrap());
        cut(&places[..1]);
        assert_eq!(lost.read(&mut [0; 8]).unwrap(), 0);
        other
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let waits = (&other).read(&mut [0; 8]).unwrap_err();
        assert!(
            matches!(
                waits.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ),
            "{waits}"
        );
    }

    #[test]
    fn an_address_of_ipv4_is_known_in_the_form_of_ipv6() {
        let v4: SocketAddr = "127.0.0.1:3000".parse().unwrap();
        let v6: SocketAddr = "[::ffff:127.0.0.1]:3000".parse().unwrap();
        let other: SocketAddr = "[::1]:3000".parse().unwrap();
        assert!(same(&v4, &v6) && !same(&v4, &other));
    }
}
