//! The command line's end of the control socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use volume::Resealed;

use super::{
    protocol::{ANSWER_LIMIT, Hello, Line, Progress, Reply, Request},
    request::AboutSends,
    socket::with_short_path,
};
use crate::{
    daemon::sends::Transfer,
    failure::{Because, Failure, Outcome, plain},
    home::VolumeDir,
    report::Scrubbed,
    volume_lock,
};

/// How long a daemon may take for what needs no waiting.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long a daemon that has closed everything may take to end.
const LAST_MOMENT: Duration = Duration::from_secs(10);

/// How far the daemon is with what it was asked for.
pub(crate) enum News {
    /// For peers to be in step.
    Waiting(Progress),
    /// Everything.
    Verifying(Scrubbed),
    Resealing(Resealed),
    Sending(Box<Transfer>),
}

/// Has the volume's daemon unmount and end; returns when its process is gone. `None` when there is none.
pub(crate) fn end(dir: &VolumeDir) -> Outcome<Option<()>> {
    let Some(mut reader) = send(dir, &Request::Unmount, None)? else { return Ok(None) };
    let Some(line) = read_line(dir, &mut reader)? else { return Ok(None) };
    match parse(&line)? {
        Line::Failed(why) => Err(Failure::new(why)),
        Line::Reply(Reply::Done) => {
            // Nothing more comes; the connection ends with the process. How it ends doesn't matter.
            let _ = reader.get_ref().set_read_timeout(Some(LAST_MOMENT));
            let _ = reader.read(&mut [0]);
            Ok(Some(()))
        }
        Line::Progress(_) | Line::Verifying(_) | Line::Resealing(_) | Line::Sending(_) | Line::Reply(_) => {
            Err(unexpected())
        }
    }
}

/// Asks the volume's daemon; `None` when there is none.
pub(crate) fn ask(dir: &VolumeDir, request: &Request) -> Outcome<Option<Reply>> {
    ask_with_progress(dir, request, |_| ())
}

/// The same, showing how far it is.
pub(crate) fn ask_with_progress(
    dir: &VolumeDir,
    request: &Request,
    mut progress: impl FnMut(&News),
) -> Outcome<Option<Reply>> {
    let Some(mut reader) = send(dir, request, answer_time(request))? else { return Ok(None) };
    loop {
        let Some(line) = read_line(dir, &mut reader)? else { return Ok(None) };
        match parse(&line)? {
            Line::Progress(how_far) => progress(&News::Waiting(how_far)),
            Line::Verifying(so_far) => progress(&News::Verifying(so_far)),
            Line::Resealing(so_far) => progress(&News::Resealing(so_far)),
            Line::Sending(transfer) => progress(&News::Sending(transfer)),
            Line::Failed(why) => return Err(Failure::new(why)),
            Line::Reply(reply) => return Ok(Some(reply)),
        }
    }
}

/// How long the answer may take; `None` where it waits for others, or for work.
fn answer_time(request: &Request) -> Option<Duration> {
    let patient = matches!(
        request,
        Request::Wait { .. }
            | Request::Verify { .. }
            | Request::Reclaim
            | Request::Reseal
            | Request::AsOf { .. }
            | Request::Restore(_)
            | Request::Undo(_)
            // (What is to be sent is looked through first.)
            | Request::Sends(AboutSends::Follow { .. } | AboutSends::Offer { .. } | AboutSends::Send { .. })
            | Request::Unmount
    );
    (!patient).then_some(ANSWER_TIME)
}

fn send(dir: &VolumeDir, request: &Request, limit: Option<Duration>) -> Outcome<Option<BufReader<UnixStream>>> {
    let mut stream = match with_short_path(&dir.socket(), |path| UnixStream::connect(path)) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(Failure::new(format!("asking the daemon: {}", plain(&e)))),
    };
    stream.set_read_timeout(limit).because(|| "asking the daemon".to_owned())?;
    let mut line = serde_json::to_string(request).expect("a request can be encoded");
    line.push('\n');
    match stream.write_all(line.as_bytes()) {
        Ok(()) => Ok(Some(BufReader::new(stream))),
        Err(e) if never_asked(&e) => Ok(None),
        Err(e) => Err(e).because(|| "asking the daemon".to_owned()),
    }
}

/// Whether a connection ended before its request was read: a process that was just killed still has its socket for a
/// moment.
fn never_asked(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// The next line of an answer; an empty one at its end. `None` when nobody read the request.
fn read_line(dir: &VolumeDir, reader: &mut BufReader<UnixStream>) -> Outcome<Option<String>> {
    let mut line = String::new();
    match reader.take(ANSWER_LIMIT).read_line(&mut line) {
        Ok(_) => Ok(Some(line)),
        Err(e) if never_asked(&e) => Ok(None),
        Err(e) => Err(match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => silent(dir),
            _ => Failure::new(format!("the daemon's answer: {}", plain(&e))),
        }),
    }
}

/// A daemon that hangs: which process it is, and what tells why.
pub(crate) fn silent(dir: &VolumeDir) -> Failure {
    let (process, end) = match volume_lock::holder(dir.path()) {
        Some(pid) => (format!("process {pid}"), format!("`kill {pid}`")),
        None => ("a process".to_owned(), "`kill`".to_owned()),
    };
    // One in the foreground has its log where it was started, or in the journal.
    let log = dir.log();
    let log = if log.exists() { log.display().to_string() } else { "its log".to_owned() };
    Failure::new(format!(
        "the daemon of volume {} ({process}) does not answer: {log} may tell why, and {end} ends it",
        &dir.short_id()[..8]
    ))
}

fn parse(line: &str) -> Outcome<Line> {
    if line.is_empty() {
        return Err(Failure::new("the daemon ended before it answered: its log tells why"));
    }
    serde_json::from_str(line).map_err(|_| Failure::new("the daemon is of another version: unmount and mount again"))
}

/// The daemon of a volume, when it runs. One that is gone before it answers is none.
pub(crate) fn hello(dir: &VolumeDir) -> Outcome<Option<Hello>> {
    hello_within(dir, ANSWER_TIME)
}

/// The same for who can't wait long: what hangs is told after `limit`.
pub(crate) fn hello_within(dir: &VolumeDir, limit: Duration) -> Outcome<Option<Hello>> {
    let Some(mut reader) = send(dir, &Request::Hello, Some(limit))? else { return Ok(None) };
    match read_line(dir, &mut reader)? {
        Some(line) if !line.is_empty() => match parse(&line)? {
            Line::Reply(Reply::Hello(hello)) => Ok(Some(hello)),
            Line::Failed(why) => Err(Failure::new(why)),
            _ => Err(unexpected()),
        },
        _ => Ok(None),
    }
}

/// A reply to another question than the one asked.
pub(crate) fn unexpected() -> Failure {
    Failure::new("the daemon is of another version: unmount and mount again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, path::Path, thread};

    /// A volume's folder whose daemon answers every request with `answer`.
    fn with_daemon(folder: &Path, answer: &'static str) -> VolumeDir {
        let dir = VolumeDir::from_parts(folder.to_owned(), "4f4f4f4f4f4f4f4f");
        let listener = UnixListener::bind(dir.socket()).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        dir
    }

    fn check(answer: &'static str, expected: Result<&str, &str>) {
        let folder = tempfile::tempdir().unwrap();
        let dir = with_daemon(folder.path(), answer);
        let mut seen = Vec::new();
        let got = ask_with_progress(&dir, &Request::Wait { seconds: 1 }, |news| {
            if let News::Waiting(how_far) = news {
                seen.push(how_far.peers);
            }
        });
        match expected {
            Ok(reply) => assert!(format!("{:?} {seen:?}", got.unwrap()).contains(reply)),
            Err(why) => assert!(got.unwrap_err().to_string().contains(why), "{answer}"),
        }
    }

    #[test]
    fn answers() {
        check("{\"reply\":\"done\"}\n", Ok("Done"));
        check(
            concat!(
                r#"{"progress":{"peers":2,"in_step":1,"commits":3,"blocks":4,"disk_full":false}}"#,
                "\n{\"reply\":\"done\"}\n"
            ),
            Ok("[2]"),
        );
        check("{\"failed\":\"time is up\"}\n", Err("time is up"));
        check("", Err("ended before it answered"));
        check("{\"progress\":", Err("another version"));
        check("{}\n", Err("another version"));
    }

    #[test]
    fn nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let dir = VolumeDir::from_parts(folder.path().to_owned(), "4f4f4f4f4f4f4f4f");
        assert!(ask(&dir, &Request::Hello).unwrap().is_none());
        // What a killed daemon leaves behind.
        drop(UnixListener::bind(dir.socket()).unwrap());
        assert!(ask(&dir, &Request::Hello).unwrap().is_none());
    }

    #[test]
    fn a_daemon_that_dies_before_it_reads_a_request_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let dir = VolumeDir::from_parts(folder.path().to_owned(), "4f4f4f4f4f4f4f4f");
        let listener = UnixListener::bind(dir.socket()).unwrap();
        let mut asked = send(&dir, &Request::Unmount, None).unwrap().unwrap();
        drop(listener);
        assert!(read_line(&dir, &mut asked).unwrap().is_none());
    }

    #[test]
    fn a_daemon_that_hangs_is_told_with_its_process_and_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let dir = VolumeDir::from_parts(folder.path().to_owned(), "4f4f4f4f4f4f4f4f");
        let _listener = UnixListener::bind(dir.socket()).unwrap();
        std::fs::write(dir.path().join("lock"), "1234\n").unwrap();
        let told = || hello_within(&dir, Duration::from_millis(10)).unwrap_err().to_string();
        assert!(told().contains("volume 4f4f4f4f (process 1234) does not answer: its log"), "{}", told());
        std::fs::write(dir.log(), "").unwrap();
        let log = dir.log().display().to_string();
        assert!(told().contains(&log) && told().contains("`kill 1234`"), "{}", told());
    }

    #[test]
    fn a_daemon_that_dies_before_it_says_who_it_is_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let dir = with_daemon(folder.path(), "");
        assert!(hello(&dir).unwrap().is_none());
    }
}
