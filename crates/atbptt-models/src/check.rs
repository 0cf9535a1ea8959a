//! Whether a model keeps the rules that training relies on: [`check_model`].
//!
//! Place in the flow: for who writes a [`RecurrentModel`]. A model that breaks a rule trains all the same, towards something
//! else: a layer that reads ahead sees the answers inside a window and not beyond it.

mod rules;

use burn::module::{ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

use crate::ModelError;
use crate::batch::SequenceBatch;
use crate::recurrent::{RecurrentModel, StepLoss, WindowPlan, frozen};
use crate::state::RecurrentState;

pub use self::rules::BrokenRule;

/// What differs by less, relative to the largest value, is rounding: a window may be summed in another order than its pieces.
const TOLERANCE: f64 = 1e-3;

/// What was found.
#[derive(Default)]
struct ModelCheck {
    broken: Vec<BrokenRule>,
    /// What could not be checked, and why, one sentence each.
    unchecked: Vec<&'static str>,
}

impl ModelCheck {
    fn into_result(self) -> Result<Vec<&'static str>, ModelError> {
        match self.broken.is_empty() {
            true => Ok(self.unchecked),
            false => Err(ModelError::Rules {
                broken: self.broken,
            }),
        }
    }
}

/// Checks the rules that training relies on, and gives what could not be checked, and why, one sentence each:
///
/// - a window in pieces, the state handed on, gives the features `[batch, time, features]` of one run;
/// - the loss is a sum, and its count the number of its terms;
/// - `window`, where a model has its own, gives the loss of `forward` and `loss`;
/// - a reset ([`SequenceBatch::with_reset_at`]) makes what follows a new sequence;
/// - on a device with autodiff: a detached state is out of the graph, gradients reach all parameters that require them and end
///   at a reset.
///
/// Dropout gets in the way of the first four: check a model that has some twice, in training and, `model.valid()` with a batch
/// on the device without autodiff, in evaluation. A few sequences of a few steps are enough, at least two steps.
///
/// ```
/// use atbptt_models::{LanguageModelConfig, LstmLayer, TokenBatch, check_model};
/// use burn::tensor::Device;
///
/// let device = Device::default().autodiff();
/// let model = LanguageModelConfig::new(10).with_hidden(8).with_dropout(0.0).init::<LstmLayer>(&device)?;
/// let batch = TokenBatch::from_host(&[1, 2, 3, 4, 5, 6], &[2, 3, 4, 5, 6, 7], 2, 3, &device)?;
/// let unchecked = check_model(&model, &batch)?;
/// assert!(unchecked.is_empty());
/// # Ok::<(), atbptt_models::ModelError>(())
/// ```
///
/// # Errors
///
/// [`ModelError::Rules`] with all rules that the model breaks; another [`ModelError`] when it fails, or the batch has fewer than two
/// steps.
pub fn check_model<M: RecurrentModel>(
    model: &M,
    batch: &M::Batch,
) -> Result<Vec<&'static str>, ModelError> {
    let mut check = pieces(model, batch)?;
    let random = !check.unchecked.is_empty();
    // A wrong layout makes everything else wrong.
    let layout = |rule: &BrokenRule| matches!(rule, BrokenRule::Layout { .. });
    if check.broken.iter().any(layout) {
        return check.into_result();
    }
    // What a device says of weights that were never used is not reliable.
    let (features, _) = model.forward(&batch.slice(0..1), None)?;
    let autodiff = features.device().is_autodiff();
    if !random {
        check_window(model, batch, &mut check)?;
        check_reset(model, batch, autodiff, &mut check)?;
    }
    match autodiff {
        true => check_gradients(model, batch, &mut check)?,
        false => check.unchecked.push(
            "gradients and the detached state: the model is on a device without autodiff; check it on `device.autodiff()` too",
        ),
    }
    check.into_result()
}

/// The cheap part of [`check_model`]: that a window in pieces is the window, its features and its loss. Training does it once
/// before the first window.
///
/// # Errors
///
/// As [`check_model`].
pub fn check_pieces<M: RecurrentModel>(
    model: &M,
    batch: &M::Batch,
) -> Result<Vec<&'static str>, ModelError> {
    pieces(model, batch)?.into_result()
}

fn pieces<M: RecurrentModel>(model: &M, batch: &M::Batch) -> Result<ModelCheck, ModelError> {
    let steps = batch.steps();
    if steps < 2 {
        return Err(ModelError::Config {
            field: "batch",
            rule: "of at least 2 steps",
            got: steps.to_string(),
            remedy: "a check runs a window in two pieces",
        });
    }
    let mut check = ModelCheck::default();
    let model = frozen(model);
    let (whole, _) = model.forward(batch, None)?;
    if let Some(rule) = layout(&whole, batch) {
        check.broken.push(rule);
        return Ok(check);
    }
    let (again, _) = model.forward(batch, None)?;
    if difference(&again, &whole)? > TOLERANCE {
        check.unchecked.push(
            "pieces, losses and resets: the model draws at random; check `model.valid()` on the device without autodiff too",
        );
        return Ok(check);
    }
    let cut = steps / 2;
    let (head, tail) = (batch.slice(0..cut), batch.slice(cut..steps));
    let (first, state) = model.forward(&head, None)?;
    let (second, _) = model.forward(&tail, Some(state.detach()))?;
    // Of as many steps as sequences, a window alone does not tell which come first.
    if let Some(rule) = layout(&first, &head).or_else(|| layout(&second, &tail)) {
        check.broken.push(rule);
        return Ok(check);
    }
    let part = |start, len| whole.clone().narrow(1, start, len);
    let (expected_first, expected_second) = (part(0, cut), part(cut, steps - cut));
    let ahead = difference(&first, &expected_first)?;
    let after = difference(&second, &expected_second)?;
    if ahead > TOLERANCE {
        let difference = ahead;
        check.broken.push(BrokenRule::ReadsAhead { difference });
    } else if after > TOLERANCE {
        let difference = after;
        check
            .broken
            .push(BrokenRule::StateIncomplete { difference });
    }

    let whole = model.loss(whole, batch)?;
    let (first, second) = (
        model.loss(expected_first, &head)?,
        model.loss(expected_second, &tail)?,
    );
    let counts = (whole.count, first.count + second.count);
    if counts.0 != counts.1 {
        check.broken.push(BrokenRule::Count {
            whole: counts.0,
            pieces: counts.1,
        });
    }
    let (whole, pieces) = (sum(whole)?, sum(first)? + sum(second)?);
    if differ(whole, pieces) {
        check
            .broken
            .push(BrokenRule::LossNotSummed { whole, pieces });
    }
    Ok(check)
}

/// Refuses `features` of a model's `forward` that are not `[batch, time, features]` of `batch`.
///
/// # Errors
///
/// [`ModelError::Rules`] with [`BrokenRule::Layout`].
pub fn check_layout<B: SequenceBatch>(features: &Tensor<3>, batch: &B) -> Result<(), ModelError> {
    match layout(features, batch) {
        Some(rule) => Err(ModelError::Rules { broken: vec![rule] }),
        None => Ok(()),
    }
}

fn layout<B: SequenceBatch>(features: &Tensor<3>, batch: &B) -> Option<BrokenRule> {
    let (got, expected) = (features.dims(), [batch.sequences(), batch.steps()]);
    (got[..2] != expected).then_some(BrokenRule::Layout { got, expected })
}

/// A window with context before its loss, by the model's own `window`.
fn check_window<M: RecurrentModel>(
    model: &M,
    batch: &M::Batch,
    check: &mut ModelCheck,
) -> Result<(), ModelError> {
    let (steps, cut) = (batch.steps(), batch.steps() / 2);
    let plan = WindowPlan {
        warm_up: 0,
        loss_from: cut,
        carry: cut,
    };
    let window = sum(model.window(batch, None, plan)?.loss)?;
    let (features, _) = model.forward(batch, None)?;
    let features = features.narrow(1, cut, steps - cut);
    let expected = sum(model.loss(features, &batch.slice(cut..steps))?)?;
    if differ(window, expected) {
        check.broken.push(BrokenRule::Window { window, expected });
    }
    Ok(())
}

/// What follows a reset is a new sequence, in values and in gradients.
fn check_reset<M: RecurrentModel>(
    model: &M,
    batch: &M::Batch,
    autodiff: bool,
    check: &mut ModelCheck,
) -> Result<(), ModelError> {
    let (steps, cut) = (batch.steps(), batch.steps() / 2);
    let Some(marked) = batch.with_reset_at(cut) else {
        check
            .unchecked
            .push("resets: the batch cannot mark any (`SequenceBatch::with_reset_at`)");
        return Ok(());
    };
    let (whole, _) = model.forward(&marked, None)?;
    // The mark is at the first step of a new sequence, where it says nothing new.
    let (fresh, _) = model.forward(&batch.slice(cut..steps), None)?;
    let difference = difference(&whole.narrow(1, cut, steps - cut), &fresh)?;
    if difference > TOLERANCE {
        check.broken.push(BrokenRule::Reset { difference });
    }
    if autodiff {
        for part in model.state_gradients(&marked, None)?.parts {
            // The states entering steps 0..=cut are on the other side of the reset.
            if largest(part.narrow(0, 0, cut + 1))? > 0.0 {
                check.broken.push(BrokenRule::GradientOverReset);
                break;
            }
        }
    }
    Ok(())
}

/// Detached states and parameters without a gradient.
fn check_gradients<M: RecurrentModel>(
    model: &M,
    batch: &M::Batch,
    check: &mut ModelCheck,
) -> Result<(), ModelError> {
    let (steps, cut) = (batch.steps(), batch.steps() / 2);
    let (_, state) = model.forward(&batch.slice(0..cut), None)?;
    let (features, _) = frozen(model).forward(&batch.slice(cut..steps), Some(state.detach()))?;
    if features.is_tracked() {
        check.broken.push(BrokenRule::StateAttached);
    }

    let plan = WindowPlan {
        warm_up: 0,
        loss_from: 0,
        carry: steps,
    };
    let loss = model.window(batch, None, plan)?.loss;
    loss.check_tracked("the check of a model")?;
    let grads = loss.sum.backward();
    let mut missing = Missing {
        grads: &grads,
        path: Vec::new(),
        parameters: Vec::new(),
    };
    model.visit(&mut missing);
    let parameters = missing.parameters;
    if !parameters.is_empty() {
        check.broken.push(BrokenRule::NoGradient { parameters });
    }
    Ok(())
}

/// Collects parameters that require a gradient and have none.
struct Missing<'a> {
    grads: &'a Gradients,
    path: Vec<String>,
    parameters: Vec<String>,
}

impl ModuleVisitor for Missing<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad() && value.grad(self.grads).is_none() {
            self.parameters.push(self.path.join("."));
        }
    }
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

/// Largest absolute value; NaN where one is not a number.
fn largest<const D: usize>(tensor: Tensor<D>) -> Result<f64, ModelError> {
    let data = tensor
        .detach()
        .try_into_data()
        .map_err(|error| ModelError::Read {
            reason: format!("{error:?}"),
        })?;
    let larger = |a: f64, b: f64| if b.is_nan() { b } else { a.max(b.abs()) };
    Ok(data.iter::<f64>().fold(0.0, larger))
}

/// Largest difference, relative to the largest expected value.
fn difference<const D: usize>(got: &Tensor<D>, expected: &Tensor<D>) -> Result<f64, ModelError> {
    if got.dims() != expected.dims() {
        return Ok(f64::INFINITY);
    }
    let off = largest(got.clone() - expected.clone())?;
    Ok(match off == 0.0 {
        true => 0.0,
        false => off / largest(expected.clone())?,
    })
}

fn differ(a: f64, b: f64) -> bool {
    (a - b).abs() > TOLERANCE * a.abs().max(b.abs())
}

fn sum(loss: StepLoss) -> Result<f64, ModelError> {
    let data = loss
        .sum
        .detach()
        .try_into_data()
        .map_err(|error| ModelError::Read {
            reason: format!("{error:?}"),
        })?;
    Ok(data.iter::<f64>().next().unwrap_or(f64::NAN))
}
