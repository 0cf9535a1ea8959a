//! The trained model: what a run folder holds for those who use it and have neither the program nor the data.
//!
//! ```text
//! model/about.json            version of this library, type of the model, epoch and validation loss of the weights
//! model/weights.safetensors   the weights of the best epoch, by the model's own paths
//! model/…                     what the program adds: configuration, vocabulary, normalisation
//! ```

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
#[cfg(feature = "tokenizers")]
use std::sync::Arc;

use atbptt_models::{
    LanguageModel, LanguageModelConfig, NamedTensors, RecurrentLayer, RecurrentModel, SeriesModel,
    SeriesModelConfig,
};
use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::folder::{cannot, fault};
use super::{Forecast, Run, RunFault, RunFolder, json};
use crate::TrainError;
use crate::checkpoint::Checkpoint;
use crate::data::{Corpus, Normalisation, TextTokens, TokenUnit, Vocabulary, beginning};

const FOLDER: &str = "model";
const ABOUT: &str = "about.json";
const WEIGHTS: &str = "weights.safetensors";
const LANGUAGE_MODEL: &str = "language_model.json";
const VOCABULARY: &str = "vocabulary.json";
/// The file of a tokeniser of Hugging Face's.
const TOKENIZER: &str = "tokenizer.json";
const SERIES_MODEL: &str = "series_model.json";
const NORMALISATION: &str = "normalisation.json";
/// Version of the folder's format.
const FORMAT: u32 = 1;

/// What the folder says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct About {
    /// Version of the folder's format.
    format: u32,
    /// Version of this library that wrote it.
    atbptt: String,
    /// The model's type, as Rust names it.
    model: String,
    /// Epoch of the weights, the best on validation.
    epoch: usize,
    /// Its mean validation loss, in nats.
    valid_loss: f64,
}

/// Kind and sizes of a language model.
#[derive(Serialize, Deserialize)]
struct LanguageModelFile {
    layer: String,
    /// How texts were cut into tokens; a tokeniser of one's own has none.
    unit: Option<TokenUnit>,
    config: LanguageModelConfig,
}

/// Kind and sizes of a model of series.
#[derive(Serialize, Deserialize)]
struct SeriesModelFile {
    layer: String,
    config: SeriesModelConfig,
}

/// The trained model of a run.
///
/// ```no_run
/// use atbptt_models::{LstmLayer, Sampling, TextState};
/// use atbptt_train::run::TrainedModel;
/// use burn::tensor::Device;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let trained = TrainedModel::open("runs/first-1")?;
/// let vocabulary = trained.vocabulary()?;
/// let mut text = TextState::new(trained.language_model::<LstmLayer>(&Device::default())?);
/// text.read(&[vocabulary.id("the").ok_or("no such word")?])?;
/// println!("{:?}", vocabulary.word(text.write(&Sampling::greedy())?));
/// # Ok(()) }
/// ```
///
/// A model of one's own is built by its program and filled by [`load`](Self::load).
#[derive(Clone, Debug)]
pub struct TrainedModel {
    folder: PathBuf,
    about: About,
}

impl TrainedModel {
    /// Finds the model of a run by the run's folder, or by the folder `model` in it, wherever that was copied.
    ///
    /// # Errors
    ///
    /// [`TrainError::Run`] when there is none, or a newer version of this library wrote it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TrainError> {
        let path = path.as_ref();
        let folder = match path.join(ABOUT).is_file() {
            true => path.to_owned(),
            false => path.join(FOLDER),
        };
        if !folder.join(ABOUT).is_file() {
            return Err(fault(path, RunFault::NoModel));
        }
        let about: About = read(&folder.join(ABOUT))?;
        if about.format > FORMAT {
            let reason = format!(
                "version {} of the library wrote it, in format {}; use that version or a newer one",
                beginning(&about.atbptt),
                about.format
            );
            return Err(fault(&folder.join(ABOUT), RunFault::Unreadable { reason }));
        }
        Ok(Self { folder, about })
    }

    /// Epoch of the weights, the best on validation.
    pub fn epoch(&self) -> usize {
        self.about.epoch
    }

    /// Mean validation loss of that epoch, in nats.
    pub fn valid_loss(&self) -> f64 {
        self.about.valid_loss
    }

    /// The weights, by the model's own paths.
    ///
    /// # Errors
    ///
    /// [`TrainError::Model`] when the file is missing or damaged.
    pub fn weights(&self) -> Result<NamedTensors, TrainError> {
        Ok(NamedTensors::open(self.folder.join(WEIGHTS))?)
    }

    /// `model` with the trained weights in place of its own.
    ///
    /// # Errors
    ///
    /// [`TrainError::Model`] with what does not fit.
    pub fn load<M: RecurrentModel>(&self, model: M) -> Result<M, TrainError> {
        Ok(self.weights()?.into_module(model)?)
    }

    /// What the program added under `name`; see [`Run::with_model_file`].
    ///
    /// # Errors
    ///
    /// [`TrainError::Run`] when there is no such file, or it holds something else.
    pub fn file<T: DeserializeOwned>(&self, name: &str) -> Result<T, TrainError> {
        read(&self.folder.join(name))
    }

    /// The vocabulary of a language model.
    ///
    /// # Errors
    ///
    /// As [`file`](Self::file).
    pub fn vocabulary(&self) -> Result<Vocabulary, TrainError> {
        self.file(VOCABULARY)
    }

    /// Kind of the layers of a language model or a model of series: `LSTM`, `GRU` or another [`RecurrentLayer::NAME`].
    ///
    /// # Errors
    ///
    /// As [`file`](Self::file).
    pub fn layer(&self) -> Result<String, TrainError> {
        if self.folder.join(SERIES_MODEL).is_file() {
            let SeriesModelFile { layer, .. } = self.file(SERIES_MODEL)?;
            return Ok(layer);
        }
        let LanguageModelFile { layer, .. } = self.file(LANGUAGE_MODEL)?;
        Ok(layer)
    }

    /// How texts are cut into the tokens of a language model.
    ///
    /// # Errors
    ///
    /// As [`file`](Self::file); [`TrainError::Run`] where a tokeniser of the program's own did, other than one of a
    /// `tokenizer.json` (feature `tokenizers`).
    pub fn tokens(&self) -> Result<TextTokens, TrainError> {
        let LanguageModelFile { unit, .. } = self.file(LANGUAGE_MODEL)?;
        if let Some(unit) = unit {
            return Ok(TextTokens::of_unit(unit, self.vocabulary()?));
        }
        let path = self.folder.join(TOKENIZER);
        #[cfg(feature = "tokenizers")]
        if path.is_file() {
            let tokenizer = crate::data::HuggingFaceTokenizer::from_file(&path)?;
            return Ok(TextTokens::of_tokenizer(Arc::new(tokenizer))?);
        }
        let reason = match path.is_file() {
            true => "it takes the feature `tokenizers` to read it; build with it",
            false => {
                "the model's texts were cut into tokens by a tokeniser of its program's own; use a program that has it"
            }
        };
        let reason = reason.into();
        Err(fault(&path, RunFault::Unreadable { reason }))
    }

    /// The language model of a run whose program called [`Run::with_language_model`].
    ///
    /// # Errors
    ///
    /// [`TrainError::Run`] when its layers are of another kind; [`TrainError::Model`] when the weights do not fit.
    pub fn language_model<L: RecurrentLayer>(
        &self,
        device: &Device,
    ) -> Result<LanguageModel<L>, TrainError> {
        let path = self.folder.join(LANGUAGE_MODEL);
        let LanguageModelFile { layer, config, .. } = read(&path)?;
        check_layer::<L>(&path, &layer)?;
        self.load(config.init(device)?)
    }

    /// The model of series of a run whose program called [`Run::with_series_model`], ready to forecast in the units of its data.
    ///
    /// # Errors
    ///
    /// As [`language_model`](Self::language_model).
    pub fn forecast<L: RecurrentLayer>(&self, device: &Device) -> Result<Forecast<L>, TrainError> {
        let path = self.folder.join(SERIES_MODEL);
        let SeriesModelFile { layer, config } = read(&path)?;
        check_layer::<L>(&path, &layer)?;
        let model = self.load(config.init(device)?)?;
        Forecast::new(model, self.file(NORMALISATION)?)
    }
}

fn check_layer<L: RecurrentLayer>(path: &Path, layer: &str) -> Result<(), TrainError> {
    if layer == L::NAME {
        return Ok(());
    }
    let reason = format!(
        "its layers are of kind {}, and {} is asked for; ask for the kind it was trained with",
        beginning(layer),
        L::NAME
    );
    Err(fault(path, RunFault::Unreadable { reason }))
}

/// Reads a file of JSON.
fn read<T: DeserializeOwned>(path: &Path) -> Result<T, TrainError> {
    let bytes = std::fs::read(path).map_err(|cause| match cause.kind() {
        ErrorKind::NotFound => fault(path, RunFault::OtherModel),
        _ => cannot("read", path)(cause),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let reason = beginning(&error.to_string());
        fault(path, RunFault::Unreadable { reason })
    })
}

impl<M: RecurrentModel> Run<M> {
    /// Puts a file of JSON beside the trained model: what using it takes besides the weights, such as its configuration or the
    /// normalisation of its inputs. [`TrainedModel::file`] reads it.
    pub fn with_model_file(mut self, name: impl Into<String>, content: &impl Serialize) -> Self {
        let content = serde_json::to_string_pretty(content);
        self.model_files.push((name.into(), content));
        self
    }

    /// Writes the weights of the best epoch, and what the program adds. Without a best epoch, or its checkpoint, nothing.
    pub(super) fn write_model(
        &mut self,
        folder: &RunFolder,
        template: &M,
        best: Option<(usize, f64)>,
    ) -> Result<(), TrainError> {
        let Some((epoch, valid_loss)) = best else {
            return Ok(());
        };
        let Some(checkpoint) = Checkpoint::end_of_epoch(folder.path(), epoch) else {
            log::warn!(
                "the checkpoint of epoch {epoch}, the best one, is gone, and with it the trained model"
            );
            return Ok(());
        };
        let model = Checkpoint::open(checkpoint)?.model(template.clone())?;
        let home = folder.path().join(FOLDER);
        std::fs::create_dir_all(&home).map_err(cannot("created", &home))?;
        let about = About {
            format: FORMAT,
            atbptt: env!("CARGO_PKG_VERSION").into(),
            model: std::any::type_name::<M>().into(),
            epoch,
            valid_loss,
        };
        let name = |name: &str| format!("{FOLDER}/{name}");
        let words = [("atbptt", about.atbptt.as_str()), ("model", &about.model)];
        let weights = NamedTensors::of(&model)?.to_safetensors(&words)?;
        folder.write(&name(WEIGHTS), weights)?;
        for (file, content) in std::mem::take(&mut self.model_files) {
            folder.write(&name(&file), content.map_err(super::cannot_serialize)?)?;
        }
        // Last: without it there is no model.
        folder.write(&name(ABOUT), json(&about, true)?)
    }
}

impl<L: RecurrentLayer> Run<LanguageModel<L>> {
    /// Keeps the configuration, and the vocabulary and tokeniser of the corpus, with the trained model, so that [`TrainedModel`] needs
    /// nothing else to use it.
    pub fn with_language_model(self, config: &LanguageModelConfig, corpus: &Corpus) -> Self {
        let file = LanguageModelFile {
            layer: L::NAME.into(),
            unit: corpus.unit(),
            config: config.clone(),
        };
        let mut run = self
            .with_model_file(LANGUAGE_MODEL, &file)
            .with_model_file(VOCABULARY, corpus.vocabulary());
        if let Some(text) = corpus.tokenizer().and_then(|tokenizer| tokenizer.file()) {
            run.model_files.push((TOKENIZER.into(), Ok(text.into())));
        }
        run
    }
}

impl<L: RecurrentLayer> Run<SeriesModel<L>> {
    /// Keeps the configuration, and what brings the data into the model's units, with the trained model, so that
    /// [`TrainedModel::forecast`] needs nothing else to use it.
    pub fn with_series_model(
        self,
        config: &SeriesModelConfig,
        normalisation: &Normalisation,
    ) -> Self {
        let file = SeriesModelFile {
            layer: L::NAME.into(),
            config: config.clone(),
        };
        self.with_model_file(SERIES_MODEL, &file)
            .with_model_file(NORMALISATION, normalisation)
    }
}
