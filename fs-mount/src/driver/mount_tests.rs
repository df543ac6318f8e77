//! Real mounts of volumes in memory: what the kernel caches, and what happens when content isn't there.
//!
//! They need /dev/fuse and fail without it.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use crypto::{DeviceKeys, Entropy, OsEntropy, SymmetricKey, UserKeys};
use fuser::INodeNo;
use tempfile::TempDir;
use volume::{
    Caller, Clock, Error, Ino, JoinRequest, NewNode, Parts, Role, Session, Timestamp, Volume, content::MemoryBlocks,
    memory_store::MemoryStore,
};

use super::{
    MountError, MountOptions, Mounted,
    calls::{Calls, Changes, Request},
    mount,
    waits::Waits,
};

/// How long the mounts wait for absent content here.
const ABSENT_TIMEOUT: Duration = Duration::from_millis(700);
/// What takes longer than this never comes.
const NEVER: Duration = Duration::from_secs(10);

struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() }
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

fn parts(device: DeviceKeys, user: UserKeys) -> Parts {
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    Parts {
        store: Arc::new(MemoryStore::new()),
        blocks: Arc::new(MemoryBlocks::new()),
        clock: Arc::new(TestClock(Instant::now())),
        secret: SymmetricKey::generate(&OsEntropy),
        entropy,
        device,
        user,
        archive: None,
        directory: None,
    }
}

fn keys() -> (DeviceKeys, UserKeys) {
    (DeviceKeys::generate(&OsEntropy), UserKeys::generate(&OsEntropy))
}

fn volume_of_one() -> Volume {
    let (device, user) = keys();
    let volume = Volume::found(parts(device, user), "alice").unwrap();
    start_committer(&volume);
    volume
}

fn start_committer(volume: &Volume) {
    let volume = volume.clone();
    thread::spawn(move || volume.run_committer());
}

/// A volume mounted by itself.
struct Mount {
    volume: Volume,
    mounted: Mounted,
    directory: TempDir,
}

impl Mount {
    fn new(volume: Volume) -> Self {
        Self::with_owner(volume, None)
    }

    fn with_owner(volume: Volume, owner: Option<(u32, u32)>) -> Self {
        let directory = TempDir::new().unwrap();
        let mounted = mount(volume.clone(), options(directory.path(), owner)).expect("these tests need /dev/fuse");
        Self { volume, mounted, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What a failed assertion left open.
        let _ = self.mounted.detach();
        let _ = self.volume.shutdown();
    }
}

fn options(mountpoint: &Path, owner: Option<(u32, u32)>) -> MountOptions {
    MountOptions {
        mountpoint: mountpoint.to_owned(),
        source: "p2pfs".to_owned(),
        allow_other: false,
        owner,
        read_only: false,
        absent_timeout: ABSENT_TIMEOUT,
    }
}

/// Alice's and Bob's devices, joined by a thread that carries messages and, unless told not to, contents.
struct Peers {
    alice: Mount,
    bob: Mount,
    contents: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Peers {
    fn new() -> Self {
        let ((device_a, user_a), (device_b, user_b)) = (keys(), keys());
        let (alice_id, bob_id) = (device_a.id(), device_b.id());
        let alice = Volume::found(parts(device_a, user_a), "alice").unwrap();
        let ticket = alice.invite(Role::Writer, Duration::from_secs(60)).unwrap();
        let request = JoinRequest::new(&ticket, "bob", &user_b, &device_b, b"exporter", &OsEntropy).unwrap();
        let grant = alice.admit(&request, b"exporter").unwrap();
        let bob = Volume::load(parts(device_b, user_b), alice.id()).unwrap();
        bob.accept(&grant).unwrap();
        start_committer(&alice);
        start_committer(&bob);
        let (contents, over) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let ends = [alice.session(bob_id), bob.session(alice_id)];
        thread::spawn({
            let (contents, over) = (contents.clone(), over.clone());
            move || carry(&ends, &contents, &over)
        });
        eventually("bob is admitted", || bob.is_ready());
        Self { alice: Mount::new(alice), bob: Mount::new(bob), contents, over }
    }

    fn carry_contents(&self, yes: bool) {
        self.contents.store(yes, Ordering::SeqCst);
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

fn carry([a, b]: &[Session; 2], contents: &AtomicBool, over: &AtomicBool) {
    a.opening().into_iter().for_each(|message| b.receive(message).unwrap());
    b.opening().into_iter().for_each(|message| a.receive(message).unwrap());
    while !over.load(Ordering::SeqCst) {
        for (from, to) in [(a, b), (b, a)] {
            while let Some(message) = from.next_outgoing() {
                to.receive(message).unwrap();
            }
            if !contents.load(Ordering::SeqCst) {
                continue;
            }
            for hash in to.wanted(64) {
                match from.serve_block(&hash) {
                    Some(block) => to.block_arrived(&hash, &block).unwrap(),
                    None => to.block_failed(&hash),
                }
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let give_up = Instant::now() + NEVER;
    while !holds() {
        assert!(Instant::now() < give_up, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn contents(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[test]
fn a_name_whose_absence_was_cached_appears() {
    let peers = Peers::new();
    assert!(!peers.bob.path("new").exists());
    fs::write(peers.alice.path("new"), "from alice").unwrap();
    eventually("the name appears", || peers.bob.path("new").exists());
}

#[test]
fn absence_is_cached_like_presence() {
    let mount = Mount::new(volume_of_one());
    let (made, removed) = (mount.path("made"), mount.path("removed"));
    fs::write(&removed, "").unwrap();
    assert!(!made.exists() && removed.exists());
    // Past the mount, without an event: so only the kernel's cache can tell the old state.
    mount.volume.make(Ino::ROOT, b"made", NewNode::File, 0o644, &Caller::default()).unwrap();
    mount.volume.unlink(Ino::ROOT, b"removed").unwrap();
    assert!(!made.exists() && removed.exists());
}

#[test]
fn an_open_file_shows_what_a_peer_wrote() {
    let peers = Peers::new();
    fs::write(peers.alice.path("file"), "first").unwrap();
    eventually("the file comes", || contents(&peers.bob.path("file")).as_deref() == Some("first"));
    let open = File::open(peers.bob.path("file")).unwrap();
    fs::write(peers.alice.path("file"), "second").unwrap();
    eventually("the open file changes", || {
        let mut text = String::new();
        (&open).rewind().unwrap();
        (&open).read_to_string(&mut text).unwrap();
        text == "second"
    });
    assert_eq!(open.metadata().unwrap().len(), 6);
}

#[test]
fn cached_attributes_listings_and_names_follow_a_peer() {
    let peers = Peers::new();
    fs::create_dir(peers.alice.path("dir")).unwrap();
    fs::write(peers.alice.path("dir/file"), "text").unwrap();
    let (theirs, ours) = (peers.alice.path("dir/file"), peers.bob.path("dir/file"));
    eventually("the file comes", || ours.exists());
    let names = || {
        let mut names: Vec<_> = fs::read_dir(peers.bob.path("dir")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["file"]);
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o600)).unwrap();
    eventually("the mode changes", || ours.metadata().unwrap().permissions().mode() & 0o777 == 0o600);
    fs::write(peers.alice.path("dir/more"), "").unwrap();
    eventually("the listing grows", || names() == ["file", "more"]);
    fs::rename(theirs, peers.alice.path("dir/moved")).unwrap();
    eventually("the listing changes", || names() == ["more", "moved"]);
    eventually("the old name is gone", || !ours.exists());
    assert_eq!(contents(&peers.bob.path("dir/moved")).as_deref(), Some("text"));
}

#[test]
fn absent_content_is_an_error_after_a_while_and_holds_nobody_else_up() {
    let peers = Peers::new();
    peers.carry_contents(false);
    fs::write(peers.alice.path("large"), [7; 300_000]).unwrap();
    let large = peers.bob.path("large");
    eventually("the name comes", || large.metadata().is_ok_and(|m| m.len() == 300_000));
    let started = Instant::now();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn({
                let large = large.clone();
                move || fs::read(large)
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(50));
    fs::write(peers.bob.path("other"), "text").unwrap();
    assert_eq!(contents(&peers.bob.path("other")).as_deref(), Some("text"));
    assert!(started.elapsed() < ABSENT_TIMEOUT, "others wait: {:?}", started.elapsed());
    for reader in readers {
        let failure = reader.join().unwrap().unwrap_err();
        assert_eq!(failure.raw_os_error(), Some(libc::EIO));
    }
    let took = started.elapsed();
    assert!(took >= ABSENT_TIMEOUT && took < ABSENT_TIMEOUT * 2, "waited {took:?}");
}

#[test]
fn absent_content_is_waited_for() {
    let peers = Peers::new();
    peers.carry_contents(false);
    fs::write(peers.alice.path("large"), [7; 300_000]).unwrap();
    let large = peers.bob.path("large");
    eventually("the name comes", || large.metadata().is_ok_and(|m| m.len() == 300_000));
    let reader = thread::spawn({
        let large = large.clone();
        move || fs::read(large)
    });
    let writer = thread::spawn(move || File::options().write(true).open(large)?.write_at(b"bob", 100_000));
    thread::sleep(ABSENT_TIMEOUT / 4);
    peers.carry_contents(true);
    assert_eq!(reader.join().unwrap().unwrap().len(), 300_000);
    assert_eq!(writer.join().unwrap().unwrap(), 3);
}

#[test]
fn an_own_mount_shows_its_user_as_owner() {
    let mount = Mount::with_owner(volume_of_one(), Some((4242, 4243)));
    fs::write(mount.path("file"), "").unwrap();
    let file = mount.path("file").metadata().unwrap();
    assert_eq!((file.uid(), file.gid()), (4242, 4243));
    std::os::unix::fs::chown(mount.path("file"), Some(4242), Some(4243)).unwrap();
    let failure = std::os::unix::fs::chown(mount.path("file"), Some(0), None).unwrap_err();
    assert_eq!(failure.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn a_busy_mount_stays_and_says_so() {
    let mount = Mount::new(volume_of_one());
    let mut open = File::create(mount.path("file")).unwrap();
    let failure = mount.mounted.unmount().unwrap_err();
    assert!(matches!(failure, MountError::Busy(_)) && failure.to_string().contains("EBUSY"), "{failure}");
    open.write_all(b"goes on").unwrap();
    drop(open);
    mount.mounted.unmount().unwrap();
    assert!(!mount.path("file").exists());
}

#[test]
fn unmounting_from_outside_is_noticed() {
    let mount = Mount::new(volume_of_one());
    assert!(!mount.mounted.has_ended());
    assert!(Command::new("umount").arg(mount.directory.path()).status().unwrap().success());
    mount.mounted.wait().unwrap();
    mount.mounted.unmount().unwrap();
}

#[test]
fn what_was_mounted_there_since_is_left_alone() {
    let first = Mount::new(volume_of_one());
    assert!(Command::new("umount").arg(first.directory.path()).status().unwrap().success());
    first.mounted.wait().unwrap();
    let second = mount(volume_of_one(), options(first.directory.path(), None)).unwrap();
    first.mounted.unmount().unwrap();
    first.mounted.detach().unwrap();
    fs::write(first.path("file"), "second").unwrap();
    second.unmount().unwrap();
}

#[test]
fn nothing_is_mounted_over_a_living_mount() {
    let first = Mount::new(volume_of_one());
    let failure = mount(volume_of_one(), options(first.directory.path(), None)).err().unwrap();
    assert!(matches!(failure, MountError::AlreadyMounted(_)), "{failure}");
}

#[test]
fn a_mount_point_must_be_a_directory() {
    let directory = TempDir::new().unwrap();
    let failure = mount(volume_of_one(), options(&directory.path().join("missing"), None)).err().unwrap();
    assert!(matches!(&failure, MountError::Mountpoint { source, .. } if source.kind() == io::ErrorKind::NotFound));
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let failure = mount(volume_of_one(), options(&file, None)).err().unwrap();
    assert!(matches!(&failure, MountError::Mountpoint { source, .. } if source.kind() == io::ErrorKind::NotADirectory));
}

#[test]
fn a_panic_in_a_call_is_an_io_error() {
    let calls = Calls::new(volume_of_one(), Changes::default(), ABSENT_TIMEOUT, Waits::default());
    let request = Request::new("lookup", INodeNo(1));
    let result: volume::Result<()> = calls.read(request, |_| panic!("a bug in the volume"));
    assert!(matches!(result, Err(Error::Io(_))));
    assert!(calls.read(request, Volume::statistics).is_ok());
}
