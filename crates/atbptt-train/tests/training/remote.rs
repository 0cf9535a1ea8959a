//! Devices of other processes: the run of local devices, errors with their cause, and a server that dies.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atbptt_train::{
    Checkpoint, DeviceError, TrainError, TrainingObserver, device_by_name, devices_by_names,
};
use burn::tensor::{Device, Tensor};

use crate::common::servers::Server;
use crate::common::turn;
use crate::devices::{Setup, trained};

/// The setup of local devices, on those of `servers`.
fn on(servers: &[Server]) -> Setup {
    let names: Vec<&str> = servers.iter().map(Server::address).collect();
    let devices = devices_by_names(&names.join(",")).unwrap();
    let devices: Vec<Device> = devices.into_iter().map(|named| named.device).collect();
    let mut setup = Setup::new(0);
    setup.devices = devices;
    setup
}

/// With dropout, whose units are those of the local run.
#[test]
fn devices_of_other_processes_train_as_a_local_one_does() {
    let _turn = turn();
    let local = trained(&Setup::new(1));
    for count in [2, 1] {
        let servers: Vec<_> = (0..count).map(|_| Server::start("flex")).collect();
        let remote = trained(&on(&servers));
        let distance = remote.distance(&local);
        println!("{count} servers: weights {distance:.1e} apart");
        assert!(distance < 1e-5, "{count} servers: {distance:e}");
        assert_eq!(remote.ks(), local.ks(), "{count} servers");
        let (remote_loss, local_loss) = (remote.reports[1].train_loss, local.reports[1].train_loss);
        assert!(
            (remote_loss / local_loss - 1.0).abs() < 1e-5,
            "{remote_loss}, {local_loss}"
        );
        assert_eq!(remote.workers.len(), count);
        for (worker, server) in remote.workers.iter().zip(&servers) {
            assert_eq!(worker.device, format!("remote: {}", server.address()));
            assert!(worker.busy_seconds > 0.0);
        }
    }
}

/// Kills a server after a number of windows.
struct Kill {
    server: Mutex<Server>,
    after: usize,
    windows: Mutex<usize>,
}

impl TrainingObserver for Kill {
    fn on_window(&self, _epoch: usize, _counted: usize, _total: usize, _loss: f64) {
        let mut windows = self.windows.lock().unwrap();
        *windows += 1;
        if *windows == self.after {
            self.server.lock().unwrap().kill();
        }
    }
}

/// The first server holds the weights, the second a part of the sequences; after window 10, the checkpoint of which is written
/// next, and in the middle of other windows.
#[test]
fn a_server_that_dies_ends_the_run_with_its_address_and_the_checkpoint_to_go_on_from() {
    let _turn = turn();
    let expected = trained(&Setup::new(1));
    for (dying, after) in [(1, 17), (0, 17), (1, 10), (0, 10)] {
        let mut servers: Vec<_> = (0..2).map(|_| Server::start("flex")).collect();
        let setup = on(&servers);
        let address = servers[dying].address().to_owned();
        let observer = Arc::new(Kill {
            server: Mutex::new(servers.remove(dying)),
            after,
            windows: Mutex::new(0),
        });
        let folder = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let error = setup
            .watched(folder.path(), None, Some(observer))
            .unwrap_err();
        let what = format!("server {dying} after window {after}: {error}");
        println!("{what} ({:.1} s)", started.elapsed().as_secs_f64());
        let TrainError::Server {
            device, checkpoint, ..
        } = &error
        else {
            panic!("{what}: {error:?}");
        };
        assert!(device.contains(&address), "{what}");
        let saved = Checkpoint::newest(folder.path()).unwrap();
        assert!(
            saved.step() <= after as u64 && saved.step() + 6 > after as u64,
            "{what}"
        );
        assert!(
            checkpoint.contains(&*saved.path().to_string_lossy()),
            "{what}"
        );
        // It goes on without the servers.
        let resumed = Setup::new(1).run(folder.path(), Some(saved));
        assert_eq!(resumed.ks(), expected.ks(), "{what}");
        let distance = resumed.distance(&expected);
        assert!(distance < 1e-5, "{what}: {distance:e}");
    }
}

/// A way to a server that can be blocked without either end being told, as by a cable that is pulled.
struct Way {
    address: String,
    blocked: Arc<AtomicBool>,
}

impl Way {
    fn to(server: &Server) -> Self {
        let entrance = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("ws://{}", entrance.local_addr().unwrap());
        let exit = server.address().strip_prefix("ws://").unwrap().to_owned();
        let blocked = Arc::new(AtomicBool::new(false));
        let state = blocked.clone();
        entrance.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            // Once it is blocked, the entrance closes: nobody gets in any more.
            while !state.load(Ordering::SeqCst) {
                match entrance.accept() {
                    Ok((client, _)) => {
                        client.set_nonblocking(false).unwrap();
                        let server = TcpStream::connect(&exit).unwrap();
                        carry(
                            client.try_clone().unwrap(),
                            server.try_clone().unwrap(),
                            &state,
                        );
                        carry(server, client, &state);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { address, blocked }
    }
}

/// Carries what comes from one end to the other; once the way is blocked, no more, and the ends stay open.
fn carry(mut from: TcpStream, mut to: TcpStream, blocked: &Arc<AtomicBool>) {
    let blocked = blocked.clone();
    std::thread::spawn(move || {
        let mut part = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut part) {
            while blocked.load(Ordering::SeqCst) {
                std::thread::park();
            }
            if to.write_all(&part[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

struct Block {
    way: Arc<AtomicBool>,
    after: usize,
    windows: AtomicUsize,
}

impl TrainingObserver for Block {
    fn on_window(&self, _epoch: usize, _counted: usize, _total: usize, _loss: f64) {
        if self.windows.fetch_add(1, Ordering::SeqCst) + 1 == self.after {
            self.way.store(true, Ordering::SeqCst);
        }
    }
}

/// Without a watch, it would be after a quarter of an hour, when TCP gives up.
#[test]
fn a_server_that_vanishes_without_a_word_ends_the_run_within_a_minute() {
    let _turn = turn();
    let server = Server::start("flex");
    let way = Way::to(&server);
    let mut setup = Setup::new(0);
    setup.devices = vec![device_by_name(&way.address).unwrap().device];
    let observer = Arc::new(Block {
        way: way.blocked.clone(),
        after: 7,
        windows: AtomicUsize::new(0),
    });
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let error = setup
        .watched(folder.path(), None, Some(observer))
        .unwrap_err();
    println!("{error} ({:.1} s)", started.elapsed().as_secs_f64());
    let TrainError::Server { device, reason, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(device.contains(&way.address), "{error}");
    assert!(reason.contains("no connection for 3"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60), "{error}");
    let saved = Checkpoint::newest(folder.path()).unwrap();
    assert_eq!(saved.step(), 5);
    let resumed = Setup::new(1).run(folder.path(), Some(saved));
    let distance = resumed.distance(&trained(&Setup::new(1)));
    assert!(distance < 1e-5, "{distance:e}");
}

#[test]
fn a_server_offers_several_devices_by_their_numbers() {
    let server = Server::start("flex,flex");
    let second = device_by_name(&format!("{}/1", server.address())).unwrap();
    assert_eq!(
        second.to_string(),
        format!("remote: {}/1", server.address())
    );
    let sum = Tensor::<1>::from_floats([1.0, 2.5], &second.device).sum();
    assert_eq!(sum.into_scalar::<f32>(), 3.5);
    let error = device_by_name(&format!("{}/2", server.address())).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, DeviceError::Refused { .. }), "{text}");
    assert!(text.contains("2 devices, counted from 0"), "{text}");
}

#[test]
fn a_device_of_another_process_and_a_local_one_are_refused_together() {
    let server = Server::start("flex");
    let error = devices_by_names(&format!("flex,{}", server.address())).unwrap_err();
    assert!(matches!(error, DeviceError::Mixed { .. }), "{error}");
}

/// What a test expects of a name, within seconds.
fn refused(name: &str, seconds: u64, part: &str) {
    let started = Instant::now();
    let error = device_by_name(name).unwrap_err();
    let text = error.to_string();
    println!("{text} ({:.1} s)", started.elapsed().as_secs_f64());
    assert!(text.contains(part) && text.contains(name), "{text}");
    assert!(started.elapsed() < Duration::from_secs(seconds), "{text}");
}

#[test]
fn an_address_where_no_server_answers_is_refused_within_seconds() {
    refused(
        "ws://no-such-host.invalid:3000",
        12,
        "no host is called `no-such-host.invalid`",
    );
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    refused(&format!("ws://127.0.0.1:{port}"), 4, "no server answers");
}

#[test]
fn what_is_no_server_of_devices_is_refused_within_seconds() {
    // Accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("ws://{}", silent.local_addr().unwrap());
    refused(&name, 12, "has not answered for 10 s");
    // Speaks of something else.
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("ws://{}", web.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in web.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        }
    });
    refused(&name, 12, "offers no such device");
}
