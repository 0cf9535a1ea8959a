//! Memory that is used again, window after window.
//!
//! A training step allocates the same large buffers as the step before. Given back to the system in between, every page
//! of them is mapped, zeroed and unmapped again, which costs more than a tenth of a small layer's time. So a buffer that
//! is dropped, be it inside an operation or as the storage of a tensor, waits here for the next of about its size.
//! Where none fits, those that waited longest are freed until no more waits than is in use: a change of sizes (another K,
//! another model) does not add up. Buffers begin on cache lines.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::shared::{Shared, Target};
use super::simd::Real;

/// A cache line, and an AVX-512 register: none of whose loads then crosses a line.
pub(super) const ALIGN: usize = 64;
/// A large page of the system, where it has such: buffers of at least this size ask for them. Reading blocks of packed
/// weights then misses neither the translation of addresses nor, by unlucky addresses, the second-level cache.
const LARGE_PAGE: usize = 1 << 21;
/// Smaller buffers come from the allocator, which serves them without the system.
const SMALLEST: usize = 1 << 15;

/// Raw memory of at least the requested size.
struct Chunk {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory, owned; whoever holds the chunk may use it from any thread.
unsafe impl Send for Chunk {}
// SAFETY: a shared chunk gives out no access by itself.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// # Panics
    /// When the size overflows `isize`, as for a vector of this size.
    fn new(bytes: usize) -> Self {
        let align = match cfg!(target_os = "linux") && bytes >= LARGE_PAGE {
            true => LARGE_PAGE,
            false => ALIGN,
        };
        let layout = Layout::from_size_align(bytes.max(ALIGN), align);
        #[allow(clippy::expect_used)] // Slices that large cannot exist; a vector would panic alike.
        let layout = layout.expect("a buffer is smaller than the address space");
        // SAFETY: the size is not zero.
        match NonNull::new(unsafe { alloc(layout) }) {
            Some(at) => {
                ask_for_large_pages(at, layout);
                Self { at, layout }
            }
            None => handle_alloc_error(layout),
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and owned.
        unsafe { dealloc(self.at.as_ptr(), self.layout) }
    }
}

/// Asks the system for large pages in the whole ones of a buffer that begins with one; a refusal changes nothing.
#[cfg(target_os = "linux")]
fn ask_for_large_pages(at: NonNull<u8>, layout: Layout) {
    use std::ffi::{c_int, c_void};
    const MADV_HUGEPAGE: c_int = 14;
    unsafe extern "C" {
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    if layout.align() == LARGE_PAGE {
        let length = layout.size() / LARGE_PAGE * LARGE_PAGE;
        // SAFETY: memory of ours; the advice keeps what is in it.
        unsafe { madvise(at.as_ptr().cast(), length, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages(_: NonNull<u8>, _: Layout) {}

struct Pool {
    /// Chunks that wait, the longest first.
    waiting: Vec<Chunk>,
    waiting_bytes: usize,
    /// Bytes handed out.
    used_bytes: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    waiting: Vec::new(),
    waiting_bytes: 0,
    used_bytes: 0,
});

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(bytes: usize) -> Chunk {
    if bytes < SMALLEST {
        return Chunk::new(bytes);
    }
    let mut pool = pool();
    // The smallest that is large enough, unless an eighth of it would lie idle.
    let most = bytes + bytes / 8 + (1 << 12);
    let fits = |(index, chunk): (usize, &Chunk)| {
        let size = chunk.layout.size();
        (bytes..=most).contains(&size).then_some((size, index))
    };
    if let Some((size, index)) = pool.waiting.iter().enumerate().filter_map(fits).min() {
        pool.waiting_bytes -= size;
        pool.used_bytes += size;
        return pool.waiting.remove(index);
    }
    pool.used_bytes += bytes;
    let mut count = 0;
    while pool.waiting_bytes > pool.used_bytes && count < pool.waiting.len() {
        pool.waiting_bytes -= pool.waiting[count].layout.size();
        count += 1;
    }
    let old: Vec<Chunk> = pool.waiting.drain(..count).collect();
    // The system's work needs no lock.
    drop(pool);
    drop(old);
    Chunk::new(bytes)
}

fn give_back(chunk: Chunk) {
    let size = chunk.layout.size();
    if size < SMALLEST {
        return;
    }
    let mut pool = pool();
    pool.used_bytes = pool.used_bytes.saturating_sub(size);
    pool.waiting_bytes += size;
    pool.waiting.push(chunk);
}

/// `len` elements, all initialised.
pub(crate) struct Buffer<E> {
    chunk: Option<Chunk>,
    len: usize,
    elements: PhantomData<E>,
}

impl<E> Buffer<E> {
    fn address(&self) -> *mut E {
        self.chunk
            .as_ref()
            .map_or(NonNull::dangling().as_ptr(), |chunk| {
                chunk.at.as_ptr().cast()
            })
    }
}

impl<E: Real> Buffer<E> {
    /// Zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut buffer = UninitBuffer::new(len);
        let at = buffer.share();
        // SAFETY: the buffer has `len` elements, and all bits zero are the number zero.
        unsafe {
            if len > 0 {
                std::ptr::write_bytes(at.at(0), 0, len);
            }
            buffer.assume_init()
        }
    }
}

impl<E: Real> From<&[E]> for Buffer<E> {
    fn from(elements: &[E]) -> Self {
        let mut buffer = Self::zeros(elements.len());
        buffer.copy_from_slice(elements);
        buffer
    }
}

impl<E> Deref for Buffer<E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        // SAFETY: `len` initialised elements, shared as long as this borrow lives.
        unsafe { std::slice::from_raw_parts(self.address(), self.len) }
    }
}

impl<E> DerefMut for Buffer<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        // SAFETY: as above, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.address(), self.len) }
    }
}

impl<E> Drop for Buffer<E> {
    fn drop(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            give_back(chunk);
        }
    }
}

/// A buffer that is not initialised yet, because every element will be written before it is read: large results are not zeroed
/// first.
pub(crate) struct UninitBuffer<E>(Buffer<E>);

impl<E: Real> UninitBuffer<E> {
    pub(crate) fn new(len: usize) -> Self {
        // More than the address space holds is refused where the chunk is made.
        let bytes = len.saturating_mul(size_of::<E>());
        Self(Buffer {
            chunk: Some(take(bytes)),
            len,
            elements: PhantomData,
        })
    }

    pub(crate) fn share(&mut self) -> Shared<E> {
        Shared::uninit(self.0.address())
    }

    /// For a product that does not accumulate.
    pub(crate) fn target(&mut self) -> Target<'_, E> {
        let (at, len) = (self.share(), self.0.len);
        // SAFETY: `len` elements, and this buffer is borrowed as long as the target lives.
        unsafe { Target::new(at, len) }
    }

    /// As [`target`](Self::target), from element `first` on.
    pub(crate) fn target_from(&mut self, first: usize) -> Target<'_, E> {
        let first = first.min(self.0.len);
        let (at, len) = (self.share(), self.0.len - first);
        // SAFETY: `len` elements after `first`, and this buffer is borrowed as long as the target lives.
        unsafe { Target::new(Shared::uninit(at.at(first)), len) }
    }

    /// The elements, to be written.
    pub(crate) fn elements(&mut self) -> &mut [MaybeUninit<E>] {
        // SAFETY: so many elements, borrowed as this buffer is; they need not be initialised.
        unsafe { std::slice::from_raw_parts_mut(self.0.address().cast(), self.0.len) }
    }

    /// Zeros in the first `len` elements.
    pub(crate) fn clear(&mut self, len: usize) {
        let len = len.min(self.0.len);
        if len > 0 {
            // SAFETY: the buffer has so many elements, and all bits zero are the number zero.
            unsafe { std::ptr::write_bytes(self.share().at(0), 0, len) }
        }
    }

    /// # Safety
    /// Every element was written.
    pub(crate) unsafe fn assume_init(self) -> Buffer<E> {
        self.0
    }
}

/// A buffer as the storage of a tensor.
#[cfg(feature = "flex")]
impl<E: Real> From<Buffer<E>> for burn::tensor::Bytes {
    fn from(mut buffer: Buffer<E>) -> Self {
        let bytes = buffer.len * size_of::<E>();
        match buffer.chunk.take() {
            // SAFETY: the first `bytes` bytes are initialised.
            Some(chunk) => unsafe { Self::from_controller(Box::new(Storage(Some(chunk))), bytes) },
            None => Self::from_bytes_vec(Vec::new()),
        }
    }
}

/// A chunk that is the storage of a tensor. It returns to the pool when the tensor is dropped.
#[cfg(feature = "flex")]
pub(crate) struct Storage(Option<Chunk>);

#[cfg(feature = "flex")]
impl<E: Real> From<Buffer<E>> for Storage {
    fn from(mut buffer: Buffer<E>) -> Self {
        Self(buffer.chunk.take())
    }
}

#[cfg(feature = "flex")]
impl Drop for Storage {
    fn drop(&mut self) {
        if let Some(chunk) = self.0.take() {
            give_back(chunk);
        }
    }
}

#[cfg(feature = "flex")]
impl burn_std::AllocationController for Storage {
    fn alloc_align(&self) -> usize {
        ALIGN
    }

    fn property(&self) -> burn_std::AllocationProperty {
        burn_std::AllocationProperty::Other
    }

    unsafe fn memory_mut(
        &mut self,
        _: burn_std::AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], burn_std::AccessError> {
        Ok(match &mut self.0 {
            // SAFETY: the chunk's memory, borrowed as long as the chunk.
            Some(chunk) => unsafe {
                std::slice::from_raw_parts_mut(chunk.at.as_ptr().cast(), chunk.layout.size())
            },
            None => &mut [],
        })
    }

    fn memory(
        &self,
        _: burn_std::AccessPolicy,
    ) -> Result<&[MaybeUninit<u8>], burn_std::AccessError> {
        Ok(match &self.0 {
            // SAFETY: as above.
            Some(chunk) => unsafe {
                std::slice::from_raw_parts(chunk.at.as_ptr().cast(), chunk.layout.size())
            },
            None => &[],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_used_again() {
        // A size no other test asks for.
        let len = 1_234_567;
        let mut first = Buffer::<f32>::zeros(len);
        assert_eq!(first.as_ptr().align_offset(ALIGN), 0);
        first.fill(3.0);
        let address = first.as_ptr();
        drop(first);
        let second = Buffer::<f32>::zeros(len);
        assert_eq!(second.as_ptr(), address, "the same memory");
        assert!(second.iter().all(|&value| value == 0.0));
        assert_eq!(Buffer::<f64>::zeros(0).len(), 0);
    }

    #[test]
    fn a_change_of_sizes_frees_what_waits() {
        // Other tests use the pool meanwhile; these sizes are beyond theirs.
        let bytes = 64 << 20;
        let waiting = || {
            let pool = pool();
            let sizes = pool.waiting.iter().map(|chunk| chunk.layout.size());
            sizes.filter(|&size| size == bytes).count()
        };
        drop([(); 4].map(|()| UninitBuffer::<f32>::new(bytes / 4)));
        assert_eq!(waiting(), 4);
        let _other = UninitBuffer::<f32>::new(bytes / 8);
        assert!(waiting() <= 1, "{} chunks wait", waiting());
    }

    #[cfg(feature = "flex")]
    #[test]
    fn a_tensor_may_own_a_buffer_and_change_it() {
        let mut buffer = Buffer::<f32>::zeros(50_000);
        buffer
            .iter_mut()
            .enumerate()
            .for_each(|(index, value)| *value = index as f32);
        let mut bytes = burn::tensor::Bytes::from(buffer);
        assert_eq!(bytes.len(), 200_000);
        let floats: &mut [f32] = pulp::bytemuck::cast_slice_mut(&mut bytes);
        floats[7] = -1.0;
        let copy = bytes.clone();
        let copied: &[f32] = pulp::bytemuck::cast_slice(&copy);
        assert_eq!(
            (copied[6], copied[7], copied[49_999]),
            (6.0, -1.0, 49_999.0)
        );
    }
}
