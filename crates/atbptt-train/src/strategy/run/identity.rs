//! What a run is made of: a checkpoint of another run is refused by it.

use atbptt_models::RecurrentModel;
use burn::module::{ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor};

use super::{Run, Source};
use crate::TrainError;
use crate::checkpoint::{Identity, STEPS};
use crate::strategy::lock;

/// Adds the shapes of all weights to an identity.
struct Shapes {
    path: Vec<String>,
    identity: Identity,
}

impl Shapes {
    fn add(&mut self, shape: impl std::fmt::Debug) {
        let name = format!("shape of {}", self.path.join("."));
        let identity = std::mem::take(&mut self.identity);
        self.identity = identity.must_match(name, format!("{shape:?}"));
    }
}

impl ModuleVisitor for Shapes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.val().dims());
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.val().dims());
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add(param.val().dims());
    }
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

impl<M: RecurrentModel> Run<'_, M> {
    /// What the run is made of.
    pub(super) fn identify(&self, train: &Source<M>) -> Result<Identity, TrainError> {
        let mut identity = match &self.strategy.checkpoints {
            Some(config) => config.identity.clone(),
            None => Identity::new(),
        };
        let config = serde_json::to_value(&self.strategy.config);
        let config = config.map_err(|error| TrainError::Training {
            reason: format!("the settings of the loop cannot be written down: {error}"),
        })?;
        for (name, value) in config.as_object().into_iter().flatten() {
            let free = match name.as_str() {
                "eval_chunk" => true,
                "schedule" => self.strategy.new_learning_rate,
                _ => false,
            };
            identity = match free {
                true => identity.may_change(name, value),
                false => identity.must_match(name, value),
            };
        }
        let mut learner = self.learner.clone();
        learner.lr_step();
        // Without the rounding of a scheduler's arithmetic.
        let rate = learner.lr_current().base();
        let rate = format!("{rate:.12e}").parse().unwrap_or(rate);
        identity = match self.strategy.new_learning_rate {
            true => identity.may_change("learning rate", rate),
            false => identity.must_match("learning rate", rate),
        };
        identity = match self.strategy.more_data {
            true => identity.may_change(STEPS, train.common_steps()),
            false => identity.must_match(STEPS, train.common_steps()),
        };
        let policy = lock(&self.strategy.shared.policy);
        identity = identity
            .must_match("policy", policy.save().policy())
            .must_match("largest K", policy.k_max())
            .must_match("sequences", train.sequences())
            .must_match(
                "windows per step",
                self.parts.grad_accumulation.unwrap_or(1),
            )
            .may_change("epochs", self.parts.num_epochs)
            .may_change("device", format!("{:?}", self.device.clone().inner()));
        if let Some(workers) = &self.workers {
            identity = identity.may_change("devices", workers.count());
        }
        let mut shapes = Shapes {
            path: Vec::new(),
            identity,
        };
        self.learner.model().into_inner().visit(&mut shapes);
        Ok(shapes.identity)
    }
}
