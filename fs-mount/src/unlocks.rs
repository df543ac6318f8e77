//! That the keys of a volume were opened, or somebody tried, for its audit log.
//!
//! The log is sealed under keys that whoever guesses does not have. So attempts that failed wait in a file in the clear, until
//! somebody opens the volume: when, which account, which process. Whoever may write the volume's folder can remove it, as they
//! can remove the whole log.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use volume::{
    Timestamp, Volume,
    audit::{Act, Audit, Op, Outcome, Process},
};

/// Bytes of attempts that are told one by one; of more, only how many there were.
const DETAILED: u64 = 64 << 10;
/// Bytes that the file has at most.
const LIMIT: u64 = 256 << 10;
/// An attempt that is only counted.
const MORE: &[u8] = b"+\n";
/// What the log says of each.
const WHY: &str = "wrong passphrase";

/// An attempt: one line of JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attempt {
    /// Seconds since 1970.
    time: i64,
    uid: u32,
    pid: u32,
}

fn path(volume: &Path) -> PathBuf {
    volume.join("failed-unlocks")
}

/// Notes that this process tried a wrong passphrase on the volume in that folder. Where that can't be written, what the process
/// was asked for fails all the same.
pub(crate) fn note(volume: &Path) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let attempt = Attempt {
        time: i64::try_from(now).unwrap_or(i64::MAX),
        uid: rustix::process::getuid().as_raw(),
        pid: std::process::id(),
    };
    if let Err(e) = append(&path(volume), &attempt) {
        log::warn!("that a passphrase was wrong could not be noted: {e}");
    }
}

fn append(path: &Path, attempt: &Attempt) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    let mut line = serde_json::to_vec(attempt)?;
    line.push(b'\n');
    match length {
        0..DETAILED => file.write_all(&line),
        DETAILED..LIMIT => file.write_all(MORE),
        _ => Ok(()),
    }
}

/// Has the volume's log take that this process opened the keys, and the attempts that there were before; those are forgotten.
pub(crate) fn record(volume: &Volume, dir: &Path) {
    let Some(audit) = volume.audit() else { return };
    record_failed(volume, audit, &path(dir));
    let process = Process { uid: rustix::process::getuid().as_raw(), pid: std::process::id(), program: None };
    audit.record(Act { process: Some(process), ..volume.own_act(Op::Unlock) });
}

fn record_failed(volume: &Volume, audit: &Audit, path: &Path) {
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => {
            log::warn!("reading {}: {e}", path.display());
            return;
        }
    }
    let (attempts, more) = parse(&text);
    for Attempt { time, uid, pid } in attempts {
        audit.record(Act {
            time: Timestamp { secs: time, nanos: 0 },
            outcome: Outcome::Denied(WHY.to_owned()),
            process: Some(Process { uid, pid, program: None }),
            ..volume.own_act(Op::Unlock)
        });
    }
    if more > 0 {
        let note = Some(format!("{more} further attempts that were only counted"));
        audit.record(Act { outcome: Outcome::Denied(WHY.to_owned()), note, ..volume.own_act(Op::Unlock) });
    }
    audit.flush();
    if let Err(e) = fs::remove_file(path) {
        log::warn!("removing {}: {e}", path.display());
    }
}

/// The attempts in the file, and how many were only counted. What is neither counts too: somebody wrote it.
fn parse(text: &[u8]) -> (Vec<Attempt>, usize) {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let (mut attempts, mut more) = (Vec::new(), 0);
    for line in lines {
        match serde_json::from_slice(line) {
            Ok(attempt) => attempts.push(attempt),
            Err(_) => more += 1,
        }
    }
    (attempts, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_kept_and_very_many_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let file = path(dir.path());
        note(dir.path());
        let (attempts, more) = parse(&fs::read(&file).unwrap());
        assert_eq!((attempts.len(), attempts[0].pid, more), (1, std::process::id(), 0));
        let attempt = Attempt { time: 1, uid: 0, pid: 1 };
        let total = 5000;
        (1..total).for_each(|_| append(&file, &attempt).unwrap());
        let (attempts, more) = parse(&fs::read(&file).unwrap());
        assert!(attempts.len() > 1000 && more > 1000, "{} {more}", attempts.len());
        assert_eq!(attempts.len() + more, total);
        (0..LIMIT).step_by(2).for_each(|_| append(&file, &attempt).unwrap());
        assert!(fs::metadata(&file).unwrap().len() <= LIMIT + 1);
    }

    #[test]
    fn noise_in_the_file_is_no_harm() {
        let (attempts, more) = parse(b"{\"time\":1,\"uid\":2,\"pid\":3}\n\n\xFF\xFE\n{\"time\":1}\n{\"time\"");
        assert_eq!((attempts.len(), more), (1, 3));
    }
}
