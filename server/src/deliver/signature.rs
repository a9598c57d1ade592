//! The headers that identify an attempt and sign it.

use http::{HeaderMap, header::InvalidHeaderValue};

use super::request::Values;
use crate::model::{
    signing::{STANDARD_NAMES, Signed},
    webhook::Webhook,
};

/// Adds the headers with the id, the time and, unless the webhook wants none, the signatures of what is sent.
pub(super) fn sign(
    headers: &mut HeaderMap,
    values: &mut Values,
    webhook: &Webhook,
    signed: &Signed<'_>,
) -> Result<(), InvalidHeaderValue> {
    let names = webhook.settings.signature.as_ref().map_or(&STANDARD_NAMES, |signature| signature.names());
    headers.insert(&names.id, values.text(signed.id)?);
    headers.insert(&names.timestamp, values.format(format_args!("{}", signed.time.seconds()))?);
    if let Some(signatures) = signed.signatures(webhook.settings.scheme(), &webhook.keys) {
        headers.insert(&names.signature, values.text(&signatures)?);
    }
    Ok(())
}
