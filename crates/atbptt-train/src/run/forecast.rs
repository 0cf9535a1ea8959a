//! A trained model of series put to use: [`Forecast`].

use atbptt_models::{
    ModelError, RecurrentLayer, RecurrentState, SeriesBatch, SeriesModel, SeriesPrediction,
    SeriesShape,
};
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::TrainError;
use crate::data::{DataError, Normalisation};

/// One series being forecast by a trained model, in the units of its data, the state carried from row to row.
///
/// [`TrainedModel::forecast`](super::TrainedModel::forecast) makes one of a run folder.
///
/// ```
/// use atbptt_models::{LstmLayer, SeriesModelConfig};
/// use atbptt_train::data::{Normalisation, Series, SeriesSet};
/// use atbptt_train::run::Forecast;
/// use burn::tensor::Device;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let training = SeriesSet::new(vec![Series::new(vec![1.0, 3.0], 1, vec![10.0, 30.0], 1)?])?;
/// let model = SeriesModelConfig::new(1, 1, 8).init::<LstmLayer>(&Device::default())?;
/// let mut forecast = Forecast::new(model, Normalisation::fit(&training)?)?;
/// // Two rows at once, or one after the other as they come in.
/// let two = forecast.clone().predict(&[1.0, 2.0])?;
/// forecast.predict(&[1.0])?;
/// assert!((forecast.predict(&[2.0])?.mean[0] - two.mean[1]).abs() < 1e-4);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Forecast<L: RecurrentLayer> {
    model: SeriesModel<L>,
    normalisation: Normalisation,
    state: Option<Vec<L::State>>,
}

impl<L: RecurrentLayer> Forecast<L> {
    /// Rows that are read in one go.
    const CHUNK: usize = 256;

    /// A series that begins. The model is taken in evaluation mode.
    ///
    /// # Errors
    ///
    /// [`TrainError::Data`] when the normalisation is that of other inputs or targets.
    pub fn new(model: SeriesModel<L>, normalisation: Normalisation) -> Result<Self, TrainError> {
        let expected = [model.d_input(), model.d_output()];
        let got = [normalisation.inputs.len(), normalisation.targets.len()];
        if got != expected {
            let nth = 0;
            return Err(DataError::SeriesWidths { nth, got, expected }.into());
        }
        Ok(Self {
            model: model.valid(),
            normalisation,
            state: None,
        })
    }

    /// Reads rows of inputs, row-major `[rows, inputs]`, and forecasts the targets of each, in the units of the data, row-major
    /// `[rows, targets]`. Rows need not come at once.
    ///
    /// # Errors
    ///
    /// [`TrainError::Model`] when the inputs do not make whole rows; [`TrainError::Data`] for one that is not finite.
    pub fn predict(&mut self, inputs: &[f32]) -> Result<SeriesPrediction<Vec<f32>>, TrainError> {
        let (width, out) = (self.model.d_input(), self.model.d_output());
        if inputs.is_empty() || !inputs.len().is_multiple_of(width) {
            return Err(TrainError::Model(ModelError::Shape {
                what: "inputs",
                got: vec![inputs.len()],
                expected: format!("rows of {width} inputs"),
                remedy: "give all inputs of a row, and at least one row",
            }));
        }
        if let Some(at) = inputs.iter().position(|value| !value.is_finite()) {
            return Err(TrainError::Data(DataError::SeriesValue {
                what: "input",
                step: at / width,
                column: at % width,
                got: inputs.get(at).copied().unwrap_or(f32::NAN),
            }));
        }
        let device = self.model.devices().into_iter().next().unwrap_or_default();
        let (mut means, mut deviations) = (Vec::new(), Vec::new());
        for rows in inputs.chunks(Self::CHUNK * width) {
            let scales = self.normalisation.inputs.iter().cycle();
            let scaled = rows.iter().zip(scales).map(|(x, scale)| scale.apply(*x));
            let batch = one_series(scaled.collect(), width, out, &device)?;
            let (prediction, state) = self.model.predict(&batch, self.state.clone())?;
            self.state = Some(state.detach());
            let mut mean = read(prediction.mean)?;
            self.normalisation.restore_targets(&mut mean);
            means.extend(mean);
            if let Some(deviation) = prediction.deviation {
                let scales = self.normalisation.targets.iter().cycle();
                let units = read(deviation)?.into_iter().zip(scales);
                deviations.extend(units.map(|(d, s)| (f64::from(d) * s.scale) as f32));
            }
        }
        Ok(SeriesPrediction {
            mean: means,
            deviation: (!deviations.is_empty()).then_some(deviations),
        })
    }
}

/// Inputs without targets.
fn one_series(
    inputs: Vec<f32>,
    width: usize,
    out: usize,
    device: &Device,
) -> Result<SeriesBatch, ModelError> {
    let time = inputs.len() / width;
    let shape = SeriesShape {
        batch: 1,
        time,
        inputs: width,
        targets: out,
    };
    SeriesBatch::from_host(inputs, vec![f32::NAN; time * out], None, shape, device)
}

fn read(values: Tensor<3>) -> Result<Vec<f32>, TrainError> {
    let data = values.try_into_data().map_err(|error| TrainError::Read {
        reason: error.to_string(),
    })?;
    Ok(data.iter::<f32>().collect())
}
