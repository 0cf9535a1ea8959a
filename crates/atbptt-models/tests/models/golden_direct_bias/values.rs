//! Every number of the file, for every model.

use super::*;

/// The dropped part at a cut in place of the weights.
struct Dropped<'a> {
    gradients: &'a PieceGradients,
    cut: usize,
}

impl ModuleMapper for Dropped<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let found = self
            .gradients
            .parameters()
            .iter()
            .find(|p| p.id == param.id);
        let pieces = found.expect("every weight counts").gradients.clone();
        let behind = pieces.dims()[0] - (self.cut + 1);
        let sum: Tensor<3> = match behind {
            0 => pieces.narrow(0, 0, 1).zeros_like(),
            _ => pieces.narrow(0, self.cut + 1, behind).sum_dim(0),
        };
        Param::from_tensor(sum.reshape(param.val().dims()))
    }
}

/// Largest difference as a share of the largest value; where that is nothing but the rounding of the whole gradient, of that.
fn off(got: &[f64], expected: &[f64], whole: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = |all: &[f64]| all.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let difference: Vec<f64> = got.iter().zip(expected).map(|(a, b)| a - b).collect();
    assert!(got.iter().all(|x| x.is_finite()));
    largest(&difference)
        / largest(expected)
            .max(1e-6 * largest(whole))
            .max(f64::MIN_POSITIVE)
}

/// A reference number: `None` for null; infinities and NaN as they are spelled.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(
            text.to_lowercase()
                .replace("infinity", "inf")
                .parse()
                .unwrap(),
        ),
        value => Some(value.as_f64().unwrap()),
    }
}

/// Equal, infinities too, or within the tolerance of the larger of reference and `floor`; null is no answer.
fn same(got: Option<f64>, expected: &Value, floor: f64, tolerance: f64) -> bool {
    match (got, number(expected)) {
        (None, None) => true,
        (Some(got), None) => !got.is_finite(),
        (None, Some(expected)) => !expected.is_finite(),
        (Some(got), Some(expected)) => {
            got == expected
                || (got.is_nan() && expected.is_nan())
                || (got - expected).abs() <= tolerance * expected.abs().max(floor)
        }
    }
}

fn check<M: Case>(case: &Value, label: &str, device: &Device, dtype: DType, tolerance: f64) {
    let size = |name: &str| case[name].as_u64().unwrap() as usize;
    let (layers, losses, hidden) = (size("layers"), size("losses"), size("d_hidden"));
    let params = &case["params"];
    let torch = (0..layers).map(|index| {
        TorchLayer::by_name(
            index,
            |name| params.get(name).map(|v| tensor::<2>(v, device, dtype)),
            |name| params.get(name).map(|v| tensor::<1>(v, device, dtype)),
        )
        .unwrap()
    });
    let model = M::load(torch.collect());
    let contexts: Vec<usize> = case["context_cuts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c.as_u64().unwrap() as usize)
        .collect();
    let plan = DirectPlan::new(losses, contexts.clone());

    let mut worst = 0.0f64;
    let mut wrong = Vec::new();
    let probes: Vec<PieceGradients> = case["probes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|probe| {
            let x = tensor::<3>(&probe["x"], device, dtype);
            let last = tensor::<3>(&probe["loss_weights"], device, dtype);
            let [time, batch, _] = x.dims();
            let before = Tensor::zeros([time - losses, batch, hidden], (device, dtype));
            let weights = Tensor::cat(vec![before, last], 0);
            let parts = (0..layers).flat_map(|layer| {
                let names: &[&str] = match case["kind"] == "lstm" {
                    true => &["h0", "c0"],
                    false => &["h0"],
                };
                names
                    .iter()
                    .map(move |name| tensor::<2>(&probe[*name][layer], device, dtype))
            });
            let state = model.state(parts.collect());
            let batch = Weighted { x, weights };
            let gradients = piece_gradients(&model, &batch, Some(state), &plan).unwrap();
            for (index, cut) in probe["cuts"].as_array().unwrap().iter().enumerate() {
                let gradients = &gradients;
                let dropped = model.clone().map(&mut Dropped {
                    gradients,
                    cut: index,
                });
                for (layer, got) in dropped.torch().into_iter().enumerate() {
                    let (bias_ih, bias_hh) = got.biases.unwrap();
                    let gru = case["kind"] == "gru";
                    for (name, got) in [
                        ("weight_ih", values(got.weight_ih)),
                        ("weight_hh", values(got.weight_hh)),
                        ("bias_ih", values(bias_ih)),
                        ("bias_hh", values(bias_hh)),
                    ] {
                        let name = format!("{name}_l{layer}");
                        let rows = match name.starts_with("bias_hh") {
                            // Only the candidate's recurrent bias is a parameter of its own.
                            true if gru => 2 * hidden..3 * hidden,
                            true => continue,
                            false => 0..got.len(),
                        };
                        let whole = &numbers(&probe["full"][&name]).0[rows.clone()];
                        let kept = &numbers(&cut["truncated"][&name]).0[rows.clone()];
                        let expected: Vec<f64> =
                            whole.iter().zip(kept).map(|(a, b)| a - b).collect();
                        let off = off(&got[rows], &expected, whole);
                        if off > tolerance {
                            wrong.push(format!("{name} dropped at cut {index}: off by {off:e}"));
                        }
                        worst = worst.max(off);
                    }
                }
            }
            gradients
        })
        .collect();

    assert!(wrong.is_empty(), "{label}: {wrong:#?}");
    let statistics = direct_statistics(&probes).unwrap();
    assert_eq!(statistics.contexts(), contexts);
    assert_eq!(
        (statistics.window(), statistics.losses()),
        (size("window"), losses)
    );
    let square = statistics.gradient_square();
    assert!(
        same(Some(square), &case["gradient_square"], 0.0, tolerance),
        "{label}: {square}"
    );
    let check = |what: &str, got: Vec<Option<f64>>, floor: f64| {
        let expected = case[what].as_array().unwrap();
        assert_eq!(got.len(), expected.len(), "{label}: {what}");
        for (cut, (got, expected)) in got.into_iter().zip(expected).enumerate() {
            assert!(
                same(got, expected, floor, tolerance),
                "{label}: {what} at cut {cut}: {got:?}, not {expected}"
            );
        }
    };
    let squares = statistics.bias_squares().into_iter().map(Some).collect();
    check("bias_square", squares, 1e-6 * square.abs());
    check("relative_bias", statistics.relative_biases(), 1e-3);
    check(
        "plug_in_relative_bias",
        statistics.plug_in_relative_biases(),
        1e-3,
    );
    println!("{label}: dropped parts off by {worst:.1e} at most, tolerance {tolerance:e}");
}

fn check_all(dtype: DType, tolerance: f64) {
    let Some(golden) = golden("direct_bias.json") else {
        return;
    };
    for (index, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        for (backend, device) in devices_for(dtype) {
            let device = device.autodiff();
            let kind = case["kind"].as_str().unwrap();
            let label = |of: &str| {
                format!(
                    "case {index} ({kind}, {} layers) of {of} on {backend}, {dtype:?}",
                    case["layers"]
                )
            };
            let (ours, burn) = (label("our stacks"), label("Burn's modules"));
            match kind {
                "lstm" => {
                    check::<Ours<LstmLayer>>(case, &ours, &device, dtype, tolerance);
                    check::<BurnCells>(case, &burn, &device, dtype, tolerance);
                    if dtype == DType::F32 {
                        // Burn's module makes its states in f32, whatever its weights are.
                        let lstm = label("Burn's nn::Lstm");
                        check::<BurnLstms>(case, &lstm, &device, dtype, tolerance);
                    }
                }
                "gru" => {
                    check::<Ours<GruLayer>>(case, &ours, &device, dtype, tolerance);
                    check::<BurnCells>(case, &burn, &device, dtype, tolerance);
                }
                "rnn" | "rnn_tanh" => {
                    check::<Ours<RnnLayer>>(case, &ours, &device, dtype, tolerance);
                    check::<BurnCells>(case, &burn, &device, dtype, tolerance);
                }
                other => panic!("unknown kind {other}"),
            }
        }
    }
}

#[test]
fn golden_direct_bias_is_reproduced_in_f64() {
    check_all(DType::F64, 1e-9);
}

#[test]
fn golden_direct_bias_is_reproduced_in_f32() {
    with_each_time_loop(|| check_all(DType::F32, 1e-4));
}
