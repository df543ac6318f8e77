//! Nobody is shown an older version than before: not when contents are nowhere to be had, not by a store put back from a
//! backup, not by a member who serves what was.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::{
        fs::{FileExt, OpenOptionsExt},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crypto::Hash;
use p2pfs_tests::{
    group::Group,
    mapping::Mapping,
    patience::{eventually, holds},
    peer::Peer,
    random::Random,
    rogue::Rogue,
    setting,
    tool::{shell, succeed},
};
use serde_json::Value;
use volume::{Message, commit::ClaimedCommit, sync::Tip};

const MAPPED: &str = "P2PFS_TEST_MAPPED";

/// How long bob's readers wait.
const TIMEOUT: Duration = Duration::from_secs(2);

fn is_eio<T>(done: io::Result<T>) -> bool {
    done.err().and_then(|e| e.raw_os_error()) == Some(libc::EIO)
}

/// The program below: what it reads through a mapping it survives only if it is there.
#[test]
fn reads_through_a_mapping() {
    let Some(path) = env::var_os(MAPPED) else { return };
    let file = File::options().read(true).write(true).open(path).unwrap();
    assert_eq!(Mapping::new(&file, 4096).unwrap().load(100, 1).len(), 1);
}

fn map_in_another_process(path: &Path) -> std::process::ExitStatus {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "backwards::reads_through_a_mapping"]).env(MAPPED, path).output().unwrap().status
}

/// What bob's status says is waited for, by path.
fn waiting(peer: &Peer) -> BTreeMap<String, Value> {
    let status = peer.listing("status");
    let all = status["waiting"].as_array().unwrap().clone();
    all.into_iter().map(|file| (file["path"].as_str().unwrap().to_owned(), file)).collect()
}

#[test]
fn contents_that_nobody_here_has_are_an_error_and_status_says_who_has_them() {
    const FILES: usize = 40;
    let mut group = Group::two();
    let mut random = Random::new(5);
    let name = |number: usize| format!("secret-{number}");
    let was = random.bytes(90_000);
    fs::write(group.alice().at("changed"), &was).unwrap();
    group.in_step();
    thread::sleep(Duration::from_millis(50));
    let then = jiff::Timestamp::now();
    thread::sleep(Duration::from_millis(50));
    let contents: Vec<_> = (0..FILES).map(|_| random.bytes(100_000)).collect();
    for (number, content) in contents.iter().enumerate() {
        fs::write(group.alice().at(name(number)), content).unwrap();
    }
    fs::write(group.alice().at("changed"), "now").unwrap();
    group.in_step();
    // Bob loses all contents but those that are in commits, and is alone.
    group.peers.iter_mut().for_each(Peer::unmount);
    let bob = &mut group.peers[1];
    fs::remove_dir_all(bob.volume_folder().join("packs")).unwrap();
    bob.set_options(&["--absent-timeout", "2s"]);
    bob.mount();
    assert!(waiting(bob).is_empty());

    let start = Instant::now();
    assert!(is_eio(fs::read(bob.at(name(0)))));
    assert!(start.elapsed() >= TIMEOUT, "it waits");
    let copy = Command::new("cp").arg(bob.at(name(0))).arg(bob.scratch().join("copy")).output().unwrap();
    assert!(!copy.status.success() && String::from_utf8_lossy(&copy.stderr).contains("Input/output error"));
    let start = Instant::now();
    thread::scope(|scope| {
        for number in 0..FILES {
            let path = bob.at(name(number));
            scope.spawn(move || assert!(is_eio(fs::read(path))));
        }
        // What is here is read meanwhile.
        assert_eq!(fs::read(bob.at("changed")).unwrap(), b"now");
        assert!(start.elapsed() < TIMEOUT);
        let waits = waiting(bob);
        assert!(waits.values().any(|file| file["readers"].as_u64() > Some(0)), "{waits:?}");
    });
    let took = start.elapsed();
    assert!(took < TIMEOUT * 5, "all wait at once: {took:?}");
    assert_eq!(map_in_another_process(&bob.at(name(1))).signal(), Some(libc::SIGBUS));
    // As it was.
    let past = bob.at(format!(".p2pfs/at/{then:.3}/changed"));
    assert!(is_eio(fs::read(&past)));

    let waits = waiting(bob);
    assert_eq!(waits.len(), FILES + 1, "{waits:?}");
    assert_eq!(waits["changed"]["past"], true);
    let alice = bob.listing("peers")[0]["device"].clone();
    for file in waits.values() {
        let made_it = &file["devices"][0];
        assert_eq!((&made_it["device"], &made_it["name"]), (&alice, &"alice".into()), "{file}");
        assert_eq!((&made_it["why"], &made_it["connected"]), (&"made it".into(), &false.into()), "{file}");
        assert_eq!(file["readers"], 0, "{file}");
    }
    let shown = bob.run(["status"]);
    assert!(
        shown.contains("waiting     for secret-0 since") && shown.contains("waiting     for 21 files more"),
        "{shown}"
    );
    assert!(shown.contains("in vain: alice ") && shown.contains("made it (offline)"), "{shown}");
    let log = bob.log_text();
    let short = &alice.as_str().unwrap()[..8];
    assert!(log.contains("came from no peer in time") && log.contains(&format!("device {short} made")), "{log}");
    assert!(!log.contains("secret-") && !log.contains("changed"), "{log}");

    // She is back.
    group.peers[0].mount();
    let bob = &group.peers[1];
    bob.await_connected(1);
    for (number, content) in contents.iter().enumerate() {
        let path = bob.at(name(number));
        eventually("it can be read", || holds(fs::read(&path).is_ok_and(|read| read == *content), String::new));
    }
    assert!(map_in_another_process(&bob.at(name(1))).success());
    assert_eq!(fs::read(&past).unwrap(), was);
    assert!(waiting(bob).is_empty(), "{:?}", waiting(bob));
}

/// Who was in step and had all is named too, connected or not.
#[test]
fn a_device_that_said_to_have_all_is_named() {
    let mut group = Group::three();
    let content = Random::new(6).bytes(100_000);
    fs::write(group.alice().at("file"), &content).unwrap();
    group.all_read("file", &content);
    group.in_step();
    let carol = eventually("carol says so", || {
        let peers = group.bob().listing("peers");
        let carol = peers.as_array().unwrap().iter().find(|peer| peer["name"] == "carol").cloned().unwrap();
        if carol["in_step"] == true && carol["holds_all_mine"] == true { Ok(carol) } else { Err(peers.to_string()) }
    });
    group.peers.iter_mut().for_each(Peer::unmount);
    let bob = &mut group.peers[1];
    fs::remove_dir_all(bob.volume_folder().join("packs")).unwrap();
    bob.set_options(&["--absent-timeout", "1s"]);
    bob.mount();
    assert!(is_eio(fs::read(bob.at("file"))));
    let file = waiting(bob).remove("file").unwrap();
    let said = file["devices"].as_array().unwrap().iter().find(|holder| holder["device"] == carol["device"]).unwrap();
    assert_eq!((&said["name"], &said["why"]), (&"carol".into(), &"said to have all".into()), "{file}");
}

fn put_back(peer: &Peer, backup: &Path) {
    let home = peer.home();
    shell(peer.scratch(), &format!("rm -rf {0} && cp -a {1} {0}", home.display(), backup.display()));
}

fn back_up(peer: &Peer) -> PathBuf {
    let backup = peer.scratch().join("backup");
    shell(peer.scratch(), &format!("rm -rf {1} && cp -a {0} {1}", peer.home().display(), backup.display()));
    backup
}

#[test]
fn a_home_put_back_from_a_backup_is_noticed_and_catches_up_before_it_shows() {
    let mut group = Group::two();
    fs::write(group.alice().at("f"), "1").unwrap();
    group.in_step();
    let bob = &mut group.peers[1];
    bob.unmount();
    let backup = back_up(bob);
    bob.mount();
    group.in_step();
    fs::write(group.bob().at("of bob"), "since the backup").unwrap();
    fs::write(group.alice().at("f"), "2").unwrap();
    group.all_read("f", b"2");
    group.in_step();
    let bob = &mut group.peers[1];
    bob.kill9();
    put_back(bob, &backup);
    bob.mount();
    // Alice is there: what she knows is here before anything is.
    assert_eq!(fs::read_to_string(bob.at("f")).unwrap(), "2");
    assert_eq!(fs::read_to_string(bob.at("of bob")).unwrap(), "since the backup");
    fs::write(bob.at("after"), "3").unwrap();
    let status = bob.listing("status");
    assert!(status["older_copy"]["not_met"].as_array().unwrap().is_empty(), "{status}");
    group.in_step();
    let (alice, bob) = (group.alice(), group.bob());
    let told = alice.listing("status");
    assert_eq!(told["restored"][0]["device"], status["device"], "{told}");
    assert!(alice.listing("peers")[0]["restored"].is_string());
    assert!(alice.run(["peers"]).contains("goes on from an older copy since"));
    assert!(alice.log_text().contains("goes on from an older copy of its store"));
    assert!(bob.log_text().contains("this device's store is an older copy"));
    for peer in [alice, bob] {
        assert!(!peer.log_text().contains("two commits numbered"), "a number was used twice: {}", peer.log_text());
    }
    assert!(alice.listing("status")["older_copy"].is_null());
    // What looks the same from outside as showing old versions on purpose is told as what it may be, once, and not to bob.
    let told = alice.run(["alerts"]);
    assert!(told.contains("1  possible: bob's device") && told.contains("e.g. from a backup"), "{told}");
    assert_eq!((told.lines().count(), alice.listing("alerts")[0]["kind"].as_str()), (2, Some("rollback")), "{told}");
    assert!(!told.contains("times since"), "once: {told}");
    assert_eq!(bob.run(["alerts"]), "no alerts");
    let bob = &mut group.peers[1];
    bob.unmount();
    bob.mount();
    group.in_step();
    assert_eq!(group.alice().run(["alerts"]), told);
}

#[test]
fn a_home_put_back_offline_writes_under_a_new_log_and_says_what_may_be_missing() {
    let mut group = Group::two();
    fs::write(group.alice().at("f"), "1").unwrap();
    group.in_step();
    // Hot: the daemon works on meanwhile, but between two commits.
    let backup = back_up(group.bob());
    fs::write(group.bob().at("f"), "lost and found").unwrap();
    group.in_step();
    group.peers.iter_mut().for_each(Peer::unmount);
    let bob = &mut group.peers[1];
    put_back(bob, &backup);
    bob.mount();
    let warned = bob.run(["status"]);
    assert!(warned.contains("older copy  this device's store was put back") && warned.contains("alice"), "{warned}");
    fs::write(bob.at("f"), "offline").unwrap();
    fs::write(bob.at("offline"), "too").unwrap();
    // A second time: what was done since the first is lost with that copy, for nobody else has it.
    group.peers[0].mount();
    group.peers.iter().for_each(|peer| peer.await_connected(1));
    group.in_step();
    let shown = shell(group.alice().root(), "cat f* offline | sort");
    assert!(shown.contains("lost and found") && shown.contains("offline") && shown.contains("too"), "{shown}");
    for peer in &group.peers {
        assert!(!peer.log_text().contains("two commits numbered"), "a number was used twice: {}", peer.log_text());
    }
}

/// Contents alone put back from an older copy: that is told, and what is missing comes from peers.
#[test]
fn packs_put_back_from_a_backup_are_fetched_again() {
    let mut group = Group::two();
    let mut random = Random::new(7);
    let [old, new, newest] = [(); 3].map(|()| random.bytes(200_000));
    fs::write(group.alice().at("old"), &old).unwrap();
    group.in_step();
    group.peers[1].unmount();
    let backup = back_up(&group.peers[1]);
    group.peers[1].mount();
    fs::write(group.alice().at("new"), &new).unwrap();
    group.all_read("new", &new);
    group.in_step();
    group.peers.iter_mut().for_each(Peer::unmount);
    let bob = &mut group.peers[1];
    let packs = bob.volume_folder().join("packs");
    let inside = packs.strip_prefix(bob.home()).unwrap();
    shell(bob.scratch(), &format!("rm -rf {0} && cp -a {1} {0}", packs.display(), backup.join(inside).display()));
    bob.set_options(&["--absent-timeout", "1s"]);
    bob.mount();
    assert!(bob.log_text().contains("packs lack blocks that were synced"), "{}", bob.log_text());
    assert_eq!(fs::read(bob.at("old")).unwrap(), old);
    assert!(is_eio(fs::read(bob.at("new"))));
    // What is stored now lies where those blocks lay.
    fs::write(bob.at("newest"), &newest).unwrap();
    assert!(is_eio(fs::read(bob.at("new"))));
    group.peers[0].mount();
    group.peers.iter().for_each(|peer| peer.await_connected(1));
    succeed(&mut group.bob().command(["verify", "--repair"]));
    group.peers[0].unmount();
    for (name, content) in [("old", old), ("new", new), ("newest", newest)] {
        assert_eq!(fs::read(group.bob().at(name)).unwrap(), content, "{name}");
    }
    succeed(&mut group.bob().command(["verify"]));
    assert!(group.bob().listing("status")["older_copy"].is_null(), "its log was not touched");
}

#[test]
fn a_home_that_was_not_copied_is_no_older_copy() {
    let mut group = Group::two();
    for round in 0..3 {
        fs::write(group.bob().at("f"), round.to_string()).unwrap();
        group.in_step();
        let bob = &mut group.peers[1];
        if round == 1 {
            bob.kill9()
        } else {
            bob.unmount()
        }
        // A backup made is none put back.
        back_up(bob);
        bob.mount();
    }
    assert!(group.bob().listing("status")["older_copy"].is_null());
    assert!(!group.bob().log_text().contains("older copy"), "{}", group.bob().log_text());
    for peer in &group.peers {
        assert_eq!(peer.run(["alerts"]), "no alerts");
    }
}

/// Pages of the larger file.
const PAGES: usize = 75;
const PAGE: usize = 4096;

/// Version `number` of a file of so many pages: each begins with the number.
fn version(number: u64, pages: usize) -> Vec<u8> {
    let mut bytes = vec![b'.'; pages * PAGE];
    bytes.chunks_mut(PAGE).for_each(|page| page[..8].copy_from_slice(&number.to_le_bytes()));
    bytes
}

fn number(page: &[u8]) -> u64 {
    u64::from_le_bytes(page[..8].try_into().unwrap())
}

/// The greatest number seen in each page of a file.
struct Seen {
    file: &'static str,
    pages: Vec<AtomicU64>,
}

impl Seen {
    fn new(file: &'static str, pages: usize) -> Self {
        Self { file, pages: (0..pages).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Reads, and holds what was read against what had been seen before.
    fn check(&self, how: &str, read: impl FnOnce() -> Option<Vec<u8>>) {
        let before: Vec<u64> = self.pages.iter().map(|page| page.load(Ordering::SeqCst)).collect();
        let Some(bytes) = read() else { return };
        for (page, (bytes, before)) in bytes.chunks(PAGE).zip(before).enumerate() {
            let now = number(bytes);
            assert!(now >= before, "{} of {}: page {page} had shown {before}, then {now}", how, self.file);
            self.pages[page].fetch_max(now, Ordering::SeqCst);
        }
    }
}

/// Tells those who look that it is over, also when what fails ends the test.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A reader that always has memory at addresses as direct I/O wants it.
fn read_direct(path: &Path, len: usize) -> Option<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).ok()?;
    let mut memory = vec![0; len + PAGE];
    let skip = memory.as_ptr().align_offset(PAGE);
    let read = file.read_at(&mut memory[skip..skip + len], 0).ok()?;
    Some(memory[skip..skip + read].to_vec())
}

/// What mallory knew early on: her tips, and all the commits behind them.
fn old_state(mallory: &Rogue) -> (Vec<Tip>, Vec<ClaimedCommit>) {
    let commits = mallory.all_commits();
    let mut tips: BTreeMap<_, Tip> = BTreeMap::new();
    for commit in &commits {
        let commit = commit.clone().check().unwrap();
        let (device, log, seq) = (commit.header.device, commit.header.log, commit.header.seq);
        tips.insert((device, log), Tip { device, log, seq, hash: commit.hash });
    }
    (tips.into_values().collect(), commits)
}

/// Says over and over what was so once, and answers for blocks with nothing or with rubbish.
async fn serve_what_was(mallory: &Rogue, at: SocketAddr, ended: &AtomicBool) {
    let (tips, commits) = old_state(mallory);
    let mut round = 0u64;
    while !ended.load(Ordering::Relaxed) {
        round += 1;
        // While bob's daemon restarts, or won't hear her after rubbish, until it restarts.
        let line = tokio::time::timeout(Duration::from_secs(5), mallory.try_connect(at)).await;
        let Ok(Some(mut line)) = line else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let digest = Hash::of(crypto::Label::TicketToken, &[&round.to_le_bytes()]);
        line.say(&Message::State { digest, complete: true, commits: commits.len() as u64 }).await;
        line.say(&Message::Tips(tips.clone())).await;
        line.say(&Message::Commits(commits.clone())).await;
        let asked = tokio::time::timeout(Duration::from_millis(300), line.connection.accept_bi()).await;
        if let (Ok(Ok((mut send, _receive))), true) = (asked, round.is_multiple_of(12)) {
            // Refused or not: it is her lie.
            let _ = send.write_all(&[7; 5000]).await;
            let _ = send.finish();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        line.connection.close(0u32.into(), b"");
    }
}

#[test]
fn a_reader_never_sees_an_older_version_whoever_lies_and_whatever_restarts() {
    let rounds = setting("P2PFS_TEST_STEPS", 6);
    let mut group = Group::two();
    for (file, pages) in [("small", 1), ("large", PAGES)] {
        fs::write(group.alice().at(file), version(1, pages)).unwrap();
    }
    group.in_step();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mallory = runtime.block_on(Rogue::join(&group.alice().invite(), "mallory"));
    group.in_step();
    let seen = [Seen::new("small", 1), Seen::new("large", PAGES)];
    let direct = [Seen::new("small", 1), Seen::new("large", PAGES)];
    let (ended, lied) = (AtomicBool::new(false), AtomicBool::new(false));
    let alice = group.peers.remove(0);
    let mut bob = group.peers.remove(0);
    let bob_listens: SocketAddr = bob.listens_at().parse().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 2;
            while !ended.load(Ordering::Relaxed) {
                for (file, pages) in [("small", 1), ("large", PAGES)] {
                    fs::write(alice.at("new"), version(next, pages)).unwrap();
                    // Now in place, now by a new file of that name; the mapping is of the file.
                    if next.is_multiple_of(5) && pages == 1 {
                        fs::rename(alice.at("new"), alice.at(file)).unwrap();
                    } else {
                        let open = File::options().write(true).open(alice.at(file)).unwrap();
                        open.write_all_at(&version(next, pages), 0).unwrap();
                    }
                }
                next += 1;
                thread::sleep(Duration::from_millis(5));
            }
        });
        scope.spawn(|| {
            runtime.block_on(serve_what_was(&mallory, bob_listens, &ended));
            lied.store(true, Ordering::Relaxed);
        });
        let _over = Over(&ended);
        for round in 0..rounds {
            let over = AtomicBool::new(false);
            thread::scope(|readers| {
                let (bob, over, seen) = (&bob, &over, &seen);
                for (file, direct) in seen.iter().zip(&direct) {
                    let (path, len) = (bob.at(file.file), file.pages.len() * PAGE);
                    let again = path.clone();
                    readers.spawn(move || {
                        while !over.load(Ordering::Relaxed) {
                            file.check("read", || fs::read(&path).ok());
                        }
                    });
                    readers.spawn(move || {
                        while !over.load(Ordering::Relaxed) {
                            direct.check("O_DIRECT", || read_direct(&again, len));
                            thread::sleep(Duration::from_millis(1));
                        }
                    });
                }
                readers.spawn(move || {
                    let file = File::options().read(true).write(true).open(bob.at("large")).unwrap();
                    let mapping = Mapping::new(&file, PAGES * PAGE).unwrap();
                    while !over.load(Ordering::Relaxed) {
                        let read = || mapping.try_read().unwrap_or_else(|e| panic!("{e}, and bob: {}", bob.log_text()));
                        seen[1].check("mmap", || Some(read()));
                    }
                });
                for _ in 0..3 {
                    thread::sleep(Duration::from_millis(500));
                    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
                }
                over.store(true, Ordering::Relaxed);
            });
            if round % 2 == 0 {
                bob.kill9()
            } else {
                bob.unmount()
            }
            bob.mount();
            for (file, direct) in seen.iter().zip(&direct) {
                // Through either way: both were shown.
                let most = |page: usize| direct.pages[page].load(Ordering::SeqCst);
                for page in 0..file.pages.len() {
                    file.pages[page].fetch_max(most(page), Ordering::SeqCst);
                }
                file.check("read after a restart", || fs::read(bob.at(file.file)).ok());
            }
        }
    });
    assert!(lied.load(Ordering::Relaxed));
    for seen in &seen {
        let most = seen.pages[0].load(Ordering::SeqCst);
        assert!(most > 10, "{}: only {most} versions were seen", seen.file);
    }
    let log = bob.log_text();
    assert!(log.contains(&mallory.short()), "mallory was heard: {log}");
    succeed(&mut bob.command(["verify"]));
}
