//! Files of `torch.save`: what is read can be written as safetensors and read again, and no file asks for more memory than there is
//! reason for.

use std::panic;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use atbptt_models::{LstmLayer, NamedTensors, StackConfig};
use burn::tensor::Device;

use super::check_message;

/// A file of its own, since tests run side by side.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn temporary(data: &[u8]) -> Temporary {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("atbptt-fuzz-{}-{number}.pt", std::process::id());
    let file = Temporary(std::env::temp_dir().join(name));
    std::fs::write(&file.0, data).expect("the folder for temporary files can be written to");
    file
}

/// Bytes: a file.
pub fn torch(data: &[u8]) {
    let file = temporary(data);
    // Panics of the reader's are caught inside; libFuzzer's hook would end the process before.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let read = NamedTensors::open(&file.0);
    panic::set_hook(hook);
    let read = match read {
        Ok(read) => read,
        Err(error) => return check_message(&error),
    };
    let written = read.to_safetensors(&[]).expect("what was read is written");
    let again = NamedTensors::from_safetensors(&written).expect("what was written is read");
    // Bytes, since a NaN is not equal to itself.
    assert_eq!(again.to_safetensors(&[]).expect("written again"), written);
    match StackConfig::<LstmLayer>::new(2, 2).from_torch(read, &Device::flex()) {
        Ok(lstm) => assert!(lstm.to_torch().is_ok()),
        Err(error) => check_message(&error),
    }
}
