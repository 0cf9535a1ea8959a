//! Optimisers of one's own: how the loop calls them.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atbptt_core::FixedKConfig;
use burn::optim::{LearningRate, ModuleOptimizer, Optimizer, SgdState};
use burn::tensor::{Device, Tensor};

use super::setup::{config, launch, model, strategy};
use crate::common::{corpus, training, turn};

/// Whether half of the smallest normal number is zero.
fn flushes() -> bool {
    black_box(f32::MIN_POSITIVE) * black_box(0.5) == 0.0
}

/// Leaves all weights as they are, and counts its steps and those of them in which subnormal numbers were zero.
#[derive(Clone, Debug, Default)]
struct Counting {
    steps: Arc<AtomicUsize>,
    flushed: Arc<AtomicUsize>,
}

impl Optimizer for Counting {
    type State<const D: usize> = SgdState<D>;

    fn step<const D: usize>(
        &self,
        _: LearningRate,
        tensor: Tensor<D>,
        _: Tensor<D>,
        _: Option<SgdState<D>>,
    ) -> (Tensor<D>, Option<SgdState<D>>) {
        self.steps.fetch_add(1, Ordering::SeqCst);
        self.flushed
            .fetch_add(usize::from(flushes()), Ordering::SeqCst);
        (tensor, Some(SgdState::new(None)))
    }

    fn to_device<const D: usize>(state: SgdState<D>, _: &Device) -> SgdState<D> {
        state
    }
}

/// Averages of gradients that have become zero fade, and would stay subnormal for ever (0.9 times the smallest is the smallest), where
/// Intel's processors take five times as long for a step of Adam.
#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn an_optimiser_steps_with_subnormal_numbers_as_zeros() {
    let _turn = turn();
    let corpus = corpus(404, 101);
    let folder = tempfile::tempdir().unwrap();
    let counting = Counting::default();
    let (result, handle) = launch(
        training(&corpus, folder.path()).num_epochs(1),
        strategy(FixedKConfig::new(10).init().unwrap(), config()),
        model(&corpus, 0.0, 1),
        ModuleOptimizer::from(counting.clone()),
        1e-2,
    );
    handle.finish(&result).unwrap();
    let steps = counting.steps.load(Ordering::SeqCst);
    assert!(steps > 5, "{steps} steps");
    assert_eq!(counting.flushed.load(Ordering::SeqCst), steps);
    assert!(!flushes(), "only there");
}
