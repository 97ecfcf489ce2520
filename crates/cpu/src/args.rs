//! The buffers of one step, as kernels see them.

use bytemuck::Pod;
use smallvec::SmallVec;
use wgrad_ir::Literal;

/// One buffer: where it lies and how long it is.
#[derive(Clone, Copy)]
pub(crate) struct RawBuffer {
    pub(crate) ptr: *mut u8,
    pub(crate) bytes: usize,
}

// SAFETY: a plain address; every access goes through `Args`, whose methods state what makes it exclusive.
unsafe impl Send for RawBuffer {}
// SAFETY: as above.
unsafe impl Sync for RawBuffer {}

/// The buffers and scalars of one step. The buffers stay alive while the step runs, are aligned to 64 bytes and initialised.
/// As `verify_program` has checked, none overlaps one that the step writes, and none is both read and written but by Map kernels
/// that update it in place: there, an index reads and writes the same element.
pub(crate) struct Args<'a> {
    pub(crate) buffers: SmallVec<[RawBuffer; 8]>,
    pub(crate) scalars: &'a [Literal],
    /// Raised where an index was out of range.
    pub(crate) status: &'a std::sync::atomic::AtomicBool,
}

impl Args<'_> {
    /// The elements of a buffer that the step only reads.
    #[inline]
    pub(crate) fn read<T: Pod>(&self, arg: u32) -> &[T] {
        let raw = self.buffers[arg as usize];
        // SAFETY: alive, aligned and initialised (see the type); a buffer that is read is not written by this step.
        unsafe { std::slice::from_raw_parts(raw.ptr.cast(), raw.bytes / size_of::<T>()) }
    }

    /// The elements `[start, start + len)` of a buffer that the step reads, and perhaps updates in place.
    #[inline]
    pub(crate) fn read_part<T: Pod>(&self, arg: u32, start: usize, len: usize) -> &[T] {
        let raw = self.buffers[arg as usize];
        let all = raw.bytes / size_of::<T>();
        assert!(start <= all && len <= all - start, "a kernel reads outside of its buffer");
        // SAFETY: within the buffer, alive, aligned and initialised; other tasks update other elements, and this task updates
        // these only after the values that it has computed from them.
        unsafe { std::slice::from_raw_parts(raw.ptr.cast::<T>().add(start), len) }
    }

    /// The buffer of a result. Kernels write disjoint parts of it from several threads.
    #[inline]
    pub(crate) fn out<T: Pod>(&self, arg: u32) -> Out<T> {
        let raw = self.buffers[arg as usize];
        Out { ptr: raw.ptr.cast(), len: raw.bytes / size_of::<T>() }
    }
}

/// A result under construction.
pub(crate) struct Out<T> {
    ptr: *mut T,
    len: usize,
}

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

// SAFETY: a plain address; `slice` and `set` state what makes access exclusive.
unsafe impl<T: Send> Send for Out<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Out<T> {}

impl<T: Pod> Out<T> {
    /// A result in scratch memory.
    pub(crate) fn of(slice: &mut [T]) -> Self {
        Out { ptr: slice.as_mut_ptr(), len: slice.len() }
    }

    /// Elements `[start, start + len)`.
    ///
    /// # Safety
    /// Nothing else accesses these elements while the slice lives, and the buffer outlives it.
    #[inline]
    pub(crate) unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a kernel writes outside of its buffer");
        // SAFETY: within the buffer, aligned, initialised; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }

    /// Writes one element.
    ///
    /// # Safety
    /// Nothing else accesses this element at the same time, and the buffer is alive.
    #[inline]
    pub(crate) unsafe fn set(self, index: usize, value: T) {
        assert!(index < self.len, "a kernel writes outside of its buffer");
        // SAFETY: within the buffer; exclusive by the caller's promise.
        unsafe { self.ptr.add(index).write(value) }
    }

    /// The first element, for foreign code that checks its own bounds.
    pub(crate) fn as_ptr(self) -> *mut T {
        self.ptr
    }

    pub(crate) fn len(self) -> usize {
        self.len
    }
}
