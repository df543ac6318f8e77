//! Proofs that a device signed two different commits under one number of one of its logs.
//!
//! Owns what is in one (`docs/format.md`, "Proof"), the check that needs nothing else, no volume and no keys, and the
//! rows of those that this device keeps. A signature covers the header alone, and there the changes are one hash: names
//! and contents, sealed or not, are in no proof.

use crypto::{DeviceId, Signature, VolumeId};
use serde::{Deserialize, Serialize};

use crate::{
    Volume,
    audit::{Act, Op, Outcome},
    commit::{Commit, Header, MAX_HEADER, Malformed, commit_hash, decode, encode},
    core::{Core, decode_row},
    error::{Error, Result},
    id::CommitHash,
    store::{Batch, Space, prefix_end},
    time::Timestamp,
    version::Dot,
};

/// Most bytes of a proof.
pub const MAX_PROOF: usize = 2 * MAX_HEADER + 256;
const MAGIC: &[u8; 8] = b"P2PFSPRF";
const VERSION: u8 = 1;
/// As many proofs are kept of one device: more of them prove nothing more.
const KEPT: usize = 8;
/// Proofs, by number.
const PROOFS: &[u8] = b"proof/";
/// What they are of: device, log and number of the commits.
const PROVEN: &[u8] = b"proven/";

/// A header and the signature over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SignedHeader {
    #[serde(with = "serde_bytes")]
    header: Vec<u8>,
    signature: Signature,
}

/// Two commits that no honest program signs both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof([SignedHeader; 2]);

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The volume.
    pub volume: VolumeId,
    /// Who signed both.
    pub device: DeviceId,
    /// In which of its logs.
    pub log: u64,
    /// Under which number.
    pub seq: u64,
    /// The two commits, in the order of their hashes, each with the time it gives itself.
    pub commits: [(CommitHash, Timestamp); 2],
}

/// Why bytes prove nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Longer than the format allows.
    #[error("it is longer than any proof: more than {MAX_PROOF} bytes")]
    TooLarge,
    /// Something else altogether.
    #[error("it is no proof of p2pfs")]
    Foreign,
    /// Written by a newer program.
    #[error("it is a proof of version {found}, this program knows {VERSION}")]
    Version {
        /// The version it says.
        found: u8,
    },
    /// Cut off, damaged, or not the canonical encoding.
    #[error("it is damaged: not a well-formed proof")]
    Encoding,
    /// One of the two is no commit that its device signed.
    #[error("commit {which} is not what a device signed: {why}")]
    Commit {
        /// 1 or 2.
        which: u8,
        /// What is wrong with it.
        why: Malformed,
    },
    /// Both are the same.
    #[error("both commits are the same one")]
    Same,
    /// The one of the lesser hash comes first.
    #[error("its commits are in the wrong order")]
    Order,
    /// The two do not contradict each other.
    #[error("its commits are of different {0}: a device may sign both")]
    Apart(&'static str),
}

impl Proof {
    /// Made of two signed headers, in whatever order.
    pub(crate) fn of(one: (Vec<u8>, Signature), other: (Vec<u8>, Signature)) -> Self {
        let mut proof = Self::as_given(one, other);
        proof.0.sort_by_key(|signed| commit_hash(&signed.header));
        proof
    }

    /// The same in the order given, which may be the wrong one.
    pub(crate) fn as_given(one: (Vec<u8>, Signature), other: (Vec<u8>, Signature)) -> Self {
        Self([one, other].map(|(header, signature)| SignedHeader { header, signature }))
    }

    /// As it is in a file.
    pub fn encode(&self) -> Vec<u8> {
        [&MAGIC[..], &[VERSION], &encode(self)].concat()
    }

    /// The inverse of [`Self::encode`]; nothing of what it says is checked yet.
    ///
    /// # Errors
    /// [`Flaw`]: it is no proof of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        if bytes.len() > MAX_PROOF {
            return Err(Flaw::TooLarge);
        }
        let (found, record) = bytes.strip_prefix(MAGIC).and_then(<[u8]>::split_first).ok_or(Flaw::Foreign)?;
        if *found != VERSION {
            return Err(Flaw::Version { found: *found });
        }
        decode("proof", record).map_err(|_| Flaw::Encoding)
    }

    /// Checks both signatures and that the two commits contradict each other.
    ///
    /// # Errors
    /// [`Flaw`], with the first thing that does not fit.
    pub fn check(&self) -> Result<Proven, Flaw> {
        let signed = |which: u8, signed: &SignedHeader| {
            let header = Header::decode(&signed.header).and_then(|header| {
                header.check_signed(&signed.header, &signed.signature)?;
                Ok(header)
            });
            header.map_err(|why| Flaw::Commit { which, why })
        };
        let (one, other) = (signed(1, &self.0[0])?, signed(2, &self.0[1])?);
        let hashes = [commit_hash(&self.0[0].header), commit_hash(&self.0[1].header)];
        match hashes[0].cmp(&hashes[1]) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Err(Flaw::Same),
            std::cmp::Ordering::Greater => return Err(Flaw::Order),
        }
        // Two that begin a volume begin two.
        let volume = |header: &Header, hash: CommitHash| match header.volume {
            VolumeId::ZERO => VolumeId::from_bytes(*hash.as_bytes()),
            volume => volume,
        };
        let volumes = [volume(&one, hashes[0]), volume(&other, hashes[1])];
        let apart = [
            (volumes[0] != volumes[1], "volumes"),
            (one.device != other.device, "devices"),
            (one.log != other.log, "logs"),
            (one.seq != other.seq, "numbers"),
        ];
        if let Some((_, what)) = apart.into_iter().find(|(differ, _)| *differ) {
            return Err(Flaw::Apart(what));
        }
        let commits = [(hashes[0], one.time), (hashes[1], other.time)];
        Ok(Proven { volume: volumes[0], device: one.device, log: one.log, seq: one.seq, commits })
    }
}

/// A proof that this device keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptProof {
    /// Its number.
    pub n: u64,
    /// When the second of the two came.
    pub found: Timestamp,
    /// Who signed both.
    pub device: DeviceId,
    /// Whose device that is.
    pub user: String,
    /// In which of its logs.
    pub log: u64,
    /// Under which number.
    pub seq: u64,
    /// The two commits.
    pub commits: [CommitHash; 2],
}

/// What the list of proofs has of one beside its key.
#[derive(Serialize, Deserialize)]
struct ProvenRow {
    n: u64,
    found: Timestamp,
    commits: [CommitHash; 2],
}

impl Core {
    /// Takes note of a commit that is signed under a number of which `first` is known.
    pub(crate) fn note_equivocation(&mut self, commit: &Commit, first: Dot) -> Result<()> {
        let Header { device, log, seq, .. } = commit.header;
        let Some(audit) = self.audit.get().cloned() else { return self.keep_proof(commit, first).map(drop) };
        let (user, id) = (Some(self.user_named(&device)), Some(device.to_string().into()));
        let act = Act { user, device: id, ..Act::new(self.now(), Op::Equivocated) };
        if device == self.device.id() {
            // `p2pfs status` tells its user, who knows best.
            let note =
                Some(format!("two commits of this device are numbered {seq}: its store was put back from a copy"));
            audit.record(Act { note, ..act });
            return Ok(());
        }
        let kept = self.keep_proof(commit, first);
        let note = Some(match &kept {
            Ok(Some(n)) => format!("`p2pfs proof export {n} FILE` writes the proof"),
            Ok(None) => "`p2pfs proof list` lists proofs".to_owned(),
            Err(_) => "The proof could not be kept".to_owned(),
        });
        let why = format!("signed two different commits numbered {seq} in its log {log}");
        audit.record(Act { outcome: Outcome::Denied(why), note, ..act });
        kept.map(drop)
    }

    /// Keeps the proof; tells its number, unless there are enough of that device.
    fn keep_proof(&mut self, commit: &Commit, first: Dot) -> Result<Option<u64>> {
        let Header { device, log, seq, .. } = commit.header;
        let of_device = [PROVEN, device.as_bytes()].concat();
        let key = [&of_device[..], &log.to_be_bytes(), &seq.to_be_bytes()].concat();
        if let Some(row) = self.store.get(Space::Meta, &key)? {
            return decode_row("a proof", &row).map(|row: ProvenRow| Some(row.n));
        }
        if self.store.scan(Space::Meta, &of_device, &prefix_end(&of_device), KEPT)?.len() == KEPT {
            return Ok(None);
        }
        let Some(first) = self.commit_row(first)? else { return Ok(None) };
        let mut n = 1;
        for (_, row) in self.store.scan(Space::Meta, PROVEN, &prefix_end(PROVEN), usize::MAX)? {
            n = n.max(decode_row::<ProvenRow>("a proof", &row)?.n + 1);
        }
        let commits = [first.hash, commit.hash];
        let proof = Proof::of((first.header, first.signature), (commit.raw.header.clone(), commit.raw.signature));
        let mut batch = Batch::new();
        self.store.put(&mut batch, Space::Meta, key, &encode(&ProvenRow { n, found: self.now(), commits }));
        self.store.put(&mut batch, Space::Meta, [PROOFS, &n.to_be_bytes()].concat(), &proof.encode());
        self.store.apply(batch)?;
        Ok(Some(n))
    }
}

impl Volume {
    /// The proofs that this device keeps, by number.
    ///
    /// # Errors
    /// The disk failed.
    pub fn proofs(&self) -> Result<Vec<KeptProof>> {
        let core = self.inner.core.lock();
        let mut kept = Vec::new();
        for (key, row) in core.store.scan(Space::Meta, PROVEN, &prefix_end(PROVEN), usize::MAX)? {
            let (device, log, seq) = proven_of(&key).ok_or_else(|| Error::damaged("a proof"))?;
            let ProvenRow { n, found, commits } = decode_row("a proof", &row)?;
            kept.push(KeptProof { n, found, device, user: core.user_named(&device), log, seq, commits });
        }
        kept.sort_by_key(|proof| proof.n);
        Ok(kept)
    }

    /// The proof of that number, as a file has it.
    ///
    /// # Errors
    /// The disk failed.
    pub fn proof(&self, n: u64) -> Result<Option<Vec<u8>>> {
        self.inner.store.get(Space::Meta, &[PROOFS, &n.to_be_bytes()].concat())
    }
}

fn proven_of(key: &[u8]) -> Option<(DeviceId, u64, u64)> {
    let (device, numbers) = key.strip_prefix(PROVEN)?.split_at_checked(32)?;
    let (log, seq) = numbers.split_at_checked(8)?;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    Some((DeviceId::try_from(device).ok()?, number(log)?, number(seq)?))
}
