//! A gradient that is not written out until somebody reads it: the storage of a tensor like any other.
//!
//! Burn's storage may be lazy: whoever reads it gets the numbers, which are made then. Our own passes ask first for what
//! they would be made of ([`factors`]), by a read that allows no copy: norm, clip and step of a softmax's weight then never write
//! the gradient out.

use std::any::Any;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::{Arc, OnceLock};

use burn::tensor::Bytes;
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Reader};

use super::pool::Storage;

/// What a tensor's elements can be made of.
pub(crate) trait Factors: Any + Send + Sync {
    /// Size of the elements.
    fn bytes(&self) -> usize;
    /// The elements.
    fn write(&self) -> Storage;
}

thread_local! {
    /// What the last read without a copy on this thread was refused for.
    static REFUSED: RefCell<Option<Arc<dyn Any + Send + Sync>>> = const { RefCell::new(None) };
}

/// Bytes that are made of `factors` when somebody reads them.
pub(crate) fn unwritten<F: Factors>(factors: Arc<F>) -> Bytes {
    let bytes = factors.bytes();
    let unwritten = Unwritten {
        factors,
        written: OnceLock::new(),
    };
    // SAFETY: that many bytes are initialised whenever memory is handed out.
    unsafe { Bytes::from_controller(Box::new(unwritten), bytes) }
}

/// What bytes would be made of; `None` where they are written.
pub(crate) fn factors<F: Factors>(bytes: &Bytes) -> Option<Arc<F>> {
    // Somebody else's reads may have been refused before.
    REFUSED.take();
    let refused = match bytes.read(Reader::new().no_copy()) {
        Err(AccessError::WouldCopy) => REFUSED.take(),
        _ => None,
    };
    refused?.downcast().ok()
}

struct Unwritten<F> {
    factors: Arc<F>,
    written: OnceLock<Storage>,
}

impl<F: Factors> Unwritten<F> {
    fn written(&self, policy: AccessPolicy) -> Result<&Storage, AccessError> {
        if self.written.get().is_none() && !policy.copy_allowed() {
            REFUSED.set(Some(self.factors.clone()));
            return Err(AccessError::WouldCopy);
        }
        Ok(self.written.get_or_init(|| self.factors.write()))
    }
}

impl<F: Factors> AllocationController for Unwritten<F> {
    fn alloc_align(&self) -> usize {
        super::pool::ALIGN
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(
        &mut self,
        policy: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        self.written(policy)?;
        match self.written.get_mut() {
            // SAFETY: the caller's promise.
            Some(storage) => unsafe { storage.memory_mut(policy) },
            None => Err(AccessError::WouldCopy),
        }
    }

    fn memory(&self, policy: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        self.written(policy)?.memory(policy)
    }

    fn capacity(&self) -> usize {
        self.factors.bytes()
    }
}
