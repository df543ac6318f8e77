//! Several devices of one user: let in by each other, judged as that user, with the user's keys. Invitations withdrawn.

use std::time::Duration;

use crate::common::{
    Replica,
    forge::{Forger, commits, tell, told},
    sync,
};
use crypto::{DeviceKeys, Label, SeededEntropy, UserKeys};
use p2pfs_volume::{
    DeviceRequest, Error, ExportedRequest, InvitedAs, Role, TicketSecret, UserSecrets,
    commit::{ChangeKind, ClaimedCommit, Commit, Head, RawChange, encode},
    id::NodeId,
};
use simulation::model::History;

const DAY: Duration = Duration::from_secs(86_400);

fn refusal<T>(result: p2pfs_volume::Result<T>) -> String {
    match result {
        Err(Error::Refused(why)) => why,
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("it was not refused"),
    }
}

fn bare(kind: ChangeKind) -> RawChange {
    RawChange { head: encode(&Head { call: 0, kind, supersedes: Vec::new() }), body: Vec::new() }
}

/// What a change admits, as its user would certify it.
fn device(of: &UserKeys, ticket: &TicketSecret, device: &DeviceKeys) -> ChangeKind {
    let certificate = of.signing.as_ref().unwrap().sign(Label::DeviceCertificate, &encode(&device.public()));
    ChangeKind::Device {
        ticket: ticket.public(),
        user: of.id(),
        device: device.public(),
        certificate,
        user_key: vec![0; 84],
        proof: None,
    }
}

/// A commit with these changes by somebody who has seen all that `knows` has.
fn signed(by: &Replica, knows: &Replica, founder: &Replica, log: u64, changes: Vec<RawChange>) -> ClaimedCommit {
    let all = commits(knows, founder);
    let history = History::new(&all, &founder.user_keys());
    Forger::new(&all, &history, by, log).sign(changes)
}

fn broken(to: &Replica, from: &Replica, commit: &ClaimedCommit, wanted: &str) {
    let why = tell(to, from, &[commit]).unwrap_err().to_string();
    assert!(why.contains(wanted), "{why}");
}

fn judged(replica: &Replica, founder: &Replica) {
    let all: Vec<Commit> = commits(replica, founder);
    assert_eq!(History::new(&all, &founder.user_keys()).broken_rule(), None);
}

#[test]
fn a_second_device_is_its_user() {
    let alice = Replica::founder("alice", 1);
    alice.write("plan", b"meet at noon").unwrap();
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let phone = Replica::next_device("bob's phone", 3, &bob);
    assert_eq!(phone.read("plan").unwrap(), b"meet at noon");
    phone.write("from the phone", b"hi").unwrap();
    sync(&phone, &bob);
    sync(&bob, &alice);
    assert_eq!(alice.read("from the phone").unwrap(), b"hi");
    assert_eq!((alice.tree(), bob.tree()), (phone.tree(), phone.tree()));
    for replica in [&alice, &bob, &phone] {
        let members = replica.volume.members();
        assert_eq!(members.len(), 2, "{}: {members:?}", replica.name);
        let found = members.iter().find(|member| member.name == "bob").unwrap();
        assert_eq!((found.devices.len(), found.role), (2, Role::Writer), "{}", replica.name);
        assert_eq!(found.user, bob.user_keys().id());
    }
    let me: Vec<_> = phone.volume.members().into_iter().filter(|member| member.me).collect();
    assert_eq!(me[0].name, "bob");
    judged(&phone, &alice);
}

#[test]
fn the_next_device_lives_on_without_the_signing_key() {
    let alice = Replica::founder("alice", 1);
    let mut laptop = Replica::next_device("laptop", 2, &alice);
    assert!(laptop.user_keys().signing.is_none());
    assert_eq!(laptop.user_keys().id(), alice.user_keys().id());
    laptop.restart(1);
    laptop.write("here", b"1").unwrap();
    sync(&laptop, &alice);
    assert_eq!(alice.read("here").unwrap(), b"1");
    assert!(refusal(laptop.volume.invite_device(Some(DAY))).contains("signing key"));
    // As the owner's it may invite others.
    let bob = Replica::joined("bob", 3, &laptop, Role::Writer);
    sync(&bob, &alice);
    assert_eq!(alice.volume.members().len(), 2);
    // From its commits and what it remembers alone it reads all of it again.
    let grant = laptop.volume.own_grant().unwrap();
    assert_eq!(grant.keys.len(), 1);
    laptop.salvage(2);
    assert_eq!(laptop.read("here").unwrap(), b"1");
    judged(&laptop, &alice);
}

#[test]
fn a_ticket_lets_one_device_in_once_and_in_time() {
    let alice = Replica::founder("alice", 1);
    let ticket = alice.volume.invite_device(Some(DAY)).unwrap();
    let laptop = Replica::device_for("laptop", 2, &alice, &ticket).unwrap();
    // When the answer was lost, the same device comes again.
    let again = DeviceRequest::new(&ticket, &laptop.device_keys(), None, b"e");
    alice.volume.admit_device(&again, b"e").unwrap();
    assert!(refusal(alice.volume.admit_device(&again, b"other")).contains("does not hold"));
    let other = |name: &TicketSecret| refusal(Replica::device_for("other", 3, &alice, name).map(|_| ()));
    assert!(other(&ticket).contains("has been used"));
    let late = alice.volume.invite_device(Some(DAY)).unwrap();
    alice.clock.advance(2 * DAY);
    assert!(other(&late).contains("expired"));
    assert!(other(&TicketSecret::from_seed([9; 32])).contains("not known"));
    // What has no end is no ticket: who holds an exported key lets themselves in.
    let exported = alice.volume.invite_device(None).unwrap();
    assert!(other(&exported).contains("expired"));
}

#[test]
fn nobody_else_answers_a_ticket_for_a_device() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Admin);
    let ticket = bob.volume.invite_device(Some(DAY)).unwrap();
    sync(&bob, &alice);
    // Neither the owner, nor as what the ticket is not for.
    let why = refusal(Replica::device_for("phone", 3, &alice, &ticket).map(|_| ()));
    assert!(why.contains("another user's device"), "{why}");
    assert!(alice.volume.open_invitations().is_empty());
    assert!(alice.volume.device_tickets(8).is_empty());
    assert_eq!(bob.volume.device_tickets(8), [ticket.public()]);
    // Nor a device of the user that can't certify.
    let phone = Replica::device_for("phone", 3, &bob, &ticket).unwrap();
    let next = bob.volume.invite_device(Some(DAY)).unwrap();
    sync(&bob, &phone);
    let why = refusal(Replica::device_for("tablet", 4, &phone, &next).map(|_| ()));
    assert!(why.contains("can't let others in"), "{why}");
    assert!(phone.volume.device_tickets(8).is_empty());
    // Who answers without being the user is told from the user.
    let (mallory, keys) = (Replica::founder("mallory", 5), DeviceKeys::generate(&SeededEntropy::new(6)));
    let hers = mallory.volume.invite_device(Some(DAY)).unwrap();
    let grant = mallory.volume.admit_device(&DeviceRequest::new(&hers, &keys, None, b"e"), b"e").unwrap();
    assert!(grant.open(&bob.user_keys().id(), &keys).unwrap_err().contains("another user's"));
    let forged = p2pfs_volume::DeviceGrant { user: bob.user_keys().public(), ..grant };
    assert!(forged.open(&bob.user_keys().id(), &keys).unwrap_err().contains("not certified"));
    // A name that is given must be the user's.
    let request = DeviceRequest::new(&next, &keys, Some("alice"), b"e");
    assert!(refusal(bob.volume.admit_device(&request, b"e")).contains("a device of `bob`"));
    judged(&phone, &alice);
}

#[test]
fn a_reader_has_devices_but_writes_nothing() {
    let alice = Replica::founder("alice", 1);
    alice.write("plan", b"meet at noon").unwrap();
    let rita = Replica::joined("rita", 2, &alice, Role::Reader);
    let tablet = Replica::next_device("tablet", 3, &rita);
    assert_eq!(tablet.read("plan").unwrap(), b"meet at noon");
    assert!(matches!(tablet.write("mine", b"x"), Err(Error::ReadOnly)));
    sync(&tablet, &alice);
    assert!(alice.volume.is_member(&tablet.device_id()));
    // The same beside anything else counts for nothing.
    let ticket = TicketSecret::from_seed([1; 32]);
    let invite = bare(ChangeKind::InviteDevice { ticket: ticket.public(), expires: None });
    let all = commits(&alice, &rita);
    let history = History::new(&all, &alice.user_keys());
    let forger = Forger::new(&all, &history, &rita, 7);
    let (node, _, birth) = forger.directory(0, 1);
    let root = NodeId::ROOT;
    let place = forger.place(1, None, node, (root, history.node_key(root)), "hers", Vec::new());
    let both = forger.sign(vec![birth, place, invite.clone()]);
    told(&alice, &rita, &[&both]);
    assert!(alice.find("hers").is_err());
    assert!(alice.volume.invitations().unwrap().is_empty());
    let alone = signed(&rita, &alice, &alice, 9, vec![invite]);
    told(&alice, &rita, &[&alone]);
    assert_eq!(alice.volume.invitations().unwrap().len(), 1);
    judged(&alice, &alice);
}

#[test]
fn a_device_is_admitted_by_its_user_alone() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Admin);
    let ticket = bob.volume.invite_device(Some(DAY)).unwrap();
    let hers = alice.volume.invite_device(Some(DAY)).unwrap();
    sync(&alice, &bob);
    let keys = DeviceKeys::generate(&SeededEntropy::new(7));
    let (of_bob, of_alice) = (bob.user_keys(), alice.user_keys());
    let check = |by: &Replica, log, kind, wanted| {
        broken(&alice, &bob, &signed(by, &alice, &alice, log, vec![bare(kind)]), wanted);
    };
    check(&bob, 11, device(&of_alice, &hers, &keys), "for another user");
    check(&alice, 13, device(&of_bob, &ticket, &keys), "for another user");
    check(&alice, 15, device(&of_alice, &ticket, &keys), "without an invitation");
    check(&alice, 17, device(&of_alice, &TicketSecret::from_seed([1; 32]), &keys), "without an invitation");
    let mut uncertified = device(&of_bob, &ticket, &keys);
    if let ChangeKind::Device { certificate, .. } = &mut uncertified {
        *certificate = of_alice.signing.as_ref().unwrap().sign(Label::DeviceCertificate, &encode(&keys.public()));
    }
    check(&bob, 19, uncertified, "not certified");
    check(&bob, 21, device(&of_bob, &ticket, &alice.device_keys()), "a member already");
    let good = signed(&bob, &alice, &alice, 23, vec![bare(device(&of_bob, &ticket, &keys))]);
    told(&alice, &bob, &[&good]);
    assert!(alice.volume.is_member(&keys.id()));
    check(&bob, 25, device(&of_bob, &ticket, &keys), "a member already");
    judged(&alice, &alice);
}

#[test]
fn a_withdrawn_ticket_lets_nobody_in() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Admin);
    let wes = Replica::joined("wes", 3, &alice, Role::Writer);
    let member = alice.volume.invite(Role::Writer, DAY).unwrap();
    let of_wes = wes.volume.invite_device(Some(DAY)).unwrap();
    sync(&alice, &wes);
    sync(&alice, &bob);
    let open: Vec<_> = bob.volume.invitations().unwrap().into_iter().map(|i| (i.ticket, i.of, i.name)).collect();
    assert_eq!(open.len(), 2);
    assert!(open.contains(&(member.public(), InvitedAs::Member(Role::Writer), "alice".to_owned())));
    assert!(open.contains(&(of_wes.public(), InvitedAs::Device, "wes".to_owned())));
    assert!(refusal(wes.volume.withdraw(&member.public())).contains("only who invited"));
    // By an admin, and by who invited.
    bob.volume.withdraw(&member.public()).unwrap();
    wes.volume.withdraw(&of_wes.public()).unwrap();
    assert!(refusal(bob.volume.withdraw(&member.public())).contains("no such open invitation"));
    sync(&bob, &alice);
    sync(&alice, &wes);
    sync(&alice, &bob);
    for replica in [&alice, &bob, &wes] {
        assert!(replica.volume.invitations().unwrap().is_empty(), "{}", replica.name);
    }
    assert!(alice.volume.open_invitations().is_empty());
    assert!(wes.volume.device_tickets(8).is_empty());
    let keys = (DeviceKeys::generate(&SeededEntropy::new(7)), UserKeys::generate(&SeededEntropy::new(8)));
    let request =
        p2pfs_volume::JoinRequest::new(&member, "carol", &keys.1, &keys.0, b"e", &SeededEntropy::new(9)).unwrap();
    assert!(refusal(alice.volume.admit(&request, b"e")).contains("withdrawn"));
    assert!(refusal(Replica::device_for("phone", 4, &wes, &of_wes).map(|_| ())).contains("withdrawn"));
    // Who admits all the same, knowing it, does nothing.
    let kind = device(&wes.user_keys(), &of_wes, &keys.0);
    let commit = signed(&wes, &alice, &alice, 5, vec![bare(kind)]);
    told(&alice, &wes, &[&commit]);
    assert!(!alice.volume.is_member(&keys.0.id()));
    judged(&alice, &alice);
}

#[test]
fn a_withdrawal_is_by_who_invited_or_an_admin_and_for_their_own() {
    let alice = Replica::founder("alice", 1);
    let wes = Replica::joined("wes", 2, &alice, Role::Writer);
    let max = Replica::joined("max", 3, &alice, Role::Writer);
    let ticket = wes.volume.invite_device(Some(DAY)).unwrap();
    sync(&wes, &alice);
    sync(&alice, &max);
    let withdraw = |ticket: &TicketSecret| bare(ChangeKind::Withdraw { ticket: ticket.public() });
    broken(&alice, &max, &signed(&max, &alice, &alice, 5, vec![withdraw(&ticket)]), "another's invitation");
    let none = TicketSecret::from_seed([9; 32]);
    broken(&alice, &max, &signed(&max, &alice, &alice, 7, vec![withdraw(&none)]), "that there is not");
    // Who invites with another's ticket withdraws their own invitation, not the other's.
    let twin = bare(ChangeKind::InviteDevice { ticket: ticket.public(), expires: None });
    told(&alice, &max, &[&signed(&max, &alice, &alice, 9, vec![twin, withdraw(&ticket)])]);
    sync(&alice, &wes);
    assert_eq!(wes.volume.device_tickets(8), [ticket.public()]);
    Replica::device_for("phone", 4, &wes, &ticket).unwrap();
    judged(&wes, &alice);
}

#[test]
fn devices_let_in_apart_for_one_ticket_both_stand() {
    let alice = Replica::founder("alice", 1);
    let ticket = alice.volume.invite_device(Some(DAY)).unwrap();
    // As alice's signing key on another of her machines would.
    let keys = [7, 8].map(|seed| DeviceKeys::generate(&SeededEntropy::new(seed)));
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let kinds = keys.each_ref().map(|keys| device(&alice.user_keys(), &ticket, keys));
    let [a, b] = kinds.map(bare);
    let (a, b) = (signed(&alice, &bob, &alice, 5, vec![a]), signed(&alice, &bob, &alice, 7, vec![b]));
    told(&alice, &bob, &[&a, &b]);
    told(&bob, &alice, &[&b, &a]);
    for replica in [&alice, &bob] {
        assert!(keys.iter().all(|keys| replica.volume.is_member(&keys.id())), "{}", replica.name);
        assert_eq!(replica.volume.members().iter().find(|m| m.name == "alice").unwrap().devices.len(), 3);
    }
    judged(&alice, &alice);
}

#[test]
fn a_new_key_is_its_users_certified_and_the_next() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let phone = Replica::next_device("phone", 3, &bob);
    sync(&bob, &alice);
    let (of_bob, of_alice) = (bob.user_keys(), alice.user_keys());
    let key = |of: &UserKeys, by: &UserKeys, generation| {
        let fresh = UserKeys::generate(&SeededEntropy::new(50)).public();
        let user = crypto::UserPublic { generation, box_key: fresh.box_key, ..of.public() };
        let certificate = by.signing.as_ref().unwrap().sign(Label::UserKeyCertificate, &encode(&user));
        bare(ChangeKind::UserKey { user, certificate, sealed: Vec::new() })
    };
    let check = |by: &Replica, log, change, wanted| {
        broken(&alice, &bob, &signed(by, &alice, &alice, log, vec![change]), wanted);
    };
    check(&bob, 11, key(&of_alice, &of_alice, 1), "of another user");
    check(&bob, 13, key(&of_bob, &of_alice, 1), "not certified");
    for (log, generation) in [(15, 0), (17, 2), (19, u32::MAX)] {
        check(&bob, log, key(&of_bob, &of_bob, generation), "another generation than the next");
    }
    // From any of the user's devices.
    told(&alice, &bob, &[&signed(&phone, &alice, &alice, 21, vec![key(&of_bob, &of_bob, 1)])]);
    check(&bob, 23, key(&of_bob, &of_bob, 1), "another generation than the next");
    judged(&alice, &alice);
}

#[test]
fn an_exported_key_is_good_for_its_user_until_it_is_withdrawn() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Reader);
    let exported = alice.volume.export_key().unwrap();
    sync(&alice, &bob);
    let keys = [7, 8, 9].map(|seed| DeviceKeys::generate(&SeededEntropy::new(seed)));
    let request = |ticket: &TicketSecret, user: &UserKeys, device: &DeviceKeys| {
        let secrets = UserSecrets::from_bytes(&exported.secrets.to_bytes()).unwrap();
        ExportedRequest::new(ticket, user, &secrets, device, &SeededEntropy::new(5)).unwrap()
    };
    let of_alice = exported.secrets.whole(alice.user_keys().signing.unwrap());
    assert_eq!(of_alice.public(), alice.user_keys().public());
    // Whoever is there brings it in, a reader too; and it can be used again.
    for device in &keys[..2] {
        let grant = bob.volume.admit_exported(&request(&exported.ticket, &of_alice, device)).unwrap();
        assert_eq!(grant.keys.len(), 1);
        bob.volume.admit_exported(&request(&exported.ticket, &of_alice, device)).unwrap();
    }
    // A signing key alone, as a removed device may have it, is not enough, and neither is the paper of another.
    let stolen = alice.volume.invite_device(Some(DAY)).unwrap();
    sync(&alice, &bob);
    let refused = |request| refusal(bob.volume.admit_exported(&request));
    assert!(refused(request(&stolen, &of_alice, &keys[2])).contains("not known"));
    assert!(refused(request(&exported.ticket, &bob.user_keys(), &keys[2])).contains("not known"));
    let guessed = TicketSecret::from_seed([1; 32]);
    let forged = ExportedRequest {
        proof: request(&guessed, &of_alice, &keys[2]).proof,
        ..request(&exported.ticket, &of_alice, &keys[2])
    };
    assert!(refused(forged.clone()).contains("does not hold"));
    let other = UserKeys::generate(&SeededEntropy::new(60));
    let uncertified = ExportedRequest {
        certificate: request(&exported.ticket, &other, &keys[2]).certificate,
        ..request(&exported.ticket, &of_alice, &keys[2])
    };
    assert!(refused(uncertified.clone()).contains("not certified"));
    // Nor does a commit get around it.
    let change = |ExportedRequest { ticket, user, device, certificate, user_key, proof }| {
        bare(ChangeKind::Device { ticket, user, device, certificate, user_key, proof: Some(proof) })
    };
    let check = |log, request, wanted| {
        broken(&alice, &bob, &signed(&bob, &alice, &alice, log, vec![change(request)]), wanted);
    };
    sync(&bob, &alice);
    check(11, forged, "does not hold");
    check(13, uncertified, "not certified");
    check(15, request(&stolen, &of_alice, &keys[2]), "without an invitation");
    check(17, request(&exported.ticket, &of_alice, &keys[0]), "a member already");
    let alices = alice.volume.members().into_iter().find(|member| member.name == "alice").unwrap();
    assert_eq!((alices.devices.len(), alices.role), (3, Role::Owner));
    alice.volume.withdraw(&exported.ticket.public()).unwrap();
    sync(&alice, &bob);
    assert!(refused(request(&exported.ticket, &of_alice, &keys[2])).contains("withdrawn"));
    let knowing = signed(&bob, &alice, &alice, 19, vec![change(request(&exported.ticket, &of_alice, &keys[2]))]);
    told(&alice, &bob, &[&knowing]);
    assert!(!alice.volume.is_member(&keys[2].id()), "its commit is void");
    judged(&alice, &alice);
}

#[test]
fn a_removed_device_opens_nothing_new_and_the_others_do() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 4, &alice, Role::Writer);
    let laptop = Replica::next_device("laptop", 2, &bob);
    let phone = Replica::next_device("phone", 3, &bob);
    sync(&bob, &laptop);
    bob.volume.remove_device(&phone.device_id()).unwrap();
    sync(&bob, &laptop);
    laptop.write("since", b"unseen").unwrap();
    sync(&laptop, &bob);
    sync(&bob, &alice);
    assert_eq!(bob.read("since").unwrap(), b"unseen");
    assert_eq!(alice.read("since").unwrap(), b"unseen");
    assert!(!laptop.volume.is_member(&phone.device_id()));
    let all = commits(&laptop, &alice);
    let renewed = all.iter().flat_map(|c| &c.heads).any(|h| matches!(h.kind, ChangeKind::UserKey { .. }));
    assert!(renewed, "bob has a new key");
    // What the phone is told all the same stays closed to it. (The root's names are under a key of before.)
    let raw: Vec<_> = all.iter().map(|c| c.raw.clone()).collect();
    told(&phone, &alice, &raw.iter().collect::<Vec<_>>());
    assert!(phone.read("since").is_err());
    // A device that comes later reads all of it.
    let tablet = Replica::next_device("tablet", 5, &bob);
    assert_eq!(tablet.read("since").unwrap(), b"unseen");
    judged(&tablet, &alice);
}

#[test]
fn who_is_left_without_the_signing_key_goes_on() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let mut phone = Replica::next_device("phone", 3, &bob);
    let exported = bob.volume.export_key().unwrap();
    let ticket = bob.volume.invite_device(Some(DAY)).unwrap();
    sync(&bob, &alice);
    sync(&alice, &phone);
    // Bob's machine is stolen, with his signing key.
    alice.volume.remove_device(&bob.device_id()).unwrap();
    alice.write("since", b"unseen").unwrap();
    sync(&alice, &phone);
    assert_eq!(phone.read("since").unwrap(), b"unseen");
    phone.write("phone", b"goes on").unwrap();
    sync(&phone, &alice);
    assert_eq!(alice.read("phone").unwrap(), b"goes on");
    phone.salvage(7);
    assert_eq!(phone.read("since").unwrap(), b"unseen");
    let raw: Vec<_> = commits(&alice, &phone).into_iter().map(|c| c.raw).collect();
    told(&bob, &alice, &raw.iter().collect::<Vec<_>>());
    assert!(bob.read("since").is_err());
    // His tickets went with the machine, the paper didn't.
    let open = alice.volume.invitations().unwrap();
    assert_eq!(open.iter().map(|open| open.of).collect::<Vec<_>>(), [InvitedAs::ExportedKey]);
    assert!(open[0].ticket == exported.ticket.public() && ticket.public() != open[0].ticket);
    let keys = DeviceKeys::generate(&SeededEntropy::new(70));
    let of_bob = exported.secrets.whole(bob.user_keys().signing.unwrap());
    let request = ExportedRequest::new(&exported.ticket, &of_bob, &exported.secrets, &keys, &SeededEntropy::new(5));
    alice.volume.admit_exported(&request.unwrap()).unwrap();
    assert!(alice.volume.is_member(&keys.id()));
    judged(&alice, &alice);
}

#[test]
fn a_device_let_in_apart_from_the_removal_goes_with_who_let_it_in() {
    let alice = Replica::founder("alice", 1);
    let bob = Replica::joined("bob", 2, &alice, Role::Writer);
    let phone = Replica::next_device("phone", 3, &bob);
    sync(&bob, &alice);
    sync(&alice, &phone);
    // Apart: the stolen machine lets another in and exports a key, while alice removes it.
    let theirs = Replica::next_device("theirs", 4, &bob);
    let exported = bob.volume.export_key().unwrap();
    sync(&bob, &theirs);
    alice.volume.remove_device(&bob.device_id()).unwrap();
    let raw: Vec<_> = commits(&theirs, &alice).into_iter().map(|c| c.raw).collect();
    told(&alice, &phone, &raw.iter().collect::<Vec<_>>());
    sync(&alice, &phone);
    for replica in [&alice, &phone] {
        assert!(!replica.volume.is_member(&theirs.device_id()), "{}", replica.name);
        assert!(replica.volume.is_member(&phone.device_id()), "{}", replica.name);
    }
    // Nor does the key that was exported there then help.
    let keys = DeviceKeys::generate(&SeededEntropy::new(70));
    let of_bob = exported.secrets.whole(bob.user_keys().signing.unwrap());
    let request = ExportedRequest::new(&exported.ticket, &of_bob, &exported.secrets, &keys, &SeededEntropy::new(5));
    let why = refusal(alice.volume.admit_exported(&request.unwrap()));
    assert!(why.contains("when it had been removed"), "{why}");
    judged(&alice, &alice);
}

#[test]
fn a_reader_keeps_devices_through_removals_of_others() {
    let alice = Replica::founder("alice", 1);
    let rita = Replica::joined("rita", 2, &alice, Role::Reader);
    let bob = Replica::joined("bob", 3, &alice, Role::Writer);
    let tablet = Replica::next_device("tablet", 4, &rita);
    sync(&rita, &alice);
    alice.volume.remove_user(&bob.user_keys().id()).unwrap();
    alice.write("since", b"unseen").unwrap();
    sync(&alice, &tablet);
    assert_eq!(tablet.read("since").unwrap(), b"unseen");
    // Let in by who has not heard of the removal.
    let phone = Replica::next_device("phone", 5, &rita);
    sync(&rita, &alice);
    sync(&alice, &phone);
    assert!(alice.volume.is_member(&phone.device_id()));
    assert_eq!(phone.read("since").unwrap(), b"unseen");
    judged(&alice, &alice);
}
