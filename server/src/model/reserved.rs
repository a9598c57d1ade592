//! Names of headers that no setting of a webhook may take.

/// Names that the connection or the server needs for itself. Without `host` a request could be meant for somebody else than
/// it was allowed to go to; without the lengths and encodings a second request could hide in it. The last one opens metadata
/// services of clouds.
pub(super) const NAMES: &[&str] = &[
    "host",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
    "content-length",
    "content-type",
    "content-encoding",
    "accept-encoding",
    "user-agent",
    "date",
    "via",
    "forwarded",
    "cookie",
    "metadata",
];

/// Beginnings of such names: of proxies, of our own headers, of metadata services of clouds.
pub(super) const PREFIXES: &[&str] = &[
    "proxy-",
    // `metadata-flavor` of Google, `metadata-token` and `metadata-token-expiry-seconds` of Linode.
    "metadata-",
    "x-forwarded-",
    "webhook-",
    "postrider-",
    "x-postrider-",
    "x-google-",
    "x-goog-",
    "x-aws-",
    "x-amz-",
    "x-azure-",
    "x-aliyun-",
];

/// Whether a name, in lower case, is among them.
pub(super) fn is_reserved(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
