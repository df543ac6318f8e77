//! Devices that contradict what they had signed or said before: each is told of once, with what is proven; innocent ones aren't.

mod common;

use std::sync::Arc;

use common::{
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
    _directory: TempDir,
}

impl Watched {
    fn of(replica: &Replica) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let secret = crypto::SymmetricKey::generate(&OsEntropy);
        let audit = Audit::open(directory.path(), &secret, Arc::new(OsEntropy), Limits::default()).unwrap();
        replica.volume.set_audit(audit.clone());
        Self { audit, _directory: directory }
    }

    /// What was noticed of devices so far.
    fn found(&self) -> Vec<Finding> {
        self.audit.flush();
        let mut detectors = Detectors::default();
        let entries = self.audit.read(1, usize::MAX).unwrap().entries;
        entries.iter().filter_map(|entry| detectors.see(entry)).collect()
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
    let watched = [Watched::of(&alice), Watched::of(&carol), Watched::of(&bob)];
    let known = commits(&alice, &bob);
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
    let watched = Watched::of(&alice);
    let known = commits(&alice, &bob);
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
