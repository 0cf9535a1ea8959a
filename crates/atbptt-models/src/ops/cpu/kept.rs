//! The gradient of a softmax's weight as its factors, from the backward pass to the step.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;

use super::few_rows::Factored;
use super::host::Host;
use super::pool::Buffer;
use super::simd::Real;
use super::{Held, threads};

/// Rows up to which products of rows with rows cost less than passes over the gradient.
pub(super) const MOST_ROWS: usize = 64;

/// What [`Factored`] is made of, kept alive.
pub(crate) struct Kept<B: Host, E> {
    logits: Held<B>,
    hidden: Held<B>,
    size: [usize; 3],
    factor: E,
    added: Option<Arc<Added<B>>>,
    scale: E,
}

struct Added<B: Host> {
    classes: Vec<usize>,
    rows: Held<B>,
}

impl<B: Host, E: Real> Kept<B, E> {
    /// `factor` dᵀh of `[rows, features, classes]`.
    pub(super) fn new(logits: Held<B>, hidden: Held<B>, size: [usize; 3], factor: E) -> Self {
        Self {
            logits,
            hidden,
            size,
            factor,
            added: None,
            scale: E::ONE,
        }
    }

    /// `[classes, features]`
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.size[2], self.size[1]]
    }

    /// With rows added at `classes`, one each; `None` where some were added already, or it was scaled.
    pub(super) fn with_added(&self, classes: &[usize], rows: Held<B>) -> Option<Self> {
        let fresh = self.added.is_none() && self.scale == E::ONE;
        fresh.then(|| Self {
            added: Some(Arc::new(Added {
                classes: classes.to_vec(),
                rows,
            })),
            ..self.clone()
        })
    }

    /// `factor` times as large; `None` where it was scaled already, so that roundings stay those of passes over elements.
    pub(super) fn scaled(&self, factor: E) -> Option<Self> {
        (self.scale == E::ONE).then(|| Self {
            scale: factor,
            ..self.clone()
        })
    }

    /// Runs a kernel on the factors.
    pub(super) fn with<R>(&self, kernel: impl FnOnce(Factored<'_, E>) -> R) -> Option<R> {
        let added = match &self.added {
            Some(added) => Some((added.classes.as_slice(), added.rows.elements()?)),
            None => None,
        };
        let factored = Factored {
            logits: self.logits.elements()?,
            hidden: self.hidden.elements()?,
            size: self.size,
            factor: self.factor,
            added,
            scale: self.scale,
        };
        let work = self.size.iter().product();
        Some(threads::inside(work, || kernel(factored)))
    }

    /// The gradient's elements.
    pub(super) fn written(&self) -> Buffer<E> {
        self.with(|factored| factored.written())
            // Slices were checked when this was made; if ever they are none, it shows.
            .unwrap_or_else(|| Buffer::from(&vec![E::of(f64::NAN); self.elements()][..]))
    }

    pub(super) fn elements(&self) -> usize {
        self.size[1] * self.size[2]
    }

    /// As a tensor: as this, where the backend can, or written out.
    pub(super) fn into_tensor(self) -> FloatTensor<B> {
        let shape = self.shape();
        B::unwritten(self).unwrap_or_else(|kept| B::tensor(kept.written(), shape))
    }
}

impl<B: Host, E: Real> Clone for Kept<B, E> {
    fn clone(&self) -> Self {
        Self {
            logits: self.logits.clone(),
            hidden: self.hidden.clone(),
            size: self.size,
            factor: self.factor,
            added: self.added.clone(),
            scale: self.scale,
        }
    }
}
