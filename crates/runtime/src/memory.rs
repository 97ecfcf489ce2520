//! How much memory there really is.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use wgrad_ir::{BufferSpec, Program};

use crate::DeviceError;

/// Largest size of all results of a program together of which a runtime prepares a second set.
const SPARE_RESULTS: u64 = 16 << 20;

/// Largest size of an input of which it prepares a second one.
const SPARE_INPUT: u64 = 64 << 10;

/// Bytes that this process can still take, and when that was read.
#[derive(Clone, Copy, Debug)]
pub struct MemoryEstimate {
    /// Available bytes.
    pub bytes: u64,
    /// When it was read.
    pub read_at: Instant,
}

/// Bytes that this process can still take before the system kills something: `MemAvailable`, and what the control group
/// leaves, whichever is less. Read anew at most every 100 ms, since it costs a few file reads.
pub fn available_memory() -> u64 {
    static LAST: Mutex<Option<MemoryEstimate>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(estimate) = *last
        && estimate.read_at.elapsed() < Duration::from_millis(100)
    {
        return estimate.bytes;
    }
    let mut bytes = u64::MAX;
    if let Ok(mut system) = sysinfo::System::new() {
        system.refresh_memory();
        bytes = system.available_memory();
        if let Some(group) = system.cgroup_limits() {
            // Page cache counts as the group's but is given back under pressure: what matters is the resident part.
            bytes = bytes.min(group.total_memory.saturating_sub(group.rss));
        }
    }
    *last = Some(MemoryEstimate { bytes, read_at: Instant::now() });
    bytes
}

/// Refuses an allocation that would not leave a twentieth of the available memory free, so that it ends in an error
/// and not in the system's killing of the process.
///
/// # Errors
/// [`DeviceError::OutOfMemory`].
pub fn check_available(device: &str, what: impl FnOnce() -> String, needed: u64) -> Result<(), DeviceError> {
    // Small allocations are not worth a look at the system's files.
    if needed < 64 << 20 {
        return Ok(());
    }
    let available = available_memory();
    if needed > available - available / 20 {
        return Err(DeviceError::OutOfMemory { device: device.to_owned(), what: what(), needed, available });
    }
    Ok(())
}

/// The results that a runtime has memory for in its pool once a program has run for the first time, beside those of that run: a
/// caller may keep the results of one step until it has those of the next, and no step but the first takes memory from the system.
/// All of them or, where they are large, none: their second set is allocated where a caller really needs it.
pub fn spare_results(program: &Program) -> &[BufferSpec] {
    let bytes: u64 = program.results.iter().map(|spec| spec.bytes).sum();
    if bytes <= SPARE_RESULTS { &program.results } else { &[] }
}

/// The inputs of which that holds as well: those that the program only reads and that are small, as the ids of a batch are.
pub fn spare_inputs(program: &Program) -> impl Iterator<Item = (usize, &BufferSpec)> {
    let all = program.inputs.iter().enumerate();
    all.filter(|(n, spec)| spec.bytes <= SPARE_INPUT && !program.updates.contains(&(*n as u32)))
}

/// Bytes in the largest unit that keeps the number above one: `128.0 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absurd_allocation_is_refused_by_name() {
        let error = check_available("cpu", || "the logits".into(), 1 << 60).unwrap_err().to_string();
        assert!(error.contains("the logits") && error.contains("1.0 EiB"), "{error}");
    }

    #[test]
    fn bytes_print_in_binary_units() {
        assert_eq!(human_bytes(12), "12 bytes");
        assert_eq!(human_bytes(128 << 20), "128.0 MiB");
    }
}
