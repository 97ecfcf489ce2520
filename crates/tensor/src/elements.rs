//! Where a tensor's elements are.

use std::sync::{Mutex, MutexGuard, PoisonError};

use wgrad_runtime::Buffer;

/// The elements of one tensor: not yet computed, in memory, or overwritten.
#[derive(Debug, Default)]
pub(crate) struct Elements(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Pending,
    Ready(Buffer),
    /// Given up: a program updated the memory in place.
    Updated(&'static str),
}

impl Elements {
    /// Elements in memory.
    pub(crate) fn ready(buffer: Buffer) -> Self {
        Elements(Mutex::new(State::Ready(buffer)))
    }

    /// The memory, if the elements are there.
    pub(crate) fn get(&self) -> Option<Buffer> {
        match &*self.lock() {
            State::Ready(buffer) => Some(buffer.clone()),
            State::Pending | State::Updated(_) => None,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(&*self.lock(), State::Ready(_))
    }

    /// What overwrote the elements, if something did.
    pub(crate) fn updated_by(&self) -> Option<&'static str> {
        match &*self.lock() {
            State::Updated(by) => Some(by),
            State::Pending | State::Ready(_) => None,
        }
    }

    /// Keeps the memory of computed elements. Where another thread has computed the same ones meanwhile, these stay.
    pub(crate) fn set(&self, buffer: Buffer) {
        let mut state = self.lock();
        if matches!(*state, State::Pending) {
            *state = State::Ready(buffer);
        }
    }

    /// Lets go of the elements, which `by` is about to overwrite.
    pub(crate) fn give_up(&self, by: &'static str) {
        *self.lock() = State::Updated(by);
    }

    /// Undoes [`Elements::give_up`]: nothing has been overwritten.
    pub(crate) fn take_back(&self, buffer: Buffer) {
        *self.lock() = State::Ready(buffer);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment, so the state is whole even if a thread panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
