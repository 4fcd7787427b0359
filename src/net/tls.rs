//! TLS 1.3 between two nodes, as libp2p's specification "tls" has it, with the ciphers in the order of what they cost here.
//!
//! Each end shows one certificate, made for this run of the node, signed by itself, in which its libp2p key vouches for the certificate's key. Making and checking
//! certificates is libp2p-tls's work. Its own settings put ChaCha20-Poly1305 before AES-GCM, which takes three times the processor time where there are
//! instructions for AES, and they can't be changed: that is the reason for this module. Sessions are never resumed: a resumed one shows no certificate.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream, rustls};
use libp2p::PeerId;
use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedCipherSuite, version,
};

use crate::wire::names;

/// A node's settings for both roles. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tls {
    accept: TlsAcceptor,
    connect: TlsConnector,
}

impl Tls {
    /// Settings with a new certificate for `key`.
    ///
    /// # Errors
    /// When the certificate can't be made.
    pub(super) fn new(key: &Keypair) -> io::Result<Self> {
        let (client, server) = configs(key)?;
        Ok(Self {
            accept: Arc::new(server).into(),
            connect: Arc::new(client).into(),
        })
    }

    /// Encrypts a connection that a peer has opened. Gives the peer that it is.
    ///
    /// # Errors
    /// What the peer did wrong, or the connection's own failure.
    pub(super) async fn accept<C>(&self, stream: C) -> io::Result<(PeerId, TlsStream<C>)>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsStream::from(self.accept.accept(stream).await?);
        Ok((peer_of(&stream)?, stream))
    }

    /// Encrypts a connection that this node has opened. Gives the peer that is at its other end.
    ///
    /// # Errors
    /// What the peer did wrong, or the connection's own failure.
    pub(super) async fn connect<C>(&self, stream: C) -> io::Result<(PeerId, TlsStream<C>)>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        // The specification wants no name to be sent; none is for an address.
        let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        let stream = TlsStream::from(self.connect.connect(nobody, stream).await?);
        Ok((peer_of(&stream)?, stream))
    }
}

/// The settings of both roles, of a client and of a server, with a new certificate for `key`.
///
/// # Errors
/// When the certificate can't be made.
pub(super) fn configs(key: &Keypair) -> io::Result<(ClientConfig, ServerConfig)> {
    let (certificate, private) = certificate::generate(key).map_err(io::Error::other)?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = cipher_suites();
    let signer = provider
        .key_provider
        .load_private_key(private)
        .map_err(io::Error::other)?;
    let own = Arc::new(SingleCertAndKey::from(CertifiedKey::new(
        vec![certificate],
        signer,
    )));
    let (provider, verifier) = (Arc::new(provider), Arc::new(Verifier));
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_cert_resolver(own.clone());
    client.alpn_protocols = vec![names::TLS_ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(io::Error::other)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(own);
    server.alpn_protocols = vec![names::TLS_ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok((client, server))
}

/// The fastest first; all three are good enough for anything.
fn cipher_suites() -> Vec<SupportedCipherSuite> {
    let mut suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    if !has_aes() {
        suites.rotate_right(1);
    }
    suites
}

/// Whether the processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

fn peer_of<C>(stream: &TlsStream<C>) -> io::Result<PeerId> {
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().unwrap_or_default();
    let [certificate] = shown else {
        return Err(io::Error::other("the peer did not show one certificate"));
    };
    let certificate = certificate::parse(certificate).map_err(io::Error::other)?;
    Ok(certificate.peer_id())
}

/// Takes any libp2p node's certificate: which node it is to be, the swarm looks at.
#[derive(Debug)]
struct Verifier;

impl Verifier {
    fn certificate(end: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !others.is_empty() {
            return Err(Error::General("more than one certificate".to_owned()));
        }
        certificate::parse(end)?;
        Ok(())
    }

    fn signature(
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        certificate::parse(end)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Those that libp2p-tls checks, in the specification's order of preference.
    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }

    /// Only TLS 1.3 is spoken: its rules are the ones that bind a signature to one handshake.
    fn too_old() -> Error {
        Error::General("only TLS 1.3 is spoken".to_owned())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::certificate(end, others)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, end, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::certificate(end, others)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, end, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    trait Both: AsyncRead + AsyncWrite + Send + Unpin {}

    impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

    /// Two ends of a connection.
    fn pair() -> (impl Both, impl Both) {
        let (a, b) = tokio::io::duplex(1 << 16);
        (a.compat(), b.compat())
    }

    fn node() -> (PeerId, Tls) {
        let key = Keypair::generate_ed25519();
        (key.public().to_peer_id(), Tls::new(&key).expect("set up"))
    }

    #[tokio::test]
    async fn both_learn_who_is_there_and_take_the_fastest_cipher() {
        let ((a, ours), (b, theirs)) = (node(), node());
        let (near, far) = pair();
        let met = futures::try_join!(ours.connect(near), theirs.accept(far));
        let ((seen_b, mut near), (seen_a, mut far)) = met.expect("they meet");
        assert_eq!((seen_a, seen_b), (a, b));
        let suite = near.get_ref().1.negotiated_cipher_suite();
        assert_eq!(suite, cipher_suites().first().copied());
        let is_aes = suite != Some(cipher_suite::TLS13_CHACHA20_POLY1305_SHA256);
        assert_eq!(is_aes, has_aes());
        let sent = vec![7; 100_000];
        let (written, read) = futures::join!(
            async {
                near.write_all(&sent).await?;
                near.close().await
            },
            async {
                let mut read = Vec::new();
                // The end of a TLS connection is told; here it is cut off, as libp2p's connections are.
                let _ = far.read_to_end(&mut read).await;
                read
            }
        );
        written.expect("sent");
        assert_eq!(read, sent);
    }

    /// Who shows no certificate, or one that is not a libp2p node's, is nobody.
    #[tokio::test]
    async fn who_does_not_prove_who_it_is_does_not_get_in() {
        let (_, ours) = node();
        let nobody = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .expect("set up")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier));
        let mut nobody = nobody.with_no_client_auth();
        nobody.alpn_protocols = vec![names::TLS_ALPN.to_vec()];
        let nobody = Tls {
            connect: Arc::new(nobody).into(),
            ..ours.clone()
        };
        let (near, far) = pair();
        let (_, accepted) = futures::join!(nobody.connect(near), ours.accept(far));
        let error = accepted.err().expect("refused").to_string();
        assert!(error.contains("no certificates"), "{error}");

        let garbage = CertificateDer::from(vec![1, 2, 3]);
        assert!(Verifier::certificate(&garbage, &[]).is_err());
        let key = Keypair::generate_ed25519();
        let (good, _) = certificate::generate(&key).expect("made");
        assert!(Verifier::certificate(&good, &[]).is_ok());
        assert!(Verifier::certificate(&good, std::slice::from_ref(&good)).is_err());
        // A certificate that was changed after it was signed.
        let mut bytes = good.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        assert!(Verifier::certificate(&CertificateDer::from(bytes), &[]).is_err());
    }
}
