//! Power that fails at any moment: what `fsync` acknowledged is there, everything that is there is whole and reads, and
//! the volume goes on. Needs root, for a disk whose power a test can cut.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use p2pfs_tests::{
    history::{History, look},
    peer::Peer,
    power::{self, Disk, Platter, Recording},
    random::Random,
    scratch::Scratch,
    setting,
    tool::run,
    workload::Workload,
};

const DISK_MIB: u64 = 256;
/// Steps of the recorded run.
const STEPS: u64 = 250;

fn cuts() -> u64 {
    setting("P2PFS_TEST_CUTS", 60)
}

/// A folder in memory for images: they are large and short-lived.
fn memory(scratch: &Scratch) -> PathBuf {
    let folder = scratch.make("memory");
    run("mount", ["-t", "tmpfs", "-o", "size=3g,mode=0700", "p2pfs-test", folder.to_str().unwrap()]);
    folder
}

/// Writes back what it likes of a disk while `work` runs.
fn with_write_back<R>(home: &Path, random: &mut Random, work: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    let mut of_writer = Random::new(random.draw());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                power::write_back_some(home, &mut of_writer);
                thread::sleep(Duration::from_micros(of_writer.below(20_000)));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// One run of a lone member, with everything that the disk was told.
fn recorded_run(scratch: &Arc<Scratch>, image: &Path, random: &mut Random) -> (History, Recording) {
    let folder = scratch.make("disk");
    let disk = Disk::insert(scratch, image, &folder);
    let recording = disk.recording();
    let mut peer = Peer::with_home(scratch, "recorded", folder.join("home"));
    peer.mount();
    let clock = recording.clone();
    let mut workload = Workload::new(peer.root(), move || clock.moment()).unwrap();
    let mut steps = random.clone();
    with_write_back(&folder.join("home"), random, || {
        for _ in 0..STEPS {
            workload.step(&mut steps).unwrap();
        }
        workload.rest().unwrap();
        peer.unmount();
    });
    workload.history.durable(recording.moment());
    (workload.history, recording)
}

/// A disk with a new volume on it, unmounted in order.
fn new_volume(scratch: &Arc<Scratch>, image: &Path) {
    power::format(image, DISK_MIB);
    let folder = scratch.make("first");
    power::mount(image, &folder);
    let home = folder.join("home");
    fs::create_dir(&home).unwrap();
    Peer::with_home(scratch, "first", home).init(&[]);
    power::unmount(&folder);
}

#[test]
fn every_cut_leaves_a_state_that_was_and_nothing_older_than_synced() {
    let mut random = Random::seeded();
    let scratch = Arc::new(Scratch::new());
    let memory = memory(&scratch);
    let image = memory.join("image");
    new_volume(&scratch, &image);
    let (history, recording) = recorded_run(&scratch, &image, &mut random);
    let mut platter = Platter::new(&image, &recording, &memory.join("platter"));
    let mut moments: Vec<usize> = (0..cuts()).map(|_| recording.some_moment(&mut random)).collect();
    moments.sort_unstable();
    let folder = scratch.make("cut");
    let mut peer = Peer::with_home(&scratch, "cut", folder.join("home"));
    let target = memory.join("cut");
    println!("{} states, {} events", history.len(), recording.moment());
    for (number, moment) in moments.into_iter().enumerate() {
        platter.after_loss(moment, &mut random, &target);
        power::mount(&target, &folder);
        let when = format!("cut {number} at {moment}");
        peer.mount();
        let found = look(peer.root()).unwrap_or_else(|e| panic!("{when}: {e}\n{}", peer.log_text()));
        let place = history.place(moment, &found).unwrap_or_else(|e| panic!("{when}: {e}\n{}", peer.log_text()));
        println!("{when}: state {place}, durable was {}", history.durable_at(moment));
        goes_on(&mut peer, &when, &found);
        peer.unmount();
        power::unmount(&folder);
        fs::remove_file(&target).unwrap();
    }
}

/// Work goes on where power failed, over another crash.
fn goes_on(peer: &mut Peer, when: &str, found: &p2pfs_tests::history::State) {
    let content = vec![7; 200_000];
    fs::write(peer.at("after"), &content).unwrap();
    peer.kill9();
    peer.mount();
    assert!(fs::read(peer.at("after")).unwrap() == content, "{when}");
    fs::remove_file(peer.at("after")).unwrap();
    assert!(look(peer.root()).unwrap() == *found, "{when}: nothing changes over a restart");
}
