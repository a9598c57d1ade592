//! The built-in event types: `DoubleTick`'s triggers, by their identifiers and the titles its users know, and what the server
//! itself reports to its operator.

/// One kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventType {
    /// The identifier that events and webhooks use.
    pub name: &'static str,
    /// The title people know it by.
    pub title: &'static str,
    /// When such an event happens, and what is peculiar about its body.
    pub description: &'static str,
    /// An example body, as compact JSON text.
    pub example: &'static str,
}

/// Every built-in event type, in catalogue order.
pub fn all() -> &'static [EventType] {
    &BUILT_IN
}

/// The event type of this name, spelt exactly so.
pub fn find(name: &str) -> Option<&'static EventType> {
    BUILT_IN.iter().find(|event_type| event_type.name == name)
}

/// The name that somebody who wrote `name` most likely meant, if any comes close.
///
/// Compares without regard to case and to `-` or blanks for `_`, by Jaro-Winkler similarity of at least `SIMILARITY_MIN`.
pub fn nearest(name: &str) -> Option<&'static str> {
    // Nobody's slip of the keyboard doubles the length, and comparing takes time in the product of the lengths.
    if name.len() > 2 * NAME_BYTES_MAX {
        return None;
    }
    let meant = name.trim().to_ascii_uppercase().replace(['-', ' ', '.'], "_");
    let closeness = |event_type: &EventType| strsim::jaro_winkler(&meant, event_type.name);
    let best = BUILT_IN.iter().max_by(|a, b| closeness(a).total_cmp(&closeness(b)))?;
    (closeness(best) >= SIMILARITY_MIN).then_some(best.name)
}

/// Below this, a hint misleads more often than it helps: found by trying typing slips against unrelated words.
const SIMILARITY_MIN: f64 = 0.85;

/// The longest built-in name.
const NAME_BYTES_MAX: usize = 32;

const BUILT_IN: [EventType; 15] = [
    EventType {
        name: "MESSAGE_RECEIVED",
        title: "Message Received",
        description: "A customer sent a message in a one-to-one chat: text, media, a document, a location, contacts, a button \
            reply or a form. `message.type` says which. Numbers come without a leading `+`. The first message of a customer \
            also makes a NEW_LEAD, one with an inquiry code also a VERIFIED_WIDGET_LEAD_RECEIVED.",
        example: include_str!("catalogue/message_received.json"),
    },
    EventType {
        name: "MESSAGE_STATUS_UPDATE",
        title: "Message Status Update",
        description: "An outgoing message became SENT, DELIVERED, READ or FAILED. `to` is the customer's number; `failMessage` \
            is there only after a failure.",
        example: include_str!("catalogue/message_status_update.json"),
    },
    EventType {
        name: "CHAT_ASSIGNED_TO_AGENT",
        title: "Chat Assigned to Agent",
        description: "A chat was given to an agent, by a person, a bot workflow or an AI bot, or moved to another agent. Holds \
            the agent's telephone number and e-mail address: do not log it in plain text.",
        example: include_str!("catalogue/chat_assigned_to_agent.json"),
    },
    EventType {
        name: "CHAT_UNASSIGNED",
        title: "Chat Unassigned",
        description: "A chat has no agent any more, because the agent left it or a lead or bot took it away. Does not say who \
            the agent was.",
        example: include_str!("catalogue/chat_unassigned.json"),
    },
    EventType {
        name: "WIDGET_LEAD_RECEIVED",
        title: "Lead Received from Widget",
        description: "A visitor sent the form of a website widget. Anonymous: it holds the form's fields and nothing that \
            identifies the customer. Happens again for each submission.",
        example: include_str!("catalogue/widget_lead_received.json"),
    },
    EventType {
        name: "VERIFIED_WIDGET_LEAD_RECEIVED",
        title: "Verified Lead Received from Widget",
        description: "A customer's message carried the inquiry code of a form sent earlier, which proves the number. Shares no \
            id with the form's WIDGET_LEAD_RECEIVED: match them by the values in `data`.",
        example: include_str!("catalogue/verified_widget_lead_received.json"),
    },
    EventType {
        name: "NEW_LEAD",
        title: "First Time Message Trigger from Customer",
        description: "A customer wrote for the very first time; at most once in a customer's life, never for groups. `referral` \
            is there only if an advertisement led to the chat (`isCTWA`).",
        example: include_str!("catalogue/new_lead.json"),
    },
    EventType {
        name: "UPDATE_CUSTOMER_CUSTOM_FIELD",
        title: "Customer Custom Field Updated",
        description: "A custom field of a customer was set, changed or removed; one event for each field, possibly repeated \
            when the customer is known through several numbers. `value` is null after a removal.",
        example: include_str!("catalogue/update_customer_custom_field.json"),
    },
    EventType {
        name: "TEMPLATE_UPDATE",
        title: "Template Updated",
        description: "The approval of a message template changed: APPROVED, REJECTED, PENDING or PAUSED. The body names itself \
            TEMPLATE_STATUS_UPDATE in `event`. Changes that follow each other quickly are events of their own.",
        example: include_str!("catalogue/template_update.json"),
    },
    EventType {
        name: "ADD_TAG",
        title: "Tag added",
        description: "A tag was put on a customer's conversation, by hand or in bulk; one event for each tag and conversation. \
            Does not say which business number it belongs to.",
        example: include_str!("catalogue/add_tag.json"),
    },
    EventType {
        name: "REMOVE_TAG",
        title: "Tag removed",
        description: "A tag was taken off a customer's conversation, by hand or in bulk; one event for each tag and \
            conversation. Does not say which business number it belongs to.",
        example: include_str!("catalogue/remove_tag.json"),
    },
    EventType {
        name: "postrider.webhook.disabled",
        title: "Webhook Disabled",
        description: "Of the operator's tenant: a webhook was disabled, by its owner (`reason` REQUESTED), because its receiver \
            answered 410 (GONE), or because it failed for too long (FAILING).",
        example: r#"{"type":"postrider.webhook.disabled","tenant":"default","webhook_id":"wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80","url":"https://example.com/hook","time":"2026-11-22T05:00:00.000000Z","reason":"FAILING"}"#,
    },
    EventType {
        name: "postrider.webhook.breaker_opened",
        title: "Webhook Breaker Opened",
        description: "Of the operator's tenant: a receiver failed many times in a row; its deliveries are put off.",
        example: r#"{"type":"postrider.webhook.breaker_opened","tenant":"default","webhook_id":"wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80","url":"https://example.com/hook","time":"2026-11-22T05:00:00.000000Z"}"#,
    },
    EventType {
        name: "postrider.webhook.breaker_closed",
        title: "Webhook Breaker Closed",
        description: "Of the operator's tenant: a receiver that had failed is well again; its deliveries flow.",
        example: r#"{"type":"postrider.webhook.breaker_closed","tenant":"default","webhook_id":"wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80","url":"https://example.com/hook","time":"2026-11-22T05:10:00.000000Z"}"#,
    },
    EventType {
        name: "postrider.delivery.exhausted",
        title: "Delivery Exhausted",
        description: "Of the operator's tenant: a delivery was given up after its last attempt.",
        example: r#"{"type":"postrider.delivery.exhausted","tenant":"default","webhook_id":"wh_0193a5e2c4b87d3f9a1c5e7b2d4f6a80","url":"https://example.com/hook","time":"2026-11-22T05:00:00.000000Z","delivery_id":"dlv_0193a5e2c4b87d3f9a1c5e7b2d4f6a80","event_id":"evt_1","event_type":"ADD_TAG","attempts":10}"#,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_exactly_and_examples_are_json_objects() {
        assert_eq!(all().len(), 15);
        for event_type in all() {
            assert_eq!(find(event_type.name), Some(event_type));
            let flipped = |c: char| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            assert_eq!(find(&event_type.name.chars().map(flipped).collect::<String>()), None);
            assert!(event_type.name.len() <= NAME_BYTES_MAX);
            let body: serde_json::Value = serde_json::from_str(event_type.example).unwrap();
            assert!(body.is_object(), "{}", event_type.name);
            assert!(!event_type.title.is_empty() && !event_type.description.contains("  "), "{}", event_type.name);
        }
    }

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let cases = [
            ("MESAGE_RECEIVED", Some("MESSAGE_RECEIVED")),
            ("message_received", Some("MESSAGE_RECEIVED")),
            ("message-status-updated", Some("MESSAGE_STATUS_UPDATE")),
            ("ADD_TAGS", Some("ADD_TAG")),
            ("TAG_REMOVED", None),
            ("NEWLEAD", Some("NEW_LEAD")),
            ("TEMPLATE_STATUS_UPDATE", Some("TEMPLATE_UPDATE")),
            ("", None),
            ("*", None),
            ("order.created", None),
            ("🦀", None),
            (&"MESSAGE_RECEIVED".repeat(10), None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name), expected, "{name:?}");
        }
    }
}
