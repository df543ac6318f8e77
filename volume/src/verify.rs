//! Scrubbing: everything that this device keeps of a volume is read and checked again.
//!
//! Owns: finding damage, telling whom it hurts, and putting damaged blocks aside so that replication fetches them anew.
//! Damaged records are not mended in place: [`crate::salvage`] builds a store anew from the commits. The archive of
//! commits is mended from the store.
//!
//! Checked are: the seal of every record and whether it decodes; of every commit hash, signature, root, chain and
//! index; between names and nodes the references both ways; of every content that a commit names (older versions too)
//! the hash of every list node and block, and of current contents that every page opens; of the archive every record,
//! and that it and the store hold the same commits.

mod archive;
mod commits;
mod contents;
mod records;

use std::collections::{HashMap, HashSet};

use crate::{
    Volume,
    content::BlockHash,
    core::Core,
    error::Result,
    node::Ino,
    row::NodeRow,
    store::{Row, Space},
    version::ValueRef,
};

/// Rows read at once.
const PAGE: usize = 256;
/// So many damages are told one by one; of more only the number.
const TOLD: usize = 10_000;

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Records of the store.
    pub records: u64,
    /// Commits.
    pub commits: u64,
    /// Contents, older versions included.
    pub contents: u64,
    /// Different blocks and list nodes.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DamageKind {
    /// A block of a content is not what was written, or isn't here though nothing is known to be missing.
    Block,
    /// A block is whole, but its author sealed it wrongly: no copy elsewhere is better.
    Sealing,
    /// A record that is derived from commits.
    Record,
    /// A commit, or a change in it.
    Commit,
    /// The second copy of commits, in the archive.
    Archive,
}

/// One damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its kind.
    pub kind: DamageKind,
    /// What exactly, for people.
    pub what: String,
    /// The path it hurts, from the volume's root, where one can be told.
    pub path: Option<Vec<u8>>,
    /// The block, where it is one.
    pub block: Option<BlockHash>,
    /// It was mended at once.
    pub repaired: bool,
}

/// What verifying found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// How much was looked at.
    pub checked: Checked,
    /// The damages, at most 10,000 of them.
    pub damage: Vec<Damage>,
    /// How many there are.
    pub damages: u64,
    /// Blocks put aside earlier that are whole again.
    pub recovered: u64,
}

impl VerifyReport {
    /// Whether something is damaged that only building the store anew mends.
    pub fn needs_salvage(&self) -> bool {
        self.damage.iter().any(|d| matches!(d.kind, DamageKind::Record | DamageKind::Commit))
    }

    /// The blocks that are damaged or missing, each once.
    pub fn bad_blocks(&self) -> Vec<BlockHash> {
        let bad: std::collections::BTreeSet<_> =
            self.damage.iter().filter(|d| d.kind == DamageKind::Block).filter_map(|d| d.block).collect();
        bad.into_iter().collect()
    }
}

/// The state of one verification.
struct Verifier<'a> {
    volume: &'a Volume,
    progress: &'a mut dyn FnMut(&Checked),
    report: VerifyReport,
    good: HashSet<BlockHash>,
    /// List nodes below which all is well, with their height.
    clean: HashSet<(BlockHash, u32)>,
    bad: HashMap<BlockHash, (DamageKind, String)>,
    /// Contents that are current somewhere.
    live: HashSet<ValueRef>,
    /// Contents on their way here.
    wanted: HashSet<ValueRef>,
    /// Contents with damaged blocks: to be fetched again.
    hurt: Vec<(ValueRef, BlockHash, u64)>,
}

impl Volume {
    /// Checks everything. Goes on beside other calls; `progress` is called now and then.
    ///
    /// With `repair`, damaged blocks are put aside and asked for: connected peers send them; what is damaged of the
    /// archive is written anew from the store. The rest is repaired by
    /// [`Self::salvage`] while the volume is not in use.
    ///
    /// # Errors
    /// Nothing could be checked; damage is no error.
    pub fn verify(&self, repair: bool, progress: &mut dyn FnMut(&Checked)) -> Result<VerifyReport> {
        let mut verifier = Verifier {
            volume: self,
            progress,
            report: VerifyReport::default(),
            good: HashSet::new(),
            clean: HashSet::new(),
            bad: HashMap::new(),
            live: HashSet::new(),
            wanted: HashSet::new(),
            hurt: Vec::new(),
        };
        if repair {
            verifier.report.recovered = self.inner.blocks.store().reconsider()?;
        }
        verifier.records();
        verifier.commits();
        verifier.archive(repair);
        verifier.contents();
        if repair {
            verifier.ask_again()?;
        }
        Ok(verifier.report)
    }

    /// Whether a block is here and whole.
    pub fn has_whole(&self, hash: &BlockHash) -> bool {
        matches!(self.inner.blocks.get_checked(hash), Ok(Some(_)))
    }

    /// Notes that current contents of a file lack blocks that were thought to be here, so that they are fetched.
    pub(crate) fn want_again(&self, ino: Ino) -> Result<()> {
        let core = &mut *self.inner.core.lock();
        let of = match core.row(ino)?.as_deref() {
            Some(NodeRow::View { of, .. }) => *of,
            _ => ino,
        };
        let trees: Vec<(ValueRef, BlockHash, u64)> = core.with_node(of, |node| {
            let values = node.content.iter().filter_map(|v| Some((v.at, v.value.as_ref()?.tree?)));
            values.map(|(at, (root, blocks))| (at, root, blocks)).collect()
        })?;
        self.want(core, &trees)
    }

    fn want(&self, core: &mut Core, contents: &[(ValueRef, BlockHash, u64)]) -> Result<()> {
        let mut batch = crate::store::Batch::new();
        for (at, root, blocks) in contents {
            if core.store.raw().get(Space::Wanted, &at.key())?.is_none() {
                core.store.put(&mut batch, Space::Wanted, at.key(), &crate::commit::encode(&(root, blocks)));
            }
        }
        if !batch.is_empty() {
            core.store.apply(batch)?;
            self.inner.fetch.look_at_all_again();
        }
        Ok(())
    }
}

impl Verifier<'_> {
    fn damage(&mut self, kind: DamageKind, what: String, path: Option<Vec<u8>>, block: Option<BlockHash>) {
        self.report.damages += 1;
        if self.report.damage.len() < TOLD {
            self.report.damage.push(Damage { kind, what, path, block, repaired: false });
        }
    }

    /// Gives every readable row of a space to `each`, and notes where rows can't be read.
    fn rows(&mut self, space: Space, mut each: impl FnMut(&mut Self, Vec<Row>)) {
        let store = self.volume.inner.store.clone();
        let mut from = Vec::new();
        let mut limit = PAGE;
        loop {
            match store.raw().scan(space, &from, &[], limit) {
                Ok(rows) => {
                    let Some((last, _)) = rows.last() else { return };
                    from = [last.as_slice(), &[0]].concat();
                    self.report.checked.records += rows.len() as u64;
                    each(self, rows);
                    (self.progress)(&self.report.checked);
                }
                // Up to the one that can't be read.
                Err(_) if limit > 1 => limit = 1,
                Err(e) => {
                    let what = format!("records of `{}` can't be read from here on: {e}", space.name());
                    return self.damage(DamageKind::Record, what, None, None);
                }
            }
        }
    }

    /// Puts damaged blocks aside and has every content that needs them fetched again.
    fn ask_again(&mut self) -> Result<()> {
        for (hash, (kind, _)) in &self.bad {
            if *kind == DamageKind::Block {
                self.volume.inner.blocks.set_aside(hash)?;
            }
        }
        let hurt = std::mem::take(&mut self.hurt);
        self.volume.want(&mut self.volume.inner.core.lock(), &hurt)?;
        self.volume.wake_sessions();
        Ok(())
    }
}
