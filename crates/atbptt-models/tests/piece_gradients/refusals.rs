//! What has no direct estimate is refused.

use super::*;

#[test]
fn models_without_the_gradients_that_count_are_refused() {
    let _turn = turn();
    let device = Device::flex().autodiff();
    let batch = tokens(9, BATCH, &device);
    let plan = DirectPlan::new(2, vec![0, 3]);
    let model = plain(&device);
    let refused = |model: &Plain| piece_gradients(model, &batch, None, &plan).unwrap_err();

    let mut detached = model.clone();
    detached.detach = true;
    let error = refused(&detached);
    assert!(
        matches!(error, ModelError::GradientCut { steps: 0 }),
        "{error}"
    );
    assert!(error.to_string().contains("hand the state on"), "{error}");

    let mut decoder = model.clone();
    let softmax = decoder.model.softmax.as_ref().unwrap().id;
    decoder.counted = Some([list_param_ids(&decoder.model.layers), vec![softmax]].concat());
    let error = refused(&decoder);
    assert!(
        matches!(
            error,
            ModelError::NoGradient {
                missing: 1,
                counted: 4
            }
        ),
        "{error}"
    );

    let mut nothing = model.clone();
    nothing.counted = Some(Vec::new());
    assert!(matches!(refused(&nothing), ModelError::Untracked { .. }));
    assert!(matches!(
        refused(&model.clone().no_grad()),
        ModelError::Untracked { .. }
    ));
    let valid = tokens(9, BATCH, &Device::flex());
    let error = piece_gradients(&model.valid(), &valid, None, &plan).unwrap_err();
    assert!(matches!(error, ModelError::NoAutodiff { .. }), "{error}");
}

#[test]
fn windows_losses_and_cuts_that_do_not_fit_are_refused() {
    let _turn = turn();
    let device = Device::flex().autodiff();
    let (model, batch) = (plain(&device), tokens(9, BATCH, &device));
    let refused = |losses: usize, contexts: &[usize]| match piece_gradients(
        &model,
        &batch,
        None,
        &DirectPlan::new(losses, contexts.to_vec()),
    ) {
        Err(ModelError::Estimate(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(0, &[0]), EstimateError::Zero { .. }));
    // 9 steps with 4 losses: W = 6 = m + 2; with 5, W = 5.
    assert_eq!(
        refused(5, &[0]),
        EstimateError::ShortWindow {
            window: 5,
            losses: 5
        }
    );
    for losses in [9, 10, usize::MAX] {
        assert!(matches!(
            refused(losses, &[0]),
            EstimateError::ShortWindow { .. }
        ));
    }
    for contexts in [&[][..], &[1], &[0, 2, 2], &[0, 6], &[0, usize::MAX]] {
        assert!(matches!(
            refused(4, contexts),
            EstimateError::Contexts { .. }
        ));
    }
    let one = piece_gradients(&model, &batch, None, &DirectPlan::new(4, vec![0, 5])).unwrap();
    let error = direct_statistics(std::slice::from_ref(&one)).unwrap_err();
    assert!(matches!(
        error,
        ModelError::Estimate(EstimateError::TooFewProbes { got: 1, .. })
    ));
    let other = piece_gradients(&model, &batch, None, &DirectPlan::new(4, vec![0, 4])).unwrap();
    let error = direct_statistics(&[one, other]).unwrap_err();
    assert!(matches!(
        error,
        ModelError::Estimate(EstimateError::UnequalProbes { .. })
    ));
}

#[test]
fn gradients_that_are_not_finite_are_refused() {
    let _turn = turn();
    let device = Device::flex().autodiff();
    let model = with_noise(plain(&device), 3, f64::INFINITY, DType::F32);
    let batch = tokens(9, BATCH, &device);
    let probe = || piece_gradients(&model, &batch, None, &DirectPlan::new(2, vec![0, 3])).unwrap();
    let error = direct_statistics(&[probe(), probe()]).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::Estimate(EstimateError::NotProducts { .. })
        ),
        "{error}"
    );
}
