//! Work on several threads.

/// Runs `task(0..tasks)`, on several threads where there are several tasks. Tasks must not depend on each other.
pub(crate) fn for_each(tasks: usize, task: &(impl Fn(usize) + Sync)) {
    fn split(from: usize, to: usize, task: &(impl Fn(usize) + Sync)) {
        if to - from == 1 {
            task(from);
        } else {
            let middle = from + (to - from) / 2;
            rayon::join(|| split(from, middle, task), || split(middle, to, task));
        }
    }
    // Outside of the pool (small programs), and on one core, there is nobody to share with.
    if tasks <= 1 || rayon::current_thread_index().is_none() || rayon::current_num_threads() == 1 {
        (0..tasks).for_each(task);
    } else {
        split(0, tasks, task);
    }
}

/// How many tasks to make of work that takes `nanoseconds` on one thread. Handing one over costs a few microseconds.
pub(crate) fn tasks_for(nanoseconds: f64) -> usize {
    if nanoseconds < PARALLEL_NS {
        return 1;
    }
    let most = 4 * rayon::current_num_threads();
    ((nanoseconds / 8_000.0) as usize).clamp(1, most)
}

/// Work below this is done by the thread that has it.
pub(crate) const PARALLEL_NS: f64 = 16_000.0;
