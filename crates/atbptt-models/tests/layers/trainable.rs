//! Every parameter of a fresh, a loaded and a converted model is trained.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on should stop

use crate::common::all_devices;
use atbptt_models::interop::TorchCompatible;
use atbptt_models::{
    GruLayer, LanguageModel, LanguageModelConfig, LstmLayer, MinGruLayer, RecurrentLayer,
    RecurrentModel, RnnLayer, Stack, StackConfig, TokenBatch, WindowPlan,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

/// Names of the float parameters without a gradient, or with a gradient of zeros.
fn untrained<M: Module>(model: &M, grads: &GradientsParams) -> Vec<String> {
    struct Visit<'a> {
        grads: &'a GradientsParams,
        path: Vec<String>,
        missing: Vec<String>,
    }
    impl ModuleVisitor for Visit<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let largest = self
                .grads
                .get::<D>(param.id)
                .map(|grad| grad.abs().max().into_scalar::<f32>());
            if !largest.is_some_and(|largest| largest > 0.0) {
                self.missing.push(self.path.join("."));
            }
        }
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
    }
    let mut visit = Visit {
        grads,
        path: Vec::new(),
        missing: Vec::new(),
    };
    model.visit(&mut visit);
    visit.missing
}

fn batch(device: &Device) -> TokenBatch {
    let tokens: Vec<i64> = (0..21).map(|i| (i * 5) % 7).collect();
    TokenBatch::from_host(&tokens[..20], &tokens[1..], 2, 10, device).unwrap()
}

fn check_language_model<L: RecurrentLayer>(device: &Device) {
    for tied in [true, false] {
        let config = LanguageModelConfig::new(7)
            .with_hidden(6)
            .with_layers(2)
            .with_tied(tied);
        let fresh: LanguageModel<L> = config.init(device).unwrap();
        let loaded = config
            .init(device)
            .unwrap()
            .load_record(fresh.clone().into_record());
        let train_again = fresh.valid().train().fork(device);
        for (what, model) in [
            ("fresh", fresh),
            ("loaded", loaded),
            ("trained again", train_again),
        ] {
            let plan = WindowPlan {
                warm_up: 0,
                loss_from: 3,
                carry: 4,
            };
            let window = model.window(&batch(device), None, plan).unwrap();
            let grads = GradientsParams::from_grads(window.loss.sum.backward(), &model);
            let missing = untrained(&model, &grads);
            assert!(
                missing.is_empty(),
                "{} {what}, tied {tied}: no gradient for {missing:?}",
                L::NAME
            );
        }
    }
}

fn check_converted<L: TorchCompatible>(device: &Device) {
    let fresh = StackConfig::<L>::new(3, 4)
        .with_layers(2)
        .init(device)
        .unwrap();
    let layers = fresh.layers.iter().map(TorchCompatible::to_torch).collect();
    let imported = Stack::<L>::from_torch(layers, 0.0).unwrap();
    for (what, model) in [("fresh", fresh), ("imported", imported)] {
        let input = Tensor::<3>::ones([2, 5, 3], device);
        let state = model.zero_state(2, device);
        let (output, _) = model.forward(input, Some(state)).unwrap();
        let grads = GradientsParams::from_grads(output.powi_scalar(2).sum().backward(), &model);
        let missing = untrained(&model, &grads);
        assert!(
            missing.is_empty(),
            "{} {what}: no gradient for {missing:?}",
            L::NAME
        );
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    for (_, device) in all_devices() {
        let device = device.autodiff();
        check_language_model::<LstmLayer>(&device);
        check_language_model::<GruLayer>(&device);
        check_language_model::<RnnLayer>(&device);
        check_language_model::<MinGruLayer>(&device);
        check_converted::<LstmLayer>(&device);
        check_converted::<GruLayer>(&device);
        check_converted::<RnnLayer>(&device);
    }
}
