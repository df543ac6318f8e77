//! `p2pfs log`: what was done with the volume, and by whom.

use std::{collections::VecDeque, thread, time::Duration};

use fs_mount::moment;
use jiff::{Timestamp, Zoned};
use serde_json::json;
use volume::audit::{Entry, Op};

use crate::{
    cli::{
        Listing,
        log::{Export, Filter, Format, Log, LogDeed},
    },
    control::{
        client::unexpected,
        log::{Checked, Page},
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    home::Home,
    open_volume::{Session, ask_or_open},
    output::{self, bytes, printable},
};

/// How often it is looked whether more came.
const FOLLOWS: Duration = Duration::from_millis(300);

pub(crate) fn run(home: &Home, args: Log) -> Outcome<()> {
    match args.deed {
        Some(LogDeed::Verify(args)) => verify(home, &args),
        Some(LogDeed::Export(args)) => export(home, &args),
        None => show(home, &args),
    }
}

/// What of the entries is meant, as it was understood.
struct Wanted {
    filter: Filter,
    ops: Vec<Op>,
    since: Option<Timestamp>,
}

impl Wanted {
    fn new(filter: &Filter) -> Outcome<Self> {
        let op = |word: &String| {
            let known = Op::ALL.iter().find(|(known, _)| known == word).map(|(_, op)| *op);
            known.ok_or_else(|| {
                let all: Vec<_> = Op::ALL.iter().map(|(word, _)| *word).collect();
                Failure::new(format!("nothing is recorded as `{word}`: there are {}", all.join(", ")))
            })
        };
        let since = match &filter.since {
            Some(text) => Some(moment::parse(text, &Zoned::now()).ok_or_else(|| {
                Failure::new(format!("`{text}` is no time: 2026-11-22, 09:15, yesterday or 2h-ago is one"))
            })?),
            None => None,
        };
        let ops = filter.op.iter().map(op).collect::<Outcome<_>>()?;
        let path = filter.path.as_ref().map(|path| path.trim_matches('/').to_owned());
        Ok(Self { filter: Filter { path, ..filter.clone() }, ops, since })
    }

    fn has(&self, entry: &Entry) -> bool {
        let Filter { denied, user, device, path, .. } = &self.filter;
        let within = |known: &Option<String>, path: &String| {
            known
                .as_ref()
                .and_then(|known| known.strip_prefix(path.as_str()))
                .is_some_and(|rest| rest.is_empty() || path.is_empty() || rest.starts_with('/'))
        };
        (!denied || !entry.allowed)
            && user.as_ref().is_none_or(|user| entry.user.as_ref() == Some(user))
            && device.as_ref().is_none_or(|digits| {
                entry.device.as_ref().is_some_and(|id| id.starts_with(&digits.to_ascii_lowercase()))
            })
            && path.as_ref().is_none_or(|path| within(&entry.path, path) || within(&entry.to, path))
            && (self.ops.is_empty() || self.ops.contains(&entry.op))
            && self.since.is_none_or(|since| entry.time.parse::<Timestamp>().is_ok_and(|time| time >= since))
    }
}

fn page(reply: Reply) -> Outcome<Page> {
    match reply {
        Reply::Log(page) => Ok(page),
        _ => Err(unexpected()),
    }
}

/// Calls `each` with all entries that are meant, from number `from` on, until nobody reads what comes of it. Returns the
/// number of the next to come.
fn each(
    ask: &dyn Fn(&Request) -> Outcome<Reply>,
    wanted: &Wanted,
    mut from: u64,
    mut each: impl FnMut(Entry) -> Outcome<()>,
) -> Outcome<u64> {
    // What is recorded while it is read, by the reading too, is left to the next time: it would never end.
    let mut end = None;
    loop {
        let page = page(ask(&Request::Log { from })?)?;
        page.damage.iter().for_each(|damage| output::note(damage));
        let end = *end.get_or_insert(page.end);
        if page.next == from {
            return Ok(from);
        }
        from = page.next;
        page.entries.into_iter().filter(|entry| wanted.has(entry)).try_for_each(&mut each)?;
        if from > end || !output::is_read() {
            return Ok(from);
        }
    }
}

fn show(home: &Home, args: &Log) -> Outcome<()> {
    let wanted = Wanted::new(&args.filter)?;
    let print = |entry: &Entry| output::line(&if args.json { raw(entry) } else { line(entry) });
    let session = Session::begin(home, &args.which)?;
    // Who follows an unmounted volume would open it again and again, and see nothing but that.
    let ask = |request: &Request| if args.follow { session.ask_daemon(request) } else { session.ask(request) };
    let mut newest = VecDeque::new();
    let mut next = each(&ask, &wanted, 1, |entry| match args.lines {
        Some(lines) => {
            newest.push_back(entry);
            if newest.len() > lines {
                newest.pop_front();
            }
            Ok(())
        }
        None => print(&entry),
    })?;
    newest.iter().try_for_each(print)?;
    if !args.follow {
        return Ok(());
    }
    while output::is_read() {
        thread::sleep(FOLLOWS);
        next = each(&ask, &wanted, next, |entry| print(&entry))?;
    }
    Ok(())
}

/// An entry as it is in the log.
fn raw(entry: &Entry) -> String {
    serde_json::to_string(entry).expect("an entry was read out of JSON")
}

/// An entry for people.
fn line(entry: &Entry) -> String {
    let time = entry.time.split_once('.').map_or(entry.time.as_str(), |(seconds, _)| seconds);
    let mut text = format!("{time}Z  {:8}", if entry.allowed { "allowed" } else { "DENIED" });
    text += &format!("{:12}", entry.op.word());
    let user = entry.user.as_deref().unwrap_or("-");
    text += &match &entry.program {
        Some(program) => format!("{user} ({})", printable(program)),
        None if entry.uid.is_some() => user.to_owned(),
        None => format!("{user} @{}", entry.device.as_ref().and_then(|id| id.get(..8)).unwrap_or("?")),
    };
    if let Some(path) = &entry.path {
        text += "  ";
        text += &if path.is_empty() { "(the top folder)".to_owned() } else { printable(path) };
    }
    if let Some(to) = &entry.to {
        text += &format!(" -> {}", printable(to));
    }
    if let Some(count) = entry.bytes {
        text += &format!("  {}", bytes(count));
    }
    for more in entry.why.iter().chain(&entry.note) {
        text += &format!("  ({})", printable(more));
    }
    text
}

fn verify(home: &Home, args: &Listing) -> Outcome<()> {
    let Reply::LogChecked(checked) = ask_or_open(home, &args.which, &Request::VerifyLog)? else {
        return Err(unexpected());
    };
    if args.json {
        output::json(&checked)?;
    }
    let Checked { entries, faults } = checked;
    if faults.is_empty() {
        return if args.json { Ok(()) } else { output::line(&format!("{entries} entries, none missing or changed")) };
    }
    Err(Failure::new(format!("the audit log is not as it was written: {}", faults.join("; "))))
}

fn export(home: &Home, args: &Export) -> Outcome<()> {
    let wanted = Wanted::new(&args.filter)?;
    let session = Session::begin(home, &args.which)?;
    each(&|request| session.ask(request), &wanted, 1, |entry| {
        output::line(&match args.format {
            Format::Json => raw(&entry),
            Format::Cef => cef(&entry),
            Format::Ocsf => ocsf(&entry).to_string(),
        })
    })
    .map(drop)
}

/// How grave an entry is, from 0 to 10 as CEF counts.
fn severity(entry: &Entry) -> u8 {
    match (entry.allowed, entry.op) {
        (_, Op::Alert) => 9,
        (false, Op::Handshake | Op::Refused | Op::TakenBack | Op::Equivocated) => 8,
        (false, _) => 5,
        (true, Op::Membership | Op::Permissions | Op::Dropped | Op::SetBack) => 3,
        (true, _) => 1,
    }
}

/// As the Common Event Format has it: `\`, `=` and line ends are escaped in values, `|` and `\` in the header.
fn cef(entry: &Entry) -> String {
    let value = |text: &str| printable(text).replace('\\', "\\\\").replace('=', "\\=");
    let outcome = if entry.allowed { "allowed" } else { "denied" };
    let (op, version) = (entry.op.word(), env!("CARGO_PKG_VERSION"));
    let mut text = format!("CEF:0|p2pfs|p2pfs|{version}|{op}|{op} {outcome}|{}|", severity(entry));
    text += &format!("externalId={} rt={} act={op} outcome={outcome}", entry.n, value(&entry.time));
    let fields = [
        ("suser", entry.user.clone()),
        ("shost", entry.device.clone()),
        ("filePath", entry.path.clone()),
        ("fileId", entry.to.clone()),
        ("fsize", entry.bytes.map(|bytes| bytes.to_string())),
        ("suid", entry.uid.map(|uid| uid.to_string())),
        ("spid", entry.pid.map(|pid| pid.to_string())),
        ("sproc", entry.program.clone()),
        ("reason", entry.why.clone()),
        ("msg", entry.note.clone()),
    ];
    for (name, field) in fields {
        if let Some(field) = field {
            text += &format!(" {name}={}", value(&field));
        }
    }
    text
}

/// As OCSF 1.3 has it: file system activity (1001) of what is done with files, else API activity (6003).
fn ocsf(entry: &Entry) -> serde_json::Value {
    let (class, activity) = match entry.op {
        Op::Create | Op::Link => (1001, 1),
        Op::Read | Op::List | Op::Stat => (1001, 2),
        Op::Write => (1001, 3),
        Op::Remove => (1001, 4),
        Op::Rename => (1001, 5),
        Op::Attributes => (1001, 6),
        Op::Permissions => (1001, 7),
        _ => (6003, 99),
    };
    let millis = entry.time.parse::<Timestamp>().map_or(0, Timestamp::as_millisecond);
    let severity = [1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5][usize::from(severity(entry))];
    let mut event = json!({
        "class_uid": class,
        "category_uid": class / 1000,
        "activity_id": activity,
        "type_uid": class * 100 + activity,
        "severity_id": severity,
        "time": millis,
        "status_id": if entry.allowed { 1 } else { 2 },
        "metadata": { "version": "1.3.0", "product": { "name": "p2pfs", "vendor_name": "p2pfs" }, "sequence": entry.n },
        "actor": { "user": { "name": entry.user }, "process": { "name": entry.program, "pid": entry.pid } },
        "device": { "uid": entry.device, "type_id": 0 },
        "unmapped": { "operation": entry.op.word() },
    });
    if let Some(path) = &entry.path {
        let name = path.rsplit('/').next().unwrap_or_default();
        event["file"] = json!({ "name": name, "path": path, "type_id": 0, "size": entry.bytes });
    }
    if let Some(to) = &entry.to {
        event["file_result"] = json!({ "name": to.rsplit('/').next().unwrap_or_default(), "path": to, "type_id": 0 });
    }
    if let Some(why) = entry.why.as_ref().or(entry.note.as_ref()) {
        event["status_detail"] = json!(why);
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            n: 7,
            time: "2026-11-26T09:15:00.250000Z".to_owned(),
            op: Op::Write,
            allowed: false,
            why: Some("its permissions".to_owned()),
            path: Some("a=b/c".to_owned()),
            to: None,
            user: Some("bob".to_owned()),
            device: Some("4f2a91c0".to_owned()),
            uid: Some(1000),
            pid: Some(5),
            program: Some("cat".to_owned()),
            bytes: None,
            note: None,
            salt: "00".to_owned(),
        }
    }

    #[test]
    fn an_entry_is_a_line() {
        assert_eq!(line(&entry()), "2026-11-26T09:15:00Z  DENIED  write       bob (cat)  a=b/c  (its permissions)");
        let of_peer = Entry { program: None, uid: None, allowed: true, why: None, bytes: Some(12), ..entry() };
        assert_eq!(line(&of_peer), "2026-11-26T09:15:00Z  allowed write       bob @4f2a91c0  a=b/c  12 B");
    }

    #[test]
    fn what_is_meant_is_found() {
        let wanted = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            Wanted::new(&filter).unwrap().has(&entry())
        };
        assert!(wanted(|_| ()) && wanted(|f| f.denied = true));
        assert!(wanted(|f| f.path = Some("/a=b/".to_owned())) && !wanted(|f| f.path = Some("a".to_owned())));
        assert!(wanted(|f| f.user = Some("bob".to_owned())) && !wanted(|f| f.user = Some("bo".to_owned())));
        assert!(wanted(|f| f.device = Some("4F2A".to_owned())) && !wanted(|f| f.device = Some("5".to_owned())));
        assert!(wanted(|f| f.op = vec!["write".to_owned()]) && !wanted(|f| f.op = vec!["read".to_owned()]));
        assert!(wanted(|f| f.since = Some("2026-11-26T09:15:00Z".to_owned())));
        assert!(!wanted(|f| f.since = Some("2026-11-26T09:16:00Z".to_owned())));
        let unknown = Filter { op: vec!["writes".to_owned()], ..Filter::default() };
        assert!(Wanted::new(&unknown).is_err());
    }

    #[test]
    fn others_formats_are_theirs() {
        let text = cef(&entry());
        let version = env!("CARGO_PKG_VERSION");
        assert!(text.starts_with(&format!("CEF:0|p2pfs|p2pfs|{version}|write|write denied|5|externalId=7 ")), "{text}");
        assert!(text.contains(" filePath=a\\=b/c ") && text.contains(" reason=its permissions"), "{text}");
        let event = ocsf(&entry());
        assert_eq!((event["type_uid"].clone(), event["status_id"].clone()), (json!(100_103), json!(2)));
        assert_eq!(event["file"]["name"], "c");
    }
}
