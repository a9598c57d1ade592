//! Bodies to publish: the documented ones, and ones that anything but a byte-for-byte sender would change.

/// Every built-in event type with a body as its source system documents it; some types have two shapes.
pub const DOCUMENTED: [(&str, &str); 12] = [
    (
        "MESSAGE_STATUS_UPDATE",
        r#"{"messageId":"dt_m_1","to":"919800000001","wabaNumber":"+919100000002","status":"SENT","statusTimestamp":"2026-11-22T05:00:00.000Z","customerName":"Asha Rao","dtCustomerId":"customer_c1","sentBy":"agent_a1","assignedTo":"agent_a1","message":{"type":"TEXT","text":"Hi"}}"#,
    ),
    (
        "MESSAGE_STATUS_UPDATE",
        r#"{"messageId":"dt_m_1","to":"919800000001","status":"FAILED","statusTimestamp":"2026-11-22T05:00:03.000Z","failMessage":"not delivered","message":{"type":"TEXT","text":"Hi"}}"#,
    ),
    (
        "MESSAGE_RECEIVED",
        r#"{"to":"919100000002","from":"919800000001","messageId":"wamid.X1","dtMessageId":"8b4a-1","receivedAt":"2026-11-22T05:00:00.000Z","contact":{"name":"Asha"},"callbackData":null,"dtPairedTemplateId":null,"dtPairedTemplateName":null,"dtPairedTemplateLanguage":null,"dtPairedMessageMetadata":null,"integrationType":"WHATSAPP","message":{"type":"TEXT","text":"Hello","context":{}},"dtLastMessageId":null,"lastMessageOrigin":null,"isAgentOffline":false,"customerId":"customer_c1","dtCustomerId":"customer_c1"}"#,
    ),
    (
        "CHAT_ASSIGNED_TO_AGENT",
        r#"{"chatId":"chat_1","assignedUserId":"user_1","assignedUserName":"Ravi","assignedUserPhone":"+919700000003","assignedUserEmail":"ravi@example.com","assignedUserOrgRole":"Support","assignedUserWabaRole":"Agent","assignedUserWabaNumber":"+919100000002","customerPhone":"+919800000001","dtCustomerId":"customer_c1","message":{"text":"Ravi took this chat"}}"#,
    ),
    (
        "CHAT_UNASSIGNED",
        r#"{"chatId":"chat_1","customerPhone":"+919800000001","wabaNumber":"+919100000002","dtCustomerId":"customer_c1"}"#,
    ),
    (
        "WIDGET_LEAD_RECEIVED",
        r#"{"data":[{"field":"name","value":"Asha"},{"field":"email","value":"asha@example.com"}]}"#,
    ),
    (
        "VERIFIED_WIDGET_LEAD_RECEIVED",
        r#"{"whatsappNumber":"+919800000001","verified":true,"data":[{"field":"name","value":"Asha"}],"dtCustomerId":"customer_c1"}"#,
    ),
    (
        "NEW_LEAD",
        r#"{"customerName":"Asha","customerPhone":"+919800000001","from":"+919800000001","to":"+919100000002","isCTWA":false,"wabaNumber":"+919100000002","dtMessageId":"msg_1","dtCustomerId":"customer_c1","customerId":"customer_c1","newLead":true}"#,
    ),
    (
        "UPDATE_CUSTOMER_CUSTOM_FIELD",
        r#"{"customerId":"customer_c1","customerPhone":"+919800000001","customFieldId":"cf_1","customFieldUniqueName":"city","value":"Pune","customFieldType":"text","customFieldEventType":"ATTRIBUTE_UPDATE","dtCustomerId":"customer_c1","name":"Asha Rao","nameOnWhatsapp":"Asha","customerHandle":null,"wabaNumber":"+919100000002","changedAt":"2026-11-22T05:00:00.000Z"}"#,
    ),
    (
        "TEMPLATE_UPDATE",
        r#"{"wabaPhoneNumber":"+919100000002","templateName":"order_ok","templateLanguage":"en","newStatus":"APPROVED","oldStatus":"PENDING","rejectedReason":"","agentName":"Ravi","agentNumber":"+919700000003","event":"TEMPLATE_STATUS_UPDATE"}"#,
    ),
    (
        "ADD_TAG",
        r#"{"tagId":"tag_1","tagName":"VIP","from":"+919800000001","dtCustomerId":"customer_c1","channelType":"WHATSAPP","tagAdded":true}"#,
    ),
    (
        "REMOVE_TAG",
        r#"{"tagId":"tag_1","tagName":"VIP","from":"+919800000001","dtCustomerId":"customer_c1","channelType":"WHATSAPP","tagRemoved":true}"#,
    ),
];

/// Bodies that survive only if nobody parses and prints them again: (what would change, body).
pub const FRAGILE: [(&str, &[u8]); 9] = [
    ("spacing", b"{ \"a\" :\t1 ,\r\n  \"b\":[ 1,2 , 3 ] }\n\n"),
    ("key order", br#"{"z":1,"a":2,"m":{"y":1,"b":2}}"#),
    ("repeated keys", br#"{"a":1,"a":2}"#),
    ("big integers", br#"{"id":123456789012345678901234567890,"n":9007199254740993,"m":-0}"#),
    ("number spelling", br#"{"a":1.0,"b":1E+2,"c":0.10,"d":1e-7}"#),
    ("escapes", br#"{"a":"\u00e9\/\u2603\ud83d\ude00","b":"\u0000"}"#),
    ("unicode", "{\"name\":\"Zoë नमस्ते 😀 e\u{301}\",\"rtl\":\"שלום\"}".as_bytes()),
    ("no object", b"  \"just a string\"  "),
    ("byte order mark inside", "{\"a\":\"\u{feff}\"}".as_bytes()),
];

/// Bodies that are not JSON, most of them not even text: (content type, body).
pub const NOT_JSON: [(&str, &[u8]); 5] = [
    ("application/octet-stream", b"\x00\xff\xfe\x80\xc3\x28 not utf-8 \xed\xa0\x80"),
    ("text/plain; charset=iso-8859-1", b"caf\xe9\r\n"),
    ("application/x-www-form-urlencoded", b"a=1&b=%20&&c"),
    ("application/json", b"{\"truncated\":"),
    ("application/json", b""),
];
