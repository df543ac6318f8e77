//! Keeps idle processors from halting while a program makes one quick call after the other.
//!
//! A program waits for each of its calls, and a session thread for the next one: there is always an idle processor that is
//! wanted again some microseconds later. A processor of a virtual machine that halts is taken back by the host, and to get
//! it again takes several times as long as most calls do. A program that may open `/dev/cpu_dma_latency` can tell the kernel
//! what it bears with (PM QoS, the kernel's `Documentation/power/pm_qos_interface.rst`): at 0, idle processors poll. That
//! holds for as long as the file is open, so nothing is left behind whatever becomes of this process.
//!
//! All processors of the machine poll then, which the host takes for work. So this is for small machines alone, and ends
//! some milliseconds after the last quick call. Hardware wakes up in a few microseconds, and needs none of it.
//!
//! Nothing depends on it but speed: what fails here is left as it is.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use log::{debug, info};
use parking_lot::{Condvar, Mutex};

const DEVICE: &str = "/dev/cpu_dma_latency";
/// The microseconds that may be waited, an `i32`.
const NO_LATENCY: [u8; 4] = [0; 4];
/// With more processors the price is too high.
const PROCESSORS_MAX: usize = 4;
/// So many calls in so short a time are quick ones that follow each other.
const QUICK_CALLS: u64 = 16;
const QUICK: Duration = Duration::from_millis(4);
/// How long processors stay awake without that many calls.
const REST: Duration = Duration::from_millis(10);

/// Does nothing where there is nothing to gain.
pub(super) struct Awake(Option<Arc<Shared>>);

struct Shared {
    device: PathBuf,
    /// Calls so far.
    calls: AtomicU64,
    state: Mutex<State>,
    change: Condvar,
}

struct State {
    /// The thread that holds the device open does so, or is about to.
    holding: bool,
    closed: bool,
    /// The number of a call and when it came: the beginning of what may be a quick row.
    since: (u64, Instant),
}

impl Awake {
    /// For this machine.
    pub(super) fn new() -> Self {
        if !is_worth_it() {
            return Self(None);
        }
        Self::with(Path::new(DEVICE)).unwrap_or_else(|error| {
            debug!("idle processors halt: {error}");
            Self(None)
        })
    }

    fn with(device: &Path) -> io::Result<Self> {
        // Whether it may be opened; nothing is asked for yet.
        OpenOptions::new().write(true).open(device)?;
        let state = State { holding: false, closed: false, since: (0, Instant::now()) };
        let shared = Arc::new(Shared {
            device: device.to_owned(),
            calls: AtomicU64::new(0),
            state: Mutex::new(state),
            change: Condvar::new(),
        });
        let held = shared.clone();
        thread::Builder::new().name("p2pfs-awake".into()).spawn(move || held.hold())?;
        info!("idle processors of this virtual machine are kept awake while programs make quick calls");
        Ok(Self(Some(shared)))
    }

    /// Notes a call of thread `caller`, which waits for it.
    pub(super) fn serves(&self, caller: u32) {
        // Nobody waits for what the kernel asks by itself.
        let Some(shared) = self.0.as_ref().filter(|_| caller != 0) else { return };
        let call = shared.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if call % QUICK_CALLS != 0 {
            return;
        }
        let mut state = shared.state.lock();
        if state.holding {
            return;
        }
        let now = Instant::now();
        let quick = now.duration_since(state.since.1) <= QUICK && call - state.since.0 >= QUICK_CALLS;
        state.since = (call, now);
        if quick {
            state.holding = true;
            shared.change.notify_all();
        }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.state.lock().closed = true;
            shared.change.notify_all();
        }
    }
}

impl Shared {
    /// Holds the device open while quick calls go on, on a thread of its own that sleeps otherwise.
    fn hold(&self) {
        let mut state = self.state.lock();
        while !state.closed {
            if !state.holding {
                self.change.wait(&mut state);
                continue;
            }
            let opened = OpenOptions::new().write(true).open(&self.device);
            let held = opened.and_then(|mut file| file.write_all(&NO_LATENCY).map(|()| file));
            if let Err(error) = &held {
                debug!("idle processors halt: {error}");
            }
            let mut seen = self.calls.load(Ordering::Relaxed);
            while held.is_ok() && !state.closed {
                self.change.wait_for(&mut state, REST);
                let calls = self.calls.load(Ordering::Relaxed);
                if calls - seen < QUICK_CALLS {
                    break;
                }
                seen = calls;
            }
            state.holding = false;
        }
    }
}

/// Whether processors are a host's, few, and not kept awake by the kernel already (`haltpoll`, the kernel's
/// `Documentation/virt/guest-halt-polling.rst`).
fn is_worth_it() -> bool {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let guest = processors.lines().any(|line| line.starts_with("flags") && line.split(' ').any(|f| f == "hypervisor"));
    let polls = fs::read_to_string("/sys/module/haltpoll/parameters/guest_halt_poll_ns").unwrap_or_default();
    // All of them, whichever this process may use.
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    guest && count <= PROCESSORS_MAX && matches!(polls.trim(), "" | "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_until(what: &str, is: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn processors_stay_awake_during_quick_calls_alone() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let awake = Awake::with(device.path()).unwrap();
        let shared = awake.0.clone().unwrap();
        let asked = || fs::read(device.path()).unwrap();
        // Quick ones: however slow this machine is, some time so many come in time.
        wait_until("they are not kept awake", || {
            (0..4 * QUICK_CALLS).for_each(|_| awake.serves(1));
            shared.state.lock().holding
        });
        wait_until("the kernel is not told", || asked() == NO_LATENCY);
        wait_until("they are not let go", || !shared.state.lock().holding);
        fs::write(device.path(), "").unwrap();
        for _ in 0..3 {
            (0..QUICK_CALLS / 2).for_each(|_| awake.serves(1));
            thread::sleep(2 * QUICK);
        }
        assert!(!shared.state.lock().holding);
        assert_eq!(asked(), [0; 0]);
        drop(awake);
        wait_until("the thread stays", || Arc::strong_count(&shared) == 1);
    }

    #[test]
    fn who_may_not_open_the_device_goes_without() {
        assert!(Awake::with(Path::new("/nowhere/cpu_dma_latency")).is_err());
    }
}
