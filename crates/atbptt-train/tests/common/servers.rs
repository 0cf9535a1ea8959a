//! Processes that serve their devices, for tests of training on them.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A server on a free port of this machine; killed when it is dropped.
pub struct Server {
    process: Child,
    /// Open as long as it may print: a line for every device.
    _said: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    /// The example `serve` with these devices.
    pub fn start(devices: &str) -> Self {
        let test = std::env::current_exe().unwrap();
        let file = format!("serve{}", std::env::consts::EXE_SUFFIX);
        let built = test.parent().unwrap().parent().unwrap();
        let program = built.join("examples").join(file);
        assert!(
            program.is_file(),
            "{} is not built; run `cargo build --release --features remote --example serve` first",
            program.display()
        );
        let mut process = Command::new(program)
            .args(["--listen", "127.0.0.1:0", "--devices", devices])
            // Two servers and a client share the processor.
            .env("RAYON_NUM_THREADS", "1")
            .env("RUST_LOG", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // What is left of it complains when the other one dies.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut prints = BufReader::new(process.stdout.take().unwrap());
        let mut said = String::new();
        prints.read_line(&mut said).unwrap();
        let address = said.split_whitespace().next().unwrap_or_default();
        let address = address
            .strip_suffix("/0")
            .unwrap_or_else(|| panic!("said {said:?}"));
        Self {
            address: address.into(),
            process,
            _said: prints,
        }
    }

    /// `ws://127.0.0.1:41234`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
