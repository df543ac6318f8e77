//! What handlers get and give: a visit of somebody who may, an answer, a problem with what to do about it.

use std::{io, sync::Arc};

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use maud::{Markup, html};

use super::{
    Page,
    layout::{self, Room},
    links::{self, Pairs},
    sessions::Session,
};
use crate::{
    control::request::Names,
    failure::{Failure, plain},
};

/// The field, and the header, that tells that a form is of this session.
pub(super) const CSRF: &str = "csrf";

/// A request that was let through.
#[derive(Clone)]
pub(super) struct Visit {
    pub(super) page: Arc<Page>,
    pub(super) session: Session,
    /// The path of the address, as it came.
    pub(super) address: String,
    pub(super) query: Pairs,
    /// What was posted.
    pub(super) fields: Pairs,
    /// Whether somebody goes there, with a link, a form or by an address; else a script of ours fetches it.
    pub(super) navigates: bool,
    /// How many entries the log had before the page was made.
    pub(super) seen: u64,
}

impl<S: Sync> FromRequestParts<S> for Visit {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let visit = parts.extensions.get::<Visit>().cloned();
        visit.ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, "This is not for you", "Run p2pfs ui to get in."))
    }
}

/// What a handler gives.
pub(super) type Answer = Result<Response, Problem>;

/// Why something is not done, and what to do.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) title: String,
    pub(super) text: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, title: &str, text: &str) -> Self {
        Self { status, title: title.to_owned(), text: text.to_owned() }
    }

    /// Nothing is there.
    pub(super) fn missing() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "Nothing is there",
            "It may have been moved or removed since the page was shown. “Deleted files” has what was removed.",
        )
    }

    /// What was typed can't be.
    pub(super) fn unfit(text: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "That can’t be done", text)
    }
}

impl From<Failure> for Problem {
    fn from(why: Failure) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "That was not done", &sentence(&why.to_string()))
    }
}

impl From<io::Error> for Problem {
    fn from(e: io::Error) -> Self {
        let unavailable = "None of the devices that have this content is connected, or this machine’s disk fails. “People” shows who is online; \
            p2pfs doctor tells of the disk.";
        match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::missing(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::new(
                StatusCode::FORBIDDEN,
                "You may not do that",
                "The permissions of this file or folder, or your role in the volume, don’t allow it. Its owner, or an admin, can change that.",
            ),
            io::ErrorKind::AlreadyExists => Self::new(
                StatusCode::CONFLICT,
                "That name is taken",
                "Something with that name is there already. Choose another one.",
            ),
            io::ErrorKind::DirectoryNotEmpty => Self::new(
                StatusCode::CONFLICT,
                "The folder is not empty",
                "Only an empty folder is removed here. Remove what is in it first.",
            ),
            io::ErrorKind::StorageFull => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "The disk is full",
                "Make room on this machine’s disk, then try again.",
            ),
            io::ErrorKind::NotConnected => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The volume is not mounted any more",
                "Mount it with p2pfs mount, then run p2pfs ui.",
            ),
            _ if e.raw_os_error() == Some(libc::EIO) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "That can’t be read or written now", unavailable)
            }
            // A symlink in the way, or another mount.
            _ if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::EXDEV)) => Self::new(
                StatusCode::BAD_REQUEST,
                "That is a link",
                "Links are not followed here: they may lead anywhere on this machine. Go where it leads yourself.",
            ),
            _ => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "That was not done", &sentence(&plain(&e))),
        }
    }
}

impl IntoResponse for Problem {
    /// Made a page of by whoever knows for whom ([`super::routes`]).
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// A failure's line as people write: with a capital, and a full stop.
pub(super) fn sentence(line: &str) -> String {
    let line = line.replace('`', "");
    let mut chars = line.chars();
    let text: String = chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect();
    if text.ends_with(['.', '!', '?']) { text } else { text + "." }
}

impl Visit {
    /// The names of the path that follows the first part of the address.
    pub(super) fn names(&self) -> Result<Names, Problem> {
        let rest = self.address.trim_start_matches('/').split_once('/').map_or("", |(_, rest)| rest);
        links::names(rest).ok_or_else(Problem::missing)
    }

    /// The path in a field.
    pub(super) fn path_field(&self, name: &str) -> Result<Names, Problem> {
        links::names(self.fields.get(name).unwrap_or_default()).ok_or_else(Problem::missing)
    }

    /// A field that must be there.
    pub(super) fn field(&self, name: &str) -> Result<&str, Problem> {
        self.fields.get(name).ok_or_else(|| Problem::unfit(&format!("Fill in “{name}”, then try again.")))
    }

    /// What every form begins with.
    pub(super) fn csrf(&self) -> Markup {
        html! { input type="hidden" name=(CSRF) value=(self.session.csrf); }
    }

    /// A button that posts.
    pub(super) fn button(&self, action: &str, class: &str, label: &str, fields: &[(&str, &str)]) -> Markup {
        html! {
            form.inline method="post" action=(action) {
                (self.csrf())
                @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
                button class=(class) { (label) }
            }
        }
    }

    /// Goes on to a page, which then says what was done.
    pub(super) fn done(&self, location: &str, said: &str) -> Answer {
        let said = said.to_owned();
        self.page.sessions.change(&self.session, |session| session.said = Some(said));
        Ok(see(location))
    }

    /// Whether somebody was asked and is sure.
    pub(super) fn is_sure(&self) -> bool {
        self.fields.get("sure").is_some()
    }

    /// Asks first: the same form again, with what it means.
    pub(super) async fn ask_first(
        &self,
        room: Room,
        question: &str,
        detail: Markup,
        label: &str,
        back: &str,
    ) -> Answer {
        let body = html! {
            section.card.ask {
                (detail)
                form method="post" action=(self.address) {
                    (self.csrf())
                    @for (name, value) in self.fields.all().filter(|(name, _)| *name != CSRF) {
                        input type="hidden" name=(name) value=(value);
                    }
                    input type="hidden" name="sure" value="yes";
                    div.buttons {
                        button.danger { (label) }
                        a.button href=(back) { "Cancel" }
                    }
                }
            }
        };
        layout::page(self, room, question, body).await
    }
}

/// Leads to another page of ours.
pub(super) fn see(location: &str) -> Response {
    Response::builder()
        .status(StatusCode::SEE_OTHER)
        .header(header::LOCATION, location)
        .body(Body::empty())
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_like_sentences() {
        assert_eq!(sentence("no such file: try `p2pfs users`"), "No such file: try p2pfs users.");
        assert_eq!(sentence("Done."), "Done.");
        assert_eq!(sentence(""), ".");
    }
}
