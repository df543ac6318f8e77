//! What the kernel tells of a process, and ending one.

use std::{
    fs,
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Sends `signal` to a child of ours.
pub fn send(child: &Child, signal: Signal) {
    // Gone already is as good.
    let _ = kill_process(Pid::from_child(child), signal);
}

/// Waits until `child` ends by itself; `None` when it doesn't within `limit`.
pub fn ended_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processor time that process `pid` has used, in clock ticks (hundredths of a second).
pub fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may hold anything; fields are counted from behind it.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// The most memory that process `pid` has had in use, in MiB.
pub fn peak_memory_mib(pid: u32) -> u64 {
    field_kib(pid, "VmHWM:") / 1024
}

/// The memory that process `pid` has in use, in MiB.
pub fn memory_mib(pid: u32) -> u64 {
    field_kib(pid, "VmRSS:") / 1024
}

fn field_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// When the process was started, which tells it from a later one with its number. Nothing for a process that isn't.
pub fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 2..].split(' ').nth(19).map(str::to_owned)
}
