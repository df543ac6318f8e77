//! Attacks on what is in a volume by somebody who may write there, and days of honest work beside them.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
    thread,
    time::Duration,
};

use p2pfs_tests::{
    group::Group,
    patience::eventually,
    peer::Peer,
    tool::{shell, succeed},
};
use serde_json::Value;

const FOLDERS: usize = 20;
const FILES: usize = 2000;

fn path(nth: usize) -> String {
    format!("d{}/report {nth}.txt", nth % FOLDERS)
}

fn text(nth: usize) -> String {
    format!("What was written on day {nth}, which nobody wants to lose.\n").repeat(1 + nth % 200)
}

/// A volume of two with files of alice's that bob has.
fn volume() -> Group {
    let group = Group::two();
    for nth in 0..FOLDERS {
        fs::create_dir(group.alice().at(format!("d{nth}"))).unwrap();
    }
    for nth in 0..FILES {
        fs::write(group.alice().at(path(nth)), text(nth)).unwrap();
    }
    group.in_step();
    group
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

fn mass_changes(peer: &Peer) -> Vec<Value> {
    let alerts = peer.listing("alerts");
    alerts.as_array().unwrap().iter().filter(|alert| alert["kind"] == "mass_change").cloned().collect()
}

/// Has bob do something to one file after the other until both devices have an alert; no more than the twentieth part of all
/// may be gone by then. Returns what alice is told.
fn is_seen(group: &Group, ruin: impl Fn(&Path)) -> Value {
    let (alice, bob) = (group.alice(), group.bob());
    for nth in 0..FILES / 20 {
        ruin(&bob.at(path(nth)));
        thread::sleep(Duration::from_millis(100));
        if nth % 5 == 0 && !mass_changes(alice).is_empty() && !mass_changes(bob).is_empty() {
            break;
        }
    }
    let alert = mass_changes(alice).pop().expect("alice is told before the twentieth part is gone");
    assert_eq!(mass_changes(bob).len(), 1, "and so is who sits at bob's");
    assert_eq!(alert["user"], "bob", "{alert}");
    alert
}

#[test]
fn files_that_are_encrypted_one_by_one_are_seen_and_brought_back() {
    let group = volume();
    let alice = group.alice();
    let alert = is_seen(&group, |path| fs::write(path, noise(fs::metadata(path).unwrap().len() as usize)).unwrap());
    assert_eq!(alert["sure"], "likely", "{alert}");
    // Nothing old goes until somebody has looked.
    assert!(alice.refused(["reclaim"]).contains("nothing of history is dropped until that is acknowledged"));
    group.bob();
    let answer = alert["answer"].as_str().unwrap().strip_prefix("p2pfs ").unwrap().to_owned();
    group.in_step();
    alice.run(answer.split(' '));
    for nth in 0..FILES {
        assert_eq!(fs::read_to_string(alice.at(path(nth))).unwrap(), text(nth), "{}", path(nth));
    }
    alice.run(["alerts", "acknowledge"]);
    alice.run(["reclaim"]);
}

#[test]
fn files_that_are_replaced_by_encrypted_ones_are_seen() {
    let group = volume();
    let alert = is_seen(&group, |path| {
        let beside = path.with_extension("part");
        fs::write(&beside, noise(3000)).unwrap();
        fs::rename(&beside, path).unwrap();
    });
    assert_eq!(alert["sure"], "likely", "{alert}");
}

#[test]
fn files_that_are_removed_beside_encrypted_ones_are_seen() {
    let group = volume();
    let alert = is_seen(&group, |path| {
        fs::write(path.with_extension("locked"), noise(3000)).unwrap();
        fs::remove_file(path).unwrap();
    });
    assert_eq!(alert["sure"], "likely", "{alert}");
}

#[test]
fn files_that_are_renamed_one_by_one_are_seen() {
    let group = volume();
    let alert = is_seen(&group, |path| fs::rename(path, format!("{}.crypt", path.display())).unwrap());
    assert!(alert["text"].as_str().unwrap().contains(".crypt"), "{alert}");
}

/// Programs that touch very many files, each in its own way.
fn a_days_work(peer: &Peer) {
    let at = |name: &str| peer.at(name);
    let here = |script: &str| shell(peer.root(), script);
    // A source tree is unpacked, built, cleaned and removed.
    let packed = peer.scratch().join("tree.tar.gz");
    if !packed.exists() {
        let source = peer.scratch().join("source");
        for directory in 0..60 {
            let folder = source.join(format!("tree/drivers/{directory}"));
            fs::create_dir_all(&folder).unwrap();
            for file in 0..40 {
                fs::write(folder.join(format!("{file}.c")), text(directory + file)).unwrap();
            }
        }
        shell(&source, "tar czf ../tree.tar.gz tree");
    }
    shell(peer.root(), &format!("tar xzf '{}'", packed.display()));
    here("for d in tree/drivers/*; do for f in 1 2 3 4 5; do cat $d/$f.c $d/$f.c > $d/$f.o; done; done");
    here("find tree -name '*.o' -delete");
    // Every file is edited.
    here("find tree -name '*.c' | xargs sed -i s/day/night/");
    // A repository with a history.
    here("git init -q repo && cd repo && git config user.email a@b && git config user.name a && git config gc.auto 0");
    here("cp -r tree/drivers/1* repo/ && cd repo && git add . && git commit -qm one");
    here("cd repo && for i in $(seq 20); do echo $i >> 1/1.c; echo $i > new$i; git add .; git commit -qm $i; done");
    here("cd repo && git checkout -q -b other HEAD~15 && git rm -rq 10 && git commit -qm less && git checkout -q -");
    here("cd repo && git gc -q --prune=now");
    // Packages come and go.
    here("mkdir -p app/node_modules && for i in $(seq 30); do cp -r tree/drivers/$i app/node_modules/p$i; done");
    here("rm -rf app/node_modules");
    // Logs are packed and turned over.
    here("mkdir logs && for i in $(seq 60); do cp tree/drivers/1/1.c logs/$i.log; done && gzip logs/*.log");
    here("cd logs && for i in $(seq 60); do mv $i.log.gz $i.log.gz.1; done");
    // A document and a database are saved over and over.
    for nth in 0..50 {
        fs::write(at("letter.tmp"), text(nth)).unwrap();
        fs::rename(at("letter.tmp"), at("letter.txt")).unwrap();
    }
    here(
        "for i in $(seq 20); do sqlite3 db 'create table if not exists t(x); insert into t values(randomblob(900))'; done",
    );
    // Pictures come, and are looked at; a backup reads all.
    fs::create_dir(at("pictures")).unwrap();
    for nth in 0..100 {
        let picture = [b"\xFF\xD8\xFF\xE0".as_slice(), &noise(20_000)].concat();
        fs::write(at("pictures").join(format!("IMG{nth}.jpeg")), picture).unwrap();
    }
    here("cd pictures && for f in *.jpeg; do mv $f $(basename $f .jpeg).jpg; done");
    here("tar cf /dev/null .");
    here(&format!("rsync -a --delete ./ '{}/backup/'", peer.scratch().display()));
    here("rm -rf tree");
}

#[test]
fn a_days_honest_work_alarms_nobody() {
    let mut group = Group::two();
    let (alice, bob) = (0, 1);
    fs::write(group.peers[alice].at("before"), "text").unwrap();
    group.in_step();
    // Bob is away meanwhile, and takes in all at once.
    group.peers[bob].unmount();
    a_days_work(&group.peers[alice]);
    group.peers[bob].mount();
    group.in_step();
    let entries = succeed(&mut group.peers[bob].command(["log", "--json", "--user", "alice"]));
    assert!(entries.lines().count() > 5000, "the work is in the log");
    for peer in &group.peers {
        eventually("all was looked at", || match peer.listing("status")["uninspected"].as_u64() {
            Some(0) => Ok(()),
            left => Err(format!("{left:?}")),
        });
    }
    // What was removed is judged once no more is for a moment.
    thread::sleep(Duration::from_secs(17));
    for peer in &group.peers {
        assert_eq!(peer.listing("alerts"), serde_json::json!([]), "{}", peer.name());
    }
}
