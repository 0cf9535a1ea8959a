//! One basin of CAMELS as a task: daily weather in, the river's flow out.

use std::path::Path;

use atbptt::train::data::{Normalisation, PackedSource, SeriesSet};

use crate::basin::{Basin, WEATHER};
use crate::common::Result;

/// Inputs per step.
pub const INPUTS: usize = WEATHER.len();
/// Parallel sequences, one after the other in time.
const SEQUENCES: usize = 8;

/// Training days before 1996 and validation days of 1996 to 1998, normalised by the former.
pub fn load(folder: &Path) -> Result<[PackedSource<SeriesSet>; 2]> {
    let basin = Basin::read(folder)?;
    let mut train = basin.days(0..1996);
    // The weather is older than the flow.
    let flow = basin.flow(train.clone()).iter();
    train.start += flow.take_while(|flow| flow.is_nan()).count();
    let set = |days| -> Result<SeriesSet> { Ok(SeriesSet::new(vec![basin.series(days, 0)?])?) };
    let (train, valid) = (set(train)?, set(basin.days(1996..1999))?);
    let scale = Normalisation::fit(&train)?;
    Ok([
        PackedSource::new(scale.apply(&train)?.cut(SEQUENCES)?, SEQUENCES)?,
        PackedSource::new(scale.apply(&valid)?, 1)?,
    ])
}
