//! Memory that threads write to side by side.

use std::marker::PhantomData;

/// A pointer that several threads may use, each on elements of its own.
pub(crate) struct Shared<E>(*mut E);

// Hand-written: a derive would ask the same of `E`.
impl<E> Clone for Shared<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Shared<E> {}
// SAFETY: a plain address; whoever dereferences it answers for the access.
unsafe impl<E: Send> Send for Shared<E> {}
// SAFETY: as above.
unsafe impl<E: Send> Sync for Shared<E> {}

impl<E> Shared<E> {
    pub(crate) fn new(buffer: &mut [E]) -> Self {
        Self(buffer.as_mut_ptr())
    }
    /// Memory that is not initialised: to be written first.
    pub(crate) fn uninit(at: *mut E) -> Self {
        Self(at)
    }
    /// For reading only.
    pub(crate) fn read_only(buffer: &[E]) -> Self {
        Self(buffer.as_ptr().cast_mut())
    }
    /// An address to be asked for ahead of time; it need not exist.
    #[inline(always)]
    pub(crate) fn near(self, index: usize) -> *const E {
        self.0.wrapping_add(index)
    }
    /// The element at `index`.
    ///
    /// # Safety
    /// `index` is inside the buffer.
    #[inline(always)]
    pub(crate) unsafe fn at(self, index: usize) -> *mut E {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }
}

/// Where a product goes; not read unless the product accumulates.
pub(crate) struct Target<'a, E> {
    pub at: Shared<E>,
    pub len: usize,
    owner: PhantomData<&'a mut [E]>,
}

impl<E> Target<'_, E> {
    /// # Safety
    /// `len` elements are writable by nobody else during the target's life; what is accumulated to is initialised.
    pub(crate) unsafe fn new(at: Shared<E>, len: usize) -> Self {
        Self {
            at,
            len,
            owner: PhantomData,
        }
    }
}

impl<'a, E> From<&'a mut [E]> for Target<'a, E> {
    fn from(out: &'a mut [E]) -> Self {
        Self {
            at: Shared::new(out),
            len: out.len(),
            owner: PhantomData,
        }
    }
}
