//! Settings of the volume and snapshots with names: who may, what holds where, and what no liar changes.

use std::time::Duration;

use crate::common::{
    self, Replica,
    forge::{Forger, commits, tell, told},
    sync,
};
use crypto::{Label, keyed_tag};
use p2pfs_volume::{
    Caller, Error, Role, Volume,
    commit::{ChangeKind, ClaimedCommit, Head, RawChange, SettingBody, SnapshotBody, encode},
    id::{NodeId, ValueId},
    node::Ino,
    settings::{Budget, Retention, Setting},
};
use simulation::model::History;

const DAY: u64 = 86_400;
const KEEP_ALL: &str = "history.keep-all";

fn days(days: u64) -> Duration {
    Duration::from_secs(days * DAY)
}

fn setting(volume: &Volume, name: &str) -> Setting {
    volume.settings().unwrap().into_iter().find(|setting| setting.name == name).unwrap()
}

fn refused<T: std::fmt::Debug>(done: Result<T, Error>, why: &str) {
    match done {
        Err(Error::Refused(text)) => assert!(text.contains(why), "{text}"),
        other => panic!("{other:?}"),
    }
}

fn names(volume: &Volume) -> Vec<String> {
    volume.snapshots().unwrap().iter().map(|snapshot| snapshot.name.clone()).collect()
}

/// What a snapshot's tree has in `file`.
fn kept(replica: &Replica, snapshot: &str, file: &str) -> Option<Vec<u8>> {
    let volume = &replica.volume;
    let found = volume.lookup(volume.snapshot(snapshot).unwrap(), file.as_bytes()).ok()?;
    let mode = p2pfs_volume::OpenMode { read: true, ..Default::default() };
    let handle = volume.open(found.ino, mode, &Caller::default()).unwrap();
    let mut bytes = Vec::new();
    volume.read(handle, 0, 1000, &mut bytes).unwrap();
    volume.release(handle).unwrap();
    Some(bytes)
}

/// An owner, an admin, a writer and a reader.
fn four() -> [Replica; 4] {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Admin);
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    let dora = Replica::joined("dora", 4, &alice, Role::Reader);
    for other in [&bob, &carol, &dora] {
        sync(&alice, other);
    }
    [alice, bob, carol, dora]
}

fn meet(all: &[Replica]) {
    for _ in 0..2 {
        all[1..].iter().for_each(|other| sync(&all[0], other));
    }
}

/// Changes that `author` signs as one commit, each sealed to all members.
fn forged(
    author: &Replica,
    log: u64,
    from: &Replica,
    changes: impl Fn(&Forger<'_>, &History<'_>) -> Vec<RawChange>,
) -> ClaimedCommit {
    let known = commits(from, author);
    let founder = from.user_keys();
    let history = History::new(&known, &founder);
    let forger = Forger::new(&known, &history, author, log);
    forger.sign(changes(&forger, &history))
}

fn set(forger: &Forger<'_>, history: &History<'_>, index: usize, [tagged, name]: [&str; 2], value: &str) -> RawChange {
    let (epoch, key) = history.epoch();
    let tag = NodeId::from_bytes(keyed_tag(key, Label::SettingTag, tagged.as_bytes()));
    let body = SettingBody { name: name.to_owned(), value: Some(value.to_owned()) };
    forger.change(index, ChangeKind::Setting { epoch, tag }, Vec::new(), key, &body)
}

fn snapshot(forger: &Forger<'_>, history: &History<'_>, index: usize, name: &str) -> RawChange {
    let (epoch, key) = history.epoch();
    let body = SnapshotBody { name: name.to_owned() };
    forger.change(index, ChangeKind::Snapshot { epoch }, Vec::new(), key, &body)
}

fn drop_of(supersedes: Vec<ValueId>) -> RawChange {
    RawChange { head: encode(&Head { call: 0, kind: ChangeKind::Drop {}, supersedes }), body: Vec::new() }
}

#[test]
fn what_holds_when_nobody_set_anything() {
    let alice = Replica::founder("alice", 1);
    let expected = Retention {
        keep_all: days(30),
        hourly: days(60),
        daily: days(365),
        weekly: days(3 * 365),
        monthly: None,
        budget: Budget::Share(25),
    };
    assert_eq!(alice.volume.retention().unwrap(), expected);
    assert_eq!(expected.budget.bytes(1000), 250);
    assert!(alice.volume.settings().unwrap().iter().all(|s| s.set.is_none() && s.default.as_ref() == Some(&s.value)));
}

#[test]
fn admins_set_what_holds_for_all() {
    let mut all = four();
    all[1].volume.set_setting(KEEP_ALL, Some("2160h")).unwrap();
    all[0].volume.set_setting("history.monthly", Some("10y")).unwrap();
    all[0].volume.set_setting("history.budget", Some("20GiB")).unwrap();
    meet(&all);
    all[3].restart(7);
    for replica in &all {
        let retention = replica.volume.retention().unwrap();
        assert_eq!((retention.keep_all, retention.monthly), (days(90), Some(days(3650))), "{}", replica.name);
        assert_eq!(retention.budget, Budget::Bytes(20 << 30));
        let shown = setting(&replica.volume, KEEP_ALL);
        let set = shown.set.unwrap();
        assert_eq!((shown.value.as_str(), set.user.as_str(), set.device), ("90d", "bob", all[1].device_id()));
    }
    all[0].volume.set_setting(KEEP_ALL, None).unwrap();
    meet(&all);
    for replica in &all {
        assert_eq!(replica.volume.retention().unwrap().keep_all, days(30));
        assert_eq!(setting(&replica.volume, KEEP_ALL).set.unwrap().user, "alice");
    }
    refused(all[2].volume.set_setting(KEEP_ALL, Some("1d")), "only the owner and admins");
    refused(all[3].volume.set_setting(KEEP_ALL, Some("1d")), "only the owner and admins");
    refused(all[0].volume.set_setting("history.colour", Some("1d")), "no such setting");
    refused(all[0].volume.set_setting(KEEP_ALL, Some("25%")), "is no time");
}

#[test]
fn of_two_values_set_apart_one_holds_everywhere_whatever_came_first() {
    let all = four();
    let [alice, bob, carol, dora] = &all;
    alice.volume.set_setting(KEEP_ALL, Some("40d")).unwrap();
    bob.volume.set_setting(KEEP_ALL, Some("50d")).unwrap();
    sync(alice, carol);
    sync(bob, carol);
    sync(bob, dora);
    sync(alice, dora);
    let one = setting(&carol.volume, KEEP_ALL);
    assert_eq!(one, setting(&dora.volume, KEEP_ALL));
    meet(&all);
    for replica in &all {
        assert_eq!(setting(&replica.volume, KEEP_ALL), one, "{}", replica.name);
    }
    // Who has seen both replaces both.
    alice.volume.set_setting(KEEP_ALL, Some("31d")).unwrap();
    meet(&all);
    for replica in &all {
        assert_eq!(replica.volume.retention().unwrap().keep_all, days(31), "{}", replica.name);
    }
}

#[test]
fn a_device_keeps_more_but_never_less() {
    let mut all = four();
    let dora = &mut all[3];
    refused(dora.volume.set_own_setting(KEEP_ALL, Some("29d")), "can't keep less");
    refused(dora.volume.set_own_setting("history.monthly", Some("1000y")), "can't keep less");
    refused(dora.volume.set_own_setting("history.budget", Some("1GiB")), "can't keep less");
    dora.volume.set_own_setting(KEEP_ALL, Some("50d")).unwrap();
    dora.volume.set_own_setting("history.budget", Some("90%")).unwrap();
    dora.restart(7);
    let holds = |replica: &Replica| replica.volume.retention().unwrap();
    assert_eq!((holds(dora).keep_all, holds(dora).budget), (days(50), Budget::Share(90)));
    dora.salvage(9);
    assert_eq!(holds(dora).keep_all, days(50));
    assert_eq!(setting(&dora.volume, KEEP_ALL).own.as_deref(), Some("50d"));
    all[0].volume.set_setting(KEEP_ALL, Some("70d")).unwrap();
    meet(&all);
    assert_eq!(holds(&all[3]).keep_all, days(70), "the greater of both");
    assert_eq!(setting(&all[0].volume, KEEP_ALL).own, None, "it is nobody else's");
    all[0].volume.set_setting(KEEP_ALL, Some("10d")).unwrap();
    meet(&all);
    assert_eq!((holds(&all[3]).keep_all, holds(&all[0]).keep_all), (days(50), days(10)));
    all[3].volume.set_own_setting(KEEP_ALL, None).unwrap();
    assert_eq!(holds(&all[3]).keep_all, days(10));
}

#[test]
fn what_a_later_version_set_is_kept_and_ignored() {
    let all = four();
    let [alice, bob, carol, _] = &all;
    let before = carol.volume.retention().unwrap();
    let of_later = forged(bob, 1, alice, |forger, history| {
        let mut changes = vec![
            set(forger, history, 0, ["history.yearly"; 2], "for a while"),
            set(forger, history, 1, [KEEP_ALL; 2], "a fortnight"),
            // Under another's tag, and of an impossible name.
            set(forger, history, 2, ["history.daily", "history.weekly"], "1d"),
            set(forger, history, 3, ["a\nb"; 2], "1"),
        ];
        changes.extend((4..200).map(|i| set(forger, history, i, [&format!("z{i:03}"); 2], "1")));
        changes
    });
    told(carol, alice, &[&of_later]);
    assert_eq!(carol.volume.retention().unwrap(), before);
    let listed = carol.volume.settings().unwrap();
    let later: Vec<&Setting> = listed.iter().filter(|s| s.default.is_none()).collect();
    assert_eq!((later.len(), later[0].value.as_str()), (64, "for a while"));
    assert_eq!(setting(&carol.volume, KEEP_ALL).value, "30d");
    sync(alice, carol);
    assert_eq!(alice.volume.settings().unwrap(), listed);
    assert_eq!(carol.volume.verify(false, &mut |_| ()).unwrap().damages, 0);
}

#[test]
fn nothing_of_it_is_written_in_clear() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    alice.volume.set_setting(KEEP_ALL, Some("47d")).unwrap();
    alice.volume.create_snapshot("a secret occasion").unwrap();
    for commit in commits(&alice, &bob) {
        let bytes = encode(&commit.raw);
        for text in ["keep-all", "47d", "secret"] {
            assert!(!bytes.windows(text.len()).any(|part| part == text.as_bytes()), "{text}");
        }
    }
}

#[test]
fn who_may_not_changes_nothing() {
    let all = four();
    let [alice, bob, carol, dora] = &all;
    bob.volume.create_snapshot("bob's").unwrap();
    meet(&all);
    let of_bob = |history: &History<'_>| {
        let made = history.changes().find(|c| matches!(c.head.kind, ChangeKind::Snapshot { .. }));
        made.unwrap().id()
    };
    let check = |commit: ClaimedCommit, why: &str| {
        let text = tell(alice, bob, &[&commit]).unwrap_err().to_string();
        assert!(text.contains(why), "{text}");
    };
    check(forged(carol, 1, alice, |f, h| vec![set(f, h, 0, [KEEP_ALL; 2], "1d")]), "may not set");
    check(forged(carol, 3, alice, |_, h| vec![drop_of(vec![of_bob(h)])]), "another's snapshot");
    check(forged(carol, 5, alice, |_, _| vec![drop_of(Vec::new())]), "not of one snapshot");
    let genesis = |h: &History<'_>| ValueId { commit: h.commits()[0].hash, index: 0 };
    check(forged(bob, 1, alice, |_, h| vec![drop_of(vec![genesis(h)])]), "no snapshot");
    // It isn't there yet where it is said to go.
    let itself = ValueId { commit: p2pfs_volume::id::CommitHash::ZERO, index: 1 };
    let before = |f: &Forger<'_>, h: &History<'_>| vec![drop_of(vec![itself]), snapshot(f, h, 1, "early")];
    check(forged(bob, 3, alice, before), "that there is not");
    // A reader's are void: they are kept, do nothing, and nobody can take them away.
    let void = forged(dora, 1, alice, |f, h| vec![snapshot(f, h, 0, "dora's"), set(f, h, 1, [KEEP_ALL; 2], "1d")]);
    told(alice, bob, &[&void]);
    assert_eq!(names(&alice.volume), ["bob's"]);
    assert_eq!(alice.volume.retention().unwrap().keep_all, days(30));
    let of_void = ValueId { commit: common::forge::name(&void), index: 0 };
    check(forged(bob, 5, alice, |_, _| vec![drop_of(vec![of_void])]), "that there is not");
    // Whoever made it, in the commit that made it.
    let own = ValueId { index: 0, ..itself };
    let brief = forged(carol, 7, alice, |f, h| vec![snapshot(f, h, 0, "brief"), drop_of(vec![own])]);
    told(alice, carol, &[&brief]);
    assert_eq!(names(&alice.volume), ["bob's"]);
    assert!(matches!(dora.volume.create_snapshot("x"), Err(Error::ReadOnly)));
    assert!(matches!(dora.volume.remove_snapshot("bob's"), Err(Error::ReadOnly)));
    refused(carol.volume.remove_snapshot("bob's"), "bob made");
    refused(carol.volume.remove_snapshot("none"), "no snapshot");
    alice.volume.remove_snapshot("bob's").unwrap();
    meet(&all);
    assert!(all.iter().all(|replica| names(&replica.volume).is_empty()));
}

#[test]
fn a_snapshot_keeps_what_showed_when_it_came() {
    let mut all = four();
    let [alice, bob, ..] = &all;
    alice.write("f", b"first").unwrap();
    bob.write("b", b"bob's").unwrap();
    // What is open is in it as well.
    let handle = alice.open_to_write("open").unwrap();
    alice.volume.write(handle, 0, b"not closed", &Caller::default()).unwrap();
    alice.volume.create_snapshot("then").unwrap();
    alice.close(handle).unwrap();
    alice.write("f", b"second").unwrap();
    alice.remove("open").unwrap();
    refused(alice.volume.create_snapshot("then"), "already, which alice made");
    refused(alice.volume.create_snapshot("a/b"), "can't be a snapshot's name");
    meet(&all);
    all[1].salvage(7);
    all[2].restart(9);
    for replica in &all {
        assert_eq!(kept(replica, "then", "f").unwrap(), b"first", "{}", replica.name);
        assert_eq!(kept(replica, "then", "open").unwrap(), b"not closed", "{}", replica.name);
        assert_eq!(replica.read("f").unwrap(), b"second");
        let snapshots = replica.volume.snapshots().unwrap();
        let [found] = &snapshots[..] else { panic!("{snapshots:?}") };
        assert_eq!((found.user.as_str(), found.device), ("alice", all[0].device_id()));
        assert_eq!(replica.volume.snapshot_arrivals().unwrap(), [found.arrival]);
        assert_eq!(replica.volume.past(found.arrival).unwrap(), replica.volume.snapshot("then").unwrap());
        assert_eq!(replica.volume.verify(false, &mut |_| ()).unwrap().damages, 0);
    }
    // What bob had besides was not at alice's yet.
    assert_eq!((kept(&all[0], "then", "b"), kept(&all[1], "then", "b").as_deref()), (None, Some(&b"bob's"[..])));
    all[0].volume.remove_snapshot("then").unwrap();
    meet(&all);
    for replica in &all {
        assert!(names(&replica.volume).is_empty() && replica.volume.snapshot_arrivals().unwrap().is_empty());
        assert!(matches!(replica.volume.snapshot("then"), Err(Error::NotFound)));
    }
}

#[test]
fn two_snapshots_made_apart_under_one_name_both_stay() {
    let all = four();
    let [alice, bob, carol, _] = &all;
    for replica in [alice, bob, carol] {
        replica.write(&replica.name, b"here").unwrap();
        replica.volume.create_snapshot("release").unwrap();
    }
    meet(&all);
    let shown = names(&all[0].volume);
    assert_eq!((shown.len(), shown[0].as_str()), (3, "release"));
    assert!(shown[1..].iter().all(|name| name.starts_with("release~")), "{shown:?}");
    for replica in &all {
        assert_eq!(names(&replica.volume), shown, "{}", replica.name);
    }
    // When the first goes, the name is the next one's.
    alice.volume.remove_snapshot("release").unwrap();
    meet(&all);
    assert_eq!((names(&bob.volume).len(), names(&bob.volume)[0].as_str()), (2, "release"));
}

#[test]
fn nobodys_snapshots_drive_out_anothers() {
    let all = four();
    let [alice, _, carol, _] = &all;
    alice.volume.create_snapshot("alice's").unwrap();
    let many = forged(carol, 1, alice, |f, h| (0..1100).map(|i| snapshot(f, h, i, &format!("{i}"))).collect());
    told(alice, carol, &[&many]);
    let shown = names(&alice.volume);
    assert_eq!((shown.len(), shown[0].as_str()), (1001, "alice's"));
    assert_eq!(alice.volume.snapshot_arrivals().unwrap().len(), 2);
    assert_eq!(shown[1000], "999", "the oldest count");
    meet(&all);
    refused(carol.volume.create_snapshot("one more"), "1000 snapshots");
    alice.volume.create_snapshot("one more").unwrap();
    alice.volume.remove_snapshot("5").unwrap();
    assert!(names(&alice.volume).contains(&"1000".to_owned()));
    assert!(alice.volume.lookup(Ino::ROOT, b"5").is_err());
}
