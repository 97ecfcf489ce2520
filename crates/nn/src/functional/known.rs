//! Functions that have been traced before.

use std::sync::{Arc, Mutex, PoisonError};

use wgrad_ir::Function;
use wgrad_tensor::TensorError;

/// How many functions of one kind are kept.
const KEPT: usize = 64;

/// Functions by what they depend on (settings and shapes), so that a step traces nothing anew; the most recently used are kept,
/// newest last.
pub(super) struct Known<K>(Mutex<Vec<(K, Arc<Function>)>>);

impl<K: PartialEq> Known<K> {
    pub(super) const fn new() -> Self {
        Known(Mutex::new(Vec::new()))
    }

    /// The function of `key`, made if it is not known.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn get_or_make(
        &self,
        key: K,
        make: impl FnOnce() -> Result<Function, TensorError>,
    ) -> Result<Arc<Function>, TensorError> {
        // Two threads that make the same one wait for each other, so that it is one.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.iter().rposition(|(k, _)| *k == key) {
            Some(at) => known[at..].rotate_left(1),
            None => {
                let function = Arc::new(make()?);
                if known.len() >= KEPT {
                    known.remove(0);
                }
                known.push((key, function));
            }
        }
        Ok(known[known.len() - 1].1.clone())
    }
}
