//! What the audit log is told of a call: an id or a name out of its request or its reply, and what an update named.
//!
//! Invariant: what is not an id or a name is not repeated; a caller may have put a secret where an id belongs.

use std::str::FromStr;

use prost::{DecodeError, Message};
use prost_types::FieldMask;

use crate::{
    limits::{AUDIT_FIELDS_MAX, ID_BYTES_MAX},
    model::ids::is_name,
};

/// What a call is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    /// The id or name of a thing; empty: of none.
    pub(super) resource: Box<str>,
    /// The fields that an update named.
    pub(super) fields: Box<[Box<str>]>,
    /// The tenant that it names is not to be named any more.
    pub(super) erases_tenant: bool,
}

/// Reads it out of a request and, once the call has ended well, its reply.
pub(super) type Tell = fn(&[u8], Option<&[u8]>) -> Result<Subject, DecodeError>;

/// What the request names by its id.
pub(super) fn requested<I: FromStr, M: Message + Default>(
    request: &[u8],
    id: impl FnOnce(M) -> String,
) -> Result<Subject, DecodeError> {
    let id = id(M::decode(request)?);
    let resource = if id.parse::<I>().is_ok() { id.into() } else { Box::default() };
    Ok(Subject { resource, ..Subject::default() })
}

/// An event type, which the request names.
pub(super) fn event_type<M: Message + Default>(
    request: &[u8],
    name: impl FnOnce(M) -> String,
) -> Result<Subject, DecodeError> {
    let name = name(M::decode(request)?);
    let resource = if is_name(&name) { name.into() } else { Box::default() };
    Ok(Subject { resource, ..Subject::default() })
}

/// What the call has made, which the reply says; nothing before.
pub(super) fn made<M: Message + Default>(
    reply: Option<&[u8]>,
    id: impl FnOnce(M) -> String,
) -> Result<Subject, DecodeError> {
    let Some(reply) = reply else { return Ok(Subject::default()) };
    Ok(Subject { resource: id(M::decode(reply)?).into(), ..Subject::default() })
}

impl Subject {
    /// The same with the fields that an update has set: those of a mask that was found good.
    pub(super) fn with_mask<M: Message + Default>(
        self,
        request: &[u8],
        reply: Option<&[u8]>,
        mask: impl FnOnce(M) -> Option<FieldMask>,
    ) -> Result<Self, DecodeError> {
        if reply.is_none() {
            return Ok(self);
        }
        let mut paths = mask(M::decode(request)?).unwrap_or_default().paths;
        paths.retain(|path| path.len() <= ID_BYTES_MAX);
        paths.sort_unstable();
        paths.dedup();
        Ok(Self { fields: paths.into_iter().take(AUDIT_FIELDS_MAX).map(Into::into).collect(), ..self })
    }

    /// The same, of a call that has erased its tenant once it has ended well.
    pub(super) fn erasing(self, reply: Option<&[u8]>) -> Self {
        Self { erases_tenant: reply.is_some(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use postrider_proto::v1;

    use super::*;
    use crate::model::{credentials::ApiKeyId, ids::WebhookId};

    const WEBHOOK: &str = "wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80";

    #[test]
    fn what_is_no_id_is_not_repeated() {
        let told = |id: &str| {
            let request = v1::RevokeKeyRequest { id: id.into() }.encode_to_vec();
            requested::<ApiKeyId, _>(&request, |request: v1::RevokeKeyRequest| request.id).unwrap().resource
        };
        assert_eq!(&*told("key_0193a5e2c4b87d3f9a1c5e7b"), "key_0193a5e2c4b87d3f9a1c5e7b");
        for wrong in ["prk_0193a5e2c4b87d3f9a1c5e7b_secret", "", WEBHOOK] {
            assert_eq!(&*told(wrong), "", "{wrong}");
        }
        let named = |name: &str| {
            let request = v1::DeleteEventTypeRequest { name: name.into(), ..Default::default() }.encode_to_vec();
            event_type(&request, |request: v1::DeleteEventTypeRequest| request.name).unwrap().resource
        };
        assert_eq!(
            (&*named("order.created"), &*named("a secret"), &*named(&"x".repeat(65))),
            ("order.created", "", "")
        );
    }

    #[test]
    fn fields_are_told_of_updates_that_went_well() {
        let webhook = v1::Webhook { id: WEBHOOK.into(), url: "https://secret".into(), ..v1::Webhook::default() };
        let paths = ["url", "headers", "url"].map(str::to_owned).into();
        let update_mask = Some(FieldMask { paths });
        let request = v1::UpdateWebhookRequest { webhook: Some(webhook), update_mask, ..Default::default() };
        let request = request.encode_to_vec();
        let told = |reply| {
            let subject = requested::<WebhookId, _>(&request, |request: v1::UpdateWebhookRequest| {
                request.webhook.unwrap_or_default().id
            });
            subject
                .unwrap()
                .with_mask(&request, reply, |request: v1::UpdateWebhookRequest| request.update_mask)
                .unwrap()
        };
        assert_eq!(told(None), Subject { resource: WEBHOOK.into(), ..Subject::default() });
        assert_eq!(*told(Some(b"")).fields, ["headers".into(), "url".into()]);
        assert!(requested::<WebhookId, v1::GetWebhookRequest>(b"\xff", |request| request.id).is_err());
    }
}
