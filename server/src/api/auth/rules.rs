//! Who may call what: one line for each RPC, and an RPC without one cannot be called at all.
//!
//! A new RPC gets a line in [`RULES`], which is sorted by path: the right it needs, and where its request says whose things it is
//! about. The right decides whether the call is written to the audit log; its line says by `telling` where its request or its reply has
//! the id of what it is about. The tests below walk the descriptors of everything that is served: they fail for an RPC that has no
//! line, for a tenant in a request that its line does not see, and for an id that the audit log is not told.

use postrider_proto::v1;
use prost::{DecodeError, Message};

use super::subject::{Tell, event_type, made, requested};
use crate::model::{
    credentials::{ApiKeyId, Right},
    ids::{DeliveryId, ReplayId, WebhookId},
};

/// Who may call one RPC.
#[derive(Debug)]
pub(super) struct Rule {
    /// `/package.Service/Method`.
    pub(super) path: &'static str,
    /// What a caller needs.
    pub(super) needs: Needs,
    /// Whose things the call is about.
    pub(super) whose: Whose,
    /// Whether it is answered with a stream, which ends when its caller's credentials do.
    pub(super) streams: bool,
    /// Whether it is written to the audit log.
    pub(super) audited: Audited,
}

/// Whether a call is written to the audit log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Audited {
    /// No: it changes nothing.
    No,
    /// Yes, with what this says it is about; without, there is no id to tell.
    Yes(Option<Tell>),
}

impl Audited {
    /// What changes something, or is about credentials, needs one of these rights.
    const fn by(right: Right) -> Self {
        match right {
            Right::Manage | Right::Operate => Self::Yes(None),
            Right::Publish | Right::Read => Self::No,
        }
    }
}

impl Rule {
    /// The same with what the audit log is told.
    const fn telling(self, tell: Tell) -> Self {
        Self { audited: Audited::Yes(Some(tell)), ..self }
    }

    /// The same of a call that changes nothing, whatever right it needs.
    const fn reading(self) -> Self {
        Self { audited: Audited::No, ..self }
    }
}

/// What a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: everybody may ask.
    Nothing,
    /// To be known, whatever the rights.
    Credentials,
    /// A right.
    The(Right),
}

/// Whose things a call is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose {
    /// Nobody's.
    Nobodys,
    /// All tenants'.
    Everybodys,
    /// Those of the tenant that the request names, which is for those to decide who act for all.
    OneOfAll(fn(&[u8]) -> Result<Vec<String>, DecodeError>),
    /// Those of the tenants that the request names, which is read as the service reads it.
    Named(fn(&[u8]) -> Result<Vec<String>, DecodeError>),
    /// Each message names its own, and the service asks for each.
    EachMessages,
}

/// The rule of an RPC.
pub(super) fn find(path: &str) -> Option<&'static Rule> {
    RULES.binary_search_by_key(&path, |rule| rule.path).ok().map(|place| &RULES[place])
}

/// One answer, about the tenants that the request names.
const fn named(path: &'static str, right: Right, tenants: fn(&[u8]) -> Result<Vec<String>, DecodeError>) -> Rule {
    Rule { path, needs: Needs::The(right), whose: Whose::Named(tenants), streams: false, audited: Audited::by(right) }
}

/// One answer, about all tenants.
const fn of_all(path: &'static str, right: Right) -> Rule {
    Rule { path, needs: Needs::The(right), whose: Whose::Everybodys, streams: false, audited: Audited::by(right) }
}

const fn about_nobody(path: &'static str, needs: Needs, streams: bool) -> Rule {
    Rule { path, needs, whose: Whose::Nobodys, streams, audited: Audited::No }
}

const fn publishing(path: &'static str, streams: bool) -> Rule {
    Rule {
        path,
        needs: Needs::The(Right::Publish),
        whose: Whose::EachMessages,
        streams,
        audited: Audited::by(Right::Publish),
    }
}

/// Reads the tenant out of a request.
fn one<M: Message + Default>(bytes: &[u8], tenant: impl FnOnce(M) -> String) -> Result<Vec<String>, DecodeError> {
    Ok(vec![tenant(M::decode(bytes)?)])
}

/// A draft's tenant counts if the request names none; the service refuses two.
fn explained(request: v1::ExplainEventRequest) -> Vec<String> {
    let draft = match request.subject {
        Some(v1::explain_event_request::Subject::Event(draft)) => draft.tenant,
        Some(v1::explain_event_request::Subject::EventId(_)) | None => String::new(),
    };
    match (request.tenant.is_empty(), draft.is_empty()) {
        (true, false) => vec![draft],
        (false, false) => vec![request.tenant, draft],
        (_, true) => vec![request.tenant],
    }
}

/// All of them, by path.
static RULES: &[Rule] = &[
    about_nobody("/grpc.health.v1.Health/Check", Needs::Nothing, false),
    about_nobody("/grpc.health.v1.Health/Watch", Needs::Nothing, true),
    about_nobody("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Needs::Credentials, true),
    about_nobody("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Needs::Credentials, true),
    named("/postrider.v1.AuditService/ListAuditEntries", Right::Operate, |bytes| {
        one(bytes, |request: v1::ListAuditEntriesRequest| request.tenant)
    })
    .reading(),
    of_all("/postrider.v1.ClockService/ConfirmClock", Right::Operate),
    of_all("/postrider.v1.ClockService/GetClock", Right::Operate).reading(),
    named("/postrider.v1.DeliveryService/CancelDeliveries", Right::Manage, |bytes| {
        one(bytes, |request: v1::CancelDeliveriesRequest| request.tenant)
    })
    .telling(|request, _| {
        requested::<WebhookId, _>(request, |request: v1::CancelDeliveriesRequest| request.webhook_id)
    }),
    named("/postrider.v1.DeliveryService/GetDelivery", Right::Read, |bytes| {
        one(bytes, |request: v1::GetDeliveryRequest| request.tenant)
    }),
    named("/postrider.v1.DeliveryService/ListDeliveries", Right::Read, |bytes| {
        one(bytes, |request: v1::ListDeliveriesRequest| request.tenant)
    }),
    named("/postrider.v1.DeliveryService/RetryDelivery", Right::Manage, |bytes| {
        one(bytes, |request: v1::RetryDeliveryRequest| request.tenant)
    })
    .telling(|request, _| requested::<DeliveryId, _>(request, |request: v1::RetryDeliveryRequest| request.id)),
    Rule {
        streams: true,
        ..named("/postrider.v1.DeliveryService/WatchDeliveries", Right::Read, |bytes| {
            one(bytes, |request: v1::WatchDeliveriesRequest| request.tenant)
        })
    },
    named("/postrider.v1.EventService/EraseEvent", Right::Manage, |bytes| {
        one(bytes, |request: v1::EraseEventRequest| request.tenant)
    })
    // Not of the event: what is erased is not to remain in a log.
    .telling(|_, reply| made(reply, |reply: v1::EraseEventResponse| reply.erasure.unwrap_or_default().id)),
    named("/postrider.v1.EventService/ExplainEvent", Right::Read, |bytes| {
        Ok(explained(v1::ExplainEventRequest::decode(bytes)?))
    }),
    named("/postrider.v1.EventService/GetEvent", Right::Read, |bytes| {
        one(bytes, |request: v1::GetEventRequest| request.tenant)
    }),
    publishing("/postrider.v1.EventService/PublishEvent", false),
    publishing("/postrider.v1.EventService/PublishEvents", true),
    named("/postrider.v1.EventTypeService/CreateEventType", Right::Manage, |bytes| {
        one(bytes, |request: v1::CreateEventTypeRequest| request.event_type.unwrap_or_default().tenant)
    })
    .telling(|request, _| {
        event_type(request, |request: v1::CreateEventTypeRequest| request.event_type.unwrap_or_default().name)
    }),
    named("/postrider.v1.EventTypeService/DeleteEventType", Right::Manage, |bytes| {
        one(bytes, |request: v1::DeleteEventTypeRequest| request.tenant)
    })
    .telling(|request, _| event_type(request, |request: v1::DeleteEventTypeRequest| request.name)),
    named("/postrider.v1.EventTypeService/ListEventTypes", Right::Read, |bytes| {
        one(bytes, |request: v1::ListEventTypesRequest| request.tenant)
    }),
    named("/postrider.v1.EventTypeService/UpdateEventType", Right::Manage, |bytes| {
        one(bytes, |request: v1::UpdateEventTypeRequest| request.event_type.unwrap_or_default().tenant)
    })
    .telling(|request, reply| {
        event_type(request, |request: v1::UpdateEventTypeRequest| request.event_type.unwrap_or_default().name)?
            .with_mask(request, reply, |request: v1::UpdateEventTypeRequest| request.update_mask)
    }),
    of_all("/postrider.v1.KeyService/CreateKey", Right::Operate)
        .telling(|_, reply| made(reply, |reply: v1::CreateKeyResponse| reply.key.unwrap_or_default().id)),
    of_all("/postrider.v1.KeyService/ListKeys", Right::Operate),
    of_all("/postrider.v1.KeyService/RevokeKey", Right::Operate)
        .telling(|request, _| requested::<ApiKeyId, _>(request, |request: v1::RevokeKeyRequest| request.id)),
    named("/postrider.v1.QuotaService/GetQuota", Right::Read, |bytes| {
        one(bytes, |request: v1::GetQuotaRequest| request.tenant)
    }),
    of_all("/postrider.v1.QuotaService/ListQuotas", Right::Operate).reading(),
    // A tenant's own operator is not to raise it.
    Rule {
        whose: Whose::OneOfAll(|bytes| {
            one(bytes, |request: v1::SetQuotaRequest| request.quota.unwrap_or_default().tenant)
        }),
        ..of_all("/postrider.v1.QuotaService/SetQuota", Right::Operate)
    },
    named("/postrider.v1.ReplayService/CancelReplay", Right::Manage, |bytes| {
        one(bytes, |request: v1::CancelReplayRequest| request.tenant)
    })
    .telling(|request, _| requested::<ReplayId, _>(request, |request: v1::CancelReplayRequest| request.id)),
    named("/postrider.v1.ReplayService/GetReplay", Right::Read, |bytes| {
        one(bytes, |request: v1::GetReplayRequest| request.tenant)
    }),
    named("/postrider.v1.ReplayService/ListReplays", Right::Read, |bytes| {
        one(bytes, |request: v1::ListReplaysRequest| request.tenant)
    }),
    named("/postrider.v1.ReplayService/ReplayEvents", Right::Manage, |bytes| {
        one(bytes, |request: v1::ReplayEventsRequest| request.tenant)
    })
    .telling(|request, reply| match reply {
        None => requested::<WebhookId, _>(request, |request: v1::ReplayEventsRequest| request.webhook_id),
        reply => made(reply, |reply: v1::ReplayEventsResponse| reply.replay.unwrap_or_default().id),
    }),
    Rule {
        streams: true,
        ..named("/postrider.v1.ReplayService/WatchReplay", Right::Read, |bytes| {
            one(bytes, |request: v1::WatchReplayRequest| request.tenant)
        })
    },
    named("/postrider.v1.TenantService/EraseTenant", Right::Operate, |bytes| {
        one(bytes, |request: v1::EraseTenantRequest| request.tenant)
    })
    .telling(|_, reply| {
        let erasure = made(reply, |reply: v1::EraseTenantResponse| reply.erasure.unwrap_or_default().id)?;
        Ok(erasure.erasing(reply))
    }),
    named("/postrider.v1.TenantService/GetErasure", Right::Read, |bytes| {
        one(bytes, |request: v1::GetErasureRequest| request.tenant)
    }),
    named("/postrider.v1.WebhookService/CreateWebhook", Right::Manage, |bytes| {
        one(bytes, |request: v1::CreateWebhookRequest| request.webhook.unwrap_or_default().tenant)
    })
    .telling(|_, reply| made(reply, |reply: v1::CreateWebhookResponse| reply.webhook.unwrap_or_default().id)),
    named("/postrider.v1.WebhookService/DeleteWebhook", Right::Manage, |bytes| {
        one(bytes, |request: v1::DeleteWebhookRequest| request.tenant)
    })
    .telling(|request, _| requested::<WebhookId, _>(request, |request: v1::DeleteWebhookRequest| request.id)),
    named("/postrider.v1.WebhookService/GetWebhook", Right::Read, |bytes| {
        one(bytes, |request: v1::GetWebhookRequest| request.tenant)
    }),
    named("/postrider.v1.WebhookService/ListWebhooks", Right::Read, |bytes| {
        one(bytes, |request: v1::ListWebhooksRequest| request.tenant)
    }),
    named("/postrider.v1.WebhookService/RotateSecret", Right::Manage, |bytes| {
        one(bytes, |request: v1::RotateSecretRequest| request.tenant)
    })
    .telling(|request, _| requested::<WebhookId, _>(request, |request: v1::RotateSecretRequest| request.id)),
    named("/postrider.v1.WebhookService/SendTestEvent", Right::Manage, |bytes| {
        one(bytes, |request: v1::SendTestEventRequest| request.tenant)
    })
    .telling(|request, _| requested::<WebhookId, _>(request, |request: v1::SendTestEventRequest| request.id)),
    named("/postrider.v1.WebhookService/UpdateWebhook", Right::Manage, |bytes| {
        one(bytes, |request: v1::UpdateWebhookRequest| request.webhook.unwrap_or_default().tenant)
    })
    .telling(|request, reply| {
        requested::<WebhookId, _>(request, |request: v1::UpdateWebhookRequest| request.webhook.unwrap_or_default().id)?
            .with_mask(request, reply, |request: v1::UpdateWebhookRequest| request.update_mask)
    }),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost_types::{DescriptorProto, FileDescriptorSet, MethodDescriptorProto, field_descriptor_proto::Type};

    use super::*;

    /// How deep tenants are looked for in a request.
    const DEPTH_MAX: usize = 4;
    const CANARY: &str = "canary";

    /// Everything that is served.
    fn descriptors() -> Vec<FileDescriptorSet> {
        let sets = [
            postrider_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        sets.map(|bytes| FileDescriptorSet::decode(bytes).unwrap()).into()
    }

    fn methods(sets: &[FileDescriptorSet]) -> Vec<(String, &MethodDescriptorProto)> {
        let files = sets.iter().flat_map(|set| &set.file);
        let services = files.flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
        let methods = services.flat_map(|(package, service)| {
            let path = move |name: &str| format!("/{package}.{}/{name}", service.name());
            service.method.iter().map(move |method| (path(method.name()), method))
        });
        methods.collect()
    }

    fn messages(sets: &[FileDescriptorSet]) -> BTreeMap<String, &DescriptorProto> {
        let files = sets.iter().flat_map(|set| &set.file);
        let named = files.flat_map(|file| {
            file.message_type.iter().map(move |message| (format!(".{}.{}", file.package(), message.name()), message))
        });
        named.collect()
    }

    /// The numbers of the fields that lead to each text called `tenant`.
    fn tenant_paths(known: &BTreeMap<String, &DescriptorProto>, message: &str, depth: usize) -> Vec<Vec<i32>> {
        let Some(message) = known.get(message).filter(|_| depth > 0) else { return Vec::new() };
        let mut paths = Vec::new();
        for field in &message.field {
            let number = field.number();
            if field.name() == "tenant" && field.r#type() == Type::String {
                paths.push(vec![number]);
            }
            if field.r#type() == Type::Message {
                let below = tenant_paths(known, field.type_name(), depth - 1);
                paths.extend(below.into_iter().map(|path| [vec![number], path].concat()));
            }
        }
        paths
    }

    /// A request with nothing in it but a tenant at this place.
    fn request_with(path: &[i32]) -> Vec<u8> {
        path.iter().rev().fold(CANARY.as_bytes().to_vec(), |inner, number| {
            let mut bytes = Vec::new();
            let tag = u32::try_from(*number).unwrap();
            prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut bytes);
            prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
            bytes.extend(inner);
            bytes
        })
    }

    #[test]
    fn every_rpc_has_a_rule_and_every_rule_an_rpc() {
        let sets = descriptors();
        let served: BTreeSet<String> = methods(&sets).into_iter().map(|(path, _)| path).collect();
        assert!(served.len() > 20, "{served:?}");
        let missing: Vec<_> = served.iter().filter(|path| find(path).is_none()).collect();
        assert!(
            missing.is_empty(),
            "nobody can call {missing:?}: say who may in RULES of server/src/api/auth/rules.rs, with a line such as\n    \
             named(\"{}\", Right::Manage, |bytes| one(bytes, |request: v1::TheRequest| request.tenant)),\n\
             sorted by path, or with of_all(…) if it concerns all tenants",
            missing.first().map_or("", |path| path)
        );
        for rule in RULES {
            assert!(served.contains(rule.path), "there is no {}", rule.path);
        }
        assert!(RULES.is_sorted_by_key(|rule| rule.path), "they are found by their place");
    }

    #[test]
    fn rules_know_what_is_a_stream() {
        let sets = descriptors();
        for (path, method) in methods(&sets) {
            let rule = find(&path).unwrap();
            assert_eq!(rule.streams, method.server_streaming(), "{path}");
            if method.client_streaming() {
                assert!(matches!(rule.whose, Whose::EachMessages | Whose::Nobodys), "{path} has many requests");
            }
        }
    }

    /// A tenant that a service reads and its rule does not would be everybody's.
    #[test]
    fn rules_see_every_tenant_that_a_request_can_name() {
        let sets = descriptors();
        let known = messages(&sets);
        let mut seen = 0;
        for (path, method) in methods(&sets) {
            let places = tenant_paths(&known, method.input_type(), DEPTH_MAX);
            let rule = find(&path).unwrap();
            match rule.whose {
                Whose::Named(tenants) | Whose::OneOfAll(tenants) => {
                    assert!(!places.is_empty(), "{path} names no tenant: is it all tenants', or nobody's?");
                    for place in &places {
                        let named = tenants(&request_with(place)).unwrap();
                        assert!(
                            named.iter().any(|tenant| tenant == CANARY),
                            "{path} does not see the tenant at {place:?}"
                        );
                        seen += 1;
                    }
                    assert!(!tenants(b"").unwrap().is_empty(), "{path}: a request that names none is about `default`");
                }
                Whose::EachMessages => {
                    assert!(
                        path.starts_with("/postrider.v1.EventService/Publish"),
                        "{path}: who asks for each message?"
                    );
                }
                Whose::Everybodys => {}
                Whose::Nobodys => assert!(places.is_empty(), "{path} names a tenant at {places:?}"),
            }
        }
        assert!(seen > 15, "{seen}");
    }

    #[test]
    fn everything_of_ours_needs_a_right() {
        for rule in RULES {
            let ours = rule.path.starts_with("/postrider.v1.");
            assert_eq!(matches!(rule.needs, Needs::The(_)), ours, "{}", rule.path);
        }
    }

    #[test]
    fn what_changes_something_is_audited_and_nothing_else() {
        const READS: [&str; 3] = [
            "/postrider.v1.AuditService/ListAuditEntries",
            "/postrider.v1.ClockService/GetClock",
            "/postrider.v1.QuotaService/ListQuotas",
        ];
        for rule in RULES {
            let changes = matches!(rule.needs, Needs::The(Right::Manage | Right::Operate));
            let is_audited = matches!(rule.audited, Audited::Yes(_));
            assert_eq!(is_audited, changes && !READS.contains(&rule.path), "{}", rule.path);
        }
    }

    /// The names of the texts in a message, and in the messages in it, that say which thing is meant.
    fn ids(known: &BTreeMap<String, &DescriptorProto>, message: &str, depth: usize) -> Vec<String> {
        let Some(message) = known.get(message).filter(|_| depth > 0) else { return Vec::new() };
        let mut names = Vec::new();
        for field in &message.field {
            if field.r#type() == Type::String && (field.name() == "id" || field.name().ends_with("_id")) {
                names.push(field.name().to_owned());
            }
            if field.r#type() == Type::Message {
                names.extend(ids(known, field.type_name(), depth - 1));
            }
        }
        names.retain(|name| name != "request_id");
        names
    }

    #[test]
    fn the_audit_log_is_told_what_a_call_is_about() {
        let sets = descriptors();
        let known = messages(&sets);
        for (path, method) in methods(&sets) {
            let Audited::Yes(None) = find(&path).unwrap().audited else { continue };
            let ids = ids(&known, method.input_type(), 2);
            assert!(
                ids.is_empty(),
                "{path}: which of {ids:?} is the audit log told? Say so with `telling` in its rule"
            );
        }
    }

    /// An erased tenant is named by no entry: its name is only where it is looked for then.
    #[test]
    fn no_resource_is_the_name_of_a_tenant() {
        let sets = descriptors();
        let known = messages(&sets);
        let mut seen = 0;
        for (path, method) in methods(&sets) {
            let Audited::Yes(tell) = find(&path).unwrap().audited else { continue };
            let requests: Vec<_> =
                tenant_paths(&known, method.input_type(), DEPTH_MAX).iter().map(|place| request_with(place)).collect();
            let replies = tenant_paths(&known, method.output_type(), DEPTH_MAX);
            let replies = replies.iter().map(|place| Some(request_with(place))).chain([None, Some(Vec::new())]);
            for reply in replies {
                for request in &requests {
                    let told = tell.map(|tell| tell(request, reply.as_deref()).unwrap());
                    assert!(!format!("{told:?}").contains(CANARY), "{path}: {told:?}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 30, "{seen}");
    }

    #[test]
    fn both_tenants_of_a_draft_count() {
        let request = |tenant: &str, draft: Option<&str>| {
            let subject = draft.map(|tenant| {
                let event = v1::Event { tenant: tenant.into(), ..v1::Event::default() };
                v1::explain_event_request::Subject::Event(event)
            });
            explained(v1::ExplainEventRequest { tenant: tenant.into(), subject, ..v1::ExplainEventRequest::default() })
        };
        assert_eq!(request("", None), [""]);
        assert_eq!(request("a", None), ["a"]);
        assert_eq!(request("", Some("b")), ["b"]);
        assert_eq!(request("a", Some("")), ["a"]);
        assert_eq!(request("a", Some("b")), ["a", "b"]);
    }
}
