//! What is refused before anything is looked at: requests that are not of a page of ours.
//!
//! The page has a host name of its own, `p2pfs-<random digits>.localhost`, which browsers lead to this machine without asking
//! anybody. So it shares neither cookies nor its *site* with other servers on this machine, which it would under `127.0.0.1` or
//! `localhost`, where cookies don't know ports; and a page of theirs, or a name that an attacker lets lead here (DNS rebinding),
//! can't even address it.

use axum::http::{HeaderMap, HeaderName, Method, header};
use crypto::{Entropy, OsEntropy};
use data_encoding::HEXLOWER;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
pub(super) const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The name and port of this page.
pub(super) struct Own {
    host: String,
    origin: String,
    /// What its cookie is called.
    pub(super) cookie: String,
}

/// Why something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is addressed to somebody else.
    Host,
    /// It is neither GET nor POST.
    Method,
    /// Another page sent it.
    Origin,
}

impl Refused {
    /// For people, and the audit log.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Host => "a request for another host",
            Self::Method => "a request that is neither GET nor POST",
            Self::Origin => "a request from another page",
        }
    }
}

impl Own {
    pub(super) fn new(port: u16) -> Self {
        Self::named(&HEXLOWER.encode(&OsEntropy.array::<10>()), port)
    }

    fn named(random: &str, port: u16) -> Self {
        let host = format!("p2pfs-{random}.localhost:{port}");
        Self { origin: format!("http://{host}"), host, cookie: format!("p2pfs-{port}") }
    }

    /// Where a browser gets in with a token. What follows `#` isn't sent to anybody: a script of ours sends it on.
    pub(super) fn address(&self, token: &str) -> String {
        format!("{}/open#{token}", self.origin)
    }

    /// Whether a request is of a page of ours, or of a person who typed, or followed, an address.
    pub(super) fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refused> {
        let one = |name: &HeaderName| {
            let mut all = headers.get_all(name).iter();
            match (all.next(), all.next()) {
                (Some(value), None) => value.to_str().ok(),
                _ => None,
            }
        };
        if !one(&header::HOST).is_some_and(|host| host.eq_ignore_ascii_case(&self.host)) {
            return Err(Refused::Host);
        }
        let is_ours = !headers.contains_key(header::ORIGIN) || one(&header::ORIGIN) == Some(self.origin.as_str());
        let site = headers.contains_key(&FETCH_SITE).then(|| one(&FETCH_SITE).unwrap_or("?"));
        if method == Method::POST {
            // Every browser says where a form or a script that posts is from.
            let says = headers.contains_key(header::ORIGIN) && is_ours;
            return if says && site.is_none_or(|site| site == "same-origin") { Ok(()) } else { Err(Refused::Origin) };
        }
        if method != Method::GET && method != Method::HEAD {
            return Err(Refused::Method);
        }
        // Also of what only looks: whether something loads, and how large it is, tells as well.
        let is_followed = one(&FETCH_MODE) == Some("navigate") && one(&FETCH_DEST) == Some("document");
        match site {
            None | Some("same-origin" | "none") if is_ours => Ok(()),
            Some(_) if is_followed => Ok(()),
            _ => Err(Refused::Origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "p2pfs-00ff.localhost:4711";

    fn check(method: Method, headers: &[(&'static str, &str)]) -> Result<(), Refused> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        Own::named("00ff", 4711).check(&method, &map)
    }

    #[test]
    fn only_its_own_name_is_answered_to() {
        assert_eq!(check(Method::GET, &[("host", HOST)]), Ok(()));
        for host in [
            "127.0.0.1:4711",
            "localhost:4711",
            "p2pfs-00ff.localhost",
            "p2pfs-00ff.localhost:4712",
            "evil.example",
            "",
        ] {
            assert_eq!(check(Method::GET, &[("host", host)]), Err(Refused::Host), "{host}");
        }
        assert_eq!(check(Method::GET, &[]), Err(Refused::Host));
        assert_eq!(check(Method::GET, &[("host", HOST), ("host", HOST)]), Err(Refused::Host));
    }

    #[test]
    fn what_changes_something_says_that_it_is_from_here() {
        let own = format!("http://{HOST}");
        let host = ("host", HOST);
        assert_eq!(check(Method::POST, &[host, ("origin", &own)]), Ok(()));
        assert_eq!(check(Method::POST, &[host, ("origin", &own), ("sec-fetch-site", "same-origin")]), Ok(()));
        for origin in
            ["null", "http://127.0.0.1:4711", "https://p2pfs-00ff.localhost:4711", "http://p2pfs-00ff.localhost"]
        {
            assert_eq!(check(Method::POST, &[host, ("origin", origin)]), Err(Refused::Origin), "{origin}");
        }
        assert_eq!(check(Method::POST, &[host]), Err(Refused::Origin));
        for site in ["cross-site", "same-site", "none", "?"] {
            let headers = [host, ("origin", own.as_str()), ("sec-fetch-site", site)];
            assert_eq!(check(Method::POST, &headers), Err(Refused::Origin), "{site}");
        }
    }

    #[test]
    fn other_pages_load_nothing_and_may_be_followed_here() {
        let host = ("host", HOST);
        let check_get = |headers: &[(&'static str, &str)]| check(Method::GET, &[&[host], headers].concat());
        for dest in ["image", "script", "iframe", "empty", "object"] {
            let mode = if dest == "iframe" { "navigate" } else { "no-cors" };
            let headers = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
            assert_eq!(check_get(&headers), Err(Refused::Origin), "{dest}");
        }
        let followed =
            [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert_eq!(check_get(&followed), Ok(()));
        assert_eq!(check_get(&[("origin", "http://evil.example")]), Err(Refused::Origin));
        assert_eq!(check(Method::DELETE, &[host]), Err(Refused::Method));
        assert_eq!(check(Method::OPTIONS, &[host]), Err(Refused::Method));
    }

    #[test]
    fn names_can_t_be_guessed() {
        let (one, other) = (Own::new(1), Own::new(1));
        assert_ne!(one.host, other.host);
        assert_eq!(one.host.len(), "p2pfs-.localhost:1".len() + 20);
    }
}
