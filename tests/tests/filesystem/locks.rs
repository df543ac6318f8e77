//! Locks between programs on one machine.

use std::{fs::File, process::Command};

use p2pfs_tests::peer::Peer;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::refuses;

#[test]
fn a_whole_file_is_locked_by_one() {
    let peer = Peer::alone();
    let one = File::create(peer.at("f")).unwrap();
    let other = File::open(peer.at("f")).unwrap();
    flock(&one, FlockOperation::LockExclusive).unwrap();
    refuses(flock(&other, FlockOperation::NonBlockingLockExclusive), Errno::WOULDBLOCK);
    refuses(flock(&other, FlockOperation::NonBlockingLockShared), Errno::WOULDBLOCK);
    drop(one);
    flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
}

/// Record locks belong to processes, so a second one has to try.
#[test]
fn ranges_are_locked_by_processes() {
    let peer = Peer::alone();
    std::fs::write(peer.at("f"), "content").unwrap();
    let line = "
import fcntl, subprocess, sys
f = open('f', 'r+b')
fcntl.lockf(f, fcntl.LOCK_EX, 4, 0)
test = '''
import fcntl
f = open('f', 'r+b')
fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 4, 4)
try:
    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 3)
    raise SystemExit(1)
except OSError:
    pass
'''
sys.exit(subprocess.run([sys.executable, '-c', test]).returncode)";
    p2pfs_tests::tool::succeed(Command::new("python3").args(["-c", line]).current_dir(peer.root()));
}
