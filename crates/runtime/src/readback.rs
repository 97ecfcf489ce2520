//! Copies from the device that may still be under way.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::DeviceError;

/// A copy that a runtime has queued.
pub trait PendingRead: Future<Output = Result<Vec<u8>, DeviceError>> + Send + Unpin {
    /// Blocks until the copy has arrived. Not available in a browser, where one awaits the future instead.
    ///
    /// # Errors
    /// As the future's.
    fn wait(self: Box<Self>) -> Result<Vec<u8>, DeviceError>;
}

/// Host bytes that are here or on their way: await it, or [`wait`](Readback::wait).
pub struct Readback(Inner);

enum Inner {
    Ready(Option<Result<Vec<u8>, DeviceError>>),
    Pending(Box<dyn PendingRead>),
}

impl Readback {
    /// Bytes that are here already.
    pub fn ready(result: Result<Vec<u8>, DeviceError>) -> Self {
        Readback(Inner::Ready(Some(result)))
    }

    /// Bytes on their way.
    pub fn pending(read: impl PendingRead + 'static) -> Self {
        Readback(Inner::Pending(Box::new(read)))
    }

    /// Blocks until the bytes are here.
    ///
    /// # Errors
    /// The device was lost, or a kernel met an index out of range.
    pub fn wait(self) -> Result<Vec<u8>, DeviceError> {
        match self.0 {
            Inner::Pending(read) => read.wait(),
            ready @ Inner::Ready(_) => pollster::block_on(Readback(ready)),
        }
    }
}

impl Future for Readback {
    type Output = Result<Vec<u8>, DeviceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Pending(read) => Pin::new(read).poll(context),
            // A future is not polled again once it has been ready; an empty answer is the harmless reply to it.
            Inner::Ready(result) => Poll::Ready(result.take().unwrap_or_else(|| Ok(Vec::new()))),
        }
    }
}

impl fmt::Debug for Readback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::Ready(_) => "Readback(ready)",
            Inner::Pending(_) => "Readback(pending)",
        })
    }
}
