//! TLS at the door: the server's own certificate. HTTP/2 is offered by ALPN.

use crate::config::TlsFiles;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

/// Why the certificate cannot be used.
#[derive(Debug, Error)]
#[error("{file}: {why}")]
pub struct TlsError {
    file: String,
    why: String,
}

/// Reads certificate chain and key. The protocols are for the HTTP server to add.
///
/// # Errors
/// A file cannot be read or parsed, or the key is not that of the certificate.
pub fn server_config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificates)
        .and_then(Iterator::collect)
        .map_err(|error| refuse(&files.certificates, &error))?;
    if certificates.is_empty() {
        return Err(refuse(&files.certificates, &"it holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| refuse(&files.key, &error))?;
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(|error| refuse(&files.certificates, &error))
}

fn refuse(file: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError {
        file: file.display().to_string(),
        why: why.to_string(),
    }
}
