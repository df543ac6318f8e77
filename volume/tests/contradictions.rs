//! Devices that contradict what they had signed or said before: each is told of once, with what is proven; innocent ones aren't.

use std::sync::{Arc, Mutex};

use crate::common::{
    Replica,
    forge::{Forger, commits},
    sync,
};
use crypto::OsEntropy;
use p2pfs_volume::{
    Message, Role, SessionError,
    audit::{Audit, Detectors, Finding, Kind, Limits, Op, Sure},
    commit::{ClaimedCommit, Commit},
    id::NodeId,
    proof::{Flaw, Proof},
};
use simulation::model::History;
use tempfile::TempDir;

/// A replica with an audit log.
struct Watched {
    audit: Arc<Audit>,
    found: Arc<Mutex<Vec<Finding>>>,
    _directory: TempDir,
}

impl Watched {
    fn of(replica: &Replica) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let secret = crypto::SymmetricKey::generate(&OsEntropy);
        let audit = Audit::open(directory.path(), &secret, Arc::new(OsEntropy), Limits::default()).unwrap();
        replica.volume.set_audit(audit.clone());
        let found = Arc::new(Mutex::new(Vec::new()));
        let (detectors, noticed) = (Mutex::new(Detectors::default()), found.clone());
        audit.watch(Box::new(move |n, act| noticed.lock().unwrap().extend(detectors.lock().unwrap().see(n, act))));
        Self { audit, found, _directory: directory }
    }

    /// What was noticed of devices so far.
    fn found(&self) -> Vec<Finding> {
        self.audit.flush();
        self.found.lock().unwrap().clone()
    }

    fn count(&self, op: Op) -> usize {
        self.audit.flush();
        self.audit.read(1, usize::MAX).unwrap().entries.iter().filter(|entry| entry.op == op).count()
    }
}

fn three() -> [Replica; 3] {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let carol = Replica::joined("carol", 3, &alice, Role::Writer);
    for _ in 0..2 {
        sync(&alice, &bob);
        sync(&alice, &carol);
    }
    [alice, bob, carol]
}

/// Commits of one number by `author` that each make a folder of one of these names, in one log; and one that breaks a rule.
fn as_one(
    known: &[Commit],
    by: &Replica,
    author: &Replica,
    log: u64,
    names: &[&str],
) -> (Vec<ClaimedCommit>, ClaimedCommit) {
    let history = History::new(known, &by.user_keys());
    let forger = Forger::new(known, &history, author, log);
    let root = (NodeId::ROOT, history.node_key(NodeId::ROOT));
    let folder = |name: &&str| {
        let (node, _, birth) = forger.directory(0, 1);
        forger.sign(vec![birth, forger.place(1, None, node, root, name, Vec::new())])
    };
    let (_, _, loose) = forger.directory(0, 1);
    (names.iter().map(folder).collect(), forger.sign(vec![loose]))
}

/// Has `at` told of these by `by`.
fn tell(at: &Replica, by: &Replica, commits: &[ClaimedCommit]) -> Result<(), SessionError> {
    let session = at.volume.session(by.device_id());
    commits.iter().try_for_each(|commit| session.receive(Message::Commits(vec![commit.clone()])))
}

#[test]
fn who_signs_two_commits_of_one_number_is_told_of_with_a_proof() {
    let [alice, bob, carol] = three();
    let known = commits(&alice, &bob);
    let watched = [Watched::of(&alice), Watched::of(&carol), Watched::of(&bob)];
    let (both, _) = as_one(&known, &alice, &bob, 41, &["for alice", "for carol"]);
    tell(&alice, &bob, &both[..1]).unwrap();
    tell(&carol, &bob, &both[1..]).unwrap();
    assert!(watched.iter().all(|w| w.found().is_empty()) && alice.volume.proofs().unwrap().is_empty());
    sync(&alice, &carol);
    for (at, watched) in [(&alice, &watched[0]), (&carol, &watched[1])] {
        let found = watched.found();
        let [found] = &found[..] else { panic!("{found:?}") };
        assert_eq!((found.kind, found.sure, found.user.as_deref()), (Kind::Equivocation, Sure::Certain, Some("bob")));
        assert_eq!(found.who, bob.device_id().to_string());
        assert!(found.text.contains("numbered 1 ") && found.text.contains("backup"), "{}", found.text);
        assert!(found.text.contains("`p2pfs proof export 1 FILE`"), "{}", found.text);
        assert_eq!(found.answer, format!("p2pfs revoke {}", &found.who[..8]));

        let kept = at.volume.proofs().unwrap();
        let [kept] = &kept[..] else { panic!("{kept:?}") };
        assert_eq!((kept.n, kept.device, kept.log, kept.seq), (1, bob.device_id(), 41, 1));
        // Who has nothing but the file finds the same.
        let file = at.volume.proof(1).unwrap().unwrap();
        let proven = Proof::decode(&file).unwrap().check().unwrap();
        assert_eq!((proven.volume, proven.device), (at.volume.id(), bob.device_id()));
        let mut hashes = kept.commits;
        hashes.sort_unstable();
        assert_eq!(proven.commits.map(|(hash, _)| hash), hashes);
        assert!(file.len() < 2 * 400, "headers, and nothing of what was done: {}", file.len());
        assert_eq!(at.volume.proof(2).unwrap(), None);
    }
    assert_eq!(alice.volume.proof(1).unwrap(), carol.volume.proof(1).unwrap(), "whoever came first");
    sync(&alice, &carol);
    assert_eq!(watched[0].found().len(), 1, "told once");
    // Bob, who finds his own key used so, isn't accused by himself.
    sync(&alice, &bob);
    assert!(watched[2].found().is_empty() && bob.volume.proofs().unwrap().is_empty());
    assert_eq!(watched[2].count(Op::Equivocated), 1);
}

/// A second commit that breaks a rule is refused, and proves the same.
#[test]
fn what_is_refused_is_proof_too() {
    let [alice, bob, _] = three();
    let known = commits(&alice, &bob);
    let watched = Watched::of(&alice);
    let (both, broken) = as_one(&known, &alice, &bob, 41, &["made"]);
    tell(&alice, &bob, &both).unwrap();
    for _ in 0..3 {
        tell(&alice, &bob, std::slice::from_ref(&broken)).unwrap_err();
    }
    assert_eq!(alice.volume.proofs().unwrap().len(), 1);
    assert!(watched.found().iter().all(|found| found.kind == Kind::Equivocation));
    let file = alice.volume.proof(1).unwrap().unwrap();
    assert!(Proof::decode(&file).unwrap().check().is_ok());
    // Nobody is accused by a proof that somebody touched.
    for at in 0..file.len() {
        let mut touched = file.clone();
        touched[at] ^= 1;
        assert!(Proof::decode(&touched).and_then(|proof| proof.check()).is_err(), "byte {at}");
    }
    assert_eq!(Proof::decode(&file[..file.len() - 1]), Err(Flaw::Encoding));
}

#[test]
fn nobody_fills_the_disk_with_proofs() {
    let [alice, bob, carol] = three();
    let known = commits(&alice, &bob);
    for log in 0..12 {
        let (both, _) = as_one(&known, &alice, &bob, 41 + 2 * log, &["one", "other", "third"]);
        tell(&alice, &bob, &both).unwrap();
    }
    let (both, _) = as_one(&known, &alice, &carol, 41, &["of carol", "of carol too"]);
    tell(&alice, &bob, &both).unwrap();
    let kept = alice.volume.proofs().unwrap();
    assert_eq!(kept.iter().map(|proof| proof.n).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    assert_eq!(kept.iter().filter(|proof| proof.device == bob.device_id()).count(), 8);
}

/// Of these, who was set back.
fn set_back(found: &[Finding]) -> Vec<String> {
    let of = found.iter().filter(|found| found.kind == Kind::Rollback);
    of.inspect(|found| assert_eq!(found.sure, Sure::Possible)).map(|found| found.user.clone().unwrap()).collect()
}

/// The tips that a replica would send.
fn tips(of: &Replica, to: &Replica) -> Message {
    let session = of.volume.session(to.device_id());
    session.receive(Message::Tips(Vec::new())).unwrap();
    std::iter::from_fn(|| session.next_outgoing()).find(|message| matches!(message, Message::Tips(_))).unwrap()
}

/// A backup that was put back, noticed as it is opened or only when others bring what it lacks: one gentle word each time.
#[test]
fn a_device_that_was_put_back_is_told_of_once() {
    for is_noticed in [true, false] {
        let [alice, mut bob, carol] = three();
        let watched = [Watched::of(&alice), Watched::of(&carol)];
        for time in 1..=2 {
            let copy = bob.store.copy();
            bob.write(&format!("since {time}"), b"1").unwrap();
            sync(&alice, &bob);
            sync(&alice, &carol);
            bob.store = Arc::new(copy);
            if is_noticed {
                bob.restart_as_copy(7 + time)
            } else {
                bob.restart(7 + time)
            }
            let bobs = Watched::of(&bob);
            for _ in 0..3 {
                sync(&alice, &bob);
                sync(&alice, &carol);
            }
            // Carol never met him since: he says it to all.
            for watched in &watched {
                assert_eq!(set_back(&watched.found()), vec!["bob"; time as usize], "{is_noticed}");
                assert_eq!(watched.found().len(), time as usize, "and of nothing else");
            }
            assert!(bobs.found().is_empty(), "not by himself");
            assert_eq!(bobs.count(Op::SetBack), usize::from(!is_noticed));
            assert_eq!(bob.read(&format!("since {time}")).unwrap(), b"1");
        }
        let found = watched[0].found();
        let text = &found[0].text;
        assert!(
            text.contains("bob's device") && text.contains("from a backup") && text.contains("on purpose"),
            "{text}"
        );
    }
}

/// Who shows old versions on purpose: of what they signed, or, who signs nothing, of what they had said to know.
#[test]
fn who_shows_old_versions_is_told_of_once() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let rita = Replica::joined("rita", 3, &alice, Role::Reader);
    for other in [&bob, &rita, &bob] {
        sync(&alice, other);
    }
    let mut watched = Watched::of(&alice);
    let old = [tips(&bob, &alice), tips(&rita, &alice)];
    bob.write("f", b"1").unwrap();
    for other in [&bob, &rita, &bob] {
        sync(&alice, other);
    }
    let mut alice = alice;
    for restarts in [false, true] {
        for (liar, tips) in [(&bob, &old[0]), (&rita, &old[1]), (&bob, &old[0])] {
            alice.volume.session(liar.device_id()).receive(tips.clone()).unwrap();
        }
        if restarts {
            assert!(watched.found().is_empty(), "told before");
        } else {
            assert_eq!(set_back(&watched.found()), ["bob", "rita"]);
            alice.restart(7);
            watched = Watched::of(&alice);
        }
    }
    // They are caught up with, and begin again: another time.
    for other in [&bob, &rita] {
        sync(&alice, other);
    }
    alice.restart(8);
    let watched = Watched::of(&alice);
    alice.volume.session(rita.device_id()).receive(old[1].clone()).unwrap();
    assert_eq!(set_back(&watched.found()), ["rita"]);
}

/// The two were never in step with each other since; what a device signed is known to be known to it.
#[test]
fn who_lacks_what_they_signed_is_told_of_whoever_brought_it() {
    let [alice, bob, carol] = three();
    let watched = Watched::of(&alice);
    let old = tips(&bob, &alice);
    bob.write("f", b"1").unwrap();
    sync(&bob, &carol);
    sync(&carol, &alice);
    alice.volume.session(bob.device_id()).receive(old).unwrap();
    assert_eq!(set_back(&watched.found()), ["bob"]);
}

/// What is done every day: restarts, being behind, and writing while somebody reads what was said before.
#[test]
fn who_only_lags_is_not_told_of() {
    let [mut alice, mut bob, mut carol] = three();
    let watched = Watched::of(&alice);
    for round in 0..3 {
        // Said by bob before he wrote what comes to alice by carol first.
        let early = tips(&bob, &alice);
        let to_bob = alice.volume.session(bob.device_id());
        bob.write(&format!("of bob {round}"), b"1").unwrap();
        sync(&bob, &carol);
        sync(&carol, &alice);
        to_bob.receive(early).unwrap();
        drop(to_bob);
        alice.write(&format!("of alice {round}"), b"2").unwrap();
        carol.write(&format!("of carol {round}"), b"3").unwrap();
        sync(&carol, &alice);
        bob.write(&format!("pending {round}"), b"4").unwrap();
        bob.restart(20 + round);
        carol.restart(20 + round);
        sync(&alice, &bob);
    }
    assert_eq!(watched.found(), []);
    let nobody_known = Watched::of(&carol);
    alice.restart(7);
    sync(&alice, &carol);
    assert_eq!(nobody_known.found(), []);
    // Who comes new is told all of what was, and that isn't news.
    alice.restart_as_copy(8);
    let mut dave = Replica::joined("dave", 9, &alice, Role::Writer);
    let grant = dave.volume.own_grant().unwrap();
    dave.store = Arc::new(p2pfs_volume::memory_store::MemoryStore::new());
    dave.restart(9);
    let watched = Watched::of(&dave);
    dave.volume.accept(&grant).unwrap();
    sync(&alice, &dave);
    assert!(alice.volume.restored().is_some() && dave.volume.is_ready());
    assert_eq!(watched.found(), []);
}

/// A log that forked, of which two know a branch each: who equivocates is told of, not who believed it.
#[test]
fn who_knows_another_branch_is_not_told_of() {
    let [alice, bob, mut carol] = three();
    carol.write("shared", b"1").unwrap();
    sync(&carol, &alice);
    sync(&alice, &bob);
    let watched = Watched::of(&alice);
    let copy = carol.store.copy();
    for name in ["one", "and more"] {
        carol.write(name, b"1").unwrap();
        carol.volume.commit_now().unwrap();
    }
    sync(&carol, &alice);
    carol.store = Arc::new(copy);
    carol.restart(7);
    carol.write("other", b"1").unwrap();
    carol.volume.commit_now().unwrap();
    sync(&carol, &bob);
    sync(&alice, &bob);
    let found = watched.found();
    assert_eq!(set_back(&found), Vec::<String>::new());
    assert_eq!(found.iter().map(|found| found.kind).collect::<Vec<_>>(), [Kind::Equivocation], "{found:?}");
    assert_eq!(found[0].user.as_deref(), Some("carol"));
}
