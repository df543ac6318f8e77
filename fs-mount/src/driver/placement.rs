//! Which processor the session threads run on: that of the program that waits for them.
//!
//! A program that makes one call after the other and the thread that answers it never run at the same time. On two
//! processors each call would wake each of them in turn, which takes several times as long as most calls do. So the
//! session threads go to where their caller is, and after it when it moves. As soon as there is work for more than one
//! processor (another program calls, or much is read or written ahead) they may run anywhere again.
//!
//! Nothing depends on it but speed: what fails here is left as it is.

use std::{cell::Cell, fs::File, os::unix::fs::FileExt, str};

use log::debug;
use parking_lot::Mutex;
use rustix::{
    process::Pid,
    thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity},
};

/// Calls in a row from which on a program is followed.
const FOLLOWED_AFTER: u32 = 8;
/// Calls after which it is looked where the caller is now.
const LOOK_EVERY: u32 = 16;
/// The pause doubles with each move, and halves with each look that finds the caller in place. Beyond this many calls it is
/// not followed any more: some schedulers move it away each time it is answered.
const RESTLESS: u32 = 128;
/// Until after so many.
const LOOK_SELDOM: u32 = 4096;
/// A transfer of so many bytes is worth a processor of its own.
const LARGE: usize = 64 << 10;

/// The session threads, and whom they follow.
pub(super) struct Placement {
    anywhere: Option<CpuSet>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The session threads that have served something.
    threads: Vec<Pid>,
    /// The thread that made the last call.
    caller: u32,
    /// What tells where it is, once that was looked at.
    stat: Option<File>,
    /// So many of its calls came in a row, and at which one it is looked at again.
    calls: u32,
    look_at: u32,
    pause: u32,
    /// Where the session threads are kept.
    at: Option<usize>,
}

thread_local! {
    static IS_KNOWN: Cell<bool> = const { Cell::new(false) };
}

impl Placement {
    pub(super) fn new() -> Self {
        Self { anywhere: allowed(), state: Mutex::default() }
    }

    /// Notes that this session thread serves a call of thread `caller`, which waits for it.
    pub(super) fn serves(&self, caller: u32) {
        // Nobody waits for what the kernel asks by itself.
        if caller == 0 {
            return;
        }
        let Some(anywhere) = &self.anywhere else { return };
        let mut state = self.state.lock();
        if !IS_KNOWN.replace(true) {
            state.threads.push(gettid());
            if state.at.is_some() {
                state.keep(anywhere, None);
            }
        }
        state.follow(anywhere, caller);
        state.calls = state.calls.saturating_add(1);
        if state.calls >= state.look_at {
            state.look(anywhere);
        }
    }

    /// The same of one that reads or writes so many bytes.
    pub(super) fn transfers(&self, caller: u32, bytes: usize) {
        if bytes < LARGE {
            self.serves(caller);
        } else if let Some(anywhere) = &self.anywhere {
            self.state.lock().follow(anywhere, 0);
        }
    }
}

/// Where the running thread may run; `None` when that can't be told.
pub(super) fn allowed() -> Option<CpuSet> {
    sched_getaffinity(None).ok()
}

/// Lets the running thread run there, wherever the session thread that started it was kept.
pub(super) fn run_at(allowed: &CpuSet) {
    if let Err(error) = sched_setaffinity(None, allowed) {
        debug!("a thread stays where it was started: {error}");
    }
}

impl State {
    /// Begins anew with a caller, if it is another one.
    fn follow(&mut self, anywhere: &CpuSet, caller: u32) {
        if self.caller == caller {
            return;
        }
        self.keep(anywhere, None);
        (self.caller, self.stat, self.calls) = (caller, None, 0);
        (self.look_at, self.pause) = (FOLLOWED_AFTER, LOOK_EVERY);
    }

    /// Looks where the caller is, and goes there.
    fn look(&mut self, anywhere: &CpuSet) {
        let found = self.processor_of_caller().filter(|&number| number < CpuSet::MAX_CPU && anywhere.is_set(number));
        match self.at {
            Some(at) if found == Some(at) => self.pause = LOOK_EVERY.max(self.pause / 2),
            Some(_) => self.pause *= 2,
            None => {}
        }
        if self.pause > RESTLESS {
            self.keep(anywhere, None);
            self.look_at = self.calls.saturating_add(LOOK_SELDOM);
            self.pause = LOOK_EVERY;
            return;
        }
        self.keep(anywhere, found);
        self.look_at = self.calls.saturating_add(self.pause);
    }

    /// Where the caller ran last, which is where it will go on when it is answered.
    fn processor_of_caller(&mut self) -> Option<usize> {
        if self.stat.is_none() {
            self.stat = File::open(format!("/proc/{}/stat", self.caller)).ok();
        }
        let mut text = [0; 1024];
        let len = self.stat.as_ref()?.read_at(&mut text, 0).ok()?;
        processor(&text[..len])
    }

    /// Keeps the session threads at one processor, or nowhere in particular.
    fn keep(&mut self, anywhere: &CpuSet, at: Option<usize>) {
        if self.at == at {
            return;
        }
        let mut only = CpuSet::new();
        let set = match at {
            Some(number) => {
                only.set(number);
                &only
            }
            None => anywhere,
        };
        for thread in &self.threads {
            if let Err(error) = sched_setaffinity(Some(*thread), set) {
                debug!("a session thread stays where it is: {error}");
            }
        }
        self.at = at;
    }
}

/// The number of the processor in a thread's `stat` (proc_pid_stat(5), field 39). The second field is a name in brackets,
/// in which anything may stand.
fn processor(stat: &[u8]) -> Option<usize> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = str::from_utf8(&stat[name_end + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(39 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Has a thread of its own, as a session thread is, serve calls of these. Tells where it may run then.
    fn serve(placement: &Placement, callers: impl Iterator<Item = u32> + Send) -> CpuSet {
        thread::scope(|scope| {
            let serving = scope.spawn(|| {
                run_at(placement.anywhere.as_ref().unwrap());
                callers.for_each(|caller| placement.serves(caller));
                allowed().unwrap()
            });
            serving.join().unwrap()
        })
    }

    #[test]
    fn a_caller_is_followed_and_let_go() {
        let (anywhere, me) = (allowed().unwrap(), gettid().as_raw_nonzero().get() as u32);
        let home = (0..CpuSet::MAX_CPU).rfind(|number| anywhere.is_set(*number)).unwrap();
        let placement = Placement::new();
        // What waits is where it was put.
        let mut only = CpuSet::new();
        only.set(home);
        sched_setaffinity(None, &only).unwrap();
        let many = (FOLLOWED_AFTER * 3) as usize;
        assert_eq!(serve(&placement, std::iter::repeat_n(me, many)), only);
        let other = if me == 1 { 2 } else { 1 };
        assert_eq!(serve(&placement, std::iter::repeat_n(me, many).chain([other])), anywhere);
        assert_eq!(serve(&placement, [me, other].into_iter().cycle().take(many)), anywhere);
    }

    #[test]
    fn what_is_worth_a_processor_may_run_anywhere() {
        let (anywhere, me) = (allowed().unwrap(), gettid().as_raw_nonzero().get() as u32);
        let placement = Placement::new();
        thread::scope(|scope| {
            let serving = scope.spawn(|| {
                (0..FOLLOWED_AFTER * 3).for_each(|_| placement.serves(me));
                let kept = allowed().unwrap();
                placement.transfers(me, LARGE);
                (kept, allowed().unwrap())
            });
            let (kept, free) = serving.join().unwrap();
            assert_eq!(kept.count(), 1);
            assert_eq!(free, anywhere);
        });
    }

    #[test]
    fn any_name_may_stand_before_the_processor() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let line = |name: &str| format!("12 ({name}) S {}\n", fields.join(" "));
        assert_eq!(processor(line("tar").as_bytes()), Some(39));
        assert_eq!(processor(line("a) S 1 (b").as_bytes()), Some(39));
        assert_eq!(processor(b"12 (tar"), None);
        assert_eq!(processor(b"12 (tar) S 4 5"), None);
        assert_eq!(processor(b""), None);
    }
}
