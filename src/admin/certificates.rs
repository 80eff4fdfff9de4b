//! When the certificates end that clients are shown.

use std::fs;

use serde::Serialize;
use x509_parser::{extensions::GeneralName, pem::Pem, prelude::X509Certificate};

use crate::config::Config;

/// A certificate that clients are shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// The listener's address.
    pub listener: String,
    /// The first name that it is for.
    pub name: String,
    /// When it ends, in seconds since 1970.
    pub ends: i64,
}

/// The listeners' certificates, as their files have them.
pub(super) fn of(config: &Config) -> Vec<Certificate> {
    let with_tls = config.listeners.iter().filter_map(|listener| Some((listener.address, listener.tls.as_ref()?)));
    let shown = with_tls.filter_map(|(address, tls)| {
        let bytes = fs::read(&tls.certificate).ok()?;
        let pem = Pem::iter_from_buffer(&bytes).next()?.ok()?;
        let certificate = pem.parse_x509().ok()?;
        Some(Certificate {
            listener: address.to_string(),
            name: first_name(&certificate).unwrap_or_else(|| "-".to_owned()),
            ends: certificate.validity().not_after.timestamp(),
        })
    });
    shown.collect()
}

fn first_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let mut dns =
        names.filter_map(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None });
    dns.next().or_else(|| Some(certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned()))
}
