//! Weights in and out: PyTorch's layout and Burn's own `nn::Lstm`.
//!
//! PyTorch keeps `[gates·hidden, in]` matrices and two biases per layer; here matrices are `[in, gates·hidden]` and the two
//! biases one (for a GRU's new gate they stay apart). The functions are the same; a model trained on with two biases moves
//! them twice as fast.
//!
//! Whole files: [`StackConfig::from_torch`](crate::StackConfig::from_torch) and
//! [`LanguageModelConfig::from_torch`](crate::LanguageModelConfig::from_torch) read what [`NamedTensors::open`](crate::NamedTensors::open)
//! finds; `to_torch` gives [`NamedTensors`](crate::NamedTensors) under PyTorch's names.

mod torch_file;

use burn::module::Param;
use burn::nn;
use burn::tensor::Tensor;

use crate::ModelError;
use crate::layer::{GruLayer, LstmLayer, RecurrentLayer, RnnLayer};
use crate::ops::checks::alike;
use crate::stack::{Stack, dropout};

/// One layer's parameters as PyTorch's `nn.LSTM`, `nn.GRU` and `nn.RNN` name and shape them.
#[derive(Clone, Debug)]
pub struct TorchLayer {
    /// `weight_ih_l{k}`, `[gates·hidden, input]`
    pub weight_ih: Tensor<2>,
    /// `weight_hh_l{k}`, `[gates·hidden, hidden]`
    pub weight_hh: Tensor<2>,
    /// `bias_ih_l{k}` and `bias_hh_l{k}`, `[gates·hidden]` each
    pub biases: Option<(Tensor<1>, Tensor<1>)>,
}

impl TorchLayer {
    /// Takes layer `index` from a source of tensors by PyTorch's names, such as `weight_ih_l0`.
    ///
    /// Biases may be absent, both at once.
    ///
    /// # Errors
    ///
    /// [`ModelError::MissingParameter`] with the name.
    pub fn by_name(
        index: usize,
        mut matrix: impl FnMut(&str) -> Option<Tensor<2>>,
        mut vector: impl FnMut(&str) -> Option<Tensor<1>>,
    ) -> Result<Self, ModelError> {
        let mut required =
            |name: String| matrix(&name).ok_or(ModelError::MissingParameter { name });
        let weight_ih = required(format!("weight_ih_l{index}"))?;
        let weight_hh = required(format!("weight_hh_l{index}"))?;
        let names = (format!("bias_ih_l{index}"), format!("bias_hh_l{index}"));
        let biases = match (vector(&names.0), vector(&names.1)) {
            (Some(ih), Some(hh)) => Some((ih, hh)),
            (None, None) => None,
            (Some(_), None) => return Err(ModelError::MissingParameter { name: names.1 }),
            (None, Some(_)) => return Err(ModelError::MissingParameter { name: names.0 }),
        };
        Ok(Self {
            weight_ih,
            weight_hh,
            biases,
        })
    }

    /// Hidden units, after checking that all shapes fit a cell of `gates` gates.
    fn hidden(&self, gates: usize) -> Result<usize, ModelError> {
        let [rows, hidden] = self.weight_hh.dims();
        let expect = |what, got: &[usize], expected: Vec<usize>| match got == expected {
            true => Ok(()),
            false => Err(ModelError::shape(
                what,
                got,
                format!("{expected:?}"),
                "import a layer of the same kind, in PyTorch's layout",
            )),
        };
        let [_, inputs] = self.weight_ih.dims();
        if hidden == 0 || inputs == 0 {
            return Err(ModelError::Empty {
                what: "layer",
                missing: "features",
            });
        }
        alike("weight_ih", &self.weight_ih, &self.weight_hh)?;
        expect("weight_hh", &[rows, hidden], vec![gates * hidden, hidden])?;
        expect("weight_ih", &self.weight_ih.dims(), vec![rows, inputs])?;
        if let Some((ih, hh)) = &self.biases {
            alike("bias_ih", ih, &self.weight_hh)?;
            alike("bias_hh", hh, &self.weight_hh)?;
            expect("bias_ih", &ih.dims(), vec![rows])?;
            expect("bias_hh", &hh.dims(), vec![rows])?;
        }
        Ok(hidden)
    }
}

/// Layers whose parameters can be exchanged with PyTorch.
pub trait TorchCompatible: RecurrentLayer {
    /// A layer with PyTorch's parameters.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when they do not fit this kind of layer.
    fn from_torch(layer: TorchLayer) -> Result<Self, ModelError>;

    /// The parameters in PyTorch's layout.
    fn to_torch(&self) -> TorchLayer;
}

/// A parameter of its own, cut from whatever graph its values came from.
fn param<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(tensor.detach())
}

/// LSTM and RNN: all that differs is the number of gates.
macro_rules! summed_biases {
    ($layer:ident, $gates:literal) => {
        impl TorchCompatible for $layer {
            fn from_torch(layer: TorchLayer) -> Result<Self, ModelError> {
                layer.hidden($gates)?;
                Ok(Self {
                    input_weight: param(layer.weight_ih.transpose()),
                    recurrent_weight: param(layer.weight_hh.transpose()),
                    bias: layer.biases.map(|(ih, hh)| param(ih + hh)),
                })
            }

            fn to_torch(&self) -> TorchLayer {
                TorchLayer {
                    weight_ih: self.input_weight.val().transpose(),
                    weight_hh: self.recurrent_weight.val().transpose(),
                    biases: self.bias.as_ref().map(|bias| {
                        let bias = bias.val();
                        (bias.clone(), bias.zeros_like())
                    }),
                }
            }
        }
    };
}
summed_biases!(LstmLayer, 4);
summed_biases!(RnnLayer, 1);

impl TorchCompatible for GruLayer {
    fn from_torch(layer: TorchLayer) -> Result<Self, ModelError> {
        let hidden = layer.hidden(3)?;
        let (bias, recurrent_bias) = match layer.biases {
            Some((ih, hh)) => {
                let new = hh.clone().narrow(0, 2 * hidden, hidden);
                let zeros = new.zeros_like();
                let reset_update = Tensor::cat(vec![hh.narrow(0, 0, 2 * hidden), zeros], 0);
                (Some(param(ih + reset_update)), Some(param(new)))
            }
            None => (None, None),
        };
        Ok(Self {
            input_weight: param(layer.weight_ih.transpose()),
            recurrent_weight: param(layer.weight_hh.transpose()),
            bias,
            recurrent_bias,
        })
    }

    fn to_torch(&self) -> TorchLayer {
        let biases = match (&self.bias, &self.recurrent_bias) {
            (Some(bias), Some(recurrent)) => {
                let (bias, recurrent) = (bias.val(), recurrent.val());
                let zeros = Tensor::cat(vec![recurrent.zeros_like(); 2], 0);
                Some((bias, Tensor::cat(vec![zeros, recurrent], 0)))
            }
            _ => None,
        };
        TorchLayer {
            weight_ih: self.input_weight.val().transpose(),
            weight_hh: self.recurrent_weight.val().transpose(),
            biases,
        }
    }
}

impl<L: TorchCompatible> Stack<L> {
    /// Stacked layers with PyTorch's parameters, bottom layer first; batch first.
    ///
    /// # Errors
    ///
    /// [`ModelError::Shape`] when a layer does not fit its kind or the one below, [`ModelError::Empty`] without layers,
    /// [`ModelError::Config`] for a dropout outside `[0, 1)`.
    pub fn from_torch(layers: Vec<TorchLayer>, dropout_prob: f64) -> Result<Self, ModelError> {
        let layers = layers
            .into_iter()
            .map(L::from_torch)
            .collect::<Result<Vec<_>, _>>()?;
        let Some(first) = layers.first() else {
            return Err(ModelError::Empty {
                what: "model",
                missing: "layers",
            });
        };
        let hidden = first.d_hidden();
        for layer in layers.iter().skip(1) {
            if [layer.d_input(), layer.d_hidden()] != [hidden, hidden] {
                return Err(ModelError::shape(
                    "upper layer",
                    [layer.d_input(), layer.d_hidden()],
                    format!("[{hidden}, {hidden}]"),
                    "all layers of a stack have as many hidden units as the first",
                ));
            }
        }
        Ok(Self {
            layers,
            dropout: dropout(dropout_prob)?,
            batch_first: true,
        })
    }
}

impl LstmLayer {
    /// A layer with the weights of Burn's `nn::Lstm`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Config`] for the variants that have no counterpart here: coupled gates, clipped cells, reversed time.
    pub fn from_burn(lstm: &nn::Lstm) -> Result<Self, ModelError> {
        let unsupported = |field, got: String| ModelError::Config {
            field,
            rule: "off",
            got,
            remedy: "convert a plain LSTM, or keep Burn's module and implement `RecurrentModel` for it",
        };
        let Some(forget) = &lstm.forget_gate else {
            return Err(unsupported("input_forget", "true".into()));
        };
        if lstm.reverse {
            return Err(unsupported("reverse", "true".into()));
        }
        if let Some(clip) = lstm.clip {
            return Err(unsupported("clip", clip.to_string()));
        }
        let gates = [&lstm.input_gate, forget, &lstm.cell_gate, &lstm.output_gate];
        let shapes = |gate: &&nn::GateController| {
            let (input, hidden) = (&gate.input_transform, &gate.hidden_transform);
            [input.weight.dims(), hidden.weight.dims()]
        };
        let [input, hidden] = shapes(&forget);
        if gates.iter().any(|gate| shapes(gate) != [input, hidden]) {
            return Err(ModelError::shape(
                "gate",
                input,
                "the same shapes in every gate",
                "convert an LSTM as Burn builds it",
            ));
        }
        let weights = |f: fn(&nn::GateController) -> Tensor<2>| {
            Tensor::cat(gates.iter().map(|gate| f(gate)).collect(), 1)
        };
        let bias: Option<Vec<Tensor<1>>> = gates
            .iter()
            .map(|gate| {
                let input = gate.input_transform.bias.as_ref()?.val();
                let hidden = gate.hidden_transform.bias.as_ref()?.val();
                Some(input + hidden)
            })
            .collect();
        Ok(Self {
            input_weight: param(weights(|gate| gate.input_transform.weight.val())),
            recurrent_weight: param(weights(|gate| gate.hidden_transform.weight.val())),
            bias: bias.map(|bias| param(Tensor::cat(bias, 0))),
        })
    }

    /// Burn's `nn::Lstm` with this layer's weights; batch first.
    pub fn to_burn(&self) -> nn::Lstm {
        let (inputs, hidden) = (self.d_input(), self.d_hidden());
        let device = self.input_weight.val().device();
        let mut lstm = nn::LstmConfig::new(inputs, hidden, self.bias.is_some()).init(&device);
        let set = |gate: &mut nn::GateController, k: usize| {
            let columns =
                |weight: &Param<Tensor<2>>| param(weight.val().narrow(1, k * hidden, hidden));
            gate.input_transform.weight = columns(&self.input_weight);
            gate.hidden_transform.weight = columns(&self.recurrent_weight);
            if let Some(bias) = &self.bias {
                let bias = bias.val().narrow(0, k * hidden, hidden);
                gate.hidden_transform.bias = Some(param(bias.zeros_like()));
                gate.input_transform.bias = Some(param(bias));
            }
        };
        set(&mut lstm.input_gate, 0);
        if let Some(forget) = &mut lstm.forget_gate {
            set(forget, 1);
        }
        set(&mut lstm.cell_gate, 2);
        set(&mut lstm.output_gate, 3);
        lstm
    }
}
