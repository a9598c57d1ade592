//! How deliveries are signed: flags of `create` and `update`, and `postrider webhooks rotate-secret`.

use std::{
    fmt,
    io::{self, Read as _},
    time::Duration,
};

use clap::{Args, ValueEnum};
use postrider_client::v1::{RotateSecretRequest, Signature, SignatureScheme, Webhook};
use serde_json::json;

use super::describe;
use crate::{
    cli::Session,
    failure::Failure,
    ids::parse_webhook_id,
    json,
    output::{Format, printable, say, say_json},
};

/// Most that is read of a secret from standard input; none is longer.
const SECRET_BYTES_MAX: u64 = 256;

/// The flags say all of the setting `signature`: what is left out is as the default is.
#[derive(Debug, Default, Args)]
pub(super) struct SignatureArgs {
    /// What signatures are made of. On update, header names that are not said with it become the default ones.
    #[arg(long = "signature-scheme", value_name = "SCHEME", value_enum)]
    scheme: Option<Scheme>,
    /// What the headers of id, timestamp and signature begin with, such as `svix`.
    #[arg(long = "signature-header-prefix", value_name = "PREFIX", requires = "scheme")]
    header_prefix: Option<String>,
    /// The header with the signatures, whatever the prefix.
    #[arg(long = "signature-header", value_name = "NAME", requires = "scheme")]
    header: Option<String>,
}

/// The schemes of the contract.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scheme {
    /// Standard Webhooks v1: HMAC-SHA256 with the secret.
    StandardV1,
    /// Standard Webhooks v1a: ed25519; receivers need the public key alone.
    StandardV1a,
    /// As Stripe signs: `t=…,v1=…`.
    Stripe,
    /// As GitHub signs: `sha256=…`.
    Github,
    /// Not signed.
    None,
}

impl From<Scheme> for SignatureScheme {
    fn from(scheme: Scheme) -> Self {
        match scheme {
            Scheme::StandardV1 => Self::StandardV1,
            Scheme::StandardV1a => Self::StandardV1a,
            Scheme::Stripe => Self::Stripe,
            Scheme::Github => Self::Github,
            Scheme::None => Self::None,
        }
    }
}

impl SignatureArgs {
    /// Sets what was given; whether it was.
    pub(super) fn apply(self, webhook: &mut Webhook) -> bool {
        let Some(scheme) = self.scheme else { return false };
        webhook.signature = Some(Signature {
            scheme: SignatureScheme::from(scheme).into(),
            header_prefix: self.header_prefix.unwrap_or_default(),
            signature_header: self.header.unwrap_or_default(),
        });
        true
    }
}

/// A secret that is brought, or where to read it. Does not show itself.
#[derive(Clone)]
pub(super) struct SecretArg(String);

impl SecretArg {
    /// Stands for what standard input says.
    const STDIN: &str = "-";

    /// The secret. Reads standard input where it is to be found there.
    fn read(self) -> Result<String, Failure> {
        if self.0 != Self::STDIN {
            return Ok(self.0);
        }
        let mut text = String::new();
        let read = io::stdin().lock().take(SECRET_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| Failure::Local(format!("cannot read the secret: {error}")))?;
        let secret = text.trim();
        if secret.is_empty() {
            return Err(Failure::Usage("there is no secret on standard input".into()));
        }
        Ok(secret.to_owned())
    }
}

impl fmt::Debug for SecretArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretArg(..)")
    }
}

pub(super) fn parse_secret(text: &str) -> Result<SecretArg, &'static str> {
    let known = text == SecretArg::STDIN || text.starts_with("whsec_") || text.starts_with("whsk_");
    known.then(|| SecretArg(text.to_owned())).ok_or("must be whsec_…, for standard-v1a whsk_…, or - for standard input")
}

/// The secret to send: empty if none is brought.
pub(super) fn brought(secret: Option<SecretArg>) -> Result<String, Failure> {
    secret.map_or_else(|| Ok(String::new()), SecretArg::read)
}

#[derive(Debug, Args)]
pub(crate) struct RotateSecretArgs {
    /// The webhook's id.
    #[arg(value_parser = parse_webhook_id)]
    id: String,
    /// How long the old one signs along, at most 7 days; 0s: not at all.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "24h")]
    overlap: Duration,
    /// The new secret, if it is not to be made by the server; `-` reads it from standard input, out of sight of `ps`.
    #[arg(long, value_name = "SECRET", value_parser = parse_secret, allow_hyphen_values = true)]
    secret: Option<SecretArg>,
    /// Rotate it only if this is still its etag.
    #[arg(long, default_value = "")]
    etag: String,
}

pub(super) async fn rotate_secret(session: &Session, args: RotateSecretArgs) -> Result<(), Failure> {
    let overlap = prost_types::Duration::try_from(args.overlap)
        .map_err(|_| Failure::Usage("--overlap is longer than can be said".into()))?;
    let request = RotateSecretRequest {
        id: args.id,
        overlap: Some(overlap),
        signing_secret: brought(args.secret)?,
        etag: args.etag,
        ..RotateSecretRequest::default()
    };
    let reply = session.client.rotate_secret(request).await?;
    let webhook = reply.webhook.unwrap_or_default();
    match session.format {
        Format::Json => {
            say_json(&json!({ "webhook": json::webhook(&webhook), "signing_secret": reply.signing_secret }))
        }
        Format::Table => say(format_args!("{}\n\n{}", describe(&webhook), shown_once(&reply.signing_secret, &webhook))),
    }
}

/// What receivers need: the new secret, or the public key alone.
pub(super) fn shown_once(secret: &str, webhook: &Webhook) -> String {
    if secret.is_empty() {
        return format!("Receivers verify with the public key: {}", printable(&webhook.public_key));
    }
    format!(
        "signing secret  {}\nThis is the only time the secret is shown: keep it where the receiver can read it.",
        printable(secret)
    )
}

/// How deliveries are signed, on one line.
pub(super) fn described(webhook: &Webhook) -> String {
    let Some(signature) = &webhook.signature else { return "standard-v1 in webhook-signature".into() };
    let Signature { header_prefix: prefix, signature_header: header, .. } = signature;
    let scheme = match signature.scheme() {
        SignatureScheme::Unspecified | SignatureScheme::StandardV1 => "standard-v1",
        SignatureScheme::StandardV1a => "standard-v1a",
        SignatureScheme::Stripe => "stripe",
        SignatureScheme::Github => "github",
        SignatureScheme::None => return format!("none; {prefix}-id, {prefix}-timestamp"),
    };
    format!("{scheme} in {header}; {prefix}-id, {prefix}-timestamp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_a_shape_and_do_not_show() {
        for (text, fits) in [("-", true), ("whsec_C2FV", true), ("whsk_C2FV", true), ("C2FV", false), ("", false)] {
            assert_eq!(parse_secret(text).is_ok(), fits, "{text}");
        }
        assert!(!format!("{:?}", parse_secret("whsec_C2FV")).contains("C2FV"));
    }

    #[test]
    fn what_receivers_need_is_said() {
        let webhook = Webhook { public_key: "whpk_x".into(), ..Webhook::default() };
        assert!(shown_once("", &webhook).ends_with("whpk_x"));
        assert!(shown_once("whsec_x", &webhook).contains("whsec_x"));
    }

    #[test]
    fn signatures_are_described_by_scheme_and_header() {
        let described = |signature| described(&Webhook { signature, ..Webhook::default() });
        assert_eq!(described(None), "standard-v1 in webhook-signature");
        let signature = |scheme: SignatureScheme, header: &str| {
            let scheme = scheme.into();
            Some(Signature { scheme, header_prefix: "svix".into(), signature_header: header.into() })
        };
        let stripe = signature(SignatureScheme::Stripe, "acme-signature");
        assert_eq!(described(stripe), "stripe in acme-signature; svix-id, svix-timestamp");
        assert_eq!(described(signature(SignatureScheme::None, "")), "none; svix-id, svix-timestamp");
    }
}
