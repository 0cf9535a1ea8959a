//! NamedTensors in and out of files: safetensors, and what PyTorch writes. Outputs of the golden cases are PyTorch's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on should stop

#[path = "../common/mod.rs"]
mod common;

mod pytorch;

use atbptt_models::interop::TorchCompatible;
use atbptt_models::{
    GruLayer, LanguageModelConfig, LstmLayer, ModelError, NamedTensors, RecurrentState, RnnLayer,
    Sampling, Stack, StackConfig, TextState, TokenBatch, UnrollOptions,
};
use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use common::{assert_close, golden, numbers, tensor, values};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn reason(error: ModelError) -> String {
    match error {
        ModelError::Weights { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

/// The weights of a golden case under PyTorch's names.
fn of_case(case: &Value, device: &Device) -> NamedTensors {
    let mut weights = NamedTensors::default();
    for (name, value) in case["params"].as_object().unwrap() {
        match name.starts_with("weight") {
            true => weights.insert(name, tensor::<2>(value, device, DType::F32)),
            false => weights.insert(name, tensor::<1>(value, device, DType::F32)),
        }
        .unwrap();
    }
    weights
}

fn size(case: &Value, name: &str) -> usize {
    case[name].as_u64().unwrap() as usize
}

fn config<L: TorchCompatible>(case: &Value) -> StackConfig<L> {
    StackConfig::new(size(case, "d_input"), size(case, "d_hidden"))
        .with_layers(size(case, "layers"))
}

/// Outputs of `model` on the case's inputs, against PyTorch's.
fn check_outputs<L: TorchCompatible>(case: &Value, model: &Stack<L>, device: &Device) {
    let names: &[&str] = if L::PARTS == 2 {
        &["h0", "c0"]
    } else {
        &["h0"]
    };
    let parts = (0..size(case, "layers"))
        .flat_map(|layer| names.iter().map(move |name| (layer, *name)))
        .map(|(layer, name)| tensor::<2>(&case[name][layer], device, DType::F32))
        .collect();
    let start = model
        .zero_state(size(case, "batch"), device)
        .with_parts(parts);
    let x = tensor::<3>(&case["x"], device, DType::F32);
    let run = model
        .unroll(x, Some(start), UnrollOptions::default())
        .unwrap();
    let expected = numbers(&case["y"]).0;
    assert_close("y", &values(run.output), &expected, 1e-5);
}

fn through_a_file<L: TorchCompatible>(case: &Value) {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let written = of_case(case, &device);
    std::fs::write(&path, written.to_safetensors(&[]).unwrap()).unwrap();
    let read = NamedTensors::open(&path).unwrap();
    assert_eq!(read, written);
    let model = config::<L>(case).from_torch(read, &device).unwrap();
    check_outputs(case, &model, &device);
    // What goes out is the same function: two biases became one, and their sum comes back.
    let out = model.to_torch().unwrap();
    assert!(out.names().eq(written.names()));
    let again = config::<L>(case).from_torch(out, &device).unwrap();
    check_outputs(case, &again, &device);
    assert_eq!(
        NamedTensors::of(&again).unwrap(),
        NamedTensors::of(&model).unwrap()
    );
}

#[test]
fn golden_a_file_of_each_kind_gives_pytorchs_outputs_and_comes_back_equal() {
    let Some(golden) = golden("recurrent_layers.json") else {
        return;
    };
    for case in golden["cases"].as_array().unwrap() {
        match case["kind"].as_str().unwrap() {
            "lstm" => through_a_file::<LstmLayer>(case),
            "gru" => through_a_file::<GruLayer>(case),
            _ => through_a_file::<RnnLayer>(case),
        }
    }
}

/// Files in the format of `torch.save`, made by `data/make_pt.py` from the golden cases with two layers.
#[cfg(feature = "pytorch")]
#[test]
fn golden_files_of_torch_save_give_pytorchs_outputs() {
    let Some(golden) = golden("recurrent_layers.json") else {
        return;
    };
    let device = Device::flex();
    let cases = golden["cases"].as_array().unwrap();
    let case = |kind: &str| {
        let two = |case: &&Value| case["kind"] == kind && case["layers"] == 2;
        cases.iter().find(two).unwrap()
    };
    let lstm = NamedTensors::open("tests/data/lstm.pt").unwrap();
    let lstm = config::<LstmLayer>(case("lstm")).from_torch(lstm, &device);
    check_outputs(case("lstm"), &lstm.unwrap(), &device);
    let gru = NamedTensors::open("tests/data/gru.pt").unwrap();
    let gru = config::<GruLayer>(case("gru")).from_torch(gru, &device);
    check_outputs(case("gru"), &gru.unwrap(), &device);
    let rnn = NamedTensors::open("tests/data/rnn.pt").unwrap();
    let rnn = config::<RnnLayer>(case("rnn_tanh")).from_torch(rnn, &device);
    check_outputs(case("rnn_tanh"), &rnn.unwrap(), &device);
}

/// PyTorch 2.15 wrote both files, of the same model; saved under a name of 21 letters, the first misleads readers of archives that count
/// back from the end.
#[cfg(feature = "pytorch")]
#[test]
fn a_file_of_torch_save_is_read_whatever_the_length_of_its_name() {
    let [saved, expected] = ["pt", "safetensors"].map(|kind| {
        NamedTensors::open(format!("tests/data/words-RNN_TANH-untied.{kind}")).unwrap()
    });
    assert_eq!(saved, expected);
    assert_eq!(saved.names().count(), 11);
}

/// Not such files: an error each, whatever they hold.
#[test]
fn files_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = NamedTensors::open(folder.path().join("no.safetensors")).unwrap_err();
    assert!(
        missing
            .to_string()
            .contains("no.safetensors cannot be read"),
        "{missing}"
    );
    for extension in ["safetensors", "pt"] {
        let path = folder.path().join(format!("bad.{extension}"));
        for bytes in [&b""[..], b"not weights", &[0xff; 64], b"PK\x03\x04"] {
            std::fs::write(&path, bytes).unwrap();
            let error = NamedTensors::open(&path).unwrap_err().to_string();
            assert!(error.contains("bad."), "{error}");
        }
    }
    // A header that promises more than there is, and a type that no weight has.
    let whole = NamedTensors::of(
        &StackConfig::<LstmLayer>::new(2, 2)
            .init(&Device::flex())
            .unwrap(),
    )
    .unwrap();
    let whole = whole.to_safetensors(&[]).unwrap();
    for length in [0, 7, 8, 100, whole.len() - 1] {
        assert!(NamedTensors::from_safetensors(&whole[..length]).is_err());
    }
    let other = String::from_utf8_lossy(&whole).replace("\"F32\"", "\"C64\"");
    assert!(NamedTensors::from_safetensors(other.as_bytes()).is_err());
}

#[test]
fn what_does_not_fit_is_named_and_refused() {
    let device = Device::flex();
    let lstm = |layers: usize| StackConfig::<LstmLayer>::new(3, 4).with_layers(layers);
    let whole = || lstm(2).init(&device).unwrap().to_torch().unwrap();
    let zeros = |weights: &mut NamedTensors, name: &str, shape: [usize; 2]| {
        weights
            .insert(name, Tensor::<2>::zeros(shape, &device))
            .unwrap();
    };
    let refused = |weights: NamedTensors, layers: usize| {
        reason(lstm(layers).from_torch(weights, &device).unwrap_err())
    };
    let mut bidirectional = whole();
    zeros(&mut bidirectional, "weight_ih_l0_reverse", [16, 3]);
    let error = refused(bidirectional, 2);
    assert!(
        error.contains("bidirectional") && error.contains("unused: weight_ih_l0_reverse"),
        "{error}"
    );
    let mut projection = whole();
    zeros(&mut projection, "weight_hr_l0", [2, 4]);
    assert!(refused(projection, 2).contains("projection"));
    let error = refused(whole(), 1);
    assert!(
        error.contains("hold 2 layers, and 1 are asked for") && error.contains("bias_hh_l1"),
        "{error}"
    );
    let error = refused(whole(), 3);
    assert!(
        error.contains("missing: bias_hh_l2, bias_ih_l2, weight_hh_l2"),
        "{error}"
    );
    let mut leftover = whole();
    zeros(&mut leftover, "head.weight", [1, 1]);
    assert!(refused(leftover, 2).contains("unused: head.weight"));
    let error = reason(
        StackConfig::<LstmLayer>::new(5, 4)
            .with_layers(2)
            .from_torch(whole(), &device)
            .unwrap_err(),
    );
    assert!(
        error.contains("`weight_ih_l0` has shape [16, 3]") && error.contains("[16, 5]"),
        "{error}"
    );
    // Another cell: a GRU has three gates.
    assert!(
        StackConfig::<GruLayer>::new(3, 4)
            .with_layers(2)
            .from_torch(whole(), &device)
            .is_err()
    );
    assert!(
        StackConfig::<RnnLayer>::new(3, 4)
            .with_bias(false)
            .from_torch(whole(), &device)
            .is_err()
    );
}

#[test]
fn a_whole_language_model_goes_to_pytorchs_names_and_back() {
    let device = Device::flex();
    let tied = LanguageModelConfig::new(11)
        .with_hidden(6)
        .with_layers(2)
        .with_dropout(0.0);
    let untied = tied.clone().with_tied(false).with_embedding(5);
    for config in [&tied, &untied] {
        let model = config.init::<GruLayer>(&device).unwrap();
        let file = model.to_torch().unwrap();
        assert_eq!(
            file.shape("encoder.weight"),
            Some(&[11, config.embedding.unwrap_or(6)][..])
        );
        assert_eq!(file.shape("rnn.weight_hh_l1"), Some(&[18, 6][..]));
        assert_eq!(file.shape("decoder.bias"), Some(&[11][..]));
        let back = config.from_torch::<GruLayer>(file, &device).unwrap();
        let batch = TokenBatch::from_host(&[1, 2, 3, 4], &[2, 3, 4, 5], 1, 4, &device).unwrap();
        let logits = |model: &atbptt_models::LanguageModel<GruLayer>| {
            values(model.logits(&batch, None).unwrap().0)
        };
        assert_close("logits", &logits(&back), &logits(&model), 1e-6);
    }
    let file = untied
        .clone()
        .with_embedding(6)
        .init::<LstmLayer>(&device)
        .unwrap();
    let error = tied
        .from_torch::<LstmLayer>(file.to_torch().unwrap(), &device)
        .unwrap_err();
    assert!(reason(error).contains("tied softmax is asked for"));
}

#[test]
fn weights_go_back_by_the_modules_own_paths_and_keep_their_gradients() {
    let device = Device::flex().autodiff();
    let config = LanguageModelConfig::new(9).with_hidden(4);
    let [saved, other] = [1, 2].map(|seed| {
        device.seed(seed);
        config.init::<LstmLayer>(&device).unwrap()
    });
    let file = NamedTensors::of(&saved).unwrap();
    let names: Vec<&str> = file.names().collect();
    assert_eq!(
        names,
        [
            "embedding.weight",
            "layers.layers.0.bias",
            "layers.layers.0.input_weight",
            "layers.layers.0.recurrent_weight",
            "softmax_bias"
        ]
    );
    let loaded = file.clone().into_module(other).unwrap();
    assert_eq!(NamedTensors::of(&loaded).unwrap(), file);
    assert!(loaded.embedding.weight.val().is_require_grad());
    assert_eq!(loaded.devices(), saved.devices());
    let larger = config
        .clone()
        .with_layers(2)
        .init::<LstmLayer>(&device)
        .unwrap();
    let error = reason(file.clone().into_module(larger).unwrap_err());
    assert!(error.contains("missing: layers.layers.1.bias"), "{error}");
    let wider = LanguageModelConfig::new(9)
        .with_hidden(5)
        .init::<LstmLayer>(&device);
    let error = reason(file.into_module(wider.unwrap()).unwrap_err());
    assert!(
        error.contains("has shape [9, 4], and the model asks for [9, 5]"),
        "{error}"
    );
}

/// Read at once, in pieces, or token by token while it is written: the same logits, and the same text for the same seed.
#[test]
fn a_text_is_read_and_written_step_by_step_with_the_carried_state() {
    let device = Device::flex();
    let config = LanguageModelConfig::new(13).with_hidden(7).with_layers(2);
    let model = config.init::<LstmLayer>(&device).unwrap();
    let tokens: Vec<u32> = (0..600).map(|i| (i * i + 3) % 13).collect();
    let mut whole = TextState::new(model.clone());
    assert!(whole.logits().is_none() && whole.clone().write(&Sampling::new()).is_err());
    whole.read(&tokens).unwrap();
    let mut pieces = TextState::new(model.clone());
    for piece in tokens.chunks(7) {
        pieces.read(piece).unwrap();
    }
    let double = |logits: &[f32]| logits.iter().map(|&l| f64::from(l)).collect::<Vec<f64>>();
    let [one, other] = [&whole, &pieces].map(|text| double(text.logits().unwrap()));
    assert_close("logits", &one, &other, 1e-5);
    let ids: Vec<i64> = tokens.iter().map(|&t| i64::from(t)).collect();
    let batch = TokenBatch::from_host(&ids, &ids, 1, ids.len(), &device).unwrap();
    let (logits, _) = model.logits(&batch, None).unwrap();
    assert_eq!(logits.dims(), [1, 600, 13]);
    assert_close("logits", &one, &values(logits.narrow(1, 599, 1)), 1e-5);

    let write = |seed: u64| -> Vec<u32> {
        let mut text = whole.clone();
        let sampling = Sampling::new().with_seed(seed);
        (0..40).map(|_| text.write(&sampling).unwrap()).collect()
    };
    assert_eq!(write(1), write(1));
    assert_ne!(write(1), write(2));
    assert!(matches!(
        pieces.read(&[13]),
        Err(ModelError::Token { token: 13, .. })
    ));
}
