//! What piece gradients mean: means over windows and batches, rows, the reach of a memory.

use super::*;

/// A uniform draw below `bound`; a generator of its own, so that the test is the same everywhere.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Mean and standard error.
fn mean(all: &[f64]) -> (f64, f64) {
    let n = all.len() as f64;
    let mean = all.iter().sum::<f64>() / n;
    let squares: f64 = all.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// All windows of a short stream, each once: the truth is the squared norm of the mean dropped part. Draws of probes whose
/// windows are independent have it as their mean, whatever the batch size.
#[test]
fn the_estimate_has_the_squared_mean_as_its_mean_over_all_windows_of_a_stream() {
    let _turn = turn();
    let device = Device::flex().autodiff();
    let model = model::<GruLayer>(0.0, &device, DType::F32);
    let stream = tokens(75, 1, &device);
    let plan = DirectPlan::new(3, vec![0, 2, 6]);
    let length = 12;
    // [window][piece][value]
    let windows: Vec<Vec<Vec<f64>>> = (0..=75 - length)
        .map(|start| {
            let window = stream.slice(start..start + length);
            let gradients = piece_gradients(&model, &window, None, &plan).unwrap();
            (0..4)
                .map(|piece| sum(&gradients, piece..piece + 1))
                .collect()
        })
        .collect();
    let average = |of: &[usize]| -> Vec<Vec<f64>> {
        let mut average = vec![vec![0.0; windows[0][0].len()]; 4];
        for (sum, piece) in of.iter().flat_map(|w| average_of(&windows[*w])) {
            average[piece]
                .iter_mut()
                .zip(sum)
                .for_each(|(a, x)| *a += x / of.len() as f64);
        }
        average
    };
    fn average_of(window: &[Vec<f64>]) -> impl Iterator<Item = (&Vec<f64>, usize)> {
        window.iter().zip(0..)
    }
    let all: Vec<usize> = (0..windows.len()).collect();
    let truth = average(&all);
    let dropped: Vec<f64> = (0..truth[0].len())
        .map(|i| truth[1][i] + truth[2][i] + truth[3][i])
        .collect();
    let truth = dot(&dropped, &dropped);

    // Products of windows once; a probe's are means of them.
    let flat: Vec<&Vec<f64>> = windows.iter().flatten().collect();
    let products: Vec<Vec<f64>> = flat
        .iter()
        .map(|a| flat.iter().map(|b| dot(a, b)).collect())
        .collect();
    let mut draws = Draws(1);
    let mut estimate = |batch: usize, probes: usize| {
        let chosen: Vec<Vec<usize>> = (0..probes)
            .map(|_| (0..batch).map(|_| draws.below(windows.len())).collect())
            .collect();
        let entry = |i: usize, p: usize, j: usize, q: usize| {
            let sum: f64 = chosen[i]
                .iter()
                .flat_map(|a| chosen[j].iter().map(move |b| (a, b)))
                .map(|(a, b)| products[4 * a + p][4 * b + q])
                .sum();
            sum / (batch * batch) as f64
        };
        let side = 4 * probes;
        let gram = (0..side * side)
            .map(|at| entry(at / side / 4, at / side % 4, at % side / 4, at % side % 4))
            .collect();
        DirectStatistics::new(10, 3, vec![0, 2, 6], probes, gram)
            .unwrap()
            .bias_squares()[0]
    };
    let draws: Vec<f64> = (0..2000).map(|_| estimate(2, 4)).collect();
    let (got, error) = mean(&draws);
    assert!(
        (got - truth).abs() <= 4.0 * error,
        "{got} ± {error}, not {truth}"
    );
    assert!(
        error < 0.1 * truth,
        "{got} ± {error}: a test that could fail"
    );

    let (many, many_error) = mean(&(0..30).map(|_| estimate(8, 40)).collect::<Vec<_>>());
    let (large, large_error) = mean(&(0..30).map(|_| estimate(64, 5)).collect::<Vec<_>>());
    for (got, error) in [(many, many_error), (large, large_error)] {
        assert!(
            (got - truth).abs() <= 4.0 * error,
            "{got} ± {error}, not {truth}"
        );
    }
    assert!((many - large).abs() <= 4.0 * many_error.hypot(large_error));
}

/// A batch's gradient is the mean of its sequences'.
#[test]
fn a_mean_of_probes_is_the_probe_of_their_batch() {
    let _turn = turn();
    let device = Device::flex().autodiff();
    let model = model::<LstmLayer>(0.0, &device, DType::F64);
    let plan = DirectPlan::new(2, vec![0, 3]);
    let (inputs, targets) = (noise(1, 18), noise(2, 18));
    let ids = |all: &[f64]| {
        all.iter()
            .map(|x| ((x + 1.0) * 4.49) as i64)
            .collect::<Vec<_>>()
    };
    let (inputs, targets) = (ids(&inputs), ids(&targets));
    let of = |range: std::ops::Range<usize>, sequences: usize| {
        let batch = TokenBatch::from_host(
            &inputs[range.clone()],
            &targets[range],
            sequences,
            9,
            &device,
        );
        piece_gradients(&model, &batch.unwrap(), None, &plan).unwrap()
    };
    let both = of(0..18, 2);
    let mean = PieceGradients::mean(vec![of(0..9, 1), of(9..18, 1)]).unwrap();
    for piece in 0..3 {
        assert_close(
            "mean",
            &sum(&mean, piece..piece + 1),
            &sum(&both, piece..piece + 1),
            1e-13,
        );
    }
    assert!(matches!(
        PieceGradients::mean(vec![]),
        Err(ModelError::Empty { .. })
    ));
}

/// Rows of a subset stand for all rows: the estimate changes little, and the same rows are taken from every probe.
#[test]
fn a_subset_of_rows_gives_nearly_the_same_bias() {
    let _turn = turn();
    let device = Device::flex().autodiff();
    let config = LanguageModelConfig::new(WORDS)
        .with_hidden(48)
        .with_dropout(0.0);
    device.seed(1);
    let model = config.init::<LstmLayer>(&device).unwrap();
    let batches: Vec<TokenBatch> = (0..6)
        .map(|n| tokens(30 + n, 8, &device).slice(n..n + 30))
        .collect();
    let bias = |max_rows: usize| {
        let plan = DirectPlan::new(4, vec![0, 2, 5, 10]).with_max_rows(max_rows);
        let probes: Vec<_> = batches
            .iter()
            .map(|batch| piece_gradients(&model, batch, None, &plan).unwrap())
            .collect();
        let kept: usize = probes[0]
            .parameters()
            .iter()
            .map(|p| p.gradients.dims()[1])
            .sum();
        assert!(
            kept <= max_rows.max(97) && kept + 2 >= max_rows.min(97),
            "{kept} rows of {max_rows}"
        );
        let statistics = direct_statistics(&probes).unwrap();
        (
            statistics.gradient_square(),
            statistics
                .relative_biases()
                .into_iter()
                .map(Option::unwrap)
                .collect::<Vec<_>>(),
        )
    };
    let (whole, all) = bias(256);
    let (part, some) = bias(33);
    // 48 + 48 + 1 rows; each stands for 3.
    assert!((part / whole).ln().abs() < 0.4, "{part} {whole}");
    for (a, b) in all.iter().zip(&some) {
        assert!((a - b).abs() < 0.15 * a.max(0.05), "{all:?} {some:?}");
    }
}

/// Gradients whose products f32 cannot hold give the bias of those that are 1e25 times as large.
#[test]
fn the_bias_does_not_depend_on_how_large_gradients_are() {
    let _turn = turn();
    for (backend, device) in all_devices() {
        let device = device.autodiff();
        let mut model = plain(&device);
        let batches = [0, 1, 2].map(|n| tokens(12 + n, BATCH, &device).slice(n..n + 12));
        let mut statistics = |loss_times: f64| {
            model.loss_times = loss_times;
            let plan = DirectPlan::new(2, vec![0, 2, 5]);
            let probe = |batch| piece_gradients(&model, batch, None, &plan).unwrap();
            direct_statistics(&batches.each_ref().map(probe)).unwrap()
        };
        let (plain, small) = (statistics(1.0), statistics(1e-25));
        let square = small.gradient_square() * 1e50 / plain.gradient_square();
        assert!((square - 1.0).abs() < 1e-4, "{backend}: {square}");
        let biases = |s: &DirectStatistics| -> Vec<f64> {
            s.plug_in_relative_biases().into_iter().flatten().collect()
        };
        assert_eq!(biases(&plain).len(), 3);
        assert_close(backend, &biases(&small), &biases(&plain), 1e-4);
    }
}

/// The same for the pieces beside each other: the square of a dropped part below the numbers that f32 holds has its digits.
#[test]
fn a_vanishing_part_of_the_gradient_keeps_its_digits() {
    let _turn = turn();
    let device = Device::flex().autodiff();
    let batches = [0, 1, 2].map(|n| tokens(12 + n, BATCH, &device).slice(n..n + 12));
    let dropped = |dtype: DType| {
        let config = LanguageModelConfig::new(WORDS)
            .with_hidden(HIDDEN)
            .with_dropout(0.0);
        let model: LanguageModel<RnnLayer> = config.init(&device).unwrap();
        // Weights of 0.006 forget a factor of a hundred or so per step.
        let model = with_noise(model, 3, 0.006, dtype);
        let plan = DirectPlan::new(2, vec![0, 2, 9]);
        let probe = |batch| piece_gradients(&model, batch, None, &plan).unwrap();
        let statistics = direct_statistics(&batches.each_ref().map(probe)).unwrap();
        statistics.bias_squares()
    };
    let (exact, got) = (dropped(DType::F64), dropped(DType::F32));
    assert!(exact[2].abs() < 1e-40, "{exact:?}");
    for (got, exact) in got.iter().zip(&exact) {
        assert!((got / exact - 1.0).abs() < 1e-3, "{got} {exact}");
    }
}

/// Probes of a model that trains in 16 bits run in f32, to the bit.
#[test]
fn sixteen_bit_training_does_not_reach_the_probe() {
    let _turn = turn();
    let device = Device::flex().autodiff();
    let batch = tokens(9, BATCH, &device);
    let run = |precision| {
        let config = LanguageModelConfig::new(WORDS)
            .with_hidden(HIDDEN)
            .with_precision(precision)
            .with_dropout(0.0);
        let model: LanguageModel<LstmLayer> = match config.init(&device) {
            Ok(model) => with_noise(model, 3, 0.6, DType::F32),
            Err(error) => panic!("{error}"),
        };
        sum(
            &piece_gradients(&model, &batch, None, &DirectPlan::new(2, vec![0, 3])).unwrap(),
            0..3,
        )
    };
    use atbptt_models::Precision;
    let exact = run(Precision::F32);
    if let Err(error) = Precision::Bf16.check(&device) {
        println!("skipped: {error}");
        return;
    }
    assert_eq!(run(Precision::Bf16), exact);
}

/// What the estimate is for: a stream whose targets depend on the input three steps before has its bias gone from K = 4 on.
#[test]
fn the_bias_ends_where_the_memory_does() {
    let _turn = turn();
    let device = Device::flex().autodiff();
    device.seed(2);
    let config = LanguageModelConfig::new(4)
        .with_hidden(12)
        .with_dropout(0.0);
    let model = config.init::<LstmLayer>(&device).unwrap();
    let mut draws = Draws(8);
    let mut probe = || {
        let (sequences, steps) = (256, 23);
        let ids: Vec<Vec<i64>> = (0..sequences)
            .map(|_| (0..steps + 3).map(|_| draws.below(4) as i64).collect())
            .collect();
        let inputs: Vec<i64> = ids.iter().flat_map(|s| s[3..].to_vec()).collect();
        let targets: Vec<i64> = ids.iter().flat_map(|s| s[..steps].to_vec()).collect();
        let batch = TokenBatch::from_host(&inputs, &targets, sequences, steps, &device).unwrap();
        piece_gradients(
            &model,
            &batch,
            None,
            &DirectPlan::new(4, vec![0, 1, 2, 3, 4, 8, 19]),
        )
        .unwrap()
    };
    let probes: Vec<_> = (0..8).map(|_| probe()).collect();
    let estimate = direct_statistics(&probes)
        .unwrap()
        .estimate(Scheme::Strided { losses: 4 })
        .unwrap();
    assert!(estimate.outcome().is_usable(), "{}", estimate.outcome());
    let bias: Vec<f64> = [1, 2, 4, 9].map(|k| estimate.relative_bias(k)).to_vec();
    assert!(bias[0] > 0.1 && bias[3] < 0.3 * bias[0], "{bias:?}");
}
