//! Contents of files, which others wrote: nothing of them may act here.
//!
//! They leave as downloads, as text that a template escapes, or as images of kinds that can't contain scripts, told by their
//! first bytes and not by their names. SVG and HTML are downloads.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use fs_mount::moment;
use futures_util::stream;
use jiff::Zoned;
use rustix::fs::{AtFlags, StatxFlags, statx};
use tokio::{runtime::Handle, sync::mpsc, task::spawn_blocking, time::timeout};

use super::{
    forms::{Answer, Problem, Visit},
    links,
    range::{Wanted, wanted},
    tree::When,
};

/// Bytes that are read at once.
const PIECE: usize = 128 << 10;
/// Pieces that wait for a browser that is slower than the disk.
const AHEAD: usize = 4;
/// Of a text so much is shown.
pub(super) const TEXT_SHOWN: usize = 256 << 10;
/// An image that is larger is only downloaded.
const IMAGE_LIMIT: u64 = 64 << 20;
/// By so many bytes at its beginning an image is told.
const IMAGE_HEAD: u64 = 64;
/// What contents may do where somebody opens them as a page: nothing.
pub(super) const CONTENT_POLICY: &str = "sandbox; default-src 'none'; frame-ancestors 'none'";
/// So long a browser may take nothing of a download that is under way. It holds the file open, which keeps the volume mounted.
const STALLED: Duration = Duration::from_secs(60);

/// What can be shown of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Preview {
    /// And whether that is all of it.
    Text(String, bool),
    Image,
    Nothing,
}

/// The type of an image that is shown, by its first bytes.
fn image_type(head: &[u8]) -> Option<&'static str> {
    let brand = |brand: &[u8]| head.get(4..8) == Some(b"ftyp") && head.get(8..12) == Some(brand);
    match head {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some("image/png"),
        [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ if brand(b"avif") => Some("image/avif"),
        _ => None,
    }
}

/// What can be shown of a file with this beginning, of so many bytes.
fn preview_of(head: &[u8], size: u64) -> Preview {
    if image_type(head).is_some() {
        return if size <= IMAGE_LIMIT { Preview::Image } else { Preview::Nothing };
    }
    let whole = head.len() as u64 >= size;
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The last letter may be cut.
        Err(e) if e.error_len().is_none() && !whole => {
            std::str::from_utf8(&head[..e.valid_up_to()]).expect("valid up to there")
        }
        Err(_) => return Preview::Nothing,
    };
    let is_text = !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\x0C'));
    if is_text { Preview::Text(text.to_owned(), whole) } else { Preview::Nothing }
}

/// Which state of a path a query means.
pub(super) fn when(visit: &Visit) -> When {
    match (visit.query.get("version"), visit.query.get("at")) {
        (Some(version), _) => When::Version(version.to_owned()),
        (None, Some(at)) => When::At(moment_meant(at)),
        (None, None) => When::Now,
    }
}

/// A time that somebody typed as the one moment that it means; the name of a snapshot as it is.
pub(super) fn moment_meant(at: &str) -> String {
    moment::parse(at, &Zoned::now()).map_or_else(|| at.to_owned(), |at| format!("{at:.9}"))
}

/// What can be shown of the file that a visit is about.
pub(super) async fn preview(visit: &Visit) -> Result<Preview, Problem> {
    let (tree, names, when) = (visit.page.tree.clone(), visit.names()?, when(visit));
    Ok(blocking(move || {
        let (file, size) = tree.read(&names, &when)?;
        let mut head = Vec::new();
        file.take(TEXT_SHOWN as u64).read_to_end(&mut head)?;
        Ok(preview_of(&head, size))
    })
    .await?)
}

/// Runs what waits for the disk, or for a peer.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the page's process has a fault: see the daemon's log")))
}

/// A file, to be saved: all of it, or the part that a browser lacks which was cut off.
pub(super) async fn download(visit: Visit, headers: HeaderMap) -> Answer {
    let (tree, names, when) = (visit.page.tree.clone(), visit.names()?, when(&visit));
    let name = names.last().cloned().unwrap_or_default();
    let (mut file, tag, size) = blocking(move || {
        let (file, _) = tree.read(&names, &when)?;
        let (tag, size) = version_of(&file)?;
        Ok((file, tag, size))
    })
    .await?;
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_DISPOSITION, disposition(&name))
        .header(header::CONTENT_SECURITY_POLICY, CONTENT_POLICY)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, &tag);
    let response = match wanted(header(header::RANGE), header(header::IF_RANGE), &tag, size) {
        Wanted::All => response.header(header::CONTENT_LENGTH, size).body(streamed(file, size, tag)),
        Wanted::Part { from, length } => {
            file.seek(SeekFrom::Start(from))?;
            response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_LENGTH, length)
                .header(header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", from + length - 1))
                .body(streamed(file, length, tag))
        }
        Wanted::Nothing => response
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(header::CONTENT_RANGE, format!("bytes */{size}"))
            .body(Body::empty()),
    };
    Ok(response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response()))
}

/// What names the version of a file that is open, so that no download is put together of two; and that version's size.
fn version_of(file: &File) -> io::Result<(String, u64)> {
    // By the daemon itself: what the kernel remembers may be of the version before, when what it reads isn't any more.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    let about = statx(file, "", flags, StatxFlags::BASIC_STATS)?;
    let (size, written, changed) = (about.stx_size, about.stx_mtime, about.stx_ctime);
    let tag = format!(
        "\"{:x}-{size:x}-{:x}.{:x}-{:x}.{:x}\"",
        about.stx_ino, written.tv_sec, written.tv_nsec, changed.tv_sec, changed.tv_nsec
    );
    Ok((tag, size))
}

/// What a browser is told to do with it, and what to call it.
fn disposition(name: &[u8]) -> String {
    format!("attachment; filename*=UTF-8''{}", links::encoded_value(String::from_utf8_lossy(name).as_bytes()))
}

/// An image, for a page of ours.
pub(super) async fn image(visit: Visit) -> Answer {
    let (tree, names, when) = (visit.page.tree.clone(), visit.names()?, when(&visit));
    let (kind, file, tag, size) = blocking(move || {
        let (mut file, _) = tree.read(&names, &when)?;
        let (tag, size) = version_of(&file)?;
        let mut head = Vec::new();
        (&mut file).take(IMAGE_HEAD).read_to_end(&mut head)?;
        file.rewind()?;
        Ok((image_type(&head).filter(|_| size <= IMAGE_LIMIT), file, tag, size))
    })
    .await?;
    let kind = kind.ok_or_else(|| Problem::unfit("It is no image that can be shown. Download it instead."))?;
    let response = Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, size)
        .header(header::CONTENT_DISPOSITION, "inline")
        .header(header::CONTENT_SECURITY_POLICY, CONTENT_POLICY)
        .body(streamed(file, size, tag));
    Ok(response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response()))
}

/// A file's bytes as they are read, all of one version. One that fails midway, isn't taken for long, or changes meanwhile (an open
/// file shows what arrives) ends the connection: the browser knows how much was to come, and asks whether the rest is of the same
/// version.
fn streamed(mut file: File, size: u64, tag: String) -> Body {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(AHEAD);
    let runtime = Handle::current();
    spawn_blocking(move || {
        let mut left = size;
        while left > 0 {
            let mut piece = Vec::with_capacity(PIECE);
            let read = (&mut file).take(left.min(PIECE as u64)).read_to_end(&mut piece);
            let read = match read {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                // After it was read: what it was until now, the piece is of.
                Ok(count) => match version_of(&file) {
                    Ok((now, _)) if now == tag => Ok(count as u64),
                    Ok(_) => Err(io::Error::other("the file changed while it was sent")),
                    Err(e) => Err(e),
                },
                Err(e) => Err(e),
            };
            let (piece, ends) = match read {
                Ok(count) => {
                    left -= count;
                    (Ok(Bytes::from(piece)), false)
                }
                Err(e) => (Err(e), true),
            };
            // Nobody waits for it any more, or for now.
            let taken = runtime.block_on(async { timeout(STALLED, sender.send(piece)).await });
            if !matches!(taken, Ok(Ok(()))) || ends {
                return;
            }
        }
    });
    Body::from_stream(stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_by_their_bytes() {
        assert_eq!(image_type(b"\x89PNG\r\n\x1a\n...."), Some("image/png"));
        assert_eq!(image_type(b"\xFF\xD8\xFF\xE0"), Some("image/jpeg"));
        assert_eq!(image_type(b"GIF89a"), Some("image/gif"));
        assert_eq!(image_type(b"RIFF....WEBPVP8 "), Some("image/webp"));
        assert_eq!(image_type(b"....ftypavif"), Some("image/avif"));
        for other in
            [&b"<svg xmlns='http://www.w3.org/2000/svg'/>"[..], b"<html>", b"", b"GIF", b"%PDF-1.7", b"....ftypmp42"]
        {
            assert_eq!(image_type(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_text_is_shown_as_text() {
        let check = |head: &[u8], size, expected: Option<(&str, bool)>| {
            let expected = expected.map_or(Preview::Nothing, |(text, whole)| Preview::Text(text.to_owned(), whole));
            assert_eq!(preview_of(head, size), expected, "{head:?}");
        };
        check(b"", 0, Some(("", true)));
        check(b"<script>alert(1)</script>\n", 26, Some(("<script>alert(1)</script>\n", true)));
        check(b"ab\0c", 4, None);
        check(b"\xFFab", 3, None);
        check("grö".as_bytes(), 9, Some(("grö", false)));
        check(&"grö".as_bytes()[..3], 9, Some(("gr", false)));
        check(&"grö".as_bytes()[..3], 3, None);
        check(b"\x1b[2J", 4, None);
        assert_eq!(preview_of(b"GIF89a", IMAGE_LIMIT + 1), Preview::Nothing);
    }

    #[test]
    fn no_name_breaks_out_of_a_header() {
        let check = |name: &[u8], expected: &str| {
            assert_eq!(disposition(name), format!("attachment; filename*=UTF-8''{expected}"))
        };
        check(b"a.txt", "a.txt");
        check(b"a\r\nSet-Cookie: x\"; b/c", "a%0D%0ASet-Cookie%3A%20x%22%3B%20b%2Fc");
        check(b"\xFF", "%EF%BF%BD");
    }
}
