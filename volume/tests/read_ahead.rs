//! Directories that are read ahead beside calls that change them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::common::Replica;

/// So many entries that reading them takes longer than a call that changes one.
const KEPT: usize = 200;

/// Ends what goes on beside the test, also when that fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_directory_read_ahead_shows_it_as_it_is() {
    let alice = Replica::founder("alice", 1);
    let directory = alice.mkdir("d").unwrap();
    for n in 0..KEPT {
        alice.write(&format!("d/kept{n}"), b"x").unwrap();
    }
    let names = || {
        let entries = alice.volume.read_directory(directory, 2, 1000).unwrap();
        entries.into_iter().map(|entry| (entry.name, entry.attributes.size)).collect::<Vec<_>>()
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = Stop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                alice.volume.read_ahead(directory);
            }
        });
        for n in 0..300 {
            let (name, bytes) = (format!("new{n}"), vec![b'x'; n]);
            alice.write(&format!("d/{name}"), &bytes).unwrap();
            assert!(names().contains(&(name.clone().into_bytes(), n as u64)), "{name} is there");
            alice.remove(&format!("d/{name}")).unwrap();
            assert_eq!(names().len(), KEPT, "{name} is gone");
        }
        drop(stop);
    });
    assert!(alice.volume.read_ahead(directory) <= KEPT);
}
