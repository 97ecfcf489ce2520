//! Batches prepared in the background, so that the device never waits for the disk.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::{Batch, DataError, Result, TokenStream, WindowSampler};

/// How many batches wait ready.
pub const PREFETCH_DEPTH: usize = 4;

/// An iterator over the batches of consecutive steps, which a thread prepares ahead of time.
///
/// Batches come in the order of their steps. An error, or a panic in the thread, is the last item. Dropping the
/// prefetcher stops the thread and waits for it, for the time of one batch at most.
#[derive(Debug)]
pub struct Prefetcher<T = Batch> {
    /// `None` once the thread has failed or is being stopped.
    items: Option<Receiver<Result<T>>>,
    thread: Option<JoinHandle<()>>,
    next_step: u64,
}

impl Prefetcher<Batch> {
    /// Prepares the batches that `sampler` draws from `stream`, from `first_step` on.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if the sampler was made for another stream, [`DataError::Worker`] if no thread can
    /// be started.
    pub fn new(stream: Arc<TokenStream>, sampler: WindowSampler, first_step: u64) -> Result<Self> {
        // A mismatch shows here rather than in the first step.
        sampler.batch(&stream, first_step)?;
        Self::with(first_step, move |step| sampler.batch(&stream, step))
    }
}

impl<T: Send + 'static> Prefetcher<T> {
    /// Prepares `make(step)` for `first_step`, `first_step + 1`, and so on, until it returns an error.
    ///
    /// # Errors
    /// [`DataError::Worker`] if no thread can be started.
    pub fn with<F>(first_step: u64, mut make: F) -> Result<Self>
    where
        F: FnMut(u64) -> Result<T> + Send + 'static,
    {
        let (sender, items) = sync_channel(PREFETCH_DEPTH);
        let work = move || {
            for step in first_step.. {
                // After a panic `make` is not called again, so nobody sees what it left half done.
                let item = catch_unwind(AssertUnwindSafe(|| make(step))).unwrap_or_else(|panic| {
                    Err(DataError::Worker(format!("panicked: {}", message(&*panic))))
                });
                let failed = item.is_err();
                // Sending fails when the prefetcher is dropped.
                if sender.send(item).is_err() || failed {
                    return;
                }
            }
        };
        let thread = Builder::new()
            .name("wgrad-prefetch".into())
            .spawn(work)
            .map_err(|error| DataError::Worker(format!("could not be started: {error}")))?;
        Ok(Self { items: Some(items), thread: Some(thread), next_step: first_step })
    }

    /// The step of the next item.
    pub fn next_step(&self) -> u64 {
        self.next_step
    }
}

impl<T> Iterator for Prefetcher<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let item = self.items.as_ref()?.recv().ok()?;
        match item {
            Ok(_) => self.next_step = self.next_step.saturating_add(1),
            Err(_) => self.items = None,
        }
        Some(item)
    }
}

impl<T> Drop for Prefetcher<T> {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails, also one that is waiting for room.
        self.items = None;
        if let Some(thread) = self.thread.take() {
            // The thread catches panics of `make`; there is nothing to report from a drop.
            let _ = thread.join();
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    match panic.downcast_ref::<&str>() {
        Some(text) => text,
        None => panic.downcast_ref::<String>().map_or("no message", String::as_str),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn batches_come_in_order_from_the_step_asked_for() {
        let ids: Vec<u32> = (0..200).collect();
        let stream = Arc::new(TokenStream::from_ids(&ids, 256).expect("valid ids"));
        let sampler = WindowSampler::new(stream.len(), 16, 3, 9).expect("fits");
        let mut prefetcher = Prefetcher::new(Arc::clone(&stream), sampler, 40).expect("a thread");
        for step in 40..60 {
            assert_eq!(prefetcher.next_step(), step);
            let batch = prefetcher.next().expect("endless").expect("a batch");
            assert_eq!(batch, sampler.batch(&stream, step).expect("a batch"));
        }
    }

    #[test]
    fn an_error_is_the_last_item() {
        let fail = |step| if step < 3 { Ok(step) } else { Err(DataError::SourceChanged) };
        let mut prefetcher = Prefetcher::with(0, fail).expect("a thread");
        let good: Vec<u64> = prefetcher.by_ref().take(3).map(|item| item.expect("good")).collect();
        assert_eq!(good, [0, 1, 2]);
        assert!(matches!(prefetcher.next(), Some(Err(DataError::SourceChanged))));
        assert!(prefetcher.next().is_none() && prefetcher.next_step() == 3);
    }

    #[test]
    fn a_panic_comes_back_as_an_error_with_its_message() {
        let mut prefetcher =
            Prefetcher::with(0, |step| -> Result<u64> { panic!("no step {step}") }).expect("thread");
        let error = prefetcher.next().expect("an item").expect_err("a panic").to_string();
        assert!(error.contains("panicked: no step 0"), "{error}");
        assert!(prefetcher.next().is_none());
    }

    #[test]
    fn the_thread_runs_only_a_few_steps_ahead_and_ends_with_the_prefetcher() {
        let made = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&made);
        let mut prefetcher = Prefetcher::with(0, move |step| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(step)
        })
        .expect("a thread");
        assert_eq!(prefetcher.next().expect("an item").expect("good"), 0);
        drop(prefetcher);
        // The one taken, those that wait in the channel, one in hand, and one begun while dropping.
        assert!(made.load(Ordering::SeqCst) <= PREFETCH_DEPTH as u64 + 3);
        assert_eq!(Arc::strong_count(&made), 1, "the thread has ended");
    }

    #[test]
    fn a_sampler_of_another_stream_is_refused_at_once() {
        let stream = Arc::new(TokenStream::from_ids(&[0; 50], 256).expect("valid ids"));
        let sampler = WindowSampler::new(60, 4, 2, 0).expect("fits");
        assert!(matches!(Prefetcher::new(stream, sampler, 0), Err(DataError::Invalid { .. })));
    }
}
