//! Signatures as Stripe and GitHub make them: HMAC-SHA256 in hexadecimal, keyed with the bytes of a secret's text.
//!
//! Stripe's: <https://docs.stripe.com/webhooks#verify-manually>; GitHub's:
//! <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>. GitHub's has neither time nor id in it,
//! so it keeps nobody from sending the same request again.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Hexadecimal digits of a digest.
const DIGITS: usize = 64;

/// `t=…,v1=…`, with a `v1` for each key, over `{timestamp}.{body}`. `timestamp` is in seconds since the Unix epoch.
pub(super) fn stripe(keys: impl Iterator<Item = impl AsRef<str>>, timestamp: i64, body: &[u8]) -> String {
    let mut value = format!("t={timestamp}");
    let start = format!("{timestamp}.");
    for key in keys {
        value.push_str(",v1=");
        digest(&mut value, key.as_ref(), &[start.as_bytes(), body]);
    }
    value
}

/// `sha256=…` over the body alone. There is room for one.
pub(super) fn github(key: &str, body: &[u8]) -> String {
    let mut value = String::with_capacity("sha256=".len() + DIGITS);
    value.push_str("sha256=");
    digest(&mut value, key, &[body]);
    value
}

fn digest(value: &mut String, key: &str, parts: &[&[u8]]) {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    for byte in mac.finalize().into_bytes() {
        write!(value, "{byte:02x}").expect("a text grows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From GitHub's documentation, "Testing the webhook payload validation".
    #[test]
    fn github_s_vector_matches() {
        assert_eq!(
            github("It's a Secret to Everybody", b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }

    /// From Stripe's .NET library: `EventUtilityTest.cs` and `event_test_signature.json`.
    #[test]
    fn stripe_s_vector_matches() {
        let body = r#"{
  "id": "evt_123",
  "object": "event",
  "account": "acct_123",
  "api_version": "2017-05-25",
  "created": 1533204620,
  "data": {
    "object": {
      "id": "ii_123",
      "object": "invoiceitem",
      "amount": 1000,
      "currency": "usd",
      "customer": "cus_123",
      "date": 1533204620,
      "description": "Test Invoice Item",
      "discountable": false,
      "invoice": "in_123",
      "livemode": false,
      "metadata": {},
      "period": {
        "start": 1533204620,
        "end": 1533204620
      },
      "plan": null,
      "proration": false,
      "quantity": null,
      "subscription": null
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {
    "id": "req_123",
    "idempotency_key": "idempotency-key-123"
  },
  "type": "invoiceitem.created"
}
"#;
        let v1 = "f0bdba6d4eacbd8ad8a3bbadd7248e633ec1477f7899c124c51b39405fa36613";
        let one = stripe(["webhook_secret"].into_iter(), 1_533_204_620, body.as_bytes());
        assert_eq!(one, format!("t=1533204620,v1={v1}"));
        let two = stripe(["other", "webhook_secret"].into_iter(), 1_533_204_620, body.as_bytes());
        assert!(two.starts_with("t=1533204620,v1=") && two.ends_with(&format!(",v1={v1}")), "{two}");
    }
}
