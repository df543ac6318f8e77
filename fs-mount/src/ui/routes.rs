//! Which address leads where, and what every request and answer goes through.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use maud::html;

use super::{
    Page, alerts, assets, conflicts, content, file, files,
    forms::{CSRF, Problem, Visit},
    guard::FETCH_MODE,
    layout,
    links::Pairs,
    live, log, members, messages, overview,
    sessions::{Entry, same},
    settings, transfers, travel, upload,
};

/// Bytes of a form; a message has 16 KiB, and each byte may take three.
const FORM_LIMIT: usize = 256 << 10;
/// What a script sends with what is no form.
const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf");

/// What a page may load, and do: of its own origin, and nothing that is written into it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types p2pfs";

/// What every answer says.
const HEADERS: [(&str, &str); 8] = [
    ("cache-control", "no-store"),
    ("content-security-policy", POLICY),
    ("cross-origin-embedder-policy", "require-corp"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    // (With `no-referrer` browsers would not say either where a form is from.)
    ("referrer-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
];

pub(super) fn router(page: Arc<Page>) -> Router {
    Router::new()
        .route("/", get(overview::show))
        .route("/files/", get(files::show))
        .route("/files/{*path}", get(files::show))
        .route("/stops/", get(travel::stops))
        .route("/stops/{*path}", get(travel::stops))
        .route("/view/{*path}", get(file::show))
        .route("/get/{*path}", get(content::download))
        .route("/image/{*path}", get(content::image))
        .route("/upload/", post(upload::take))
        .route("/upload/{*path}", post(upload::take))
        .route("/make-folder", post(files::make_folder))
        .route("/rename", post(files::rename))
        .route("/remove", post(files::remove))
        .route("/restore", post(file::restore))
        .route("/allow", post(file::allow))
        .route("/messages", get(messages::show))
        .route("/messages/send", post(messages::send))
        .route("/messages/read", post(messages::read))
        .route("/transfers", get(transfers::show))
        .route("/transfers/send", post(transfers::send))
        .route("/transfers/always", post(transfers::always))
        .route("/transfers/accept", post(transfers::accept))
        .route("/transfers/decline", post(transfers::decline))
        .route("/transfers/cancel", post(transfers::cancel))
        .route("/conflicts", get(conflicts::show))
        .route("/conflicts/resolve", post(conflicts::resolve))
        .route("/people", get(members::show))
        .route("/people/invite", post(members::invite))
        .route("/people/ticket", get(members::ticket))
        .route("/people/ticket.svg", get(members::code))
        .route("/people/withdraw", post(members::withdraw))
        .route("/people/grant", post(members::grant))
        .route("/people/revoke", post(members::revoke))
        .route("/people/accept", post(members::accept))
        .route("/log", get(log::show))
        .route("/alerts", get(alerts::show))
        .route("/alerts/acknowledge", post(alerts::acknowledge))
        .route("/alerts/answer", post(alerts::answer))
        .route("/settings", get(settings::show))
        .route("/settings/set", post(settings::set))
        .route("/settings/snapshot", post(settings::snapshot))
        .route("/settings/remove-snapshot", post(settings::remove_snapshot))
        .route("/leave", post(settings::leave))
        .route("/events", get(live::events))
        .route("/frame", get(layout::frame))
        .fallback(async || Problem::missing())
        // Of what only does something: whoever loads it anew, or comes back to it.
        .method_not_allowed_fallback(async || {
            let text = "What was asked for there is done, or was not. Go on from another page.";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "There is nothing to look at", text)
        })
        .layer(middleware::from_fn_with_state(page.clone(), let_in))
        // Those are for everybody who addresses this page.
        .route("/open", get(welcome).post(open))
        .route("/assets/{name}", get(assets::get))
        .layer(middleware::from_fn_with_state(page.clone(), guard))
        .with_state(page)
}

/// Refuses what is not of a page of ours, and sees to it that every answer says what it may be used for.
async fn guard(State(page): State<Arc<Page>>, request: Request, next: Next) -> Response {
    let mut response = match page.own.check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(why) => {
            page.daemon.refused(why.why());
            (StatusCode::FORBIDDEN, "refused\n").into_response()
        }
    };
    for (name, value) in HEADERS {
        // What says otherwise is stricter.
        response.headers_mut().entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Lets through who has a session and, to change something, a form of it.
async fn let_in(State(page): State<Arc<Page>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let cookies = parts.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    // Browsers that don't say are taken at the safe side.
    let navigates = parts.headers.get(FETCH_MODE).is_none_or(|mode| mode == "navigate");
    let is_use = navigates || parts.headers.contains_key(&CSRF_HEADER);
    let get = |id| if is_use { page.sessions.get(id) } else { page.sessions.find(id) };
    let session = pairs.filter(|(name, _)| *name == page.own.cookie).find_map(|(_, id)| get(id));
    let Some(session) = session else {
        return layout::html(StatusCode::UNAUTHORIZED, &stranger());
    };
    let mut visit = Visit {
        session,
        address: parts.uri.path().to_owned(),
        query: Pairs::parse(parts.uri.query().unwrap_or_default()),
        fields: Pairs::default(),
        navigates,
        seen: 0,
        page,
    };
    let mut body = body;
    if parts.method == Method::POST {
        let told = match parts.headers.get(&CSRF_HEADER) {
            Some(told) => told.to_str().unwrap_or_default().to_owned(),
            None => {
                let Ok(form) = to_bytes(std::mem::take(&mut body), FORM_LIMIT).await else {
                    let why =
                        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "That is too long", "Shorten it, then try again.");
                    return layout::problem(&visit, &why).await;
                };
                visit.fields = Pairs::parse(&String::from_utf8_lossy(&form));
                visit.fields.get(CSRF).unwrap_or_default().to_owned()
            }
        };
        if !same(&told, &visit.session.csrf) {
            visit.page.daemon.refused("a form of another session");
            let text = "The form is of a session that has ended. Go back, reload the page and try again.";
            return layout::problem(&visit, &Problem::new(StatusCode::FORBIDDEN, "That form is too old", text)).await;
        }
    }
    let accepts = parts.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if parts.method == Method::GET && navigates && accepts.is_some_and(|accept| accept.contains("text/html")) {
        visit.seen = visit.page.daemon.log(u64::MAX).await.map_or(0, |log| log.end);
    }
    let mut request = Request::from_parts(parts, body);
    request.extensions_mut().insert(visit.clone());
    let response = next.run(request).await;
    match response.extensions().get::<Problem>() {
        Some(problem) => layout::problem(&visit, problem).await,
        None => response,
    }
}

/// Who isn't let in is told how to be.
fn stranger() -> maud::Markup {
    let body = html! {
        main.door {
            h1 { "Who is there?" }
            section.card {
                p { "This browser was not let in, or its session has ended. On this machine, run" }
                pre { code { "p2pfs ui" } }
                p { "It opens the page, with a key that works once." }
            }
        }
    };
    layout::document("p2pfs", None, &body)
}

/// The first page: a script of ours sends on what follows `#`; without scripts, whoever opens it pastes that.
async fn welcome() -> Response {
    let body = html! {
        main.door {
            h1 { "Coming in" }
            section.card {
                p #entering role="status" { "If nothing happens, paste what follows # in the address." }
                form #enter method="post" action="/open" {
                    label { "Key" input name="token" type="password" autocomplete="off" required; }
                    button.primary { "Come in" }
                }
            }
        }
    };
    layout::html(StatusCode::OK, &layout::document("p2pfs", None, &body))
}

/// Lets a browser in that has a token.
async fn open(State(page): State<Arc<Page>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let form = to_bytes(body, 4096).await.unwrap_or_default();
    let token = Pairs::parse(&String::from_utf8_lossy(&form)).get("token").unwrap_or_default().to_owned();
    let id = match page.sessions.enter(&token) {
        Entry::Session(id) => id,
        refused => {
            let (status, why, text) = match refused {
                Entry::TooOften => (
                    StatusCode::TOO_MANY_REQUESTS,
                    "many wrong keys: nobody is let in for a while",
                    "Many wrong keys were tried. Wait a minute, then run p2pfs ui.",
                ),
                _ => (
                    StatusCode::FORBIDDEN,
                    "a key that lets nobody in, or not any more",
                    "A key works once, and for a minute. Run p2pfs ui to get another one.",
                ),
            };
            page.daemon.refused(why);
            let body = html! {
                main.door { h1 { "That key is no good" } section.card role="alert" { p { (text) } } }
            };
            return layout::html(status, &layout::document("p2pfs", None, &body));
        }
    };
    let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or("unnamed");
    let agent: String = agent.chars().take(200).collect();
    if page.daemon.entered(agent).await.is_err() {
        ::log::warn!("page: that a browser was let in could not be recorded");
    }
    // Host-only, and gone with the browser; the session itself ends sooner.
    let cookie = format!("{}={id}; HttpOnly; SameSite=Strict; Path=/", page.own.cookie);
    Response::builder()
        .status(StatusCode::SEE_OTHER)
        .header(header::LOCATION, "/")
        .header(header::SET_COOKIE, cookie)
        .body(Body::empty())
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}
