//! What a stack is made from: sizes and initial weights, checked before layers are built.

use std::marker::PhantomData;

use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::Device;

use crate::layer::{LayerConfig, RecurrentLayer};
use crate::setters::setters;
use crate::{ModelError, WeightInit};

use super::Stack;

/// Configuration of a [`Stack`]: of an LSTM with [`LstmLayer`](crate::LstmLayer), and so on.
///
/// ```
/// use atbptt_models::{LstmLayer, RecurrentState, StackConfig};
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::default();
/// let lstm = StackConfig::<LstmLayer>::new(8, 16).with_layers(2).init(&device)?;
/// let input = Tensor::<3>::zeros([4, 10, 8], &device); // [batch, time, input]
/// let (output, state) = lstm.forward(input, None)?;
/// assert_eq!(output.dims(), [4, 10, 16]);
/// assert_eq!(state.len(), 2);
/// assert_eq!(state.batch_size(), 4);
/// # Ok::<(), atbptt_models::ModelError>(())
/// ```
#[derive(Debug)]
pub struct StackConfig<L> {
    d_input: usize,
    d_hidden: usize,
    layers: usize,
    dropout: f64,
    bias: bool,
    forget_bias: f64,
    batch_first: bool,
    weights: WeightInit,
    layer: PhantomData<L>,
}

impl<L> Clone for StackConfig<L> {
    fn clone(&self) -> Self {
        Self {
            weights: self.weights.clone(),
            ..*self
        }
    }
}

impl<L: RecurrentLayer> StackConfig<L> {
    /// One layer of `d_hidden` units over `d_input` features; no dropout, biases on, batch first.
    pub fn new(d_input: usize, d_hidden: usize) -> Self {
        Self {
            d_input,
            d_hidden,
            layers: 1,
            dropout: 0.0,
            bias: true,
            forget_bias: 0.0,
            batch_first: true,
            weights: WeightInit::default(),
            layer: PhantomData,
        }
    }

    setters! {
        /// Number of layers, at least one.
        with_layers(layers: usize);
        /// Dropout probability between layers, in `[0, 1)`; active on autodiff devices only.
        with_dropout(dropout: f64);
        /// Whether layers have biases.
        with_bias(bias: bool);
        /// Initial forget-gate bias (LSTM only). Zero in the paper; one helps on long dependencies (Jozefowicz et al. 2015).
        with_forget_bias(forget_bias: f64);
        /// `true`: `[batch, time, features]`; `false`: `[time, batch, features]`, which saves two copies per window.
        with_batch_first(batch_first: bool);
        /// Initial weights.
        with_weights(weights: WeightInit);
    }

    /// Input features, hidden units, layers, and whether they have biases.
    pub(crate) fn sizes(&self) -> (usize, usize, usize, bool) {
        (self.d_input, self.d_hidden, self.layers, self.bias)
    }

    /// Builds the layers on `device`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] when a size is zero or beyond any device, the initial weights are no numbers, the dropout
    /// outside `[0, 1)` or the forget bias not finite.
    pub fn init(&self, device: &Device) -> Result<Stack<L>, ModelError> {
        let at_least_one = [
            ("d_input", self.d_input),
            ("d_hidden", self.d_hidden),
            ("layers", self.layers),
        ];
        for (field, value) in at_least_one {
            if value == 0 {
                return Err(ModelError::Config {
                    field,
                    rule: "at least 1",
                    got: value.to_string(),
                    remedy: "a recurrent model needs one unit in one layer or more",
                });
            }
        }
        if self.layers > MAX_LAYERS {
            return Err(ModelError::Config {
                field: "layers",
                rule: "at most 1024",
                got: self.layers.to_string(),
                remedy: "one to four layers are usual",
            });
        }
        check_size(
            "d_hidden",
            [4, self.d_hidden, self.d_hidden.max(self.d_input)],
        )?;
        self.weights.check()?;
        if !self.forget_bias.is_finite() {
            return Err(ModelError::Config {
                field: "forget_bias",
                rule: "finite",
                got: self.forget_bias.to_string(),
                remedy: "0 and 1 are the usual choices",
            });
        }
        let layers = (0..self.layers)
            .map(|layer| {
                let config = LayerConfig {
                    d_input: if layer == 0 {
                        self.d_input
                    } else {
                        self.d_hidden
                    },
                    d_hidden: self.d_hidden,
                    bias: self.bias,
                    forget_bias: self.forget_bias,
                    weights: self.weights.clone(),
                };
                L::init(&config, device)
            })
            .collect();
        Ok(Stack {
            layers,
            dropout: dropout(self.dropout)?,
            batch_first: self.batch_first,
        })
    }
}

/// Most layers of a stack: more is a mistake, and would only be noticed when memory runs out.
const MAX_LAYERS: usize = 1024;

/// Refuses a weight matrix of more than 2^40 values, which no device holds: the product of `sizes`.
pub(crate) fn check_size<const N: usize>(
    field: &'static str,
    sizes: [usize; N],
) -> Result<(), ModelError> {
    let product = sizes
        .iter()
        .try_fold(1usize, |all, &size| all.checked_mul(size));
    if product.is_some_and(|values| values as u64 <= 1 << 40) {
        return Ok(());
    }
    Err(ModelError::Config {
        field,
        rule: "small enough for a weight matrix of at most 2^40 values",
        got: format!("a matrix of {sizes:?} values"),
        remedy: "choose smaller layers or a smaller vocabulary",
    })
}

/// Burn's dropout, its range checked first.
pub(crate) fn dropout(prob: f64) -> Result<Dropout, ModelError> {
    if (0.0..1.0).contains(&prob) {
        return Ok(DropoutConfig::new(prob).init());
    }
    Err(ModelError::Config {
        field: "dropout",
        rule: "in [0, 1)",
        got: prob.to_string(),
        remedy: "0 turns it off",
    })
}
