//! Do weights that go to PyTorch and come back give the same outputs?
//!
//! ```text
//! cargo run --release --example torch_weights --features pytorch
//! TORCH_PYTHON=venv/bin/python cargo run --release --example torch_weights --features pytorch    # another Python
//! ```
//!
//! Expected: for an LSTM, a GRU and a tanh RNN of two layers, `equal to 1e-5` from PyTorch, which loads the safetensors file
//! written here and runs the same inputs, and from here for the file that PyTorch then saves; without PyTorch,
//! `skipped: No module named 'torch'`.

use std::path::Path;
use std::process::Command;

use atbptt::models::interop::TorchCompatible;
use atbptt::models::{GruLayer, LstmLayer, NamedTensors, RnnLayer, Stack, StackConfig};
use atbptt::train::run::say;
use burn::tensor::{Device, Distribution, Tensor};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const INPUT: usize = 5;
const HIDDEN: usize = 8;
const LAYERS: usize = 2;

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("atbptt-torch-weights-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let compared = check::<LstmLayer>("LSTM", &folder)
        .and_then(|()| check::<GruLayer>("GRU", &folder))
        .and_then(|()| check::<RnnLayer>("RNN", &folder));
    std::fs::remove_dir_all(&folder)?;
    compared
}

/// Writes weights, inputs and outputs; PyTorch compares and saves the weights again; these are compared here.
fn check<L: TorchCompatible>(kind: &str, folder: &Path) -> Result<()> {
    let device = Device::default();
    device.seed(1);
    let config = StackConfig::<L>::new(INPUT, HIDDEN).with_layers(LAYERS);
    let model = config.init(&device)?;
    let weights = folder.join("weights.safetensors");
    std::fs::write(
        &weights,
        model.to_torch()?.to_safetensors(&[("kind", kind)])?,
    )?;
    let input = Tensor::<3>::random([3, 20, INPUT], Distribution::Normal(0.0, 1.0), &device);
    let expected = outputs(&model, &input)?;
    let example = serde_json::json!({
        "kind": kind, "input": input.to_data().iter::<f32>().collect::<Vec<f32>>(), "output": expected,
        "batch": 3, "time": 20, "features": INPUT, "hidden": HIDDEN, "layers": LAYERS,
    });
    std::fs::write(folder.join("example.json"), example.to_string())?;

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/check_weights.py");
    let python = std::env::var("TORCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let output = match Command::new(&python).arg(script).arg(folder).output() {
        Ok(output) => output,
        Err(error) => {
            say(format_args!(
                "{kind}: skipped: {python} cannot be started: {error}"
            ));
            return Ok(());
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    say(format_args!("{kind}: {}", said.trim()));
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    if !folder.join("back.pt").exists() {
        return Ok(());
    }
    if !cfg!(feature = "pytorch") {
        say(format_args!(
            "{kind}: the file that PyTorch saved: skipped: build with `--features pytorch`"
        ));
        return Ok(());
    }
    let back = config.from_torch(NamedTensors::open(folder.join("back.pt"))?, &device)?;
    let got = outputs(&back, &input)?;
    let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let worst = worst.fold(0.0, f32::max);
    match worst <= 1e-5 {
        true => say(format_args!(
            "{kind}: the file that PyTorch saved: equal to 1e-5"
        )),
        false => {
            return Err(format!("{kind}: the file that PyTorch saved is off by {worst}").into());
        }
    }
    Ok(std::fs::remove_file(folder.join("back.pt"))?)
}

fn outputs<L: TorchCompatible>(model: &Stack<L>, input: &Tensor<3>) -> Result<Vec<f32>> {
    let (output, _) = model.forward(input.clone(), None)?;
    Ok(output.try_into_data()?.iter::<f32>().collect())
}
