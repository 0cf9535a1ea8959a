//! Models of series: losses, missing targets, resets and learned starts, each against numbers or against separate runs.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // A failure here is a failed test.

use atbptt_models::{
    GruLayer, LstmLayer, ModelError, RecurrentLayer, RecurrentModel, RecurrentState, RnnLayer,
    SequenceBatch, SeriesBatch, SeriesLoss, SeriesModel, SeriesModelConfig, SeriesShape,
    WindowPlan,
};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Gradients, Tensor, TensorData};

const NAN: f32 = f32::NAN;

fn device() -> Device {
    Device::flex().autodiff()
}

/// Values without pattern in ±1.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn shape(batch: usize, time: usize) -> SeriesShape {
    SeriesShape {
        batch,
        time,
        inputs: 2,
        targets: 1,
    }
}

/// A model whose learned start, too, is somewhere.
fn model<L: RecurrentLayer>(config: &SeriesModelConfig) -> SeriesModel<L> {
    struct Somewhere(u32);
    impl ModuleMapper for Somewhere {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 1;
            let value = param.val();
            let size = value.dims().iter().product();
            let data = TensorData::new(noise(size, self.0), value.shape());
            let noise = Tensor::<D>::from_data(data, &value.device()) * 0.5;
            Param::initialized(param.id, noise.require_grad())
        }
    }
    config.init::<L>(&device()).unwrap().map(&mut Somewhere(0))
}

fn config(learned_start: bool) -> SeriesModelConfig {
    SeriesModelConfig::new(2, 1, 5)
        .with_layers(2)
        .with_learned_start(learned_start)
}

fn gradients<M: Module>(module: &M, grads: &Gradients) -> Vec<f32> {
    struct All<'a>(&'a Gradients, Vec<f32>);
    impl ModuleVisitor for All<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            match value.grad(self.0) {
                Some(grad) => self.1.extend(grad.into_data().iter::<f32>()),
                None => self
                    .1
                    .extend(std::iter::repeat_n(0.0, value.shape().num_elements())),
            }
        }
    }
    let mut all = All(grads, Vec::new());
    module.visit(&mut all);
    all.1
}

fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * (1.0 + b.abs()),
            "value {i}: {a}, expected {b}"
        );
    }
}

fn plan(steps: usize) -> WindowPlan {
    WindowPlan {
        warm_up: 0,
        loss_from: 0,
        carry: steps,
    }
}

/// Loss and gradient of a window from the start of everything.
fn run<L: RecurrentLayer>(model: &SeriesModel<L>, batch: &SeriesBatch) -> (f32, Vec<f32>, usize) {
    let window = model.window(batch, None, plan(batch.steps())).unwrap();
    let grads = window.loss.sum.backward();
    let sum = window.loss.sum.into_scalar::<f32>();
    (sum, gradients(model, &grads), window.loss.count)
}

/// Two sequences in one row, and a third beside them: loss and every gradient are the sums of those of the sequences.
fn packed_is_separate<L: RecurrentLayer>(learned_start: bool) {
    let model = model::<L>(&config(learned_start));
    let lengths = [4, 3, 7];
    let sequences: Vec<(Vec<f32>, Vec<f32>)> = (0u32..)
        .zip(lengths)
        .map(|(s, steps)| (noise(2 * steps, 10 + s), noise(steps, 20 + s)))
        .collect();
    let (inputs, targets): (Vec<_>, Vec<_>) = sequences.iter().cloned().unzip();
    let begins: Vec<bool> = lengths
        .iter()
        .flat_map(|&steps| (0..steps).map(|t| t == 0))
        .collect();
    let packed = SeriesBatch::from_host(
        inputs.concat(),
        targets.concat(),
        Some(begins),
        shape(2, 7),
        &device(),
    )
    .unwrap();
    let (loss, grads, count) = run(&model, &packed);
    let mut sum = 0.0;
    let mut sum_of_grads = vec![0.0; grads.len()];
    for ((inputs, targets), steps) in sequences.into_iter().zip(lengths) {
        let alone =
            SeriesBatch::from_host(inputs, targets, None, shape(1, steps), &device()).unwrap();
        let (loss, grads, _) = run(&model, &alone);
        sum += loss;
        sum_of_grads
            .iter_mut()
            .zip(grads)
            .for_each(|(a, b)| *a += b);
    }
    assert_eq!(count, 14);
    close(&[loss], &[sum], 1e-5);
    close(&grads, &sum_of_grads, 1e-4);
}

#[test]
fn a_reset_zeroes_the_state_and_cuts_the_gradient() {
    packed_is_separate::<LstmLayer>(false);
    packed_is_separate::<GruLayer>(false);
    packed_is_separate::<RnnLayer>(false);
}

#[test]
fn a_learned_start_after_a_reset_equals_that_at_the_beginning_of_a_sequence() {
    packed_is_separate::<LstmLayer>(true);
    packed_is_separate::<GruLayer>(true);
    packed_is_separate::<RnnLayer>(true);
}

#[test]
fn a_learned_start_gets_a_gradient_and_changes_the_outputs() {
    let model = model::<LstmLayer>(&config(true));
    let batch =
        SeriesBatch::from_host(noise(8, 1), noise(4, 2), None, shape(1, 4), &device()).unwrap();
    let (features, state) = model.forward(&batch, None).unwrap();
    assert_eq!(state.batch_size(), 1);
    let zeros = state.map_parts(&mut |part| part.zeros_like());
    let (from_zero, _) = model.forward(&batch, Some(zeros)).unwrap();
    let difference = (features - from_zero).abs().max().into_scalar::<f32>();
    assert!(difference > 0.01, "{difference}");
    let window = model.window(&batch, None, plan(4)).unwrap();
    let grads = window.loss.sum.backward();
    for start in &model.start {
        let grad = start
            .val()
            .grad(&grads)
            .unwrap()
            .abs()
            .max()
            .into_scalar::<f32>();
        assert!(grad > 1e-4, "{grad}");
    }
}

/// The mask on the device, read back, gives the same as the marks of the host.
#[test]
fn marks_on_the_device_mean_what_marks_on_the_host_mean() {
    let model = model::<GruLayer>(&config(true));
    let begins = vec![true, false, true, false, false, true];
    let mut targets = noise(6, 2);
    targets[4] = NAN;
    let host = SeriesBatch::from_host(
        noise(12, 1),
        targets.clone(),
        Some(begins.clone()),
        shape(2, 3),
        &device(),
    );
    let present: Vec<bool> = targets.iter().map(|target| !target.is_nan()).collect();
    let bools = |marks: Vec<bool>| TensorData::new(marks, [2, 3]);
    let tensor = |values: Vec<f32>, width: usize| {
        Tensor::<3>::from_data(TensorData::new(values, [2, 3, width]), &device())
    };
    let on_device = SeriesBatch::from_tensors(tensor(noise(12, 1), 2), tensor(targets, 1))
        .unwrap()
        .with_present(Tensor::<2, Bool>::from_data(bools(present), &device()).unsqueeze_dim(2))
        .unwrap()
        .with_reset(Tensor::from_data(bools(begins), &device()))
        .unwrap();
    let host = host.unwrap();
    assert_eq!((host.count(), on_device.count()), (5, 5));
    assert_eq!(
        (host.reset_steps(), on_device.reset_steps()),
        (vec![0, 2], vec![0, 2])
    );
    let (a, b) = (run(&model, &host), run(&model, &on_device));
    assert_eq!((a.0.to_bits(), a.2), (b.0.to_bits(), b.2));
    assert_eq!(a.1, b.1);
}

/// A window in pieces gives the features of one run, the reset within a piece or at its start.
#[test]
fn pieces_of_a_window_with_resets_give_the_features_of_one_run() {
    for learned in [false, true] {
        let model = model::<LstmLayer>(&config(learned));
        let begins = (0..16).map(|i| i % 5 == 0).collect();
        let batch = SeriesBatch::from_host(
            noise(32, 1),
            noise(16, 2),
            Some(begins),
            shape(2, 8),
            &device(),
        )
        .unwrap();
        let (whole, _) = model.forward(&batch, None).unwrap();
        let mut state = None;
        let mut pieces = Vec::new();
        for range in [0..2, 2..5, 5..6, 6..8] {
            let (features, after) = model.forward(&batch.slice(range), state).unwrap();
            pieces.push(features);
            state = Some(after);
        }
        let pieces = Tensor::cat(pieces, 1);
        let values = |t: Tensor<3>| t.into_data().iter::<f32>().collect::<Vec<_>>();
        close(&values(pieces), &values(whole), 1e-6);
    }
}

/// Head weight zero and bias b: μ = b at every step. Squared errors (1 − 3)² + (2 − 3)² with the second target missing.
#[test]
fn squared_errors_are_summed_over_the_targets_that_are_there() {
    let mut model = config(false).init::<LstmLayer>(&device()).unwrap();
    let fixed = |values: Vec<f32>, shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values, shape), &device())
    };
    model.head.weight = Param::from_tensor(fixed(vec![0.0; 5], [5, 1]));
    model.head.bias = Some(Param::from_tensor(fixed(vec![3.0], [1, 1]).reshape([1])));
    let batch = SeriesBatch::from_host(
        noise(6, 1),
        vec![1.0, NAN, 2.0],
        None,
        shape(1, 3),
        &device(),
    )
    .unwrap();
    let (features, _) = model.forward(&batch, None).unwrap();
    let loss = model.loss(features, &batch).unwrap();
    assert_eq!((loss.sum.into_scalar::<f32>(), loss.count), (5.0, 2));
    let (prediction, _) = model.predict(&batch, None).unwrap();
    assert_eq!(
        prediction
            .mean
            .into_data()
            .iter::<f32>()
            .collect::<Vec<_>>(),
        [3.0; 3]
    );
    assert!(prediction.deviation.is_none());
}

/// μ = 1, ln σ² = ln 4: ½ ln(2π·4) + (y − 1)²/8 for y = 3: 2.11208571... (0.5·ln 25.13274 = 1.61208571, plus 0.5).
#[test]
fn the_gaussian_likelihood_is_that_of_its_formula() {
    let mut model = config(false)
        .with_loss(SeriesLoss::GaussianNll)
        .init::<GruLayer>(&device())
        .unwrap();
    assert_eq!(model.d_output(), 1);
    let zeros = Tensor::<2>::zeros([5, 2], &device());
    model.head.weight = Param::from_tensor(zeros);
    let bias = |values: [f32; 2]| Param::from_tensor(Tensor::<1>::from_floats(values, &device()));
    model.head.bias = Some(bias([1.0, 4.0f32.ln()]));
    let batch =
        SeriesBatch::from_host(noise(2, 1), vec![3.0], None, shape(1, 1), &device()).unwrap();
    let loss = |model: &SeriesModel<GruLayer>| {
        let (features, _) = model.forward(&batch, None).unwrap();
        model
            .loss(features, &batch)
            .unwrap()
            .sum
            .into_scalar::<f32>()
    };
    assert!((loss(&model) - 2.112_085_7).abs() < 1e-5);
    let (prediction, _) = model.predict(&batch, None).unwrap();
    assert!((prediction.deviation.unwrap().into_scalar::<f32>() - 2.0).abs() < 1e-6);
    // However sure of itself, the loss stays finite: σ² is at least 10⁻⁶.
    model.head.bias = Some(bias([1.0, -1e4]));
    assert!((loss(&model) - (4.0 / 2e-6 + 0.918_938_5 - 6.907_755)).abs() < 1.0);
}

#[test]
fn a_window_without_any_target_has_no_terms_and_no_nan() {
    for loss in [SeriesLoss::SquaredError, SeriesLoss::GaussianNll] {
        let model = model::<LstmLayer>(&config(false).with_loss(loss));
        let batch = SeriesBatch::from_host(noise(6, 1), vec![NAN; 3], None, shape(1, 3), &device())
            .unwrap();
        let (sum, grads, count) = run(&model, &batch);
        assert_eq!((sum, count), (0.0, 0));
        assert!(grads.iter().all(|grad| *grad == 0.0));
    }
}

/// The probe of a model with a learned start reaches back to the last reset and no further.
#[test]
fn state_gradients_end_at_a_reset() {
    for learned in [false, true] {
        let model = model::<LstmLayer>(&config(learned));
        let begins = (0..6).map(|t| t == 3).collect();
        let batch = SeriesBatch::from_host(
            noise(12, 1),
            noise(6, 2),
            Some(begins),
            shape(1, 6),
            &device(),
        )
        .unwrap();
        let norms = model
            .state_gradients(&batch, None)
            .unwrap()
            .lag_norms()
            .unwrap();
        let phi: Vec<f64> = (0..norms.lags()).map(|lag| norms.row(lag)[0]).collect();
        // The last step is 5: lag 2 enters step 4, lag 3 enters step 3, before which the state is reset.
        assert!(phi[..3].iter().all(|x| *x > 1e-6), "{phi:?}");
        assert!(phi[3..].iter().all(|x| *x == 0.0), "{phi:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = device();
    let new = |inputs: usize, targets: usize, begins: Option<usize>, shape| {
        let begins = begins.map(|n| vec![false; n]);
        SeriesBatch::from_host(
            vec![0.0; inputs],
            vec![0.0; targets],
            begins,
            shape,
            &device,
        )
    };
    assert!(new(12, 6, Some(6), shape(2, 3)).is_ok());
    for (inputs, targets, begins) in [(11, 6, None), (12, 5, None), (12, 6, Some(5))] {
        assert!(matches!(
            new(inputs, targets, begins, shape(2, 3)),
            Err(ModelError::Shape { .. })
        ));
    }
    assert!(matches!(
        new(0, 0, None, shape(0, 3)),
        Err(ModelError::Empty { .. })
    ));
    let huge = shape(usize::MAX, 2);
    assert!(matches!(
        new(2, 2, None, huge),
        Err(ModelError::Shape { .. })
    ));
    let batch = new(12, 6, None, shape(2, 3)).unwrap();
    let mask = |dims: [usize; 2]| Tensor::<2>::zeros(dims, &device).bool();
    assert!(batch.clone().with_reset(mask([2, 2])).is_err());
    assert!(
        batch
            .clone()
            .with_present(mask([2, 3]).unsqueeze_dim::<3>(2).repeat_dim(2, 2))
            .is_err()
    );
    // A model of other sizes.
    let wide = SeriesModelConfig::new(3, 1, 4)
        .init::<LstmLayer>(&device)
        .unwrap();
    assert!(matches!(
        wide.forward(&batch, None),
        Err(ModelError::Shape { .. })
    ));
    let two = SeriesModelConfig::new(2, 2, 4)
        .init::<LstmLayer>(&device)
        .unwrap();
    let (features, state) = two.forward(&batch, None).unwrap();
    assert!(matches!(
        two.loss(features, &batch),
        Err(ModelError::Shape { .. })
    ));
    // A state of another batch meets a learned start.
    let learned = SeriesModelConfig::new(2, 1, 4)
        .with_learned_start(true)
        .init::<LstmLayer>(&device)
        .unwrap();
    let one = new(6, 3, Some(3), shape(1, 3)).unwrap();
    let one = one.with_reset(mask([1, 3]).bool_not()).unwrap();
    assert!(matches!(
        learned.forward(&one, Some(state)),
        Err(ModelError::Shape { .. })
    ));
    for config in [
        SeriesModelConfig::new(0, 1, 4),
        SeriesModelConfig::new(1, 0, 4),
        SeriesModelConfig::new(1, usize::MAX, 4),
        SeriesModelConfig::new(1, 1, 0),
        SeriesModelConfig::new(1, 1, 4).with_layers(0),
        SeriesModelConfig::new(1, 1, 4).with_dropout(1.0),
        SeriesModelConfig::new(1, 1, 4).with_forget_bias(f64::NAN),
    ] {
        assert!(
            matches!(
                config.init::<LstmLayer>(&device),
                Err(ModelError::Config { .. })
            ),
            "{config:?}"
        );
    }
}
