//! Safetensors files: what is read comes back the same, and goes into a model whole or not at all.

use atbptt_models::{LstmLayer, NamedTensors, StackConfig};
use burn::tensor::Device;

use super::check_message;

pub fn weights(data: &[u8]) {
    let read = match NamedTensors::from_safetensors(data) {
        Ok(read) => read,
        Err(error) => return check_message(&error),
    };
    let written = read.to_safetensors(&[]).expect("what was read is written");
    let again = NamedTensors::from_safetensors(&written).expect("what was written is read");
    // Bytes, since a NaN is not equal to itself.
    assert_eq!(again.to_safetensors(&[]).expect("written again"), written);
    let device = Device::flex();
    let config = StackConfig::<LstmLayer>::new(2, 2);
    let names: Vec<String> = read.names().map(str::to_owned).collect();
    match config.from_torch(read.clone(), &device) {
        Ok(lstm) => {
            let names_of = lstm.to_torch().expect("the device reads back");
            assert!(names_of.names().eq(names.iter()), "{names:?}");
        }
        Err(error) => check_message(&error),
    }
    let lstm = config.init(&device).expect("sizes above zero");
    match read.into_module(lstm) {
        Ok(lstm) => {
            let taken = NamedTensors::of(&lstm).expect("the device reads back");
            assert_eq!(taken.to_safetensors(&[]).expect("written"), written);
        }
        Err(error) => check_message(&error),
    }
}
