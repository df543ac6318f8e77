//! `p2pfs undo`: takes back what one device, or one user, did.

use crate::{
    bringing_back::{ToUndo, Undid, Undone},
    cli::Undo,
    commands::restore::{names, printable, take_back, typed},
    control::{
        client::{self, unexpected},
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    home::Home,
    inside::inside,
    open_volume::not_mounted,
    output::{self, count},
    select::choose,
};

pub(crate) fn run(home: &Home, args: &Undo) -> Outcome<()> {
    let since = typed(&args.since)?;
    let (dir, path) = match &args.path {
        Some(path) => {
            let found = inside(home, path)?;
            let path = names(&found.path);
            (found.dir, Some(path))
        }
        None => (choose(home, &args.which, false)?.dir, None),
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
        output::line(&screen(&undone))?;
    }
    match undone.failed {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{} could not be put back: the rest was", count(failed, "file")))),
    }
}

fn screen(undone: &Undone) -> String {
    let mut lines: Vec<String> = undone.steps.iter().map(line).collect();
    if undone.more > 0 {
        lines.push(format!("… and {} more", undone.more));
    }
    let did = if undone.dry_run { "would be " } else { "" };
    let mut text = format!("{} {did}put back, {} {did}removed", count(undone.put_back, "file"), undone.removed);
    if undone.kept > 0 {
        text += &format!(", {} {did}kept", undone.kept);
    }
    if undone.put_back + undone.removed == 0 {
        text = "nothing to take back".to_owned();
    } else if !undone.dry_run {
        text += &format!("; {}", take_back(&undone.device, &undone.began, None));
    }
    lines.push(text);
    lines.join("\n")
}

pub(super) fn line(undid: &Undid) -> String {
    let mut text = format!("{:<13} {}", undid.what, printable(&undid.path));
    if let Some(from) = &undid.from {
        text += &format!(" (was {})", printable(from));
    }
    match (undid.contents, undid.attributes) {
        (true, true) => text += ": contents, attributes",
        (true, false) => text += ": contents",
        (false, true) => text += ": attributes",
        (false, false) => {}
    }
    if undid.what == "kept" {
        text += ": others changed it since";
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
            why: None,
        };
        assert_eq!(line(&undid), "moved back    a (was a.enc): contents");
        let failed =
            Undid { from: None, what: "failed".to_owned(), contents: false, why: Some("gone".to_owned()), ..undid };
        assert_eq!(line(&failed), "failed        a: gone");
    }
}
