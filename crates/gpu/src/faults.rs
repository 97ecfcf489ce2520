//! Errors that wgpu reports out of band, kept until somebody can return them.

use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{Device, Error, ErrorFilter};
use wgrad_runtime::DeviceError;

#[derive(Default)]
struct State {
    lost: Option<String>,
    uncaptured: Option<(bool, String)>,
}

/// Collects what the driver reports, and turns it into the error of the next call.
#[derive(Clone)]
pub(crate) struct Faults {
    device: String,
    state: Arc<Mutex<State>>,
}

impl Faults {
    /// Installs handlers in place of wgpu's, which panic. `name` is the device's in messages.
    pub(crate) fn install(device: &Device, name: String) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let sink = state.clone();
        device.on_uncaptured_error(Arc::new(move |error: Error| {
            let memory = matches!(error, Error::OutOfMemory { .. });
            lock(&sink).uncaptured.get_or_insert((memory, error.to_string()));
        }));
        let sink = state.clone();
        device.set_device_lost_callback(move |reason, message| {
            lock(&sink).lost.get_or_insert(format!("{reason:?}: {message}"));
        });
        Faults { device: name, state }
    }

    /// The error that was reported since the last call, if any; a lost device stays lost.
    pub(crate) fn check(&self, doing: &str) -> Result<(), DeviceError> {
        let mut state = lock(&self.state);
        let uncaptured = state.uncaptured.take();
        if let Some(reason) = &state.lost {
            return Err(DeviceError::Lost { device: self.device.clone(), reason: reason.clone() });
        }
        match uncaptured {
            None => Ok(()),
            Some((true, _)) => Err(self.out_of_memory(doing, 0)),
            Some((false, message)) => Err(self.refused(doing, message)),
        }
    }

    /// Runs `work`, whose errors on this thread are its own: `Ok`, or the driver's error.
    pub(crate) fn scoped<T>(
        &self,
        device: &Device,
        doing: &str,
        bytes: u64,
        work: impl FnOnce() -> T,
    ) -> Result<T, DeviceError> {
        let scopes = [ErrorFilter::Internal, ErrorFilter::OutOfMemory, ErrorFilter::Validation]
            .map(|filter| device.push_error_scope(filter));
        let result = work();
        // Scopes nest, so the last is popped first; natively the answer is there at once.
        let mut first = None;
        for scope in scopes.into_iter().rev() {
            let error = pollster::block_on(scope.pop());
            first = first.or(error);
        }
        match first {
            None => Ok(result),
            Some(Error::OutOfMemory { .. }) => Err(self.out_of_memory(doing, bytes)),
            Some(error) => {
                // A lost device explains whatever else is reported.
                self.check(doing)?;
                Err(self.refused(doing, error.to_string()))
            }
        }
    }

    /// The error of an exhausted device; drivers do not tell what is left.
    pub(crate) fn out_of_memory(&self, what: &str, needed: u64) -> DeviceError {
        DeviceError::OutOfMemory { device: self.device.clone(), what: what.to_owned(), needed, available: 0 }
    }

    fn refused(&self, what: &str, message: String) -> DeviceError {
        DeviceError::Driver { device: self.device.clone(), what: what.to_owned(), message }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    // Every change is one assignment: a panic elsewhere leaves nothing half-done.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
