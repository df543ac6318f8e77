//! Alone with a volume whose disk goes bad: whatever is hurt of what the device keeps, no wrong byte is read, no other
//! file is missing, and after `p2pfs verify --repair` only contents that were hit themselves can't be read.
//!
//! `P2PFS_DAMAGE_ROUNDS=500 cargo nextest run --cargo-profile quick -p p2pfs-tests --test damage` looks longer.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use p2pfs_tests::{
    peer::Peer,
    random::Random,
    scratch::{self, Scratch},
    setting,
    tree::{self, Entry, grow, snapshot},
};

/// Enough to come to every kind of file; each has its turn.
const ROUNDS: u64 = 14;
/// Reading what is lost waits for others first, so it is done side by side.
const READERS: usize = 48;

type Tree = BTreeMap<PathBuf, Entry>;

/// A volume with some of everything and some history, closed in order or not; and what is in it.
fn volume(scratch: &Arc<Scratch>, random: &mut Random) -> (PathBuf, Tree) {
    let mut peer = Peer::new(scratch, "sound");
    peer.init(&[]);
    peer.mount();
    grow(&peer.at("tree"), 240, 7);
    fs::write(peer.at("large"), random.bytes(3_000_000)).unwrap();
    // Tables are made of what was in the journal before.
    peer.unmount();
    peer.mount();
    let files: Vec<PathBuf> = snapshot(&peer.at("tree"))
        .unwrap()
        .into_keys()
        .map(|path| peer.at("tree").join(path))
        .filter(|p| p.is_file())
        .collect();
    for (number, path) in files.iter().enumerate() {
        match number % 9 {
            0 => fs::write(path, random.bytes(number * 40)).unwrap(),
            1 => fs::rename(path, peer.at(format!("moved {number}"))).unwrap(),
            2 => fs::remove_file(path).unwrap(),
            3 => xattr::set(path, "user.note", &random.bytes(50)).unwrap(),
            4 => fs::File::options().append(true).open(path).unwrap().write_all_at(b"more", 70_000).unwrap_or(()),
            _ => {}
        }
    }
    let is = snapshot(peer.root()).unwrap();
    if random.below(2) == 0 {
        peer.unmount();
    } else {
        // An invitation is committed and synced before it is given out; verifying brings the archive up to date.
        peer.invite();
        peer.run(["verify"]);
        peer.kill9();
        scratch::detach_below(peer.root());
    }
    (peer.home().to_owned(), is)
}

/// All files of a volume's folder, relative to the home folder.
fn kept(home: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![home.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                found.push(path.strip_prefix(home).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// What kind of file it is, by where it is.
fn kind(path: &Path) -> String {
    let text = path.to_str().unwrap();
    let parts = ["/packs/", "/commits/", "/tables/", "/blobs/", "/keyspaces/", ".jnl", "/store/"];
    let part = parts.iter().find(|part| text.contains(**part));
    part.map_or_else(|| "small".to_owned(), |part| (*part).to_owned())
}

/// Damages a file; tells how.
fn hurt(path: &Path, random: &mut Random) -> String {
    let len = fs::metadata(path).unwrap().len();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    // The store's journals are mostly a hole.
    let used = fs::read(path).unwrap().iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
    match random.below(10) {
        _ if used == 0 => "as it was".to_owned(),
        0 => {
            fs::remove_file(path).unwrap();
            "removed".to_owned()
        }
        1 => {
            let left = random.below(used);
            file.set_len(left).unwrap();
            format!("cut to {left} of {len}")
        }
        2 => {
            let page = random.below(used) / 4096 * 4096;
            file.write_all_at(&vec![0; 4096.min(len - page) as usize], page).unwrap();
            format!("zeros at {page} of {len}")
        }
        _ => {
            let flips = 1 + random.below(12);
            let mut places = Vec::new();
            for _ in 0..flips {
                let (at, bit) = (random.below(used), random.below(8));
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                byte[0] ^= 1 << bit;
                file.write_all_at(&byte, at).unwrap();
                places.push(at);
            }
            format!("flipped at {places:?} of {len}")
        }
    }
}

/// What is wrong with the tree at `root`, and how many files can't be read. `told`: it is known what is hurt, so that
/// any call may fail, but none may be wrong.
fn compare(root: &Path, is: &Tree, contents_hurt: bool, told: bool) -> (Vec<String>, usize) {
    let paths: Vec<&PathBuf> = is.keys().collect();
    let (next, unread) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wrong = parking_lot::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let is_file = is[*path].is_file();
                    match tree::read_entry(&root.join(path)) {
                        Ok(entry) if entry == is[*path] => {}
                        Ok(entry) => wrong.lock().push(format!("{}: {entry:?} for {:?}", path.display(), is[*path])),
                        Err(e) if e.raw_os_error() == Some(libc::EIO) && (told || contents_hurt && is_file) => {
                            unread.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(e) => wrong.lock().push(format!("{}: {e}", path.display())),
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner();
    match names(root) {
        Ok(names) => {
            wrong.extend(names.iter().filter(|n| !is.contains_key(*n)).map(|n| format!("{} is new", n.display())))
        }
        Err(_) if told => {}
        Err(e) => wrong.push(format!("listing: {e}")),
    }
    wrong.truncate(5);
    (wrong, unread.into_inner())
}

fn names(root: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
            found.push(entry.path().strip_prefix(root).unwrap().to_owned());
        }
    }
    Ok(found)
}

#[derive(Default, Debug)]
struct Tally {
    rounds: u64,
    refused: u64,
    unread: usize,
}

#[test]
fn whatever_is_damaged_alone_nothing_wrong_is_read_and_nothing_else_is_lost() {
    let mut random = Random::seeded();
    let rounds = setting("P2PFS_DAMAGE_ROUNDS", ROUNDS);
    let scratch = Arc::new(Scratch::new());
    let (sound, is) = volume(&scratch, &mut random);
    let files = kept(&sound);
    let mut of_kind: BTreeMap<String, Vec<&PathBuf>> = BTreeMap::new();
    for path in files.iter().filter(|path| !path.ends_with("log")) {
        of_kind.entry(kind(path)).or_default().push(path);
    }
    let kinds: Vec<&String> = of_kind.keys().collect();
    let mut tallies: BTreeMap<&String, Tally> = BTreeMap::new();
    let mut failures = Vec::new();
    let first = random.below(kinds.len() as u64);
    for round in 0..rounds {
        let kind = kinds[((first + round) % kinds.len() as u64) as usize];
        let path = of_kind[kind][random.below(of_kind[kind].len() as u64) as usize];
        let home = scratch.path().join(format!("home {round}"));
        assert!(Command::new("cp").arg("-a").arg(&sound).arg(&home).status().unwrap().success());
        let how = hurt(&home.join(path), &mut random);
        println!("round {round}: {} {how}", path.display());
        let tally = tallies.entry(kind).or_default();
        tally.rounds += 1;
        let contents_hurt = kind == "/packs/";
        let mut peer = Peer::with_home(&scratch, &format!("round {round}"), home.clone());
        let mut wrong = Vec::new();
        // As a user does: mount, and repair when told to; at times repair at once.
        if random.below(3) > 0 {
            if peer.try_mount().is_empty() {
                tally.refused += 1;
            } else {
                let (found, _) = compare(peer.root(), &is, contents_hurt, true);
                wrong.extend(found.into_iter().map(|what| format!("before repair: {what}")));
                if peer.is_dead() {
                    wrong.push("the daemon died".to_owned());
                } else {
                    // Closing may fail where the store is hurt.
                    let _ = peer.command(["unmount".as_ref(), peer.root().as_os_str()]).output().unwrap();
                    peer.await_end();
                }
            }
        }
        let repaired = peer.command(["verify", "--repair"]).output().unwrap();
        if !contents_hurt && !repaired.status.success() {
            wrong.push(format!("not repaired: {repaired:?}"));
        }
        if peer.try_mount().is_empty() {
            wrong.push(format!("it doesn't mount: {}", peer.log_text()));
        } else {
            let (found, unread) = compare(peer.root(), &is, contents_hurt, false);
            wrong.extend(found);
            tally.unread += unread;
            fs::write(peer.at("new"), "it goes on").unwrap();
            peer.unmount();
            let sound = peer.command(["verify"]).output().unwrap();
            if !contents_hurt && !sound.status.success() {
                wrong.push(format!("still damaged: {sound:?}"));
            }
        }
        if wrong.is_empty() {
            fs::remove_dir_all(&home).unwrap();
        } else {
            eprintln!("--- round {round}, {} {how}:\n{}\n{}", path.display(), wrong.join("\n"), peer.log_text());
            failures.push(format!("round {round}, {} {how}: {}", path.display(), wrong.join("; ")));
        }
    }
    for (kind, tally) in &tallies {
        println!("{kind}: {tally:?}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
