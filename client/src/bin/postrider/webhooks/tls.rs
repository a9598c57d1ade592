//! Flags for TLS with a webhook's receiver, and how that is shown.

use clap::Args;
use postrider_client::v1::{TlsSettings, Webhook};

use super::request::{Hidden, read};
use crate::output::{counted, time};

/// The flags say all of the setting `tls`: what is left out is as the default is.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Options of TLS with its receiver")]
pub(super) struct TlsArgs {
    /// Trust the authorities in this file (PEM) and no others; `-` is standard input. On update, what is not said of these three
    /// goes.
    #[arg(long = "ca-file", value_name = "PATH", value_parser = read)]
    authorities: Option<String>,
    /// Show the certificate in this file (PEM) to a receiver that asks, with those that follow it there.
    #[arg(long = "client-certificate-file", value_name = "PATH", value_parser = read)]
    certificate: Option<String>,
    /// The private key of that certificate (PEM, not encrypted); `***` instead of a file keeps the key it has.
    #[arg(long = "client-key-file", value_name = "PATH", value_parser = read_key)]
    key: Option<Hidden<String>>,
}

/// What replies show instead of a key, and what keeps one.
const KEPT: &str = "***";

fn read_key(path: &str) -> Result<Hidden<String>, String> {
    if path == KEPT { Ok(Hidden(KEPT.to_owned())) } else { read(path).map(Hidden) }
}

impl TlsArgs {
    /// Sets what was given, and returns the name of the field.
    pub(super) fn apply(self, webhook: &mut Webhook) -> Option<&'static str> {
        let Self { authorities, certificate, key } = self;
        if authorities.is_none() && certificate.is_none() && key.is_none() {
            return None;
        }
        webhook.tls = Some(TlsSettings {
            ca_certificates: authorities.unwrap_or_default(),
            client_certificate: certificate.unwrap_or_default(),
            client_key: key.map(|key| key.0).unwrap_or_default(),
            client_certificate_expire_time: None,
        });
        Some("tls")
    }
}

/// In words; empty where there is nothing to say.
pub(super) fn describe(webhook: &Webhook) -> [(&'static str, String); 2] {
    let tls = webhook.tls.clone().unwrap_or_default();
    let authorities = tls.ca_certificates.matches("-----BEGIN CERTIFICATE-----").count();
    let trusted = match i64::try_from(authorities).unwrap_or(i64::MAX) {
        0 => String::new(),
        several => format!("{} of its own, no others", counted(several, "authority", "authorities")),
    };
    let shown = match (tls.client_certificate.as_str(), &tls.client_certificate_expire_time) {
        ("", _) => String::new(),
        (_, None) => "shown to the receiver".into(),
        (_, Some(end)) => format!("shown to the receiver, until {}", time(Some(end))),
    };
    [("trusts", trusted), ("certificate", shown)]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use prost_types::Timestamp;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        tls: TlsArgs,
    }

    #[test]
    fn files_fill_the_setting_and_the_key_is_not_shown() {
        let path = std::env::temp_dir().join(format!("postrider-tls-{}", std::process::id()));
        let file = path.to_str().unwrap();
        fs::write(&path, "-----BEGIN CERTIFICATE-----s3cret").unwrap();
        let applied = |arguments: &[&str]| {
            let line = Line::try_parse_from([&["postrider"], arguments].concat()).unwrap();
            assert!(arguments.contains(&"--ca-file") || !format!("{line:?}").contains("s3cret"), "{line:?}");
            let mut webhook = Webhook::default();
            let set = line.tls.apply(&mut webhook);
            (webhook, set)
        };
        assert_eq!(applied(&[]), (Webhook::default(), None));
        let (webhook, set) = applied(&["--client-key-file", file]);
        assert_eq!((webhook.tls.unwrap().client_key.ends_with("s3cret"), set), (true, Some("tls")));
        let (webhook, _) = applied(&["--ca-file", file, "--client-certificate-file", file, "--client-key-file", "***"]);
        let tls = webhook.tls.clone().unwrap();
        assert_eq!(tls.client_key, "***");
        assert_eq!(tls.ca_certificates, tls.client_certificate);
        let ends = Some(Timestamp { seconds: 0, nanos: 0 });
        let shown =
            describe(&Webhook { tls: Some(TlsSettings { client_certificate_expire_time: ends, ..tls }), ..webhook });
        assert_eq!(shown[0].1, "1 authority of its own, no others");
        assert!(shown[1].1.starts_with("shown to the receiver, until 1970-01-01"), "{}", shown[1].1);
        fs::remove_file(&path).unwrap();
        assert!(Line::try_parse_from(["postrider", "--ca-file", file]).is_err());
    }
}
