//! Power that fails at any moment: what `fsync` acknowledged is there, everything that is there is whole and reads, and
//! the volume goes on. Needs root, for a disk whose power a test can cut.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use p2pfs_tests::{
    history::{History, look},
    patience::eventually,
    peer::Peer,
    power::{self, Disk, Platter, Recording},
    random::Random,
    registry::Registry,
    scratch::Scratch,
    setting,
    tool::run,
    tree::differences,
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

/// Alice's disk loses power again and again while she and bob work; bob lives on.
struct Story {
    // Ends before the disk that it is on.
    alice: Peer,
    bob: Peer,
    disk: Option<Disk>,
    /// What alice's disk began with when it was put in.
    image: PathBuf,
    memory: PathBuf,
    round: usize,
    _registry: Registry,
    scratch: Arc<Scratch>,
}

/// Sets its flag at any rate: threads that wait for it must end, also when the test fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn count(peer_root: &Path) -> u64 {
    fs::read_to_string(peer_root.join("count")).unwrap().parse().unwrap()
}

/// Replaces the file that counts, as a whole.
fn set_count(root: &Path, count: u64) -> std::io::Result<()> {
    fs::write(root.join("count.new"), count.to_string())?;
    fs::rename(root.join("count.new"), root.join("count"))
}

impl Story {
    fn begin() -> Self {
        let scratch = Arc::new(Scratch::new());
        let memory = memory(&scratch);
        let image = memory.join("image");
        power::format(&image, 2 * DISK_MIB);
        let folder = scratch.make("disk");
        let disk = Disk::insert(&scratch, &image, &folder);
        let home = folder.join("home");
        fs::create_dir(&home).unwrap();
        let mut alice = Peer::with_home(&scratch, "alice", home);
        let registry = Registry::start(&scratch);
        alice.init(&["--registry", registry.address()]);
        alice.mount();
        let mut bob = Peer::new(&scratch, "bob");
        bob.join(&alice.invite());
        bob.mount();
        alice.await_connected(1);
        fs::create_dir(bob.at("b")).unwrap();
        set_count(alice.root(), 0).unwrap();
        let story = Self { scratch, memory, image, disk: Some(disk), alice, bob, round: 0, _registry: registry };
        story.in_step();
        story
    }

    fn in_step(&self) {
        self.alice.await_connected(1);
        self.alice.wait();
        self.bob.wait();
        let same = || differences(self.alice.root(), self.bob.root());
        eventually(&format!("both show the same after {} cuts", self.round), same);
    }

    /// Both work; the power of alice's disk fails; she is back. `of_bob` goes on all the time.
    fn cut(&mut self, of_bob: &mut Workload, random: &mut Random) {
        self.round += 1;
        let when = format!("cut {}", self.round);
        let folder = self.alice.at(format!("a{}", self.round));
        fs::create_dir(&folder).unwrap();
        fs::File::open(&folder).unwrap().sync_all().unwrap();
        let recording = self.disk.as_ref().unwrap().recording();
        let clock = recording.clone();
        let mut of_alice = Workload::new(&folder, move || clock.moment()).unwrap();
        let (alice_done, bob_done) = (AtomicBool::new(false), AtomicBool::new(false));
        let (alice_root, bob_root) = (self.alice.root().to_owned(), self.bob.root().to_owned());
        let (mut steps, mut bobs_steps) = (Random::new(random.draw()), Random::new(random.draw()));
        thread::scope(|scope| {
            let _ends = (SetAtEnd(&alice_done), SetAtEnd(&bob_done));
            let bobs_work = scope.spawn(|| {
                while !bob_done.load(Ordering::Relaxed) {
                    of_bob.step(&mut bobs_steps).unwrap();
                    // Her small disk keeps every version of what he writes: so slowly that any machine's pace fits.
                    thread::sleep(Duration::from_micros(bobs_steps.below(50_000)));
                }
                of_bob.rest().unwrap();
            });
            // What bob sees of alice's work never goes back, whatever happens to her.
            let bob_sees = scope.spawn(|| {
                let mut seen = count(&bob_root);
                while !bob_done.load(Ordering::Relaxed) {
                    let now = count(&bob_root);
                    assert!(now >= seen, "bob saw {seen}, and then {now}");
                    seen = now;
                    thread::sleep(Duration::from_millis(1));
                }
                seen
            });
            let alices_work = scope.spawn(|| {
                for number in count(&alice_root) + 1.. {
                    let done = of_alice.step(&mut steps).and_then(|()| set_count(&alice_root, number));
                    if alice_done.load(Ordering::Relaxed) {
                        break;
                    }
                    // The daemon is killed in the middle of a call.
                    if let Err(error) = done {
                        thread::sleep(Duration::from_secs(2));
                        assert!(alice_done.load(Ordering::Relaxed), "{when}: {error} before the cut");
                        break;
                    }
                }
                of_alice
            });
            let home = self.alice.home().to_owned();
            let pause = Duration::from_millis(20 + random.below(300));
            let moment = with_write_back(&home, random, || {
                thread::sleep(pause);
                self.alice.kill9();
                alice_done.store(true, Ordering::Relaxed);
                // All that anybody was sent is on the disk since before this moment.
                recording.moment()
            });
            let of_alice = alices_work.join().unwrap();
            self.lose_power(&recording, moment, random);
            self.alice.mount();
            let log = || self.alice.log_text();
            let found = look(&folder).unwrap_or_else(|e| panic!("{when}: {e}\n{}", log()));
            of_alice.history.place(moment, &found).unwrap_or_else(|e| panic!("{when}: {e}\n{}", log()));
            self.alice.await_connected(1);
            bob_done.store(true, Ordering::Relaxed);
            bobs_work.join().unwrap();
            let seen = bob_sees.join().unwrap();
            self.in_step();
            // Bob knew nothing of her work that she had not kept.
            assert!(look(&folder).unwrap() == found, "{when}: alice learns of her own work\n{}", log());
            assert!(count(&alice_root) >= seen, "{when}: bob saw {seen}, alice goes on from {}", count(&alice_root));
        });
        assert!(look(&self.bob.at("b")).unwrap() == *of_bob.history.now(), "{when}: all of bob's work");
        assert!(
            !self.alice.log_text().contains("forked") && !self.alice.log_text().contains("older copy"),
            "{when}: {}",
            self.alice.log_text()
        );
    }

    /// What is left of alice's disk when power fails at `moment` is what it goes on with.
    fn lose_power(&mut self, recording: &Recording, moment: usize, random: &mut Random) {
        let folder = self.disk.as_ref().unwrap().folder().to_owned();
        let (work, target) = (self.memory.join("work"), self.memory.join("target"));
        Platter::new(&self.image, recording, &work).after_loss(moment, random, &target);
        self.disk = None;
        fs::remove_file(work).unwrap();
        fs::rename(target, &self.image).unwrap();
        self.disk = Some(Disk::insert(&self.scratch, &self.image, &folder));
    }

    fn verify(&self) {
        for peer in [&self.alice, &self.bob] {
            peer.run(["verify"]);
        }
    }
}

#[test]
fn a_live_peer_meets_no_contradiction_whenever_power_fails() {
    let mut random = Random::seeded();
    let mut left = setting("P2PFS_TEST_PEER_CUTS", 16);
    while left > 0 {
        let cuts = left.min(16);
        let mut story = Story::begin();
        let moment = AtomicUsize::new(1);
        let mut of_bob = Workload::new(&story.bob.at("b"), move || moment.fetch_add(1, Ordering::Relaxed)).unwrap();
        for cut in 0..cuts {
            story.cut(&mut of_bob, &mut random);
            if cut % 5 == 4 {
                story.verify();
            }
        }
        // A log that had forked would be found now.
        story.alice.unmount();
        story.alice.mount();
        story.in_step();
        story.verify();
        assert!(
            !story.alice.log_text().contains("forked") && !story.alice.log_text().contains("older copy"),
            "{}",
            story.alice.log_text()
        );
        let devices = story.bob.listing("devices");
        assert_eq!(devices.as_array().unwrap().len(), 2);
        story.alice.unmount();
        left -= cuts;
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
