//! Asking others over TLS.

use std::sync::Arc;
use std::time::Duration;

use awc::{Client, Connector};
use rustls::{ClientConfig, RootCertStore};

/// The certificates that the system trusts cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("no certificate of this system can be used, so nobody can be asked over TLS: {0}")]
pub struct NoCertificates(String);

/// A client that trusts what the system trusts, or the certificates that SSL_CERT_FILE and SSL_CERT_DIR name. It follows
/// no redirects: what is sent goes to the host that is named and nowhere else. Made within an actix system.
///
/// # Errors
/// [`NoCertificates`].
pub fn client(timeout: Duration) -> Result<Client, NoCertificates> {
    let found = rustls_native_certs::load_native_certs();
    let mut trusted = RootCertStore::empty();
    let (usable, _) = trusted.add_parsable_certificates(found.certs);
    if usable == 0 {
        let first = found.errors.first().map(ToString::to_string);
        let none = || "install ca-certificates, or set SSL_CERT_FILE".to_owned();
        return Err(NoCertificates(first.unwrap_or_else(none)));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| NoCertificates(error.to_string()))?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let connector = Connector::new().rustls_0_23(Arc::new(tls)).timeout(timeout);
    Ok(Client::builder()
        .connector(connector)
        .timeout(timeout)
        .disable_redirects()
        .finish())
}
