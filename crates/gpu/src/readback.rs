//! Copies to the host that may still be under way.

use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use wgpu::{MapMode, PollType, SubmissionIndex};
use wgrad_ir::DType;
use wgrad_runtime::{DeviceError, PendingRead};

use crate::{device::Shared, pool::Memory};

#[derive(Default)]
struct Mapping {
    done: Option<Result<(), String>>,
    waker: Option<Waker>,
}

/// Elements and the status word on their way into a staging buffer.
pub(crate) struct GpuRead {
    shared: Arc<Shared>,
    staging: Option<Memory>,
    mapping: Arc<Mutex<Mapping>>,
    submission: SubmissionIndex,
    /// Bytes of the elements in the staging buffer; the status word follows.
    bytes: u64,
    /// Which of these bytes the tensor really has.
    wanted: Range<u64>,
    dtype: DType,
}

impl GpuRead {
    /// Asks for the host's view of a staging buffer that the given submission fills.
    pub(crate) fn start(
        shared: Arc<Shared>,
        staging: Memory,
        submission: SubmissionIndex,
        bytes: u64,
        wanted: Range<u64>,
        dtype: DType,
    ) -> Self {
        let mapping: Arc<Mutex<Mapping>> = Arc::default();
        if let Some(buffer) = staging.buffer() {
            let sink = mapping.clone();
            buffer.map_async(MapMode::Read, 0..bytes + 4, move |result| {
                let mut mapping = sink.lock().unwrap_or_else(PoisonError::into_inner);
                mapping.done = Some(result.map_err(|e| e.to_string()));
                if let Some(waker) = mapping.waker.take() {
                    waker.wake();
                }
            });
        }
        GpuRead { shared, staging: Some(staging), mapping, submission, bytes, wanted, dtype }
    }

    fn take_done(&self) -> Option<Result<(), String>> {
        self.mapping.lock().unwrap_or_else(PoisonError::into_inner).done.take()
    }

    /// Copies the elements out, once the buffer is mapped.
    fn finish(&mut self, mapped: Result<(), String>) -> Result<Vec<u8>, DeviceError> {
        let failed = |message: String| DeviceError::Driver {
            device: self.shared.info.id.clone(),
            what: "to read a buffer back".to_owned(),
            message,
        };
        if let Err(message) = mapped {
            self.shared.faults.check("reading a buffer back")?;
            return Err(failed(message));
        }
        let Some(staging) = self.staging.take() else {
            return Err(failed("the result was taken before".to_owned()));
        };
        let Some(buffer) = staging.buffer() else { return Err(failed("no buffer".to_owned())) };
        let view = match buffer.get_mapped_range(0..self.bytes + 4) {
            Ok(view) => view,
            Err(e) => return Err(failed(e.to_string())),
        };
        let (elements, status) = view.split_at(self.bytes as usize);
        let out_of_range = status.iter().any(|&b| b != 0);
        let result = if out_of_range {
            Err(DeviceError::IndexOutOfRange { device: self.shared.info.id.clone() })
        } else if self.dtype == DType::Bool {
            Ok(elements.chunks_exact(4).map(|word| u8::from(word.iter().any(|&b| b != 0))).collect())
        } else if self.dtype == DType::U8 {
            Ok(elements
                .chunks_exact(4)
                .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]) as u8)
                .collect())
        } else {
            Ok(elements[self.wanted.start as usize..self.wanted.end as usize].to_vec())
        };
        drop(view);
        buffer.unmap();
        result
    }
}

impl Future for GpuRead {
    type Output = Result<Vec<u8>, DeviceError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.mapping.lock().unwrap_or_else(PoisonError::into_inner).waker = Some(context.waker().clone());
        if let Err(error) = this.shared.device.poll(PollType::Poll) {
            return Poll::Ready(Err(this.shared.driver_error("to look at its queue", error.to_string())));
        }
        match this.take_done() {
            Some(done) => Poll::Ready(this.finish(done)),
            None => {
                // Nobody else may be polling the device, without which no callback comes: ask to be polled again.
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl PendingRead for GpuRead {
    fn wait(mut self: Box<Self>) -> Result<Vec<u8>, DeviceError> {
        let submission = self.submission.clone();
        let mut polled = Ok(());
        // Another thread may be running the callback that this one waits for: wait for the rest of the queue then, too.
        for submission_index in [Some(submission), None, None] {
            if let Some(done) = self.take_done() {
                return self.finish(done);
            }
            polled = self.shared.device.poll(PollType::Wait { submission_index, timeout: None }).map(|_| ());
            if polled.is_err() {
                break;
            }
        }
        while polled.is_ok() {
            if let Some(done) = self.take_done() {
                return self.finish(done);
            }
            self.shared.faults.check("reading a buffer back")?;
            std::thread::yield_now();
            polled = self.shared.device.poll(PollType::Poll).map(|_| ());
        }
        let message = polled.err().map_or_else(String::new, |e| e.to_string());
        Err(self.shared.driver_error("to wait for its queue", message))
    }
}

impl Drop for GpuRead {
    fn drop(&mut self) {
        if let Some(staging) = self.staging.take() {
            // Perhaps mapped, perhaps about to be: of no use to another reader.
            staging.discard();
        }
    }
}
