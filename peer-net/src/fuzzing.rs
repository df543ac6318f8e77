//! Every decoder of this crate by the name of its format, for the fuzz targets (`tests/fuzz`) and the test vectors
//! (`tests/vectors`): decodes, and encodes again what it understood.
//!
//! Owns no decoder: each name leads to the one that connections use.

use crypto::DeviceId;
use rustls::pki_types::CertificateDer;
use serde::{Serialize, de::DeserializeOwned};

use crate::frame;
use crate::handshake::{Addresses, Answer, Hello};
use crate::registry_address::RegistryAddress;
use crate::registry_protocol::{Notice, Register};
use crate::sends::{
    Have, Opening,
    manifest::{ClaimedManifest, Entry},
};
use crate::ticket::Ticket;

/// The names that [`recode`] knows.
pub const FORMATS: [&str; 10] = [
    "ticket",
    "registry_address",
    "hello",
    "answer",
    "addresses",
    "register",
    "notice",
    "send_opening",
    "send_manifest",
    "send_have",
];

/// Decodes `bytes` as `format` says, and encodes the value.
///
/// # Errors
/// Why they are refused, as the error says it.
pub fn recode(format: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let text = || std::str::from_utf8(bytes).map_err(|_| "not text".to_owned());
    match format {
        "ticket" => Ok(text()?.parse::<Ticket>().map_err(told)?.to_word().as_bytes().to_vec()),
        "registry_address" => Ok(text()?.parse::<RegistryAddress>().map_err(told)?.to_string().into_bytes()),
        "hello" => value::<Hello>(bytes),
        "answer" => value::<Answer>(bytes),
        "addresses" => frame::decode::<Addresses>(bytes).map(|a| frame::encode(&a.bounded())).map_err(told),
        "send_opening" => {
            let opening: Opening = frame::decode(bytes).map_err(told)?;
            opening.check()?;
            Ok(frame::encode(&opening))
        }
        "send_manifest" => {
            let mut claimed = ClaimedManifest::default();
            claimed.add(frame::decode::<Vec<Entry>>(bytes).map_err(told)?)?;
            Ok(frame::encode(&claimed.check()?.entries()))
        }
        "send_have" => value::<Vec<Have>>(bytes),
        "register" => value::<Register>(bytes),
        "notice" => value::<Notice>(bytes),
        unknown => Err(format!("no format `{unknown}`")),
    }
}

/// The device in a certificate, as TLS hands it over.
pub fn device_in_certificate(der: &[u8]) -> Option<DeviceId> {
    crate::identity::device_in(&CertificateDer::from(der)).ok()
}

fn value<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Vec<u8>, String> {
    frame::decode::<T>(bytes).map(|value| frame::encode(&value)).map_err(told)
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
