//! Work on several threads.
//!
//! While a program runs, the threads of rayon's pool stand by as a team: they look for work instead of going to sleep, so that
//! handing over a kernel's tasks costs less than a microsecond where waking a thread costs dozens.

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

/// Runs a program's steps with a team standing by, for [`for_each`].
pub(crate) fn with_team(steps: impl FnOnce() + Send) {
    let team = Team::default();
    rayon::scope(|scope| {
        for _ in 1..rayon::current_num_threads() {
            scope.spawn(|_| team.stand_by());
        }
        // Ends the others' waiting, however the steps end.
        let _over = Over(&team);
        TEAM.set(&raw const team);
        steps();
    });
}

thread_local! {
    /// The team of the program that this thread runs, if it runs one and is not within a task.
    static TEAM: Cell<*const Team> = const { Cell::new(ptr::null()) };
}

struct Over<'a>(&'a Team);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        TEAM.set(ptr::null());
        self.0.over.store(true, Ordering::Release);
    }
}

/// Runs `task(0..tasks)`, on several threads where there are several tasks. Tasks must not depend on each other.
pub(crate) fn for_each(tasks: usize, task: &(impl Fn(usize) + Sync)) {
    let team = TEAM.get();
    // Without a team (small programs), on one core and within a task there is nobody to share with.
    if tasks <= 1 || team.is_null() || rayon::current_num_threads() == 1 || tasks > MOST_TASKS {
        (0..tasks).for_each(task);
        return;
    }
    TEAM.set(ptr::null());
    // SAFETY: `with_team` keeps the team alive while its steps run, and this thread is the one that runs them.
    let outcome = unsafe { &*team }.share(tasks, task);
    TEAM.set(team);
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

/// How many tasks to make of work that takes `nanoseconds` on one thread. Handing one over costs about a microsecond.
pub(crate) fn tasks_for(nanoseconds: f64) -> usize {
    if nanoseconds < PARALLEL_NS {
        return 1;
    }
    let most = 4 * rayon::current_num_threads();
    ((nanoseconds / 8_000.0) as usize).clamp(1, most)
}

/// Work below this is done by the thread that has it.
pub(crate) const PARALLEL_NS: f64 = 16_000.0;

/// As many tasks as a ticket can count.
const MOST_TASKS: usize = (1 << 20) - 1;
/// Looks at the ticket before a waiting thread offers its core to others.
const SPINS: u32 = 4096;

type Task = *const (dyn Fn(usize) + Sync);
type Outcome = Result<(), Box<dyn Any + Send>>;

/// Threads that wait for tasks.
struct Team {
    /// From the top: the number of the job, how many tasks it has, and which is the next to take.
    ticket: AtomicU64,
    /// The job's code.
    job: UnsafeCell<Option<Task>>,
    /// Tasks that have not ended.
    pending: AtomicUsize,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Whether the program has ended.
    over: AtomicBool,
}

impl Default for Team {
    fn default() -> Self {
        Team {
            ticket: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            pending: AtomicUsize::new(0),
            panic: Mutex::new(None),
            over: AtomicBool::new(false),
        }
    }
}

// SAFETY: `job` is written by the one thread that runs the program, only while no task is pending, and read only by threads that
// hold a task: the ticket orders the two.
unsafe impl Sync for Team {}

impl Team {
    /// Waits for tasks until the program is over.
    fn stand_by(&self) {
        let mut idle = 0;
        while !self.over.load(Ordering::Acquire) {
            if self.work() {
                idle = 0;
            } else {
                pause(&mut idle);
            }
        }
    }

    /// Takes and runs one task, if there is one.
    fn work(&self) -> bool {
        let left = |ticket: u64| (ticket & MOST_TASKS as u64) < (ticket >> 20 & MOST_TASKS as u64);
        if !left(self.ticket.load(Ordering::Relaxed)) {
            return false;
        }
        let ticket = self.ticket.fetch_add(1, Ordering::Acquire);
        if !left(ticket) {
            return false;
        }
        // SAFETY: this thread holds a task of the job, so the job is not over and its code is alive and not written: the
        // thread that shares it waits until no task is pending.
        let job = unsafe { (*self.job.get()).map(|job| &*job) };
        if let Some(job) = job
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| job((ticket & MOST_TASKS as u64) as usize)))
        {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.pending.fetch_sub(1, Ordering::Release);
        true
    }

    /// Runs tasks on this thread and those that stand by, and waits for all of them.
    fn share(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Outcome {
        // SAFETY: no task is pending, so nobody reads the job. Its lifetime ends with this call, which waits for all tasks.
        unsafe {
            *self.job.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Task>(task))
        };
        self.pending.store(tasks, Ordering::Relaxed);
        let number = (self.ticket.load(Ordering::Relaxed) >> 40) + 1;
        self.ticket.store(number << 40 | (tasks as u64) << 20, Ordering::Release);
        while self.work() {}
        let mut idle = 0;
        while self.pending.load(Ordering::Acquire) > 0 {
            pause(&mut idle);
        }
        match self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(panic) => Err(panic),
            None => Ok(()),
        }
    }
}

/// Waits a moment: shortly at first, then by letting others run.
fn pause(idle: &mut u32) {
    *idle += 1;
    if *idle < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_job_after_job() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        pool.install(|| {
            with_team(|| {
                for tasks in (0..=100).cycle().take(5000) {
                    for_each(tasks, &|i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        });
        // Tasks 0..n of n tasks: task i runs in every job of more than i.
        let jobs = |i: usize| (0..=100).cycle().take(5000).filter(|&n| n > i).count();
        for (i, count) in counts.iter().enumerate() {
            assert_eq!(count.load(Ordering::Relaxed), jobs(i), "task {i}");
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_leaves_the_team_usable() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let done = AtomicUsize::new(0);
        pool.install(|| {
            with_team(|| {
                let broken = AssertUnwindSafe(|| for_each(8, &|i| assert!(i != 5, "task five")));
                assert!(catch_unwind(broken).is_err());
                for_each(8, &|_| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            });
        });
        assert!(done.load(Ordering::Relaxed) >= 1);
    }
}
