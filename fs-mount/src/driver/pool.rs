//! Threads that may block, for what the session threads mustn't wait for.

use std::{collections::VecDeque, panic, sync::Arc, thread, time::Duration};

use log::{error, warn};
use parking_lot::{Condvar, Mutex};

/// How long a thread without work stays around.
const IDLE: Duration = Duration::from_secs(5);
/// Jobs that may wait for a thread. The kernel has few requests under way at once; this only bounds memory.
const QUEUE_MAX: usize = 4096;

/// What a pool runs.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A bounded number of threads, started when there is work for them and gone when there is none.
///
/// Jobs run in the order they came, as far as there are threads. What isn't run (too many wait, or the pool is closed) is
/// dropped; a reply in it then tells the kernel of an I/O error.
#[derive(Clone)]
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    name: &'static str,
    threads_max: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Pool {
    /// A pool of at most `threads_max` threads; `name` is what they are called.
    pub(super) fn new(name: &'static str, threads_max: usize) -> Self {
        Self(Arc::new(Shared { name, threads_max, state: Mutex::default(), work: Condvar::new() }))
    }

    /// Has `job` run by one of the threads, or drops it.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if self.offer(Box::new(job)).is_err() {
            warn!("{}: no room for another job", self.0.name);
        }
    }

    /// Has `job` run by one of the threads, or gives it back.
    pub(super) fn offer(&self, job: Job) -> Result<(), Job> {
        let mut state = self.0.state.lock();
        if state.closed || state.queue.len() >= QUEUE_MAX {
            return Err(job);
        }
        state.queue.push_back(job);
        if state.idle >= state.queue.len() {
            self.0.work.notify_one();
        } else if state.threads < self.0.threads_max {
            state.threads += 1;
            drop(state);
            return self.start_thread();
        }
        Ok(())
    }

    /// Drops the jobs that wait and takes no more. Running ones end in their own time.
    pub(super) fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.queue);
        self.0.work.notify_all();
        drop(state);
        drop(dropped);
    }

    /// Starts a thread for the newest job; gives that back when there is none at all to take it.
    fn start_thread(&self) -> Result<(), Job> {
        let shared = self.0.clone();
        let Err(failure) = thread::Builder::new().name(self.0.name.to_owned()).spawn(move || shared.work()) else {
            return Ok(());
        };
        let mut state = self.0.state.lock();
        state.threads -= 1;
        if state.threads > 0 {
            return Ok(());
        }
        let mut stranded = std::mem::take(&mut state.queue);
        drop(state);
        let newest = stranded.pop_back();
        warn!("{}: {} job(s) dropped: starting a thread: {failure}", self.0.name, stranded.len());
        newest.map_or(Ok(()), Err)
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next_job() {
            if panic::catch_unwind(panic::AssertUnwindSafe(job)).is_err() {
                error!("{}: a job panicked", self.name);
            }
        }
    }

    /// The next job; nothing when this thread should end.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            let mut timed_out = state.closed;
            if !timed_out {
                state.idle += 1;
                timed_out = self.work.wait_for(&mut state, IDLE).timed_out();
                state.idle -= 1;
            }
            if timed_out && state.queue.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use super::*;

    #[test]
    fn as_many_jobs_run_at_once_as_there_may_be_threads() {
        let pool = Pool::new("test", 3);
        let barrier = Arc::new(Barrier::new(4));
        for _ in 0..3 {
            let barrier = barrier.clone();
            pool.run(move || {
                barrier.wait();
            });
        }
        barrier.wait();
    }

    #[test]
    fn jobs_beyond_the_threads_wait_their_turn() {
        let pool = Pool::new("test", 1);
        let (done, results) = mpsc::channel();
        for number in 0..10 {
            let done = done.clone();
            pool.run(move || done.send(number).unwrap());
        }
        assert_eq!(results.iter().take(10).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert_eq!(pool.0.state.lock().threads, 1);
    }

    #[test]
    fn a_panicking_job_costs_no_thread() {
        let pool = Pool::new("test", 1);
        let (done, results) = mpsc::channel();
        pool.run(|| panic!("a job's own bug"));
        pool.run(move || done.send(()).unwrap());
        results.recv_timeout(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_closed_pool_drops_what_it_is_given() {
        let pool = Pool::new("test", 1);
        pool.close();
        let (done, results) = mpsc::channel::<()>();
        pool.run(move || done.send(()).unwrap());
        assert!(results.recv().is_err());
    }
}
