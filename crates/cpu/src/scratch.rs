//! Scratch memory of a thread, kept from kernel to kernel so that it stays in the cache.

use std::cell::RefCell;

use bytemuck::Pod;

/// A cache line: what scratch memory is aligned to.
#[derive(Clone, Copy)]
#[repr(align(64))]
#[expect(dead_code, reason = "only its size and alignment count")]
struct Line([u8; 64]);

thread_local! {
    /// What earlier kernels left, last used last.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Scratch memory, initialised, aligned to 64 bytes. What it holds at first is what its last user left.
pub(crate) struct Scratch(Vec<Line>);

impl Scratch {
    /// At least `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> Scratch {
        let mut scratch = Scratch(FREE.with_borrow_mut(Vec::pop).unwrap_or_default());
        scratch.grow(bytes);
        scratch
    }

    /// Makes it hold `bytes` at least; what it held is lost.
    pub(crate) fn grow(&mut self, bytes: usize) {
        let count = bytes.div_ceil(size_of::<Line>());
        if self.0.len() < count {
            self.0.resize(count, Line([0; 64]));
        }
    }

    /// Bytes that there are.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * size_of::<Line>()
    }

    /// The first byte; valid for `bytes` until the scratch is dropped.
    pub(crate) fn ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    /// Elements `[0, len)`.
    pub(crate) fn slice<T: Pod>(&mut self, len: usize) -> &mut [T] {
        assert!(len * size_of::<T>() <= self.bytes() && align_of::<T>() <= 64);
        // SAFETY: within the memory, aligned, initialised, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.ptr().cast(), len) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.0);
        FREE.with_borrow_mut(|free| free.push(lines));
    }
}
