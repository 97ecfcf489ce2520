//! Says what is being waited for: compilers and text can take a minute in which nothing else is to be seen.

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::duration;

/// What takes less than this is not worth a word on a terminal; nor this elsewhere.
const TERMINAL: Pace = Pace { first: Duration::from_secs(1), every: Duration::from_millis(100) };
const LINES: Pace = Pace { first: Duration::from_secs(5), every: Duration::from_secs(10) };

/// Shows on standard error what is being waited for and for how long, until it is dropped: a spinner on a terminal, else a line
/// every ten seconds. What is done soon is not shown at all.
#[derive(Debug)]
pub struct Waiting {
    what: Arc<Mutex<String>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// When to show it first, and how often then.
#[derive(Clone, Copy)]
struct Pace {
    first: Duration,
    every: Duration,
}

impl Waiting {
    /// Begins to wait for `what`: "compiling the step".
    pub fn new(what: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::lines(what);
        }
        let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // The template is a constant that indicatif accepts; its default is a spinner too.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            spinner.set_style(style);
        }
        let mut shown = ClearedAtTheEnd(spinner);
        Self::begin(what, TERMINAL, move |what, elapsed| shown.show(what, elapsed))
    }

    /// The same as the message of a bar that is there already.
    pub(super) fn over(bar: &ProgressBar, what: &str) -> Self {
        let bar = bar.clone();
        let pace = Pace { every: TERMINAL.first, ..TERMINAL };
        Self::begin(what, pace, move |what, elapsed| bar.set_message(text(what, elapsed)))
    }

    /// The same as plain lines.
    pub(super) fn lines(what: &str) -> Self {
        Self::begin(what, LINES, |what, elapsed| eprintln!("{}", text(what, elapsed)))
    }

    /// Waits for something else from now on; the time counts on.
    pub fn say(&self, what: String) {
        *lock(&self.what) = what;
    }

    fn begin(what: &str, pace: Pace, mut show: impl FnMut(&str, Duration) + Send + 'static) -> Self {
        let what = Arc::new(Mutex::new(what.to_owned()));
        let (stop, stopped) = mpsc::channel();
        let (begun, shared) = (Instant::now(), what.clone());
        let work = move || {
            let mut wait = pace.first;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                let what = lock(&shared).clone();
                show(&what, begun.elapsed());
                wait = pace.every;
            }
        };
        // Without a thread to spare nothing is shown, and that is all.
        let thread = thread::Builder::new().name("waiting".into()).spawn(work).ok();
        Waiting { what, stop: Some(stop), thread }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Nothing is written after this, over what comes next.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A spinner that leaves nothing behind.
struct ClearedAtTheEnd(ProgressBar);

impl ClearedAtTheEnd {
    fn show(&mut self, what: &str, elapsed: Duration) {
        self.0.set_message(text(what, elapsed));
        self.0.tick();
    }
}

impl Drop for ClearedAtTheEnd {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn text(what: &str, elapsed: Duration) -> String {
    format!("{what}  {}", duration(elapsed.as_secs_f64()))
}

fn lock(what: &Mutex<String>) -> MutexGuard<'_, String> {
    // A sentence is whole or not there.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pace: Pace) -> (Waiting, mpsc::Receiver<(String, Duration)>) {
        let (sender, receiver) = mpsc::channel();
        let show = move |what: &str, elapsed| {
            let _ = sender.send((what.to_owned(), elapsed));
        };
        (Waiting::begin("compiling", pace, show), receiver)
    }

    #[test]
    fn what_takes_long_is_shown_again_and_again_with_its_time() {
        let pace = Pace { first: Duration::from_millis(20), every: Duration::from_millis(5) };
        let (waiting, receiver) = shown(pace);
        let (what, first) = receiver.recv().expect("shown");
        assert!(what == "compiling" && first >= pace.first, "{what} {first:?}");
        waiting.say("looking on".into());
        let next = receiver.iter().find(|(what, _)| what == "looking on").expect("shown");
        assert!(next.1 > first);
        drop(waiting);
        // The thread is gone, and the sender with it, once all that was shown is read.
        while receiver.try_recv().is_ok() {}
        assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn what_is_done_soon_is_not_shown() {
        let long = Duration::from_secs(3600);
        let (waiting, receiver) = shown(Pace { first: long, every: long });
        drop(waiting);
        assert_eq!(receiver.iter().count(), 0);
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(text("compiling the step", Duration::from_secs(75)), "compiling the step  1m 15s");
    }
}
