//! Whole files of PyTorch's: `nn.LSTM`, `nn.GRU`, `nn.RNN`, and the word language model of PyTorch's examples.
//!
//! A file is read by [`NamedTensors::open`]; what is asked for is said by a configuration, and everything in the file that it does
//! not account for is refused by name: a reversed direction, a projection, more layers, leftovers.

use std::collections::BTreeMap;

use burn::nn::Embedding;
use burn::tensor::{Device, Tensor};

use super::{TorchCompatible, TorchLayer, param};
use crate::ModelError;
use crate::language_model::{LanguageModel, LanguageModelConfig};
use crate::named_tensors::NamedTensors;
use crate::stack::{Stack, StackConfig};

/// Sizes of stacked layers in a file.
struct Layers {
    input: usize,
    hidden: usize,
    layers: usize,
    bias: bool,
    /// Rows of a matrix per hidden unit.
    gates: usize,
}

impl Layers {
    /// PyTorch's names and shapes.
    fn expected(&self, prefix: &str) -> BTreeMap<String, Vec<usize>> {
        let rows = self.gates * self.hidden;
        let mut expected = BTreeMap::new();
        for layer in 0..self.layers {
            let input = if layer == 0 { self.input } else { self.hidden };
            expected.insert(format!("{prefix}weight_ih_l{layer}"), vec![rows, input]);
            expected.insert(
                format!("{prefix}weight_hh_l{layer}"),
                vec![rows, self.hidden],
            );
            if self.bias {
                for part in ["ih", "hh"] {
                    expected.insert(format!("{prefix}bias_{part}_l{layer}"), vec![rows]);
                }
            }
        }
        expected
    }

    /// Why names of a file are left over.
    fn explain(&self, unused: &[&str]) -> Option<String> {
        let any = |has: &dyn Fn(&str) -> bool| unused.iter().any(|name| has(name));
        if any(&|name| name.ends_with("_reverse")) {
            return Some(
                "are of a bidirectional network, whose reversed half needs the end of a sequence before its beginning: export \
                 a unidirectional one"
                    .into(),
            );
        }
        if any(&|name| name.contains("weight_hr_l")) {
            return Some(
                "are of an LSTM with a projection (`proj_size`), which has no counterpart here: export one without".into(),
            );
        }
        let deepest = unused
            .iter()
            .filter_map(|name| name.rsplit_once("_l")?.1.parse::<usize>().ok())
            .max()?;
        (deepest >= self.layers).then(|| {
            format!(
                "hold {} layers, and {} are asked for: ask for as many",
                deepest + 1,
                self.layers
            )
        })
    }

    /// Takes the layers out of a file whose names and shapes were checked.
    fn take(
        &self,
        weights: &mut NamedTensors,
        prefix: &str,
        device: &Device,
    ) -> Result<Vec<TorchLayer>, ModelError> {
        (0..self.layers)
            .map(|layer| {
                let mut missing = None;
                let mut matrix = |name: String| {
                    let found = weights.take::<2>(&name, device);
                    missing = missing.take().or(found.is_none().then_some(name));
                    found
                };
                let weight_ih = matrix(format!("{prefix}weight_ih_l{layer}"));
                let weight_hh = matrix(format!("{prefix}weight_hh_l{layer}"));
                let (Some(weight_ih), Some(weight_hh)) = (weight_ih, weight_hh) else {
                    let name = missing.unwrap_or_default();
                    return Err(ModelError::MissingParameter { name });
                };
                let mut vector = |part: &str| {
                    let name = format!("{prefix}bias_{part}_l{layer}");
                    let found = weights.take::<1>(&name, device);
                    found.ok_or(ModelError::MissingParameter { name })
                };
                let biases = match self.bias {
                    true => Some((vector("ih")?, vector("hh")?)),
                    false => None,
                };
                Ok(TorchLayer {
                    weight_ih,
                    weight_hh,
                    biases,
                })
            })
            .collect()
    }
}

/// Adds layers under PyTorch's names.
fn put<L: TorchCompatible>(
    layers: &[L],
    prefix: &str,
    weights: &mut NamedTensors,
) -> Result<(), ModelError> {
    for (index, layer) in layers.iter().enumerate() {
        let layer = layer.to_torch();
        weights.insert(format!("{prefix}weight_ih_l{index}"), layer.weight_ih)?;
        weights.insert(format!("{prefix}weight_hh_l{index}"), layer.weight_hh)?;
        if let Some((ih, hh)) = layer.biases {
            weights.insert(format!("{prefix}bias_ih_l{index}"), ih)?;
            weights.insert(format!("{prefix}bias_hh_l{index}"), hh)?;
        }
    }
    Ok(())
}

fn check(
    weights: &NamedTensors,
    expected: &BTreeMap<String, Vec<usize>>,
    layers: &Layers,
) -> Result<(), ModelError> {
    let expected = expected
        .iter()
        .map(|(name, shape)| (name.as_str(), shape.as_slice()));
    weights.check(expected, |unused| layers.explain(unused))
}

impl<L: TorchCompatible> StackConfig<L> {
    /// Layers of these sizes with the weights of a file of PyTorch's `nn.LSTM`, `nn.GRU` or `nn.RNN`, on `device`.
    ///
    /// ```
    /// use atbptt_models::{LstmLayer, ModelError, NamedTensors, StackConfig};
    /// use burn::tensor::Device;
    ///
    /// # fn main() -> Result<(), ModelError> {
    /// # let device = Device::default();
    /// # let file = std::env::temp_dir().join("atbptt-doc-lstm.safetensors");
    /// # let lstm = StackConfig::<LstmLayer>::new(3, 4).with_layers(2).init(&device)?;
    /// # std::fs::write(&file, lstm.to_torch()?.to_safetensors(&[])?).map_err(ModelError::custom)?;
    /// let lstm = StackConfig::<LstmLayer>::new(3, 4).with_layers(2).from_torch(NamedTensors::open(&file)?, &device)?;
    /// let same = lstm.to_torch()?; // `to_safetensors` makes a file of it that PyTorch loads
    /// # std::fs::remove_file(file).ok();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ModelError::Weights`] with all names that are missing or left over, a reversed direction, a projection and more
    /// layers called by their names; as [`init`](StackConfig::init) for the sizes.
    pub fn from_torch(
        &self,
        mut weights: NamedTensors,
        device: &Device,
    ) -> Result<Stack<L>, ModelError> {
        let mut stack = self.init(device)?;
        let sizes = self.torch_sizes();
        check(&weights, &sizes.expected(""), &sizes)?;
        stack.layers = sizes
            .take(&mut weights, "", device)?
            .into_iter()
            .map(L::from_torch)
            .collect::<Result<_, _>>()?;
        Ok(stack)
    }

    fn torch_sizes(&self) -> Layers {
        let (input, hidden, layers, bias) = self.sizes();
        Layers {
            input,
            hidden,
            layers,
            bias,
            gates: L::CELL.gates(),
        }
    }
}

impl<L: TorchCompatible> Stack<L> {
    /// The weights under PyTorch's names and in its layout; [`NamedTensors::to_safetensors`] makes a file of them.
    ///
    /// # Errors
    ///
    /// [`ModelError::Read`] when a tensor cannot be read back from its device.
    pub fn to_torch(&self) -> Result<NamedTensors, ModelError> {
        let mut weights = NamedTensors::default();
        put(&self.layers, "", &mut weights)?;
        Ok(weights)
    }
}

/// Names of the word language model's other tensors.
const ENCODER: &str = "encoder.weight";
const DECODER: &str = "decoder.weight";
const DECODER_BIAS: &str = "decoder.bias";
/// Prefix of its recurrent layers.
const RNN: &str = "rnn.";

impl LanguageModelConfig {
    /// A model of these sizes with the weights of PyTorch's word language model (`pytorch/examples/word_language_model`) on
    /// `device`: `encoder.weight`, `rnn.*`, `decoder.weight`, `decoder.bias`. Where the softmax is tied, the decoder's weight
    /// must be the encoder's.
    ///
    /// # Errors
    ///
    /// As [`StackConfig::from_torch`]; [`ModelError::Weights`] when the softmax is tied and the file's is not.
    pub fn from_torch<L: TorchCompatible>(
        &self,
        mut weights: NamedTensors,
        device: &Device,
    ) -> Result<LanguageModel<L>, ModelError> {
        let mut model: LanguageModel<L> = self.init(device)?;
        let features = self.embedding.unwrap_or(self.hidden);
        let sizes = Layers {
            input: features,
            hidden: self.hidden,
            layers: self.layers,
            bias: true,
            gates: L::CELL.gates(),
        };
        let mut expected = sizes.expected(RNN);
        expected.insert(ENCODER.into(), vec![self.vocabulary, features]);
        expected.insert(DECODER.into(), vec![self.vocabulary, self.hidden]);
        expected.insert(DECODER_BIAS.into(), vec![self.vocabulary]);
        check(&weights, &expected, &sizes)?;
        if self.tied && !weights.same(ENCODER, DECODER) {
            return Err(weights.fault(format!(
                "hold a `{DECODER}` that is not the `{ENCODER}`, and a tied softmax is asked for: ask for an untied one \
                 (`with_tied(false)`)"
            )));
        }
        model.layers.layers = sizes
            .take(&mut weights, RNN, device)?
            .into_iter()
            .map(L::from_torch)
            .collect::<Result<_, _>>()?;
        let missing = |name: &str| ModelError::MissingParameter { name: name.into() };
        let encoder: Tensor<2> = weights
            .take(ENCODER, device)
            .ok_or_else(|| missing(ENCODER))?;
        model.embedding = Embedding {
            weight: param(encoder),
        };
        let decoder: Tensor<2> = weights
            .take(DECODER, device)
            .ok_or_else(|| missing(DECODER))?;
        model.softmax = (!self.tied).then(|| param(decoder));
        let bias: Tensor<1> = weights
            .take(DECODER_BIAS, device)
            .ok_or_else(|| missing(DECODER_BIAS))?;
        model.softmax_bias = param(bias);
        Ok(model)
    }
}

impl<L: TorchCompatible> LanguageModel<L> {
    /// The weights under the names and in the layout of PyTorch's word language model; [`NamedTensors::to_safetensors`] makes a
    /// file of them.
    ///
    /// # Errors
    ///
    /// [`ModelError::Read`] when a tensor cannot be read back from its device.
    pub fn to_torch(&self) -> Result<NamedTensors, ModelError> {
        let mut weights = NamedTensors::default();
        put(&self.layers.layers, RNN, &mut weights)?;
        let encoder = self.embedding.weight.val();
        let decoder = self.softmax.as_ref().map(|softmax| softmax.val());
        weights.insert(DECODER, decoder.unwrap_or_else(|| encoder.clone()))?;
        weights.insert(ENCODER, encoder)?;
        weights.insert(DECODER_BIAS, self.softmax_bias.val())?;
        Ok(weights)
    }
}
