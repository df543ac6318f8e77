//! How a registry is written: `HOST:PORT#KEY`.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crypto::DeviceId;
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest host name DNS allows.
const MAX_HOST: usize = 253;

/// Where a registry listens and which key it must prove.
///
/// The key makes the address enough to trust: whoever answers at the host without it is not the registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegistryAddress {
    host: String,
    port: u16,
    key: DeviceId,
}

/// Text that is no registry address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a registry address (HOST:PORT#KEY, as p2pfs-registry prints it): {0}")]
pub struct BadRegistryAddress(&'static str);

impl RegistryAddress {
    /// Makes the address of a registry that listens at `address`.
    pub fn new(address: SocketAddr, key: DeviceId) -> Self {
        Self { host: address.ip().to_canonical().to_string(), port: address.port(), key }
    }

    /// Returns the key the registry must prove.
    pub fn key(&self) -> DeviceId {
        self.key
    }

    /// Looks the host up.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        Ok(tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect())
    }
}

impl fmt::Display for RegistryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, key } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}#{key}") } else { write!(f, "{host}:{port}#{key}") }
    }
}

impl FromStr for RegistryAddress {
    type Err = BadRegistryAddress;

    fn from_str(text: &str) -> Result<Self, BadRegistryAddress> {
        let (place, key) = text.trim().split_once('#').ok_or(BadRegistryAddress("the key after # is missing"))?;
        let key = parse_key(key).ok_or(BadRegistryAddress("the key after # is damaged"))?;
        let (host, port) = place.rsplit_once(':').ok_or(BadRegistryAddress("the port is missing"))?;
        let port: u16 = port.parse().map_err(|_| BadRegistryAddress("the port is no number up to 65535"))?;
        if port == 0 {
            return Err(BadRegistryAddress("the port is 0"));
        }
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bracketed {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().ok().map(|ip| ip.to_string()),
            None => is_host(host).then(|| host.to_ascii_lowercase()),
        };
        let host = host.ok_or(BadRegistryAddress("the host is no name and no address"))?;
        Ok(Self { host, port, key })
    }
}

impl TryFrom<String> for RegistryAddress {
    type Error = BadRegistryAddress;

    fn try_from(text: String) -> Result<Self, BadRegistryAddress> {
        text.parse()
    }
}

impl From<RegistryAddress> for String {
    fn from(address: RegistryAddress) -> Self {
        address.to_string()
    }
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= MAX_HOST
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-' || b == b'_')
}

/// Hex as printed, or base32, which some prefer to dictate.
fn parse_key(text: &str) -> Option<DeviceId> {
    if text.len() == 2 * DeviceId::LEN {
        return text.to_ascii_lowercase().parse().ok();
    }
    let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?;
    DeviceId::try_from(bytes.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn what_is_printed_parses() {
        for host in ["127.0.0.1", "[::1]", "registry.example.org"] {
            let text = format!("{host}:4477#{KEY}");
            let address: RegistryAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.key().to_string(), KEY);
        }
        let key = BASE32_NOPAD.encode(KEY.parse::<DeviceId>().unwrap().as_bytes()).to_lowercase();
        let address: RegistryAddress = format!("Host:1#{key}").parse().unwrap();
        assert_eq!(address.to_string(), format!("host:1#{KEY}"));
    }

    #[test]
    fn nonsense_is_told_apart() {
        let check = |text: &str, why: &str| {
            let error = text.parse::<RegistryAddress>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        };
        check("127.0.0.1:4477", "key after # is missing");
        check("127.0.0.1:4477#abc", "key after # is damaged");
        check(&format!("127.0.0.1#{KEY}"), "port is missing");
        check(&format!("127.0.0.1:70000#{KEY}"), "port is no number");
        check(&format!("a b:1#{KEY}"), "host is no name");
        check(&format!("[::g]:1#{KEY}"), "host is no name");
        check(&format!("{}:1#{KEY}", "x".repeat(254)), "host is no name");
    }

    #[tokio::test]
    async fn an_ip_needs_no_lookup() {
        let address: RegistryAddress = format!("[::1]:4477#{KEY}").parse().unwrap();
        assert_eq!(address.resolve().await.unwrap(), ["[::1]:4477".parse().unwrap()]);
    }
}
