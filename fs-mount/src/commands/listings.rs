//! `p2pfs status`, `peers`, `users`, `devices`, `volumes`.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use super::reseal;
use crate::{
    cli::{Listing, Volumes},
    control::{
        client::unexpected,
        protocol::{Reply, Request},
    },
    failure::Outcome,
    home::Home,
    open_volume::ask_or_open,
    output::{self, bytes, count},
    report::{Holder, LocalVolume, Peer, Status, Unpublished, Waiting},
    select::inspect,
    unlock::read_passphrase,
};

/// More files that are waited for are only counted.
const WAITING_SHOWN: usize = 20;

pub(crate) fn status(home: &Home, args: &Listing) -> Outcome<()> {
    let Reply::Status(status) = ask_or_open(home, &args.which, &Request::Status)? else { return Err(unexpected()) };
    if args.json { output::json(&*status) } else { output::lines(&screen(&status)) }
}

/// The status on one screen.
fn screen(status: &Status) -> Vec<String> {
    let mut lines = vec![
        format!("volume      {} ({})", status.volume, short(&status.id)),
        match status.serving {
            Some(true) => "keeper      serves it, and can't read it".to_owned(),
            Some(false) => "keeper      does not run: `p2pfs keeper` stores and serves it".to_owned(),
            None => format!("mounted     {}", status.mountpoint.as_deref().unwrap_or("no")),
        },
        format!("you         {}, {}", status.user, status.role.as_deref().unwrap_or("not admitted yet")),
        format!("device      {}", short(&status.device)),
        format!("history     {}", count(status.commits, "commit")),
    ];
    if status.pending > 0 {
        lines.push(format!("pending     {} not in a commit yet", count(status.pending, "change")));
    }
    if status.wanted_blocks > 0 {
        let wanted = count(status.wanted_blocks, "block");
        lines.push(format!("to fetch    {wanted}, about {}", bytes(status.wanted_bytes)));
    }
    if let Some(used) = status.used {
        let of = status.quota.map_or_else(String::new, |quota| format!(" of at most {}", bytes(quota)));
        lines.push(format!("kept        {}{of}", bytes(used)));
    }
    if status.quota_reached {
        lines.push("quota       reached: commits are kept, contents are not fetched until there is room".to_owned());
    }
    if status.disk_full {
        lines.push("disk        full: nothing is stored until there is room".to_owned());
    }
    if status.following > 0 {
        let folders = count(status.following as u64, "folder");
        lines.push(format!("following   permissions below {folders} are still to follow theirs"));
    }
    if let Some(so_far) = &status.resealing {
        lines.push(format!("resealing   {}", reseal::how_far(so_far)));
    }
    if status.conflicts > 0 {
        lines.push(format!("conflicts   {}: `p2pfs conflicts` tells of them", count(status.conflicts, "name")));
    }
    if status.unread > 0 {
        lines.push(format!("messages    {} unread: `p2pfs msg list --unread` shows them", status.unread));
    }
    if status.alerts > 0 {
        lines.push(format!("alerts      {}: `p2pfs alerts` tells of them", status.alerts));
    }
    if status.removed {
        lines.push(
            "removed     this device belongs to the volume no more: what is here can be read, nothing goes to others"
                .to_owned(),
        );
    }
    if let Some(by) = &status.said_removed_by {
        lines.push(format!("removed?    {by} says that this device was removed from the volume: ask an admin"));
    }
    if status.kept_aside > 0 {
        lines.push(format!(
            "kept aside  {} of somebody who was removed: `p2pfs quarantine list`",
            count(status.kept_aside, "commit")
        ));
    }
    lines.extend(status.unpublished.iter().take(WAITING_SHOWN).map(unpublished));
    if status.unpublished.len() > WAITING_SHOWN {
        let more = count((status.unpublished.len() - WAITING_SHOWN) as u64, "file");
        lines.push(format!("unpublished {more} more"));
    }
    if let Some(copy) = &status.older_copy {
        let not_met: Vec<_> = copy.not_met.iter().map(|(name, id)| format!("{name} {}", short(id))).collect();
        let left =
            if not_met.is_empty() { "all others met since".to_owned() } else { not_met.join(", ") + " not met since" };
        lines.push(format!("older copy  this device's store was put back from one, noticed {}; {left}", copy.noticed));
    }
    for device in &status.restored {
        let (name, id, since) = (&device.name, short(&device.device), &device.since);
        lines.push(format!("restored    {name} {id} goes on from an older copy of its store since {since}"));
    }
    lines.extend(status.waiting.iter().take(WAITING_SHOWN).map(waiting));
    if status.waiting.len() > WAITING_SHOWN {
        lines.push(format!("waiting     for {} more", count((status.waiting.len() - WAITING_SHOWN) as u64, "file")));
    }
    lines.push(format!("peers       {} of {} connected", status.peers_connected, status.peers_known));
    for registry in &status.registries {
        lines.push(format!("registry    {} {}", place(&registry.address), registry.state));
    }
    for address in &status.listen {
        lines.push(format!("listening   {address}"));
    }
    for invitation in &status.invitations {
        lines.push(format!("invitation  {} until {}", invitation.role, invitation.expires));
    }
    lines
}

/// A file that is waited for, in one line.
fn unpublished(file: &Unpublished) -> String {
    let path = file.path.as_deref().unwrap_or("a file without a name");
    if file.forbidden {
        return format!(
            "unpublished {path}: you may not write to it any more; what you wrote is here alone, copy it elsewhere"
        );
    }
    format!("unpublished {path}: what you wrote is here alone for now, and is tried again")
}

fn waiting(file: &Waiting) -> String {
    let path = file.path.as_deref().unwrap_or("a file without a name");
    let past = if file.past { " as it was" } else { "" };
    let failed = if file.readers == 0 { ", in vain" } else { "" };
    let who = |holder: &Holder| {
        let name = holder.name.as_deref().unwrap_or("?");
        let there = if holder.connected { "connected" } else { "offline" };
        format!("{name} {} {} ({there})", short(&holder.device), holder.why)
    };
    let who: Vec<String> = file.devices.iter().map(who).collect();
    let who = if who.is_empty() { "nobody is known to have it".to_owned() } else { who.join(", ") };
    format!("waiting     for {path}{past} since {}{failed}: {who}", file.since)
}

pub(crate) fn peers(home: &Home, args: &Listing) -> Outcome<()> {
    let Reply::Peers(peers) = ask_or_open(home, &args.which, &Request::Peers)? else { return Err(unexpected()) };
    if args.json {
        return output::json(&peers);
    }
    if peers.is_empty() {
        return output::line("nobody else is in this volume yet: `p2pfs invite` prints a ticket");
    }
    let rows: Vec<Vec<String>> = peers.iter().map(peer_row).collect();
    output::table(&["NAME", "DEVICE", "ADDRESS", "RTT", "STATE"], &rows)
}

fn peer_row(peer: &Peer) -> Vec<String> {
    let behind = || {
        let (here, there) = (peer.missing_here.unwrap_or(0), peer.missing_there.unwrap_or(0));
        let mut parts = Vec::new();
        if here > 0 {
            parts.push(format!("{} to come", count(here, "commit")));
        }
        if there > 0 {
            parts.push(format!("{} to go", count(there, "commit")));
        }
        if peer.all_theirs_here == Some(false) {
            parts.push("contents to come".to_owned());
        }
        if peer.holds_all_mine == Some(false) {
            parts.push("contents to go".to_owned());
        }
        if parts.is_empty() { "in step".to_owned() } else { parts.join(", ") }
    };
    let state = match (peer.connected, peer.in_step) {
        (false, _) => "offline".to_owned(),
        (true, false) if peer.missing_here.unwrap_or(0) + peer.missing_there.unwrap_or(0) == 0 => {
            "comparing".to_owned()
        }
        (true, _) => behind(),
    };
    let state = match &peer.restored {
        Some(since) => format!("{state}, goes on from an older copy since {since}"),
        None => state,
    };
    vec![
        peer.name.clone().unwrap_or_else(|| "?".to_owned()),
        short(&peer.device).to_owned(),
        peer.address.clone().unwrap_or_else(|| "-".to_owned()),
        peer.rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
        state,
    ]
}

pub(crate) fn users(home: &Home, args: &Listing) -> Outcome<()> {
    let Reply::Users(users) = ask_or_open(home, &args.which, &Request::Users)? else { return Err(unexpected()) };
    if args.json {
        return output::json(&users);
    }
    let rows: Vec<Vec<String>> = users
        .iter()
        .map(|u| {
            let name = if u.me { format!("{} (you)", u.name) } else { u.name.clone() };
            let (id, digits) = (short(&u.id).to_owned(), u.fingerprint.clone());
            vec![name, u.role.clone(), u.number.to_string(), u.devices.len().to_string(), id, digits]
        })
        .collect();
    output::table(&["NAME", "ROLE", "NUMBER", "DEVICES", "ID", "FINGERPRINT"], &rows)
}

pub(crate) fn devices(home: &Home, args: &Listing) -> Outcome<()> {
    let Reply::Devices(devices) = ask_or_open(home, &args.which, &Request::Devices)? else { return Err(unexpected()) };
    if args.json {
        return output::json(&devices);
    }
    let rows: Vec<Vec<String>> = devices
        .iter()
        .map(|d| {
            let device = if d.me { format!("{} (this)", short(&d.device)) } else { short(&d.device).to_owned() };
            vec![device, d.name.clone(), d.commits.to_string(), d.admitted.clone(), d.fingerprint.clone()]
        })
        .collect();
    output::table(&["DEVICE", "USER", "COMMITS", "ADMITTED", "FINGERPRINT"], &rows)
}

pub(crate) fn volumes(home: &Home, args: &Volumes) -> Outcome<()> {
    let passphrase = args.passphrase_file.as_deref().map(read_passphrase).transpose()?;
    let volumes: Vec<LocalVolume> = home
        .volumes()?
        .into_iter()
        .map(|dir| {
            let known = inspect(dir, passphrase.as_ref());
            let mounted = known.daemon.is_some();
            let (id, mountpoint) = match known.daemon {
                Some(hello) => {
                    let place = Some(hello.mountpoint).filter(|place| !place.is_empty());
                    (hello.id, place.map(|place| PathBuf::from(OsString::from_vec(place))))
                }
                None => (known.dir.short_id().to_owned(), None),
            };
            let mountpoint = mountpoint.map(|path| path.display().to_string());
            LocalVolume { volume: known.label, id, user: known.user, mountpoint, mounted }
        })
        .collect();
    if args.json {
        return output::json(&volumes);
    }
    if volumes.is_empty() {
        return output::line("no volume here: `p2pfs init --name YOU` makes one, `p2pfs join --name YOU` joins one");
    }
    let opened = passphrase.is_some();
    let rows: Vec<Vec<String>> = volumes
        .iter()
        .map(|v| {
            let label = || if opened { "(locked)" } else { "(locked: --passphrase-file shows it)" }.to_owned();
            vec![
                v.volume.clone().unwrap_or_else(label),
                short(&v.id).to_owned(),
                v.user.clone().unwrap_or_else(|| "(locked)".to_owned()),
                v.mountpoint.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    output::table(&["VOLUME", "ID", "USER", "MOUNTED AT"], &rows)
}

/// The first digits of an id, enough to tell it by.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// A registry's address without its long key.
fn place(registry: &str) -> &str {
    registry.split('#').next().unwrap_or(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            name: Some("bob".to_owned()),
            device: "4f2a91c0".repeat(8),
            connected: true,
            address: Some("127.0.0.1:4000".to_owned()),
            rtt_ms: Some(0.3),
            in_step: true,
            missing_here: Some(0),
            missing_there: Some(0),
            holds_all_mine: Some(true),
            all_theirs_here: Some(true),
            connected_seconds: Some(5),
            restored: None,
        }
    }

    fn check(peer: &Peer, expected: &str) {
        assert_eq!(peer_row(peer).pop().unwrap(), expected);
    }

    #[test]
    fn a_peers_state_is_said_in_words() {
        check(&peer(), "in step");
        check(&Peer { connected: false, ..peer() }, "offline");
        check(&Peer { in_step: false, ..peer() }, "comparing");
        check(&Peer { in_step: false, missing_here: Some(1), ..peer() }, "1 commit to come");
        check(&Peer { in_step: false, missing_there: Some(2), ..peer() }, "2 commits to go");
        check(&Peer { holds_all_mine: Some(false), ..peer() }, "contents to go");
        let restored = Some("2026-11-22T09:15:00Z".to_owned());
        check(&Peer { restored, ..peer() }, "in step, goes on from an older copy since 2026-11-22T09:15:00Z");
    }
}
