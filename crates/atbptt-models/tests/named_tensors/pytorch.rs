//! Files that PyTorch wrote: some lie beside the tests, others are written, and read again, where it is installed (`TORCH_PYTHON`).

use super::*;

/// What `data/torch_cases.py` says of its cases; `None`, with the reason printed, where there is no Python with torch
/// (`TORCH_PYTHON`, else `python3`).
fn pytorch(folder: &Path, arguments: &[&str]) -> Option<Value> {
    let python = std::env::var("TORCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut script = Command::new(&python);
    script
        .arg("tests/data/torch_cases.py")
        .args(arguments)
        .arg(folder);
    match script.output() {
        Err(error) => {
            println!("skipped: {python} cannot be started: {error}");
            None
        }
        Ok(output) if output.status.code() == Some(77) => {
            println!(
                "skipped: {}",
                String::from_utf8_lossy(&output.stdout).trim()
            );
            None
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            let cases = std::fs::read(folder.join("cases.json")).unwrap();
            Some(serde_json::from_slice(&cases).unwrap())
        }
    }
}

/// The files that PyTorch wrote for a case: safetensors, and with the feature what `torch.save` makes.
fn files(folder: &Path, name: &str) -> Vec<NamedTensors> {
    let extensions: &[&str] = match cfg!(feature = "pytorch") {
        true => &["safetensors", "pt"],
        false => &["safetensors"],
    };
    let open = |extension: &&str| {
        let path = folder.join(format!("{name}.{extension}"));
        NamedTensors::open(&path).unwrap()
    };
    extensions.iter().map(open).collect()
}

/// Reads each file of a case, compares outputs, and writes it again for PyTorch to read.
fn stack_of<L: TorchCompatible>(folder: &Path, case: &Value) {
    let device = Device::flex();
    let name = case["name"].as_str().unwrap();
    let config = StackConfig::<L>::new(size(case, "input"), size(case, "hidden"))
        .with_layers(size(case, "layers"))
        .with_bias(case["bias"] == true);
    let x = tensor::<3>(&case["x"], &device, DType::F32);
    let expected = numbers(&case["y"]).0;
    for file in files(folder, name) {
        let stack = config.from_torch(file.clone(), &device).unwrap();
        let (y, _) = stack.forward(x.clone(), None).unwrap();
        assert_close(name, &values(y), &expected, 1e-5);
        let back = stack.to_torch().unwrap();
        assert!(back.names().eq(file.names()), "{name}");
        let bytes = back.to_safetensors(&[("case", name)]).unwrap();
        std::fs::write(folder.join(format!("{name}.back.safetensors")), bytes).unwrap();
    }
}

fn language_model_of<L: TorchCompatible>(folder: &Path, case: &Value) {
    let device = Device::flex();
    let name = case["name"].as_str().unwrap();
    let config = LanguageModelConfig::new(size(case, "vocabulary"))
        .with_embedding(size(case, "input"))
        .with_hidden(size(case, "hidden"))
        .with_layers(size(case, "layers"))
        .with_tied(case["tied"] == true);
    let (ids, [batch, time]) = (numbers(&case["x"]).0, [2, 7]);
    let ids: Vec<i64> = ids.into_iter().map(|id| id as i64).collect();
    let batch = TokenBatch::from_host(&ids, &ids, batch, time, &device).unwrap();
    for file in files(folder, name) {
        let model = config.from_torch::<L>(file.clone(), &device).unwrap();
        let (logits, _) = model.logits(&batch, None).unwrap();
        assert_close(name, &values(logits), &numbers(&case["y"]).0, 1e-5);
        let back = model.to_torch().unwrap();
        assert!(back.names().eq(file.names()), "{name}");
        let bytes = back.to_safetensors(&[]).unwrap();
        std::fs::write(folder.join(format!("{name}.back.safetensors")), bytes).unwrap();
    }
}

/// PyTorch's own files of each kind, of one and two layers and of a whole word language model: outputs equal to 1e-5 here, and
/// again in PyTorch for what comes back. What has no counterpart is refused by its name.
#[test]
fn files_of_pytorch_give_its_outputs_to_1e_5_and_come_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(cases) = pytorch(folder, &["write"]) else {
        return;
    };
    let mut kinds = 0;
    for case in cases.as_array().unwrap() {
        let kind = case["kind"].as_str().unwrap();
        match (kind, case["vocabulary"].is_null()) {
            ("LSTM", true) => stack_of::<LstmLayer>(folder, case),
            ("GRU", true) => stack_of::<GruLayer>(folder, case),
            ("RNN_TANH", true) => stack_of::<RnnLayer>(folder, case),
            ("LSTM", false) => language_model_of::<LstmLayer>(folder, case),
            ("GRU", false) => language_model_of::<GruLayer>(folder, case),
            ("RNN_TANH", false) => language_model_of::<RnnLayer>(folder, case),
            (kind, _) => panic!("{kind}"),
        }
        kinds += 1;
    }
    assert_eq!(kinds, 11);
    // Fails where an output differs by more than 1e-5.
    pytorch(folder, &["compare"]).unwrap();

    let device = Device::flex();
    for (name, word) in [
        ("bidirectional", "bidirectional"),
        ("projection", "projection"),
    ] {
        for file in files(folder, name) {
            let error = StackConfig::<LstmLayer>::new(3, 4)
                .from_torch(file, &device)
                .unwrap_err();
            assert!(reason(error).contains(word), "{name}");
        }
    }
    for file in files(folder, "LSTM-2") {
        let error = reason(
            StackConfig::<LstmLayer>::new(3, 4)
                .from_torch(file, &device)
                .unwrap_err(),
        );
        assert!(
            error.contains("hold 2 layers, and 1 are asked for"),
            "{error}"
        );
    }
    // A checkpoint that holds the weights beside other things.
    #[cfg(feature = "pytorch")]
    {
        let file = NamedTensors::open(folder.join("nested.pt")).unwrap();
        let error = StackConfig::<LstmLayer>::new(3, 4).from_torch(file.clone(), &device);
        assert!(reason(error.unwrap_err()).contains("model.weight_hh_l0"));
        StackConfig::<LstmLayer>::new(3, 4)
            .from_torch(file.within("model."), &device)
            .unwrap();
    }
}

/// A whole word language model that PyTorch 2.15 wrote, and the logits it gave, beside the tests so that no PyTorch is needed.
#[test]
fn the_logits_of_a_word_language_model_are_those_of_pytorch() {
    let case = std::fs::read_to_string("tests/data/words-RNN_TANH-untied.json").unwrap();
    let case: Value = serde_json::from_str(&case).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for extension in ["pt", "safetensors"] {
        let file = format!("words-RNN_TANH-untied.{extension}");
        let copy = folder.path().join(&file);
        std::fs::copy(Path::new("tests/data").join(file), copy).unwrap();
    }
    language_model_of::<RnnLayer>(folder.path(), &case);
}
