//! What the operator says of connections to receivers.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
};

use rustls::pki_types::CertificateDer;

use super::reader::Reader;
use crate::{
    deliver::Proxy,
    model::tls::pem::{self, Most},
    secret_file::is_open_to_others,
};

/// More than the authorities of the world take.
const AUTHORITIES: Most = Most { bytes: 4 * 1024 * 1024, certificates: 2_000 };

/// The certificates in `ca-file`. Read here, so that what is wrong with them is known before anything else happens.
pub(super) fn authorities(reader: &mut Reader<'_>) -> Vec<CertificateDer<'static>> {
    reader.one("ca-file", |path| match path {
        "none" => Ok(Vec::new()),
        path => {
            let text = read(path, AUTHORITIES.bytes).map_err(|error| format!("cannot be read: {error}"))?;
            pem::certificates(&text, AUTHORITIES).map_err(|problem| problem.to_string())
        }
    })
}

/// Longest file with credentials for the proxy.
const CREDENTIALS_BYTES_MAX: usize = 4096;

/// The proxy that `egress-proxy` names, with the credentials in `egress-proxy-credentials`.
pub(super) fn proxy(reader: &mut Reader<'_>) -> Option<Proxy> {
    const CREDENTIALS: &str = "egress-proxy-credentials";
    let credentials = reader.one(CREDENTIALS, |path| match path {
        "none" => Ok(None),
        path => {
            let text = credentials(path)?;
            // What is wrong with them is told as theirs.
            Proxy::parse("http://localhost", Some(&text)).map(|_| Some(text))
        }
    });
    // What is wrong is said without the URL, which may have a password in it.
    let proxy =
        reader.one("egress-proxy", |url| Ok((url != "none").then(|| Proxy::parse(url, credentials.as_deref()))));
    let proxy = proxy.transpose().unwrap_or_else(|problem| {
        reader.refuse("egress-proxy", problem);
        None
    });
    if proxy.is_none() && credentials.is_some() && !reader.is_given("egress-proxy") {
        reader.refuse(CREDENTIALS, "means nothing without egress-proxy");
    }
    proxy
}

/// The line in a file that nobody else may read.
fn credentials(path: &str) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let metadata = File::open(path).and_then(|file| file.metadata()).map_err(unreadable)?;
    let mode = metadata.mode();
    if is_open_to_others(mode, metadata.uid(), metadata.gid()) {
        return Err(format!("can be used by others, as its mode is {:04o}; that must be 0600 or 0400", mode & 0o7777));
    }
    let text = read(path, CREDENTIALS_BYTES_MAX).map_err(unreadable)?;
    if text.len() > CREDENTIALS_BYTES_MAX {
        return Err(format!("is longer than {CREDENTIALS_BYTES_MAX} bytes"));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The text of a file, or the beginning of it that is just too long.
fn read(path: &str, bytes_max: usize) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(bytes_max as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}
