//! A member who does what no honest program does, on connections that honest devices take for ordinary ones.

use crypto::{DeviceKeys, Entropy, Hash, Label, VolumeId};
use volume::{
    Message, Role,
    commit::{ClaimedCommit, Header, changes_root, commit_hash, decode, encode},
    id::CommitHash,
    sync::Tip,
};

use crate::{
    lot::Lot,
    world::{Violation, World},
};

/// Randomness of the seed's own, for keys that nobody admitted.
struct Drawn<'a>(&'a Lot);

impl Entropy for Drawn<'_> {
    fn fill(&self, buf: &mut [u8]) {
        self.0.fill(buf);
    }
}

impl World {
    /// Whether `r` is the malicious member.
    pub(crate) fn is_mallory(&self, r: usize) -> bool {
        self.mallory == Some(r)
    }

    /// Does something malicious to whoever Mallory is connected to.
    pub(crate) fn mischief(&mut self) -> Result<&'static str, Violation> {
        let Some(mallory) = self.mallory else { return Ok("nothing") };
        let connections: Vec<usize> =
            (0..self.connections.len()).filter(|c| self.connections[*c].ends.contains(&mallory)).collect();
        let Some(&c) = self.lot.pick(&connections) else { return Ok("nobody") };
        let side = usize::from(self.connections[c].ends[1] == mallory);
        let known = self.lot.pick(&self.overheard).cloned();
        let mut say = Vec::new();
        let what = match self.lot.below(12) {
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
                let keys =
                    if outsider { DeviceKeys::generate(&Drawn(&self.lot)) } else { self.devices[mallory].keys() };
                say.extend(self.forged(&commit, &keys).map(|commit| Message::Commits(vec![commit])));
                if outsider { "signs as a stranger" } else { "breaks rules" }
            }
            6 => {
                for _ in 0..self.lot.below(30) {
                    say.push(Message::Want(CommitHash::from_bytes(self.random())));
                }
                "wants without end"
            }
            7 => {
                for _ in 0..3 {
                    let device = self.lot.pick(&self.devices).map(|d| d.id()).unwrap_or(self.devices[0].id());
                    let count = self.lot.below(40);
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
                let image = self.devices[mallory].disk.image();
                self.backup = Some((mallory, self.step, image));
                "keeps a copy of its store"
            }
            _ => {
                // What it signs from here on has numbers that it has used.
                let Some((_, _, image)) = self.backup.take().filter(|b| b.0 == mallory) else {
                    return Ok("nothing");
                };
                self.disconnect_all(mallory);
                self.devices[mallory].stop();
                self.devices[mallory].disk.restore(&image);
                self.devices[mallory].shown.clear();
                if self.devices[mallory].start().is_err() {
                    return Err(Violation("a copy of a store can't be opened".to_owned()));
                }
                return Ok("goes back to a copy of its store");
            }
        };
        for message in say {
            let encoded = message.encode();
            self.trace.note(&encoded);
            self.connections[c].lanes[side].control.push_back(encoded);
        }
        Ok(what)
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
