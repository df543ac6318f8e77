//! `p2pfs undo`: takes back what one device, or one user, did.

use std::path::Path;

use crate::{
    bringing_back::{ToUndo, Undid, Undone},
    cli::Undo,
    commands::restore::{names, take_back, typed},
    control::{
        client::{self, unexpected},
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    home::Home,
    inside::inside_own,
    open_volume::not_mounted,
    output::{self, count},
    select::choose,
};

pub(crate) fn run(home: &Home, args: &Undo) -> Outcome<()> {
    let since = typed(&args.since)?;
    let (dir, path, whole) = match &args.path {
        Some(path) => {
            let found = inside_own(home, path)?;
            let (path, whole) = (names(&found.path), found.mountpoint.join(&found.path));
            (found.dir, Some(path), Some(whole))
        }
        None => (choose(home, &args.which, false)?.dir, None, None),
    };
    let what = ToUndo { device: args.device.clone(), user: args.user.clone(), since, path, dry_run: args.dry_run };
    let undone = match client::ask(&dir, &Request::Undo(what))? {
        Some(Reply::Undone(undone)) => *undone,
        Some(_) => return Err(unexpected()),
        None => return Err(not_mounted(&dir)),
    };
    if args.json {
        output::json(&undone)?;
    } else {
        output::lines(&screen(&undone, whole.as_deref()))?;
    }
    match undone.failed {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{} could not be put back: the rest was", count(failed, "file")))),
    }
}

/// A line for each step, and what it comes to.
fn screen(undone: &Undone, path: Option<&Path>) -> Vec<String> {
    let mut lines: Vec<String> = undone.steps.iter().map(line).collect();
    if undone.more > 0 {
        lines.push(format!("… and {} more", undone.more));
    }
    let did = if undone.dry_run { "would be " } else { "" };
    let mut text = format!("{} {did}put back, {} {did}removed", count(undone.put_back, "file"), undone.removed);
    if undone.put_back + undone.removed == 0 {
        text = "nothing to take back".to_owned();
    }
    if undone.kept > 0 {
        text += &format!(", {} {did}kept as others changed it since", undone.kept);
    }
    if undone.put_back + undone.removed > 0 && !undone.dry_run {
        text += &format!("; {}", take_back(&undone.device, &undone.began, path));
    }
    lines.push(text);
    lines
}

pub(super) fn line(undid: &Undid) -> String {
    let mut text = format!("{:<13} {}", undid.what, undid.path);
    if let Some(from) = &undid.from {
        text += &format!(" (was {})", from);
    }
    match (undid.contents, undid.attributes) {
        (true, true) => text += ": contents, attributes",
        (true, false) => text += ": contents",
        (false, true) => text += ": attributes",
        (false, false) => {}
    }
    match (undid.what.as_str(), undid.contents_kept, undid.contents) {
        ("kept", ..) => text += ": others changed it since",
        (_, true, true) => text += "; they are as others changed them in between",
        (_, true, false) => text += "; others changed it since, its contents were kept",
        (_, false, _) => {}
    }
    if let Some(why) = &undid.why {
        text += &format!(": {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_was_done() {
        let undid = Undid {
            path: "a".to_owned(),
            from: Some("a.enc".to_owned()),
            what: "moved back".to_owned(),
            contents: true,
            attributes: false,
            contents_kept: false,
            why: None,
        };
        assert_eq!(line(&undid), "moved back    a (was a.enc): contents");
        let between = Undid { contents_kept: true, ..undid.clone() };
        let expected = "moved back    a (was a.enc): contents; they are as others changed them in between";
        assert_eq!(line(&between), expected);
        let name_only = Undid { contents: false, ..between };
        let expected = "moved back    a (was a.enc); others changed it since, its contents were kept";
        assert_eq!(line(&name_only), expected);
        let kept = Undid { what: "kept".to_owned(), from: None, ..name_only };
        assert_eq!(line(&kept), "kept          a: others changed it since");
        let failed =
            Undid { from: None, what: "failed".to_owned(), contents: false, why: Some("gone".to_owned()), ..undid };
        assert_eq!(line(&failed), "failed        a: gone");
    }
}
