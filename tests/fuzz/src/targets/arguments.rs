//! What people and local programs say: requests on the control socket, values on the command line.

#[path = "../../../../fs-mount/src/duration.rs"]
mod duration;
#[path = "../../../../fs-mount/src/control/request.rs"]
mod request;

/// A line on the control socket.
pub(crate) mod control {
    use super::request::Request;

    pub(crate) fn run(data: &[u8]) {
        if let Ok(request) = serde_json::from_slice::<Request>(data) {
            let line = serde_json::to_vec(&request).expect("a request encodes");
            assert_eq!(serde_json::from_slice::<Request>(&line).expect("and decodes"), request);
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let requests = [Request::Hello, Request::Status, Request::Invite { role: Some("writer".to_owned()), seconds: 60 }, Request::Wait { seconds: 5 }];
        requests.iter().map(|request| serde_json::to_vec(request).expect("a request encodes")).collect()
    }
}

/// Durations, addresses of registries, roles, names of users.
pub(crate) mod argument {
    use p2pfs_volume::{Role, member::check_user_name};

    use super::duration;

    pub(crate) fn run(data: &[u8]) {
        let Ok(text) = std::str::from_utf8(data) else { return };
        if let Ok(duration) = duration::parse(text) {
            assert!(duration.as_secs() <= 10 * 365 * 86_400);
            assert_eq!(duration::parse_positive(text).is_ok(), !duration.is_zero());
        }
        if let Ok(printed) = peer_net::fuzzing::recode("registry_address", data) {
            assert_eq!(peer_net::fuzzing::recode("registry_address", &printed), Ok(printed));
        }
        if let Ok(role) = text.parse::<Role>() {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        if check_user_name(text).is_ok() {
            assert!(!text.is_empty() && !text.contains(['/', '\0']));
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let key = "00112233445566778899aabbccddeeff".repeat(2);
        let texts = ["15m", "3650d", "writer", "Ada Lovelace"].map(str::to_owned);
        let addresses = ["127.0.0.1:4477", "[::1]:1", "registry.example.org:65535"].map(|place| format!("{place}#{key}"));
        texts.into_iter().chain(addresses).map(String::into_bytes).collect()
    }
}
