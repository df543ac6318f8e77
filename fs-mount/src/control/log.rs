//! What is asked about the audit log.

use serde::{Deserialize, Serialize};
use volume::{
    Alert, KeptProof, Timestamp, Volume,
    audit::{Act, Entry, Op, Outcome as Ended},
};

use super::{
    protocol::{Reply, Request},
    request::{AboutAccess, AboutAgreed, AboutMembers, AboutPage, AboutSends, Bytes},
};
use crate::{
    failure::{Because, Failure, Outcome},
    output::count,
};

/// Entries in one answer.
const PAGE: usize = 5000;

/// Bytes of their text: less than an answer may have.
const PAGE_BYTES: usize = 4 << 20;

/// Some of the log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// The number of the first entry that is not in it.
    pub(crate) next: u64,
    /// The number of the last entry that there was.
    pub(crate) end: u64,
    /// Places that can't be read.
    pub(crate) damage: Vec<String>,
}

/// A proof that is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Proof {
    pub(crate) n: u64,
    /// When the second of its commits came here.
    pub(crate) found: Timestamp,
    pub(crate) user: String,
    pub(crate) device: String,
    pub(crate) log: u64,
    pub(crate) number: u64,
    pub(crate) commits: [String; 2],
}

/// What checking it found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Checked {
    /// Entries up to here.
    pub(crate) entries: u64,
    pub(crate) faults: Vec<String>,
}

fn the_log(volume: &Volume) -> Outcome<&volume::audit::Audit> {
    volume.audit().map(|audit| &**audit).ok_or_else(|| Failure::new("this volume has no audit log"))
}

/// The alerts, of all that was recorded so far.
pub(super) fn alerts(volume: &Volume) -> Outcome<Vec<Alert>> {
    the_log(volume)?.flush();
    volume.alerts().because(|| "reading the alerts".to_owned())
}

/// Entries from number `from` on.
pub(crate) fn page(volume: &Volume, from: u64) -> Outcome<Page> {
    let audit = the_log(volume)?;
    audit.flush();
    let end = audit.written();
    let mut found = audit.read(from, PAGE).because(|| "reading the audit log".to_owned())?;
    // Paths may be long, and an answer may not.
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += serde_json::to_vec(entry).map_or(PAGE_BYTES, |text| text.len());
        bytes <= PAGE_BYTES
    };
    let fitting = found.entries.iter().take_while(fits).count();
    found.entries.truncate(fitting.max(1));
    let next = found.entries.last().map_or(from, |entry| entry.n + 1);
    Ok(Page { entries: found.entries, next, end, damage: found.damage })
}

/// Follows the whole chain.
pub(crate) fn verify(volume: &Volume) -> Outcome<Checked> {
    let audit = the_log(volume)?;
    audit.flush();
    let faults = audit.verify(&volume.signed_audit_heads()?).because(|| "reading the audit log".to_owned())?;
    Ok(Checked { entries: audit.synced().count, faults })
}

/// The proofs that are kept.
pub(crate) fn proofs(volume: &Volume) -> Outcome<Vec<Proof>> {
    let told = |proof: KeptProof| Proof {
        n: proof.n,
        found: proof.found,
        user: proof.user,
        device: proof.device.to_string(),
        log: proof.log,
        number: proof.seq,
        commits: proof.commits.map(|hash| hash.to_string()),
    };
    Ok(volume.proofs()?.into_iter().map(told).collect())
}

/// A proof, as it is in a file.
pub(crate) fn proof(volume: &Volume, number: u64) -> Outcome<Bytes> {
    let found = volume.proof(number)?.map(Bytes);
    found.ok_or_else(|| Failure::new(format!("there is no proof {number}: `p2pfs proof list` shows which there are")))
}

/// What a request does that is recorded: one entry here, whatever it changes in the tree. Others have one for each change.
pub(crate) struct Deed {
    op: Op,
    path: Option<Vec<u8>>,
    note: String,
}

/// What a request does; nothing for those that only look.
pub(crate) fn deed(request: &Request) -> Option<Deed> {
    let (op, path, note) = match request {
        Request::Invite { role, .. } => {
            let whom = role.as_ref().map_or("a device of the same user", String::as_str);
            (Op::Invitation, None, format!("invited: {whom}"))
        }
        Request::Withdraw { id } => (Op::Invitation, None, format!("withdrew {id}")),
        Request::ExportKey => (Op::Invitation, None, "exported the user's key".to_owned()),
        Request::Resolve { path, .. } => (Op::Settle, Some(path.0.clone()), "settled".to_owned()),
        Request::Agreed(AboutAgreed::Set { name, value, .. }) => {
            (Op::Settings, None, format!("{name} = {}", value.as_deref().unwrap_or("(the default)")))
        }
        Request::Agreed(AboutAgreed::CreateSnapshot { name }) => (Op::Snapshot, None, format!("made {name}")),
        Request::Agreed(AboutAgreed::RemoveSnapshot { name }) => (Op::Snapshot, None, format!("removed {name}")),
        Request::Access(AboutAccess::Allow { path, user, read, write }) => {
            let bits =
                [(*read, "r"), (*write, "w")].iter().filter(|(may, _)| *may).map(|(_, bit)| *bit).collect::<String>();
            (Op::Permissions, Some(joined(path)), format!("{user}:{bits}"))
        }
        Request::Access(AboutAccess::Give { path, user }) => {
            (Op::Permissions, Some(joined(path)), format!("given to {user}"))
        }
        Request::Members(AboutMembers::Grant { user, role }) => (Op::Membership, None, format!("{user} is {role}")),
        Request::Members(AboutMembers::TransferOwnership { user }) => {
            (Op::Membership, None, format!("{user} is the owner"))
        }
        Request::Members(AboutMembers::Revoke { who }) => (Op::Membership, None, format!("removed {who}")),
        Request::Members(AboutMembers::Accept { id }) => (Op::Restore, None, format!("accepted {id}")),
        Request::Sends(AboutSends::Offer { paths, user } | AboutSends::Send { paths, user }) => {
            (Op::Send, None, format!("offered {} to {user}", count(paths.len() as u64, "path")))
        }
        Request::Sends(AboutSends::Accept { id, .. }) => (Op::Send, None, format!("accepted transfer {id}")),
        Request::Sends(AboutSends::Decline { id }) => (Op::Send, None, format!("declined transfer {id}")),
        Request::Sends(AboutSends::Cancel { id }) => (Op::Send, None, format!("cancelled transfer {id}")),
        Request::Sends(AboutSends::Always { user, .. }) => {
            (Op::Send, None, format!("takes what {user} sends without asking"))
        }
        Request::Sends(AboutSends::AskAgain { user }) => (Op::Send, None, format!("asks before taking of {user}")),
        Request::Reseal => (Op::Membership, None, "sealed under new keys".to_owned()),
        Request::Restore(what) if !what.dry_run => (Op::Restore, Some(joined(&what.path)), "restored".to_owned()),
        Request::Undo(what) if !what.dry_run => {
            let whose = what.device.as_ref().or(what.user.as_ref()).map_or("everybody's", String::as_str);
            (Op::Undo, what.path.as_ref().map(|path| joined(path)), format!("took back {whose}"))
        }
        Request::Acknowledge { number } => {
            let which = number.map_or_else(|| "all".to_owned(), |number| number.to_string());
            (Op::Alert, None, format!("acknowledged {which}"))
        }
        Request::Verify { repair: true } => (Op::Verify, None, "repaired".to_owned()),
        Request::Page(AboutPage::Entered { browser }) => (Op::Page, None, format!("a browser was let in: {browser}")),
        _ => return None,
    };
    Some(Deed { op, path, note })
}

/// Records how a request ended that came from the process `(uid, pid)`.
pub(crate) fn record(volume: &Volume, deed: Option<Deed>, (uid, pid): (u32, u32), done: &Outcome<Reply>) {
    let (Some(deed), Some(audit)) = (deed, volume.audit()) else { return };
    let (mut outcome, mut note) = (Ended::Allowed, deed.note);
    if let Err(why) = done {
        let why = why.to_string();
        if ["only ", "may not", "readers change nothing"].iter().any(|words| why.contains(words)) {
            outcome = Ended::Denied(why);
        } else {
            note += &format!("; failed: {why}");
        }
    }
    let process = Some(audit.process(uid, pid));
    audit.record(Act { outcome, path: deed.path, process, note: Some(note), ..volume.own_act(deed.op) });
}

/// Records that the page, which is the process `(uid, pid)`, refused something.
pub(crate) fn record_refused(volume: &Volume, what: String, (uid, pid): (u32, u32)) {
    let Some(audit) = volume.audit() else { return };
    let process = Some(audit.process(uid, pid));
    audit.record(Act { outcome: Ended::Denied(what), process, ..volume.own_act(Op::Page) });
}

/// The same of one whose client went away: what was begun goes on, and nobody is told how it ends.
pub(crate) fn record_left(volume: &Volume, deed: Option<Deed>, who: (u32, u32)) {
    let left = |deed: Deed| Deed { note: deed.note + "; its client did not wait for how it ends", ..deed };
    record(volume, deed.map(left), who, &Ok(Reply::Done));
}

fn joined(path: &[Vec<u8>]) -> Vec<u8> {
    path.join(&b'/')
}
