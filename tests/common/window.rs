//! A window of a test's model: inputs, and what it is to say.

use std::ops::Range;

use atbptt::models::SequenceBatch;
use burn::tensor::Tensor;

/// Time-major: `[time, batch, values]`.
#[derive(Clone, Debug)]
pub struct Window {
    pub inputs: Tensor<3>,
    pub targets: Tensor<3>,
}

impl SequenceBatch for Window {
    fn steps(&self) -> usize {
        self.inputs.dims()[0]
    }

    fn sequences(&self) -> usize {
        self.inputs.dims()[1]
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let part = |all: &Tensor<3>| all.clone().narrow(0, range.start, range.len());
        Self {
            inputs: part(&self.inputs),
            targets: part(&self.targets),
        }
    }
}
