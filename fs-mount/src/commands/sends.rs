//! `p2pfs send` and `p2pfs inbox`: files straight to another member's devices.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use crate::{
    cli::{
        Which,
        sends::{Inbox, InboxDeed, Send},
    },
    control::{
        client::{News, unexpected},
        protocol::{Reply, Request},
        request::{AboutSends, Bytes},
    },
    daemon::sends::{State, Transfer, absolute},
    failure::{Because, Failure, Outcome},
    home::Home,
    open_volume::{ask_or_open, ask_or_open_with_progress},
    output::{self, bytes, count},
    progress::Bar,
};

fn as_bytes(path: &Path) -> Bytes {
    Bytes(path.as_os_str().as_bytes().to_vec())
}

fn ask(home: &Home, which: &Which, asked: AboutSends) -> Outcome<Reply> {
    ask_or_open(home, which, &Request::Sends(asked))
}

fn one(home: &Home, which: &Which, asked: AboutSends) -> Outcome<Transfer> {
    match ask(home, which, asked)? {
        Reply::Transfer(transfer) => Ok(*transfer),
        _ => Err(unexpected()),
    }
}

pub(crate) fn send(home: &Home, args: &Send) -> Outcome<()> {
    let paths = args.files.iter().map(|path| absolute(path).map(|path| as_bytes(&path))).collect::<Outcome<_>>()?;
    let user = args.user.clone();
    let left_out = |skipped| {
        output::note(&format!("{skipped} left out: links, and what is neither file nor folder"));
    };
    if args.background {
        let offered = one(home, &args.which, AboutSends::Offer { paths, user })?;
        if offered.skipped > 0 {
            left_out(offered.skipped);
        }
        let line = format!("{} offered to {} as {}", offered.name, offered.user, offered.id);
        return if args.json { output::json(&offered) } else { output::line(&line) };
    }
    let ended = follow(home, &args.which, AboutSends::Send { paths, user })?;
    if ended.skipped > 0 {
        left_out(ended.skipped);
    }
    if args.json {
        output::json(&ended)?;
    }
    match ended.state {
        State::Done if args.json => Ok(()),
        State::Done => output::line(&format!("{} ({}) is with {}", ended.name, bytes(ended.bytes), ended.user)),
        _ => Err(Failure::new(over(&ended))),
    }
}

/// Why something that is over is not there.
fn over(transfer: &Transfer) -> String {
    let why = transfer.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    match transfer.state {
        State::Declined if transfer.incoming => format!("you declined {}{why}", transfer.name),
        State::Declined => format!("{} declined {}{why}", transfer.user, transfer.name),
        State::Cancelled => format!("{} was cancelled{why}", transfer.name),
        _ => format!("{} failed{why}", transfer.name),
    }
}

/// Shows how far it is until it is over.
fn follow(home: &Home, which: &Which, asked: AboutSends) -> Outcome<Transfer> {
    let bar = Bar::new("sending");
    let request = Request::Sends(asked);
    let reply = ask_or_open_with_progress(home, which, &request, &mut |news| {
        if let News::Sending(transfer) = news {
            bar.at(transfer.done, transfer.bytes, how_far(transfer));
        }
    });
    drop(bar);
    match reply? {
        Reply::Transfer(transfer) => Ok(*transfer),
        _ => Err(unexpected()),
    }
}

/// How far it is, beside a bar.
fn how_far(transfer: &Transfer) -> String {
    let why = transfer.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    match transfer.state {
        State::Waiting => format!("waits for a device of {} to be there{why}", transfer.user),
        State::Offered if transfer.incoming => "waits for you to accept it".to_owned(),
        State::Offered => format!("waits for {} to accept it{why}", transfer.user),
        State::Accepted => format!("waits for {} to be there{why}", transfer.user),
        _ => {
            let rate = transfer.rate.map(|rate| format!(", {}/s", bytes(rate))).unwrap_or_default();
            let left = transfer.seconds_left.map(|left| format!(", {} left", span(left))).unwrap_or_default();
            format!("{} of {}{rate}{left}", bytes(transfer.done), bytes(transfer.bytes))
        }
    }
}

/// A time for people.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

pub(crate) fn inbox(home: &Home, args: Inbox) -> Outcome<()> {
    let Some(deed) = args.deed else { return list(home, &args.which, args.json) };
    match deed {
        InboxDeed::Accept(args) => {
            let to = named(args.to.as_deref())?;
            let accepted = one(home, &args.which, AboutSends::Accept { id: args.id, to })?;
            if args.background {
                let to = accepted.to.unwrap_or_default();
                return output::line(&format!("{} is going to arrive in {to}", accepted.name));
            }
            arrived(&follow(home, &args.which, AboutSends::Follow { id: args.id })?)
        }
        InboxDeed::Decline(args) => {
            let declined = one(home, &args.which, AboutSends::Decline { id: args.id })?;
            output::line(&format!("declined {}", declined.name))
        }
        InboxDeed::Cancel(args) => {
            let cancelled = one(home, &args.which, AboutSends::Cancel { id: args.id })?;
            output::line(&format!("cancelled {}", cancelled.name))
        }
        InboxDeed::Follow(args) => arrived(&follow(home, &args.which, AboutSends::Follow { id: args.id })?),
        InboxDeed::Always(args) => {
            let Some(user) = args.user else { return unasked(home, &args.which) };
            let asked = AboutSends::Always { user: user.clone(), to: named(args.to.as_deref())? };
            let Reply::Folder(to) = ask(home, &args.which, asked)? else { return Err(unexpected()) };
            let to = PathBuf::from(OsString::from_vec(to.0));
            output::line(&format!("what {user} sends arrives in {} from now on", to.display()))
        }
        InboxDeed::Ask(args) => {
            let reply = ask(home, &args.which, AboutSends::AskAgain { user: args.user.clone() })?;
            let Reply::Acknowledged(changed) = reply else { return Err(unexpected()) };
            match changed {
                0 => output::line(&format!("you are asked already before anything of {}'s is taken", args.user)),
                _ => output::line(&format!("you are asked again before anything of {}'s is taken", args.user)),
            }
        }
    }
}

fn named(to: Option<&Path>) -> Outcome<Option<Bytes>> {
    let full = |to: &Path| std::path::absolute(to).because(|| to.display().to_string());
    to.map(|to| full(to).map(|to| as_bytes(&to))).transpose()
}

/// What is there.
fn arrived(transfer: &Transfer) -> Outcome<()> {
    match transfer.state {
        State::Done if transfer.incoming => {
            output::lines(&transfer.placed)?;
            match transfer.placed_more {
                0 => Ok(()),
                more => output::line(&format!("and {more} more, in {}", transfer.to.as_deref().unwrap_or_default())),
            }
        }
        State::Done => output::line(&format!("{} is with {}", transfer.name, transfer.user)),
        _ => Err(Failure::new(over(transfer))),
    }
}

fn list(home: &Home, which: &Which, json: bool) -> Outcome<()> {
    let Reply::Transfers(transfers) = ask(home, which, AboutSends::List)? else { return Err(unexpected()) };
    if json {
        return output::json(&transfers);
    }
    if transfers.is_empty() {
        return output::line("nothing is or was offered, to you or by you");
    }
    let rows: Vec<Vec<String>> = transfers.iter().map(row).collect();
    output::table(&["id", "", "user", "what", "files", "size", "state"], &rows)?;
    let open = transfers.iter().find(|transfer| transfer.incoming && transfer.state == State::Offered);
    if let Some(first) = open {
        output::note(&format!("take it with `p2pfs inbox accept {}`", first.id));
    }
    Ok(())
}

fn unasked(home: &Home, which: &Which) -> Outcome<()> {
    let Reply::Unasked(all) = ask(home, which, AboutSends::Unasked)? else { return Err(unexpected()) };
    if all.is_empty() {
        return output::line("you are asked before anything of anybody's is taken");
    }
    output::table(&["user", "into"], &all.into_iter().map(|one| vec![one.user, one.to]).collect::<Vec<_>>())
}

/// How it stands with one, in words.
pub(crate) fn state(transfer: &Transfer) -> String {
    let why = transfer.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    match transfer.state {
        State::Waiting => format!("waits for their device{why}"),
        State::Offered => format!("offered{why}"),
        State::Accepted => format!("accepted{why}"),
        State::Running => how_far(transfer),
        State::Done => match transfer.placed.first() {
            Some(first) => format!("done: {first}"),
            None => "done".to_owned(),
        },
        State::Declined => format!("declined{why}"),
        State::Cancelled => format!("cancelled{why}"),
        State::Failed => format!("failed{why}"),
    }
}

fn row(transfer: &Transfer) -> Vec<String> {
    let way = if transfer.incoming { "from" } else { "to" };
    vec![
        transfer.id.to_string(),
        way.to_owned(),
        transfer.user.clone(),
        transfer.name.clone(),
        count(transfer.files, "file"),
        bytes(transfer.bytes),
        state(transfer),
    ]
}

#[cfg(test)]
mod tests {
    use volume::Timestamp;

    use super::*;

    fn transfer(state: State) -> Transfer {
        Transfer {
            id: 7,
            incoming: true,
            user: "bob".to_owned(),
            device: None,
            name: "a".to_owned(),
            files: 1,
            bytes: 2048,
            done: 1024,
            resumed: 0,
            rate: Some(512),
            seconds_left: Some(62),
            state,
            why: None,
            to: None,
            placed: Vec::new(),
            placed_more: 0,
            skipped: 0,
            began: Timestamp { secs: 0, nanos: 0 },
        }
    }

    #[test]
    fn what_is_on_its_way_has_a_rate_and_a_time_left() {
        let running = transfer(State::Running);
        assert_eq!(how_far(&running), "1.0 KiB of 2.0 KiB, 512 B/s, 1 min 2 s left");
        assert_eq!(row(&running), ["7", "from", "bob", "a", "1 file", "2.0 KiB", &how_far(&running)]);
        let full = Transfer { why: Some("the disk is full".to_owned()), ..transfer(State::Accepted) };
        assert!(row(&full)[6].contains("full") && how_far(&full).contains("full"));
        assert_eq!([span(59), span(3599), span(3600)], ["59 s", "59 min 59 s", "1 h 0 min"]);
    }
}
