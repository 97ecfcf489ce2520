//! The trace event format that Chrome introduced and Perfetto reads: complete events (`"ph": "X"`) in microseconds.

use serde_json::{Value, json};

use super::{MeasuredRun, Profile, extents, name};

/// Tracks of the one process.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

impl Profile {
    /// The trace as JSON; see [`Profile::write_trace`].
    pub fn trace(&self) -> Value {
        let info = self.device.info();
        let named = |name: &str, tid: u32, value: &str| json!({ "ph": "M", "pid": 1, "tid": tid, "name": name, "args": { "name": value } });
        let mut events = vec![
            named("process_name", HOST, "wgrad"),
            named("thread_name", HOST, "host"),
            named("thread_name", DEVICE, &format!("{}: {}", info.id, info.name)),
        ];
        for (n, step) in self.steps.iter().enumerate() {
            let title = format!("step {n}");
            events.push(complete(&title, "host", HOST, step.started, step.queued - step.started, json!({})));
            events.push(complete("wait", "host", HOST, step.queued, step.ended - step.queued, json!({})));
            // Devices have clocks of their own. The programs of a step are laid out one after the other, to end when the host saw
            // that they had, which is late by the reading of the times.
            let length =
                |run: &MeasuredRun| run.times.iter().map(|t| t.start_nanos + t.nanos).max().unwrap_or(0);
            let all: u64 = step.runs.iter().map(length).sum();
            let mut origin = step.ended.saturating_sub(all).max(step.started);
            for run in &step.runs {
                for (time, s) in run.dispatches() {
                    let arguments = json!({
                        "step": time.step,
                        "kernel": s.kernel.name(),
                        "shape": extents(&s.kernel),
                        "flops": s.kernel.flops(),
                        "bytes": s.bytes_moved(),
                    });
                    let (start, kind) = (origin + time.start_nanos, s.kernel.name());
                    events.push(complete(name(s), kind, DEVICE, start, time.nanos, arguments));
                }
                origin += length(run);
            }
        }
        json!({ "displayTimeUnit": "ms", "traceEvents": events })
    }
}

/// One event with a beginning and a duration, both given in nanoseconds.
fn complete(name: &str, category: &str, track: u32, start: u64, nanos: u64, arguments: Value) -> Value {
    let us = |nanos: u64| nanos as f64 * 1e-3;
    json!({
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": 1,
        "tid": track,
        "ts": us(start),
        "dur": us(nanos),
        "args": arguments,
    })
}
