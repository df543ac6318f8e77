//! Who is at the other end: TLS 1.3 in which the device key is the identity.
//!
//! Both sides show a self-signed certificate made from their device's Ed25519 key. The certificate is only an
//! envelope: names, dates and issuer in it mean nothing and there is no authority. The key in it is the
//! [`DeviceId`], and the handshake's signature is checked against *that id*, encoded afresh, never against the
//! certificate by a second parser: whatever a crafted certificate may make two parsers see, who proved which key is
//! decided in one place.

use std::fmt;
use std::sync::Arc;

use crypto::{DeviceId, SigningKeys};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{CertificateParams, DistinguishedName, PKCS_ED25519};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SigningKey as TlsSigningKey, SingleCertAndKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName as TlsName, PeerIncompatible, SignatureScheme,
};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate is a few hundred bytes; more is somebody's attempt at wasting our time.
const MAX_CERTIFICATE: usize = 4096;

/// What a connection is for; agreed on in the TLS handshake (ALPN), so that neither is taken for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Between devices of a volume.
    Peer,
    /// Between a device and a registry.
    Registry,
}

impl Protocol {
    /// Returns the name by which TLS agrees on it.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Peer => b"p2pfs/1",
            Protocol::Registry => b"p2pfs-registry/1",
        }
    }
}

/// Why no TLS identity could be made of a key. Only a broken crypto library gives this.
#[derive(Debug, Error)]
#[error("cannot make a TLS identity of the device key: {0}")]
pub struct IdentityError(String);

impl IdentityError {
    fn from(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// This device's TLS identity.
#[derive(Clone)]
pub struct Identity {
    device: DeviceId,
    provider: Arc<CryptoProvider>,
    certified: Arc<SingleCertAndKey>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.device).finish()
    }
}

impl Identity {
    /// Makes the identity of a device key.
    pub fn new(keys: &SigningKeys) -> Result<Self, IdentityError> {
        let device = DeviceId::from_bytes(*keys.public().as_bytes());
        let provider = Arc::new(provider());
        let der = keys.to_pkcs8_der();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
        let key = aws_lc_rs::sign::any_eddsa_type(match &key {
            PrivateKeyDer::Pkcs8(pkcs8) => pkcs8,
            _ => return Err(IdentityError::from("not PKCS#8")),
        })
        .map_err(IdentityError::from)?;
        let certificate = self_signed(device, key.clone())?;
        let certified = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
        Ok(Self { device, provider, certified })
    }

    /// Returns the device this is the identity of.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Returns what a listener for `protocol` needs.
    pub(crate) fn server(&self, protocol: Protocol) -> Result<QuicServerConfig, IdentityError> {
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::from)?
            .with_client_cert_verifier(Arc::new(self.verifier(None)))
            .with_cert_resolver(self.certified.clone());
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        // Every connection proves its key anew: a resumed one would rest on a ticket instead.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        QuicServerConfig::try_from(config).map_err(IdentityError::from)
    }

    /// Returns what a dialler needs; with `expected`, no other device is talked to (nor told who is calling).
    pub(crate) fn client(
        &self,
        protocol: Protocol,
        expected: Option<DeviceId>,
    ) -> Result<QuicClientConfig, IdentityError> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::from)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier(expected)))
            .with_client_cert_resolver(self.certified.clone());
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_early_data = false;
        QuicClientConfig::try_from(config).map_err(IdentityError::from)
    }

    fn verifier(&self, expected: Option<DeviceId>) -> DeviceVerifier {
        DeviceVerifier { provider: self.provider.clone(), expected }
    }
}

/// Returns whose key the other end of an established connection proved.
pub fn peer_device(connection: &quinn::Connection) -> Option<DeviceId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    device_in(chain.first()?).ok()
}

/// AES-256-GCM first: hardware does it several times as fast as ChaCha20, and QUIC's initial packets need AES anyway.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            // Listed last and so never chosen between two of us: QUIC needs the suite for its initial packets.
            cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// The certificate's signer: the TLS key itself, so that no second copy of the secret is made.
struct CertificateKey {
    device: DeviceId,
    key: Arc<dyn TlsSigningKey>,
}

impl rcgen::PublicKeyData for CertificateKey {
    fn der_bytes(&self) -> &[u8] {
        self.device.as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl rcgen::SigningKey for CertificateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signer = self.key.choose_scheme(&[SignatureScheme::ED25519]).ok_or(rcgen::Error::RemoteKeyError)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

fn self_signed(device: DeviceId, key: Arc<dyn TlsSigningKey>) -> Result<CertificateDer<'static>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let certificate = params.self_signed(&CertificateKey { device, key }).map_err(IdentityError::from)?;
    Ok(certificate.into())
}

/// Takes the device's key out of a certificate, or says that there is none.
pub(crate) fn device_in(certificate: &CertificateDer<'_>) -> Result<DeviceId, rustls::Error> {
    let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    if certificate.len() > MAX_CERTIFICATE {
        return Err(bad());
    }
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
    let key = parsed.public_key();
    let is_ed25519 =
        key.algorithm.algorithm == x509_parser::oid_registry::OID_SIG_ED25519 && key.algorithm.parameters.is_none();
    if !rest.is_empty() || !is_ed25519 || key.subject_public_key.unused_bits != 0 {
        return Err(bad());
    }
    DeviceId::try_from(&*key.subject_public_key.data).map_err(|_| bad())
}

/// Encodes a device's key as a SubjectPublicKeyInfo (RFC 8410 §4).
fn public_key_info(device: &DeviceId) -> Vec<u8> {
    let mut der = vec![
        0x30, 0x2a, // SEQUENCE of 42 bytes
        0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, // algorithm 1.3.101.112, Ed25519
        0x03, 0x21, 0x00, // BIT STRING of 32 bytes, no unused bits
    ];
    der.extend_from_slice(device.as_bytes());
    der
}

#[derive(Debug)]
struct DeviceVerifier {
    provider: Arc<CryptoProvider>,
    expected: Option<DeviceId>,
}

impl DeviceVerifier {
    fn check(&self, end_entity: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let device = device_in(end_entity)?;
        if !others.is_empty() {
            return Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        match self.expected {
            Some(expected) if expected != device => {
                Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            _ => Ok(()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = public_key_info(&device_in(certificate)?);
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key),
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

const NO_TLS12: rustls::Error = rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered);

impl ServerCertVerifier for DeviceVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for DeviceVerifier {
    fn root_hint_subjects(&self) -> &[TlsName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use crypto::SeededEntropy;

    use super::*;

    fn keys(seed: u64) -> SigningKeys {
        SigningKeys::generate(&SeededEntropy::new(seed))
    }

    #[test]
    fn the_certificate_holds_the_device_key() {
        let keys = keys(1);
        let identity = Identity::new(&keys).unwrap();
        let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(keys.to_pkcs8_der().as_slice())).unwrap();
        let certificate = self_signed(identity.device(), key).unwrap();
        assert_eq!(device_in(&certificate).unwrap().as_bytes(), keys.public().as_bytes());
    }

    #[test]
    fn nothing_but_one_ed25519_certificate_is_taken() {
        let ed25519 = |seed| {
            let keys = keys(seed);
            let key =
                aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(keys.to_pkcs8_der().as_slice())).unwrap();
            self_signed(DeviceId::from_bytes(*keys.public().as_bytes()), key).unwrap()
        };
        let verifier = Identity::new(&keys(9)).unwrap().verifier(None);
        verifier.check(&ed25519(1), &[]).unwrap();
        assert!(verifier.check(&ed25519(1), &[ed25519(2)]).is_err(), "a chain");
        let mut trailing = ed25519(1).to_vec();
        trailing.push(0);
        assert!(device_in(&CertificateDer::from(trailing)).is_err(), "trailing bytes");
        let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = CertificateParams::default().self_signed(&ecdsa).unwrap();
        assert!(device_in(certificate.der()).is_err(), "another algorithm");
        assert!(device_in(&CertificateDer::from(vec![0x30; MAX_CERTIFICATE + 1])).is_err(), "oversized");
    }

    #[test]
    fn only_the_expected_device_passes() {
        let own = Identity::new(&keys(1)).unwrap();
        let other = keys(2);
        let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(other.to_pkcs8_der().as_slice())).unwrap();
        let device = DeviceId::from_bytes(*other.public().as_bytes());
        let certificate = self_signed(device, key).unwrap();
        own.verifier(Some(device)).check(&certificate, &[]).unwrap();
        assert!(own.verifier(Some(own.device())).check(&certificate, &[]).is_err());
    }
}
