//! Files that a browser sends: one request each, as they are, without a form around them.

use std::{io::Write, time::Duration};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    http::StatusCode,
    response::IntoResponse,
};
use crypto::{Entropy, OsEntropy};
use data_encoding::HEXLOWER;
use futures_util::StreamExt;
use tokio::{sync::mpsc, time::timeout};

use super::{
    content::blocking,
    forms::{Answer, Problem, Visit},
    links,
    tree::{Tree, When},
};
use crate::control::request::Names;

/// Pieces that wait for a disk that is slower than the browser.
const AHEAD: usize = 8;
/// So long a browser may send nothing of a file that is under way. It holds the file open, which keeps the volume mounted.
const STALLED: Duration = Duration::from_secs(60);
/// Names that are tried to keep both.
const BESIDE: usize = 1000;

/// What to do where the name is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Ask,
    Replace,
    KeepBoth,
}

/// Takes a file into the folder of the address, under the name of the query; or makes a folder there. Says in plain words why not.
pub(super) async fn take(visit: Visit, body: Body) -> Answer {
    Ok(match taken(visit, body).await {
        Ok(()) => StatusCode::CREATED.into_response(),
        // The script asks, and tries again.
        Err(problem) if problem.status == StatusCode::CONFLICT => StatusCode::CONFLICT.into_response(),
        Err(problem) => (problem.status, problem.text).into_response(),
    })
}

async fn taken(visit: Visit, body: Body) -> Result<(), Problem> {
    let folder = visit.names()?;
    let name = visit.query.get("name").and_then(links::new_name);
    let name = name.ok_or_else(|| Problem::unfit("A file needs a name of 1 to 255 bytes without a slash."))?;
    let tree = visit.page.tree.clone();
    if visit.query.get("folder").is_some() {
        return Ok(blocking(move || tree.make_folder(&[folder, vec![name]].concat())).await?);
    }
    let taken = match visit.query.get("taken") {
        Some("replace") => Taken::Replace,
        Some("both") => Taken::KeepBoth,
        _ => Taken::Ask,
    };
    let (sender, receiver) = mpsc::channel(AHEAD);
    let writing = blocking(move || write(&tree, &folder, &name, taken, receiver));
    let (written, ()) = tokio::join!(writing, hand_on(body.into_data_stream(), sender));
    Ok(written?)
}

/// What comes of a body.
enum Piece {
    Bytes(Bytes),
    /// That was all. Without it the browser went away midway, and what came is no file.
    End,
}

/// Ends when the browser, or who writes, has enough.
async fn hand_on(mut body: BodyDataStream, sender: mpsc::Sender<Piece>) {
    loop {
        let bytes = match timeout(STALLED, body.next()).await {
            Ok(Some(Ok(bytes))) => bytes,
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return,
        };
        if sender.send(Piece::Bytes(bytes)).await.is_err() {
            return;
        }
    }
    // Whoever wrote has told why it has enough.
    let _ = sender.send(Piece::End).await;
}

fn write(
    tree: &Tree,
    folder: &Names,
    name: &[u8],
    taken: Taken,
    mut pieces: mpsc::Receiver<Piece>,
) -> std::io::Result<()> {
    let exists = |name: &[u8]| tree.entry(&[&folder[..], &[name.to_vec()]].concat(), &When::Now).is_ok();
    // Before all of it was sent for nothing.
    if taken == Taken::Ask && exists(name) {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    let replaced = (taken == Taken::Replace).then_some(name);
    let mut file = tree.begin(folder, &HEXLOWER.encode(&OsEntropy.array::<8>()), replaced)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => file.file()?.write_all(&bytes)?,
            Some(Piece::End) => break,
            None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
    let name = match taken {
        Taken::KeepBoth => {
            (1..BESIDE).map(|n| beside(name, n)).find(|name| !exists(name)).unwrap_or_else(|| name.to_vec())
        }
        _ => name.to_vec(),
    };
    file.finish(&name)
}

/// `a (2).txt` for `a.txt`: the name of the `n`th that is kept.
fn beside(name: &[u8], n: usize) -> Vec<u8> {
    if n == 1 {
        return name.to_vec();
    }
    let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0).unwrap_or(name.len());
    let number = format!(" ({n})");
    // A name that is too long then is shortened.
    let room = 255_usize.saturating_sub(number.len() + name.len() - dot);
    let mut end = dot.min(room);
    // Not within a letter.
    while end > 0 && name.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
        end -= 1;
    }
    [&name[..end], number.as_bytes(), &name[dot..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_kept() {
        let check = |name: &str, n, expected: &str| assert_eq!(beside(name.as_bytes(), n), expected.as_bytes());
        check("a.txt", 1, "a.txt");
        check("a.txt", 2, "a (2).txt");
        check(".profile", 3, ".profile (3)");
        check("a", 2, "a (2)");
        let long = format!("{}ö.txt", "x".repeat(249));
        assert_eq!(long.len(), 255);
        check(&long, 2, &format!("{} (2).txt", "x".repeat(247)));
        assert!(String::from_utf8(beside("ö".repeat(127).as_bytes(), 2)).is_ok());
    }
}
