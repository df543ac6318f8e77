//! Daemons that are killed at any instant: what was acknowledged is there, and nobody is left behind.
//!
//! The load keeps a ledger: what it was told is done. A call that failed because the daemon died may have happened or
//! not, so its names leave the ledger. After each kill the ledger is held against the mount that came back.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use p2pfs_tests::{
    group::Group,
    history::look,
    patience::eventually,
    peer::Peer,
    random::Random,
    scratch::Scratch,
    setting,
    tool::{git, git_command, run},
    tree,
    workload::{Workload, close},
};

fn kills() -> u64 {
    setting("P2PFS_TEST_KILLS", 10)
}

/// What was acknowledged: the content of each name.
#[derive(Debug, Default)]
struct Ledger {
    files: BTreeMap<String, Vec<u8>>,
    next: u64,
    done: u64,
}

impl Ledger {
    /// Does one thing to the folder. An error says that the daemon is gone.
    fn step(&mut self, folder: &Path, random: &mut Random) -> io::Result<()> {
        let len = match random.below(10) {
            0 => random.below(400_000),
            _ => random.below(8_000),
        };
        let content = random.bytes(len as usize);
        match (random.below(8), self.any(random)) {
            (0, Some(name)) => self.unsure(&[&name], |_| fs::remove_file(folder.join(&name)))?,
            (1 | 2, Some(name)) => {
                let to = self.new_name();
                let known = self.files[&name].clone();
                self.unsure(&[&name, &to], |_| fs::rename(folder.join(&name), folder.join(&to)))?;
                self.files.insert(to, known);
            }
            // As editors do.
            (3, Some(name)) => {
                self.unsure(&[&name], |_| {
                    let temporary = folder.join("temporary");
                    fs::write(&temporary, &content)?;
                    fs::rename(temporary, folder.join(&name))
                })?;
                self.files.insert(name, content);
            }
            (4, Some(name)) => {
                self.unsure(&[&name], |known| {
                    let mut file = File::options().append(true).open(folder.join(&name))?;
                    file.write_all(b"appended")?;
                    file.sync_data()?;
                    known[0].extend_from_slice(b"appended");
                    // Not closed well: what fsync acknowledged must do.
                    Ok(())
                })?;
            }
            (5, Some(name)) => {
                self.unsure(&[&name], |_| write_and_close(&folder.join(&name), &content))?;
                self.files.insert(name, content);
            }
            _ => {
                let name = self.new_name();
                self.unsure(&[&name], |_| write_and_close(&folder.join(&name), &content))?;
                self.files.insert(name, content);
            }
        }
        self.done += 1;
        Ok(())
    }

    fn any(&self, random: &mut Random) -> Option<String> {
        let count = self.files.len() as u64;
        (count > 0).then(|| self.files.keys().nth(random.below(count) as usize).unwrap().clone())
    }

    fn new_name(&mut self) -> String {
        self.next += 1;
        format!("file {}", self.next)
    }

    /// Takes `names` out while `call` runs; the first comes back, as `call` leaves it, when it succeeds and names only
    /// that one.
    fn unsure(&mut self, names: &[&str], call: impl FnOnce(&mut Vec<Vec<u8>>) -> io::Result<()>) -> io::Result<()> {
        let mut known: Vec<Vec<u8>> = names.iter().map(|name| self.files.remove(*name).unwrap_or_default()).collect();
        let appended = known[0].len();
        call(&mut known)?;
        if known[0].len() > appended {
            self.files.insert(names[0].to_owned(), known.swap_remove(0));
        }
        Ok(())
    }

    /// Holds the ledger against what is there.
    fn check(&self, folder: &Path, when: &str) {
        for (name, content) in &self.files {
            let found = fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{when}: {name} is lost: {e}"));
            assert!(found == *content, "{when}: {name} has {} bytes, not {}", found.len(), content.len());
        }
    }
}

/// `fs::write` doesn't tell what close says.
fn write_and_close(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    close(file)
}

/// Works in `folder` until the daemon dies.
fn work(ledger: &mut Ledger, folder: &Path, random: &mut Random) -> io::Error {
    loop {
        if let Err(e) = ledger.step(folder, random) {
            return e;
        }
    }
}

/// Lets `peer`'s daemon die at a random instant while there is work, then mounts again and checks.
fn kill_under_load(peer: &mut Peer, ledger: &mut Ledger, folder: &str, random: &mut Random, when: &str) {
    let path = peer.at(folder);
    let delay = Duration::from_micros(random.below(400_000));
    let mut of_worker = Random::new(random.draw());
    let error = thread::scope(|scope| {
        let worker = scope.spawn(|| work(ledger, &path, &mut of_worker));
        thread::sleep(delay);
        peer.kill9();
        worker.join().unwrap()
    });
    // The last is the kernel's own, for a request that the daemon was just reading when it died.
    let expected = [libc::ENOTCONN, libc::ECONNABORTED, libc::EIO].map(Some);
    assert!(expected.contains(&error.raw_os_error()), "{when}: {error}");
    let log = peer.log_text();
    assert!(!log.contains("ERROR"), "{when}: {log}");
    peer.mount();
    ledger.check(&path, when);
    // What the interrupted call left is in nobody's ledger.
    let _ = fs::remove_file(path.join("temporary"));
}

#[test]
fn everything_acknowledged_outlives_kills_of_either_daemon() {
    let mut random = Random::seeded();
    let mut group = Group::two();
    let folders = ["of alice", "of bob"];
    for (peer, folder) in group.peers.iter().zip(folders) {
        fs::create_dir(peer.at(folder)).unwrap();
    }
    group.in_step();
    let mut ledgers = [Ledger::default(), Ledger::default()];
    for kill in 0..kills() {
        let side = random.below(2) as usize;
        let when = format!("kill {kill} of {}", group.peers[side].name());
        kill_under_load(&mut group.peers[side], &mut ledgers[side], folders[side], &mut random, &when);
    }
    let done: u64 = ledgers.iter().map(|ledger| ledger.done).sum();
    println!("{done} calls acknowledged");
    assert!(done > kills() * 3, "there was load: {done}");
    group.peers.iter().for_each(|peer| peer.await_connected(1));
    group.in_step();
    for (ledger, folder) in ledgers.iter().zip(folders) {
        for peer in &group.peers {
            ledger.check(&peer.at(folder), &format!("at the end, at {}", peer.name()));
        }
    }
    for peer in &group.peers {
        assert!(!peer.log_text().contains("older copy"), "dying is no copy: {}", peer.log_text());
    }
}

/// The other side dies while it takes in what this side makes.
#[test]
fn a_daemon_killed_while_it_receives_gets_everything() {
    let mut random = Random::seeded();
    let mut group = Group::two();
    fs::create_dir(group.alice().at("d")).unwrap();
    let mut ledger = Ledger::default();
    for _ in 0..kills() {
        let path = group.alice().at("d");
        for _ in 0..30 {
            ledger.step(&path, &mut random).unwrap();
        }
        thread::sleep(Duration::from_micros(random.below(50_000)));
        group.peers[1].kill9();
        group.peers[1].mount();
    }
    group.peers.iter().for_each(|peer| peer.await_connected(1));
    group.in_step();
    ledger.check(&group.bob().at("d"), "at bob");
}

/// A daemon that dies while the disk is synced for it may be the one that others already heard from.
#[test]
fn both_daemons_die_at_once() {
    let mut random = Random::seeded();
    let mut group = Group::two();
    fs::create_dir(group.alice().at("d")).unwrap();
    group.in_step();
    let mut ledger = Ledger::default();
    for kill in 0..kills().div_ceil(2) {
        let path = group.alice().at("d");
        for _ in 0..random.below(40) {
            ledger.step(&path, &mut random).unwrap();
        }
        for side in [0, 1] {
            group.peers[side].kill9();
        }
        for side in [0, 1] {
            group.peers[side].mount();
        }
        ledger.check(&path, &format!("kill {kill}"));
    }
    group.peers.iter().for_each(|peer| peer.await_connected(1));
    group.in_step();
    ledger.check(&group.bob().at("d"), "at bob");
}

/// Commits that git said are made, and nothing broken beside them.
#[test]
fn a_git_repository_stays_sound() {
    let mut random = Random::seeded();
    let mut group = Group::two();
    let repository = group.alice().at("repository");
    fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "-q"]);
    let mut acknowledged = Vec::new();
    let mut next = 0;
    for kill in 0..kills() {
        let dead = AtomicBool::new(false);
        let delay = Duration::from_millis(random.below(300));
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                while !dead.load(Ordering::Relaxed) {
                    next += 1;
                    if let Some(commit) = commit(&repository, next) {
                        acknowledged.push(commit);
                    }
                }
            });
            thread::sleep(delay);
            group.peers[0].kill9();
            dead.store(true, Ordering::Relaxed);
            worker.join().unwrap();
        });
        group.peers[0].mount();
        git(&repository, &["fsck", "--full", "--strict"]);
        let log = log(&repository);
        for commit in &acknowledged {
            assert!(log.contains(commit), "kill {kill}: {commit} was made");
        }
        // As git tells its user to do after a crash.
        for lock in ["index.lock", "HEAD.lock", "refs/heads/main.lock"] {
            let _ = fs::remove_file(repository.join(".git").join(lock));
        }
        git(&repository, &["add", "-A"]);
    }
    assert!(!acknowledged.is_empty());
    group.peers.iter().for_each(|peer| peer.await_connected(1));
    group.in_step();
    git(&group.bob().at("repository"), &["fsck", "--full", "--strict"]);
    assert_eq!(log(&group.bob().at("repository")), log(&repository));
}

fn log(repository: &Path) -> Vec<String> {
    if git_command(repository, &["rev-parse", "-q", "--verify", "HEAD"]).output().unwrap().status.success() {
        git(repository, &["log", "--format=%H"]).lines().map(str::to_owned).collect()
    } else {
        Vec::new()
    }
}

/// Makes a commit; its hash when git says that it is made.
fn commit(repository: &Path, number: u64) -> Option<String> {
    fs::write(repository.join(format!("file {}", number % 20)), format!("content {number}")).ok()?;
    let run = |arguments: &[&str]| git_command(repository, arguments).output().ok().filter(|o| o.status.success());
    run(&["add", "-A"])?;
    run(&["commit", "-qm", "more"])?;
    let head = run(&["rev-parse", "HEAD"])?;
    Some(String::from_utf8(head.stdout).ok()?.trim().to_owned())
}

/// In the background, as people mount: the next `mount` finds the dead mount and clears it away.
#[test]
fn the_next_mount_clears_a_dead_one_away() {
    let mut peer = Peer::alone();
    fs::write(peer.at("f"), "content").unwrap();
    // The kernel remembers the answer, and gives it for a dead mount too.
    fs::metadata(peer.root()).unwrap();
    peer.kill9();
    assert!(fs::read_dir(peer.root()).is_err(), "the mount is dead");
    let told = peer.run([OsStr::new("mount"), peer.root().as_os_str()]);
    assert_eq!(told, format!("mounted at {}", peer.root().display()));
    assert_eq!(fs::read(peer.at("f")).unwrap(), b"content");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let here = mounts.lines().filter(|line| line.split(' ').nth(4) == peer.root().to_str()).count();
    assert_eq!(here, 1, "the dead one is gone, not covered");
    peer.run([OsStr::new("unmount"), peer.root().as_os_str()]);
    assert_eq!(fs::read_dir(peer.root()).unwrap().count(), 0);
}

/// How far apart the calls are before which a daemon dies; 1: before each.
fn kill_step() -> u64 {
    setting("P2PFS_TEST_KILL_STEP", 13)
}

/// What the daemon does before it is unmounted.
const STEPS: u64 = 25;

/// The calls to die before: every few, another few with each seed.
fn kill_points(random: &mut Random) -> impl Iterator<Item = u64> {
    let step = kill_step();
    (1 + random.below(step)..).step_by(usize::try_from(step).unwrap())
}

/// Mounts, works and unmounts, the same each time, until the daemon is gone. Tells whether it got through.
fn work_and_unmount(peer: &mut Peer, workload: &mut Option<Workload>) -> bool {
    if !peer.try_mount().starts_with("mounted at ") {
        return false;
    }
    let moment = AtomicUsize::new(1);
    let Ok(begun) = Workload::new(peer.root(), move || moment.fetch_add(1, Ordering::Relaxed)) else {
        assert!(!peer.await_end().success(), "it can't be read only when the daemon is dead");
        return false;
    };
    let workload = workload.insert(begun);
    let mut steps = Random::new(7);
    for _ in 0..STEPS {
        if workload.step(&mut steps).is_err() {
            let _ = workload.rest();
            assert!(!peer.await_end().success(), "a call fails only when the daemon is dead");
            return false;
        }
        workload.acknowledged();
    }
    // It may die while this is going on, and that be answered as success: it is gone.
    let _ = (workload.rest(), peer.command([OsStr::new("unmount"), peer.root().as_os_str()]).output());
    peer.await_end().success()
}

#[test]
fn a_daemon_killed_before_any_change_of_its_files_goes_on() {
    let mut random = Random::seeded();
    let scratch = Arc::new(Scratch::new());
    let template = Peer::new(&scratch, "template");
    template.init(&[]);
    let mut points = kill_points(&mut random);
    let mut deaths = 0;
    loop {
        let at = points.next().unwrap();
        let mut peer = Peer::new(&scratch, &format!("k{at}"));
        run(
            "cp",
            ["-a", "--sparse=always", &format!("{}/.", template.home().display()), peer.home().to_str().unwrap()],
        );
        peer.with_faults();
        peer.faults().kill_at(at);
        let mut workload = None;
        let through = work_and_unmount(&mut peer, &mut workload);
        let calls = peer.faults().calls();
        peer.without_faults();
        peer.mount();
        let found = look(peer.root()).unwrap_or_else(|e| panic!("killed before call {at}: {e}"));
        if let Some(workload) = &workload {
            let place = workload.history.place(usize::MAX, &found);
            place.unwrap_or_else(|e| panic!("killed before call {at}: {e}"));
        }
        fs::write(peer.at("after"), "content").unwrap();
        peer.unmount();
        if through {
            println!("{deaths} deaths, in {calls} calls");
            assert!(calls < at && deaths > 0);
            return;
        }
        deaths += 1;
        fs::remove_dir_all(peer.home()).unwrap();
    }
}

/// A volume is made wholly or not at all: after any death, it is there and works, or `init` makes it.
#[test]
fn an_init_killed_before_any_change_can_be_made_up_for() {
    let scratch = Arc::new(Scratch::new());
    let mut random = Random::seeded();
    let mut deaths = 0;
    for at in kill_points(&mut random).step_by(9) {
        let mut peer = Peer::new(&scratch, &format!("k{at}"));
        peer.with_faults();
        peer.faults().kill_at(at);
        let arguments = ["init", "--name", peer.name(), "--no-passphrase"];
        let done = peer.command(arguments).output().unwrap().status.success();
        peer.without_faults();
        deaths += u64::from(!done);
        if !done && !peer.try_mount().starts_with("mounted at ") {
            peer.init(&[]);
        }
        if peer.is_dead() {
            peer.mount();
        }
        fs::write(peer.at("f"), "content").unwrap();
        assert_eq!(fs::read(peer.at("f")).unwrap(), b"content", "killed before call {at}");
        peer.unmount();
        fs::remove_dir_all(peer.home()).unwrap();
        if done {
            println!("{deaths} deaths");
            assert!(deaths > 0);
            return;
        }
    }
}

/// Whoever dies while joining, or in the first sync after it, can go on: with the same ticket or by mounting.
#[test]
fn a_joiner_killed_before_any_change_gets_in() {
    let mut random = Random::seeded();
    let group = Group::two();
    let alice = group.alice();
    fs::write(alice.at("f"), random.bytes(300_000)).unwrap();
    let scratch = Arc::new(Scratch::new());
    let mut deaths = 0;
    for at in kill_points(&mut random).step_by(8) {
        let mut peer = Peer::new(&scratch, &format!("k{at}"));
        let ticket = alice.invite();
        peer.with_faults();
        peer.faults().kill_at(at);
        let mut through = peer
            .command(["join", &ticket, "--name", peer.name(), "--no-passphrase"])
            .output()
            .unwrap()
            .status
            .success();
        if through {
            through =
                peer.try_mount().starts_with("mounted at ") && tree::differences(alice.root(), peer.root()).is_ok();
            through &= !peer.is_dead();
        }
        let calls = peer.faults().calls();
        deaths += u64::from(!through);
        if !peer.is_dead() {
            // It would die in what follows, at any moment: better now.
            peer.kill9();
        }
        peer.without_faults();
        if !peer.try_mount().starts_with("mounted at ") {
            join_again(&peer, alice, &ticket);
        }
        if peer.is_dead() {
            peer.mount();
        }
        eventually(&format!("killed before call {at}, it has everything"), || {
            tree::differences(alice.root(), peer.root())
        });
        peer.unmount();
        fs::remove_dir_all(peer.home()).unwrap();
        if through {
            println!("{deaths} deaths, in {calls} calls");
            assert!(deaths > 0);
            return;
        }
    }
}

/// Joins after a death. Whoever was let in and died before keeping its keys is another user the next time.
fn join_again(peer: &Peer, alice: &Peer, ticket: &str) {
    let again = peer.command(["join", ticket, "--name", peer.name(), "--no-passphrase"]).output().unwrap();
    if !again.status.success() {
        let said = String::from_utf8_lossy(&again.stderr);
        assert!(said.contains("this ticket has been used: ask for a new one"), "{said}");
        peer.run(["join", &alice.invite(), "--name", &format!("{}-again", peer.name()), "--no-passphrase"]);
    }
}
