//! A member who does what no honest program does, on connections that honest devices take for ordinary ones.

use crypto::{DeviceKeys, Hash, Label, VolumeId};
use volume::{
    Message, Role,
    commit::{ClaimedCommit, Header, changes_root, commit_hash, decode, encode},
    id::CommitHash,
    sync::Tip,
};

use crate::{
    forger::{BEYOND, DEEDS, Forger, Joiner, ODD, follow},
    model::History,
    world::{Violation, World},
};

impl World {
    /// Whether `r` is the malicious member.
    pub(crate) fn is_mallory(&self, r: usize) -> bool {
        self.mallory == Some(r)
    }

    /// Does something malicious to whoever Mallory is connected to.
    pub(crate) fn mischief(&mut self) -> Result<&'static str, Violation> {
        let Some(mallory) = self.mallory else { return Ok("nothing") };
        if self.connections.iter().all(|c| !c.ends.contains(&mallory)) {
            if self.devices[mallory].volume.is_none() {
                // A disk that fails is no help to it either.
                let _ = self.devices[mallory].start();
            }
            let other = self.lot.below(self.devices.len());
            self.connect(mallory, other);
        }
        let connections: Vec<usize> =
            (0..self.connections.len()).filter(|c| self.connections[*c].ends.contains(&mallory)).collect();
        let Some(&c) = self.lot.pick(&connections) else { return Ok("nobody") };
        let side = usize::from(self.connections[c].ends[1] == mallory);
        let known = self.lot.pick(&self.overheard).cloned();
        let mut say = Vec::new();
        // More than a device may keep, all at once.
        let flood = self.lot.chance(100);
        if self.lot.chance(500) {
            let Some((what, commits)) = self.lie(mallory)? else { return Ok("nothing") };
            for commit in commits {
                // Two of one number go to different devices, if there are two to lie to.
                let c = if what == "equivocates" { *self.lot.pick(&connections).unwrap_or(&c) } else { c };
                let side = usize::from(self.connections[c].ends[1] == mallory);
                let message = Message::Commits(vec![commit]).encode();
                self.trace.note(&message);
                self.connections[c].lanes[side].control.push_back(message);
            }
            return Ok(what);
        }
        let what = match self.lot.below(13) {
            0 => {
                let lane = &mut self.connections[c].lanes[side].control;
                let which = self.lot.below(lane.len());
                if let Some(message) = lane.get_mut(which) {
                    self.lot.spoil(message);
                }
                "tampers"
            }
            1 => {
                let lane = &mut self.connections[c].lanes[side].control;
                let which = self.lot.below(lane.len());
                lane.remove(which);
                "withholds"
            }
            2 => {
                let from = self.lot.below(self.overheard.len());
                let mut some: Vec<ClaimedCommit> = self.overheard.iter().skip(from).take(5).cloned().collect();
                if self.lot.chance(500) {
                    some.reverse();
                }
                say.push(Message::Commits(some));
                "replays"
            }
            3 => {
                let Some(mut commit) = known else { return Ok("nothing") };
                match self.lot.below(4) {
                    0 => self.lot.spoil(&mut commit.header),
                    1 => {
                        let mut bytes = *commit.signature.as_bytes();
                        self.lot.spoil(&mut bytes);
                        commit.signature = crypto::Signature::from_bytes(bytes);
                    }
                    2 => drop(commit.changes.pop()),
                    _ => {
                        let which = self.lot.below(commit.changes.len());
                        if let Some(change) = commit.changes.get_mut(which) {
                            self.lot.spoil(if self.lot.chance(500) { &mut change.head } else { &mut change.body });
                        }
                    }
                }
                say.push(Message::Commits(vec![commit]));
                "forges a part"
            }
            4 | 5 => {
                // Another's changes under another header: by a member, by nobody, with and without their causes.
                let Some(commit) = known else { return Ok("nothing") };
                let outsider = self.lot.chance(400);
                let keys = if outsider { DeviceKeys::generate(&self.lot) } else { self.devices[mallory].keys() };
                say.extend(self.forged(&commit, &keys).map(|commit| Message::Commits(vec![commit])));
                if outsider { "signs as a stranger" } else { "breaks rules" }
            }
            6 => {
                for _ in 0..if flood { 7000 } else { self.lot.below(30) } {
                    say.push(Message::Want(CommitHash::from_bytes(self.random())));
                }
                "wants without end"
            }
            7 => {
                for _ in 0..3 {
                    let count = if flood { 60 } else { self.lot.below(40) };
                    let device = self.lot.pick(&self.devices).map(|d| d.id()).unwrap_or(self.devices[0].id());
                    let tip = || Tip { device, log: 0, seq: 1, hash: CommitHash::from_bytes(self.random()) };
                    say.push(Message::Tips(std::iter::repeat_with(tip).take(count * count).collect()));
                }
                "has tips without end"
            }
            8 => {
                let digest = Hash::from_bytes(self.random());
                say.push(Message::State { digest, complete: self.lot.chance(500), commits: self.lot.number() });
                say.push(Message::Flush(self.lot.number()));
                say.push(Message::Flushed(self.lot.number()));
                "lies of its state"
            }
            9 => {
                // Each waits for what will never come.
                let Some(commit) = known else { return Ok("nothing") };
                let keys = self.devices[mallory].keys();
                for _ in 0..if flood { 80 } else { 2 } {
                    let commits = (0..30).filter_map(|_| self.unfounded(&commit, &keys));
                    say.push(Message::Commits(commits.collect()));
                }
                "sends without end"
            }
            10 => {
                self.backup = Some(self.back_up(mallory));
                "keeps a copy of its store"
            }
            _ => {
                // What it signs from here on has numbers that it has used.
                let Some(backup) = self.backup.take().filter(|b| b.of == mallory) else {
                    return Ok("nothing");
                };
                self.ledger.went_back();
                self.disconnect_all(mallory);
                self.devices[mallory].stop();
                self.devices[mallory].disk.restore(&backup.image);
                self.devices[mallory].shown.clear();
                self.devices[mallory].shown_for_good.clear();
                if self.devices[mallory].start().is_err() {
                    return Err(Violation("a copy of a store can't be opened".to_owned()));
                }
                self.counts.add("liar: goes back to a copy of its store");
                return Ok("goes back to a copy of its store");
            }
        };
        self.counts.add(match what {
            "tampers" => "liar: tampers with a message",
            "withholds" => "liar: withholds a message",
            "replays" => "liar: replays commits",
            "forges a part" => "liar: forges a part of a commit",
            "signs as a stranger" => "liar: signs as a stranger",
            "breaks rules" => "liar: breaks the rules of headers",
            "wants without end" => "liar: asks without end",
            "has tips without end" => "liar: has tips without end",
            "sends without end" => "liar: sends without end",
            "lies of its state" => "liar: lies of its state",
            _ => "liar: keeps a copy of its store",
        });
        for message in say {
            let encoded = message.encode();
            self.trace.note(&encoded);
            self.connections[c].lanes[side].control.push_back(encoded);
        }
        if flood {
            self.counts.add("liar: sends more at once than a device may keep");
            while !self.connections[c].lanes[side].control.is_empty() {
                if !self.hear(c, side)? {
                    self.connections.remove(c);
                    break;
                }
                for r in 0..self.devices.len() {
                    self.bounded(r)?;
                }
            }
        }
        Ok(what)
    }

    /// What a forger works with.
    pub(crate) fn forger<'a>(&'a self, history: &'a History<'a>) -> Forger<'a> {
        let time = volume::Timestamp { secs: 1_795_338_900 + self.lot.below(1000) as i64, nanos: 0 };
        Forger { history, lot: &self.lot, time }
    }

    /// Commits that are in form, and lies.
    fn lie(&mut self, mallory: usize) -> Result<Option<(&'static str, Vec<ClaimedCommit>)>, Violation> {
        let device = &self.devices[mallory];
        if device.volume.is_none() || device.disk.is_troubled() {
            return Ok(None);
        }
        if self.joiners.iter().all(|j| j.id() != device.id()) {
            let myself = Joiner::of(&device.name, &device.keys(), &device.user_keys());
            self.joiners.push(myself);
        }
        if self.rights && self.lot.chance(500) {
            return self.lie_of_rights(mallory);
        }
        let commits = self.commits(mallory)?;
        let history = self.history(&commits);
        // (Mallory's own user was perhaps given another role before it was known of what kind they are.)
        let members: Vec<(usize, Role)> = (self.joiners.iter().enumerate())
            .filter_map(|(i, joiner)| Some((i, history.role_to_lie(joiner.id())?)))
            .collect();
        let Some(&(who, role)) = self.lot.pick(&members) else { return Ok(None) };
        let tokens = [self.ledger.token(), self.ledger.token()];
        let [bytes, other] = tokens.map(|token| token.bytes());
        let author = &self.joiners[who];
        if !role.may_write() {
            let Some(&(deed, name)) = self.lot.pick(&DEEDS) else { return Ok(None) };
            let made = self.forger(&history).void(author, deed, &bytes);
            let Some(commit) = made else { return Ok(None) };
            self.ledger.forbid(tokens);
            self.counts.add(name);
            follow(&mut self.joiners[who], &commit);
            self.void.push(commit.clone());
            self.keep(mallory, &commit)?;
            return Ok(Some((name, vec![commit])));
        }
        match self.lot.below(14) {
            0 => {
                let made = self.forger(&history).equivocate(author, [&bytes, &other]);
                self.counts.many("liar: equivocates", u64::from(made.is_some()));
                if let Some([commit, _]) = &made {
                    follow(&mut self.joiners[who], commit);
                }
                Ok(made.map(|commits| ("equivocates", commits.to_vec())))
            }
            4 => {
                let made = self.forger(&history).equivocate_directories(author);
                self.counts.many("liar: bears directories twice", u64::from(made.is_some()));
                if let Some([commit, _]) = &made {
                    follow(&mut self.joiners[who], commit);
                }
                Ok(made.map(|commits| ("equivocates", commits.to_vec())))
            }
            5 => {
                let Some(&(odd, name)) = self.lot.pick(&ODD) else { return Ok(None) };
                let made = self.forger(&history).odd(author, odd);
                let Some(commit) = made else { return Ok(None) };
                self.counts.add(name);
                self.keep(mallory, &commit)?;
                Ok(Some((name, vec![commit])))
            }
            6 if role.may_admit() => {
                let known = self.lot.pick(&self.tickets).filter(|_| self.lot.chance(500));
                let seed = known.copied().unwrap_or_else(|| self.random());
                let made = self.forger(&history).invite_twice(author, seed);
                if made.is_some() {
                    self.counts.add("liar: invites twice with one ticket");
                    self.tickets.push(seed);
                }
                Ok(made.map(|commits| ("equivocates", commits.to_vec())))
            }
            7 if role == Role::Writer => {
                let made = self.forger(&history).theft(author, &bytes);
                let Some(commit) = made else { return Ok(None) };
                self.ledger.forbid(tokens);
                self.counts.add("liar: takes another's node");
                self.void.push(commit.clone());
                self.keep(mallory, &commit)?;
                Ok(Some(("takes another's node", vec![commit])))
            }
            1..4 => {
                let made = self.forger(&history).over_void(author, &bytes);
                let Some((node, commit)) = made else { return Ok(None) };
                // What goes with it is none of those who wrote it.
                if let Some(node) = node {
                    let Some(gone) = self.tokens_of(&history, node) else { return Ok(None) };
                    self.ledger.discard(gone);
                }
                self.counts.add("liar: replaces a void value");
                self.keep(mallory, &commit)?;
                Ok(Some(("replaces a void value", vec![commit])))
            }
            _ => {
                let all: Vec<_> =
                    BEYOND.iter().filter(|(beyond, _)| !role.may_admit() || beyond.is_beyond_admins()).collect();
                let Some(&&(beyond, name)) = self.lot.pick(&all) else { return Ok(None) };
                let made = self.forger(&history).beyond(author, beyond, &bytes);
                let Some(commit) = made else { return Ok(None) };
                self.ledger.forbid(tokens);
                self.counts.add(name);
                Ok(Some((name, vec![commit])))
            }
        }
    }

    /// Mallory's own store keeps a commit as all do, so that it reaches everybody, and other lies build on it.
    pub(crate) fn keep(&self, mallory: usize, commit: &ClaimedCommit) -> Result<(), Violation> {
        let session = self.volume(mallory)?.session(self.devices[0].id());
        // Where its disk fails, others may have it.
        let _ = session.receive(Message::Commits(vec![commit.clone()]));
        Ok(())
    }

    /// A commit that refers to one that never was.
    fn unfounded(&self, of: &ClaimedCommit, keys: &DeviceKeys) -> Option<ClaimedCommit> {
        let mut header: Header = decode("header", &of.header).ok()?;
        header.device = keys.id();
        header.log = self.lot.number() | 1;
        (header.seq, header.prev) = (1, CommitHash::ZERO);
        header.observed = vec![CommitHash::from_bytes(self.random())];
        header.root = changes_root(of.changes.iter());
        let header = encode(&header);
        let signature = keys.signing.sign(Label::CommitSignature, &header);
        Some(ClaimedCommit { header, signature, changes: of.changes.clone() })
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.lot.fill(&mut bytes);
        bytes
    }

    /// The changes of `of` in a commit by another author. What it says of its place is right, or wrong in one way.
    fn forged(&self, of: &ClaimedCommit, keys: &DeviceKeys) -> Option<ClaimedCommit> {
        let mut header: Header = decode("header", &of.header).ok()?;
        if header.volume == VolumeId::ZERO {
            return None;
        }
        // A past that holds all causes of these changes, and Mallory's admission, if there is one.
        let tip = commit_hash(&of.header);
        header.device = keys.id();
        header.log = self.lot.number() | 1;
        (header.seq, header.prev) = (1, CommitHash::ZERO);
        header.observed = vec![tip];
        header.count += 1;
        // Right in everything but its author's rights: only a stranger or a reader says that here.
        let unfounded =
            keys.id() != self.devices[self.mallory?].id() || self.devices[self.mallory?].role == Role::Reader;
        match self.lot.below(if unfounded { 8 } else { 4 }) {
            0 => header.count += 1 + self.lot.below(3) as u64,
            1 => {
                header.observed.push(CommitHash::from_bytes(self.random()));
                header.observed.sort();
            }
            2 => (header.seq, header.prev) = (2, tip),
            3 => header.volume = VolumeId::from_bytes(self.random()),
            _ => {}
        }
        header.root = changes_root(of.changes.iter());
        let header = encode(&header);
        let signature = keys.signing.sign(Label::CommitSignature, &header);
        Some(ClaimedCommit { header, signature, changes: of.changes.clone() })
    }
}
