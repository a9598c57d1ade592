//! Every limit of the daemon in one place, unit last in the name, and how they relate.

use std::time::Duration;

// --- What a caller may send -------------------------------------------------------------------------------------

/// Largest body of one event.
pub const EVENT_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Largest gRPC message received; a larger one ends its stream.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest event id, request id and label key.
pub const ID_BYTES_MAX: usize = 64;
/// Longest tenant name.
pub const TENANT_BYTES_MAX: usize = 63;
/// Most labels on one event.
pub const LABELS_MAX: usize = 16;
/// Longest label value.
pub const LABEL_VALUE_BYTES_MAX: usize = 256;
/// Longest ordering key.
pub const ORDERING_KEY_BYTES_MAX: usize = 256;
/// Most attempts after which an ordered webhook can be told to go on without the head of a key.
pub const ORDERING_SKIP_AFTER_MAX: u8 = 100;
/// Longest content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// Longest webhook URL, as given and as normalised.
pub const URL_BYTES_MAX: usize = 2048;
/// Longest display name of a webhook.
pub const DISPLAY_NAME_BYTES_MAX: usize = 128;
/// Longest text that a list of webhooks looks for.
pub const LIST_TEXT_BYTES_MAX: usize = 256;
/// Longest name of the header with a webhook's signatures.
pub const SIGNATURE_HEADER_BYTES_MAX: usize = 64;
/// Longest beginning of the names of a webhook's headers of id, timestamp and signature.
pub const SIGNATURE_HEADER_PREFIX_BYTES_MAX: usize = 32;
/// How long a replaced secret signs along when the caller does not say.
pub const SECRET_OVERLAP_DEFAULT: Duration = Duration::from_hours(24);
/// Most keys that were replaced and still sign along; of more the oldest stop.
pub const PREVIOUS_KEYS_MAX: usize = 10;
/// Longest that a replaced secret may sign along.
pub const SECRET_OVERLAP_MAX: Duration = Duration::from_hours(7 * 24);
/// Longest name of the sender to its receivers, as DNS has it.
pub const ORIGIN_BYTES_MAX: usize = 253;
/// Longest part of it between dots, as DNS has it.
pub const ORIGIN_LABEL_BYTES_MAX: usize = 63;
/// Longest webhook description.
pub const DESCRIPTION_BYTES_MAX: usize = 1024;
/// Most event types one webhook may name, and most a filter may.
pub const WEBHOOK_EVENT_TYPES_MAX: usize = 256;
/// Most labels a label filter names.
pub const LABEL_FILTER_LABELS_MAX: usize = LABELS_MAX;
/// Most values, over all its labels, that a label filter allows.
pub const LABEL_FILTER_VALUES_MAX: usize = 256;
/// Longest payload filter.
pub const PAYLOAD_FILTER_BYTES_MAX: usize = 1024;
/// Most parts a payload filter has: names, literals, operators, calls.
pub const PAYLOAD_FILTER_NODES_MAX: usize = 128;
/// Deepest nesting of a payload filter.
pub const PAYLOAD_FILTER_DEPTH_MAX: u16 = 24;
/// Most that all payload filters of one event may cost: parts of filters, those that may look at all of the body times its
/// values. Evaluation is some 0.1 µs each at worst.
pub const PAYLOAD_FILTERS_COST_MAX: u64 = 4_000_000;
/// Most registered event types, of all tenants together.
pub const EVENT_TYPES_MAX: usize = 10_000;
/// Most of them that are one tenant's.
pub const TENANT_EVENT_TYPES_MAX: usize = EVENT_TYPES_MAX / 4;
/// Longest title of an event type.
pub const EVENT_TYPE_TITLE_BYTES_MAX: usize = 128;
/// Longest example of an event type.
pub const EVENT_TYPE_EXAMPLE_BYTES_MAX: usize = 16 * 1024;
/// Longest schema of an event type.
pub const EVENT_SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// All schemas together; compiled, they take some ten times as much memory.
pub const EVENT_SCHEMAS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Those of one tenant.
pub const TENANT_EVENT_SCHEMAS_BYTES_MAX: usize = EVENT_SCHEMAS_BYTES_MAX / 4;
/// Most that a schema weighs: its values, references written out, and the states of its patterns.
pub const EVENT_SCHEMA_WEIGHT_MAX: usize = 20_000;
/// A schema's weight times a body's bytes, at most: what one event may cost that is held against its schema. Half a second on
/// one core for the worst that was found, 4 ns a step; a schema of 128 parts takes bodies of 1 MiB, one of 1,000 takes 131 KiB.
pub const EVENT_SCHEMA_COST_MAX: usize = 128 * 1024 * 1024;
/// The same of a body that is told where it does not hold to a schema that has alternatives, as all of its mistakes are collected for
/// that: 26 MB of them, and a tenth of a second.
pub const EVENT_SCHEMA_PLACE_COST_MAX: usize = 128 * 1024;
/// Most levels of a schema, references written out: as deep as its JSON may be.
pub const EVENT_SCHEMA_DEPTH_MAX: usize = 128;
/// Most references that lead one to the next.
pub const EVENT_SCHEMA_REFERENCES_MAX: usize = 16;
/// Most memory that a pattern of a schema takes, compiled.
pub const EVENT_SCHEMA_PATTERN_BYTES_MAX: usize = 256 * 1024;
/// Most attempts under way at once that one webhook may ask for.
pub const WEBHOOK_IN_FLIGHT_MAX: u32 = 65_536;
/// Longest span of continuous failure after which a webhook is disabled.
pub const AUTO_DISABLE_AFTER_MAX: Duration = Duration::from_hours(365 * 24);
/// Most ids of one kind in a watch filter.
pub const WATCH_FILTER_IDS_MAX: usize = 100;
/// Most headers a webhook adds to its requests.
pub const REQUEST_HEADERS_MAX: usize = 32;
/// Longest name of one.
pub const REQUEST_HEADER_NAME_BYTES_MAX: usize = 64;
/// Longest value of one.
pub const REQUEST_HEADER_VALUE_BYTES_MAX: usize = 4096;
/// Longest names and values of all of them together.
pub const REQUEST_HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Most parameters a webhook adds to its URL, which stays within `URL_BYTES_MAX` with them.
pub const REQUEST_QUERY_MAX: usize = 32;
/// Longest name of one.
pub const REQUEST_QUERY_NAME_BYTES_MAX: usize = 64;
/// Most fields a webhook adds to bodies.
pub const REQUEST_BODY_FIELDS_MAX: usize = 32;
/// Longest JSON of all of them together.
pub const REQUEST_BODY_FIELDS_BYTES_MAX: usize = 16 * 1024;
/// Longest user name for a receiver.
pub const USERNAME_BYTES_MAX: usize = 256;
/// Longest password for a receiver.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Longest token for a receiver.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// Most authorities that a webhook trusts.
pub const TLS_AUTHORITIES_MAX: usize = 16;
/// Longest PEM of them.
pub const TLS_AUTHORITIES_BYTES_MAX: usize = 32 * 1024;
/// Most certificates that a webhook shows its receiver: its own, and those between it and its authority.
pub const TLS_CHAIN_MAX: usize = 8;
/// Longest PEM of them.
pub const TLS_CHAIN_BYTES_MAX: usize = 16 * 1024;
/// Longest PEM of the key that belongs to them.
pub const TLS_KEY_BYTES_MAX: usize = 8 * 1024;
/// Most memory that different TLS settings of webhooks take, all of them together; equal ones are kept once.
pub const TLS_SETTINGS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The same of one tenant: some 700 of the longest there may be, and tens of thousands of usual ones.
pub const TLS_SETTINGS_TENANT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most API keys there may be, expired ones included and revoked ones not.
pub const API_KEYS_MAX: usize = 10_000;
/// Longest name of an API key.
pub const API_KEY_NAME_BYTES_MAX: usize = 128;
/// Most tenants an API key may name; one for more is for all of them.
pub const API_KEY_TENANTS_MAX: usize = 256;
/// Most tenants that may have a quota of their own.
pub const QUOTAS_MAX: usize = 100_000;
/// Most rows that count what tenants published on a day before those with neither a webhook nor a quota of their own share one.
pub const QUOTA_DAY_TENANTS_MAX: u64 = if cfg!(test) { 500 } else { 100_000 };
/// Least that a quota of bytes per day may be: the largest event fits.
pub const QUOTA_BYTES_PER_DAY_MIN: usize = 2 * 1024 * 1024;
/// Most tenants whose rate of events is remembered, give or take as many: who has published nothing for longest is forgotten.
pub const QUOTA_RATES_MAX: usize = if cfg!(test) { 4 } else { 16_384 };
/// Most entries on one page.
pub const PAGE_SIZE_MAX: usize = 1000;
/// Entries on a page when the caller does not say.
pub const PAGE_SIZE_DEFAULT: usize = 50;
/// Event types on a page when the caller does not say.
pub const EVENT_TYPES_PAGE_SIZE_DEFAULT: usize = 100;
/// Most delays in a list of them.
pub const RETRY_DELAYS_MAX: usize = 100;
/// Shortest delay before an attempt is repeated that a webhook may ask for.
pub const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest delay before an attempt is repeated.
pub const RETRY_DELAY_MAX: Duration = Duration::from_hours(30 * 24);
/// Largest factor by which delays may grow.
pub const RETRY_FACTOR_MAX: u32 = 100;
/// Most attempts an operator may allow webhooks.
pub const RETRY_ATTEMPTS_MAX: u32 = 1_000;
/// Shortest time for which webhooks may have attempts repeated.
pub const RETRY_ELAPSED_MIN: Duration = Duration::from_secs(1);
/// Longest time for which an operator may let webhooks have attempts repeated.
pub const RETRY_ELAPSED_MAX: Duration = Duration::from_hours(365 * 24);
/// Shortest age at which deliveries may expire.
pub const AGE_MIN: Duration = Duration::from_secs(1);
/// Longest age at which deliveries may expire.
pub const AGE_MAX: Duration = Duration::from_hours(30 * 24);
/// How far ahead an event may be scheduled, if it is retained for as long.
pub const DELIVER_AHEAD_MAX: Duration = Duration::from_hours(30 * 24);
/// How long a `request_id` is remembered.
pub const REQUEST_ID_WINDOW: Duration = Duration::from_hours(24);

/// Deliveries that a replay makes per second when the caller does not say.
pub const REPLAY_PER_SECOND_DEFAULT: u32 = 100;
/// Most deliveries that a replay makes per second.
pub const REPLAY_PER_SECOND_MAX: u32 = 1_000;
/// Most replays running to one webhook.
pub const REPLAYS_PER_WEBHOOK_MAX: usize = 4;
/// Most replays running of one tenant.
pub const REPLAYS_PER_TENANT_MAX: usize = 32;
/// Most replays running.
pub const REPLAYS_RUNNING_MAX: usize = 256;
/// Most replays remembered, running ones included; beyond, the oldest that has ended is forgotten.
pub const REPLAYS_MAX: usize = 10_000;

// --- What an answer may hold ------------------------------------------------------------------------------------

/// Longest status message; longer trailers break some gRPC clients.
pub const STATUS_MESSAGE_BYTES_MAX: usize = 1024;
/// Most wrong fields one status names; the rest are counted.
pub const STATUS_VIOLATIONS_MAX: usize = 10;
/// Longest path, and longest description, of one wrong field in a status.
pub const STATUS_VIOLATION_BYTES_MAX: usize = 200;
/// Longest explanation of why a webhook does not want an event.
pub const VERDICT_DETAIL_BYTES_MAX: usize = 512;
/// A page is closed early at this size, so that every gRPC client can receive it under its default limit.
pub const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Longest error text of one attempt.
pub const ATTEMPT_ERROR_BYTES_MAX: usize = 256;
/// Most addresses of one family, of those that a receiver's name resolves to, that one attempt tries.
pub const RECEIVER_ADDRESSES_MAX: usize = 4;
/// How much of a receiver's answer is kept.
pub const RESPONSE_KEPT_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a receiver's answer that are kept.
pub const RESPONSE_HEADERS_MAX: usize = 64;
/// How much of their names and values is kept.
pub const RESPONSE_HEADERS_BYTES_MAX: usize = 8 * 1024;
/// How much of a receiver's answer is read before its connection is cut.
pub const RESPONSE_READ_BYTES_MAX: usize = 64 * 1024;
/// How much a receiver may send for one answer, as it comes over the network: its head, and what chunks and TLS add to it, included.
pub const ANSWER_WIRE_BYTES_MAX: usize = RESPONSE_READ_BYTES_MAX + 1024 * 1024;
/// How much is read of one answer before others have their turn. An answer that is read whole needs no more, or little.
pub const ANSWER_STRETCH_BYTES: usize = RESPONSE_READ_BYTES_MAX;
/// Longest URL that is requested, with the fields of the event that its query carries. RFC 9110 asks everybody to take 8,000 bytes.
pub const REQUEST_URL_BYTES_MAX: usize = 8 * 1024;

// --- Transport --------------------------------------------------------------------------------------------------

/// Most connections at a time; more wait in the kernel's queue.
pub const GRPC_CONNECTIONS_MAX: usize = 1024;
/// Most of them from one address, unless the operator says otherwise: nobody takes all.
pub const GRPC_ADDRESS_CONNECTIONS_MAX: usize = GRPC_CONNECTIONS_MAX / 2;
/// Most calls at a time on one connection.
pub const GRPC_STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// Largest head of one call.
pub const GRPC_HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Unread bytes a client may send ahead on one call.
pub const GRPC_CALL_WINDOW_BYTES: u32 = 256 * 1024;
/// Unread bytes a client may send ahead on one connection.
pub const GRPC_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of messages that have come in part, over all connections, besides the beginning of each.
pub const GRPC_UNFINISHED_BYTES_MAX: usize = 128 * 1024 * 1024;
/// The same of one connection: beyond, it is the last call that is refused.
pub const GRPC_UNFINISHED_CONNECTION_BYTES_MAX: usize = 32 * 1024 * 1024;
/// So much of each message does not count.
pub const GRPC_UNFINISHED_FREE_BYTES: usize = 16 * 1024;
/// A message of which more than that has come has to be complete within this time.
pub const GRPC_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that is silent for this long is asked whether it lives.
pub const GRPC_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// A connection that does not answer that within this long, or does not complete its HTTP/2 greeting, is closed.
pub const GRPC_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A TLS handshake that takes longer than this is given up.
pub const GRPC_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Certificates are looked at this often, in case they were replaced.
pub const CERTIFICATES_LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// The clock is compared with the machine's this often.
pub const CLOCK_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A wall clock that differs by more from the time that has passed is doubted.
pub const CLOCK_STEP_MAX: Duration = Duration::from_hours(1);
/// So many times that the clock was set back are remembered; beyond, the first is forgotten.
pub const CLOCK_SET_BACKS_MAX: usize = 64;
/// One that is later by more than this than the last commit, when the daemon starts, too.
pub const CLOCK_AWAY_MAX: Duration = Duration::from_hours(31 * 24);
/// A store that has nothing to commit says this often that it is still there, or idleness would look like absence.
pub const CLOCK_NOTED_INTERVAL: Duration = Duration::from_hours(1);
/// How long the creation of a webhook waits for its host name to be resolved and judged.
pub const NAME_JUDGED_WITHIN: Duration = Duration::from_secs(2);

/// Clients with TLS settings of webhooks that each delivery loop keeps, with their connections; of more the one that was not used
/// for longest goes, and is made again when it is needed.
///
/// Measured with different client certificates, one receiver and reqwest: as many take 3 MiB (22 KiB each, with the longest settings
/// there may be a little more), and 1.5 MiB more than the same connections with equal settings while all of them are kept. So it is
/// some 15 MiB idle, and 23 MiB with connections, where there are four loops and one for test events. While 512 different ones take
/// turns, handshakes and connections that end add up to 11 MiB for a moment.
pub const DELIVER_TLS_CLIENTS_MAX: usize = 128;
/// Most attempts of one delivery, those after retries by hand included.
pub const DELIVERY_ATTEMPTS_MAX: u32 = 60_000;
/// So many attempts of one delivery, the last ones, are found again.
pub const DELIVERY_ATTEMPTS_LISTED_MAX: usize = 1_000;
/// Most entries of the audit log; of more the oldest of those who have the most go.
pub const AUDIT_ENTRIES_MAX: u64 = 100_000;
/// When there are more, one of so many goes as well.
pub const AUDIT_SURPLUS: u64 = 100;
/// Most fields that an entry of it names.
pub const AUDIT_FIELDS_MAX: usize = 64;
/// Calls a second that one who acts for some tenants may have written to it, all the time.
pub const AUDIT_CALLS_PER_SECOND: f64 = 20.0;
/// The same at once, after a rest.
pub const AUDIT_CALLS_BURST: u32 = 1_000;
/// Calls a second of one who acts for all tenants.
pub const AUDIT_OPERATOR_CALLS_PER_SECOND: f64 = 200.0;
/// The same at once, after a rest.
pub const AUDIT_OPERATOR_CALLS_BURST: u32 = 10_000;
/// Most refused calls in each [`AUDIT_REFUSALS_SPAN`] that have an entry of their own: of callers who are known, and of others.
pub const AUDIT_REFUSALS_MAX: u32 = 60;
/// The same of one caller who is known.
pub const AUDIT_REFUSALS_OF_ONE_MAX: u32 = 20;
/// See [`AUDIT_REFUSALS_MAX`].
pub const AUDIT_REFUSALS_SPAN: Duration = Duration::from_mins(1);
/// Longest principal that a list of entries looks for.
pub const AUDIT_PRINCIPAL_BYTES_MAX: usize = 256;
/// Longest method that it looks for.
pub const AUDIT_METHOD_BYTES_MAX: usize = 128;
/// Most erasures being carried out at a time; one more is refused.
pub const ERASURES_MAX: usize = 1_000;
/// Most deliveries that one call may name.
pub const CALL_DELIVERIES_MAX: usize = 250;
/// Most test events on their way at a time; one more is refused.
pub const TRIALS_MAX: usize = 64;
/// Most of them of one tenant.
pub const TENANT_TRIALS_MAX: usize = TRIALS_MAX / 4;
/// Most receivers that are asked at a time whether they want to be sent something; one more is refused.
pub const HANDSHAKES_MAX: usize = 256;
/// Most of them for one tenant.
pub const TENANT_HANDSHAKES_MAX: usize = HANDSHAKES_MAX / 4;
/// Shortest time that an attempt may be allowed to take.
pub const ATTEMPT_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Longest an attempt may be allowed to take.
pub const ATTEMPT_TIMEOUT_MAX: Duration = Duration::from_mins(1);

// --- Seen while it runs -----------------------------------------------------------------------------------------

/// Most connections at a time to the port for metrics and health; more wait in the kernel's queue.
pub const OPS_CONNECTIONS_MAX: usize = 32;
/// Largest head of a request there.
pub const OPS_HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a request there may take to come.
pub const OPS_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection there may last.
pub const OPS_CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Something is due and no attempt has begun for this long: nothing moves.
pub const STALLED_AFTER: Duration = Duration::from_secs(90);
/// The store's committer gives a sign of life this often while it has nothing to do. Unit tests cannot wait.
pub const COMMITTER_BEAT_INTERVAL: Duration =
    if cfg!(test) { Duration::from_millis(2) } else { Duration::from_secs(5) };
/// It has given none for this long: a commit, which takes milliseconds, does not come back.
pub const COMMITTER_SILENT_MAX: Duration = Duration::from_mins(1);
/// The store is looked at for the oldest delivery that is due no more often than this.
pub const OPS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long such a look may take; supervisors give a probe a second.
pub const OPS_LOOK_TIMEOUT: Duration = Duration::from_millis(500);
/// Most pages of `DISPATCH_SURVEY_LANES_MAX` webhooks one look reads.
pub const OPS_LOOK_PAGES_MAX: usize = 16;

// --- Flow -------------------------------------------------------------------------------------------------------

/// Most webhooks one event may go to.
pub const TARGETS_MAX: usize = 100_000;
/// Most webhooks that are remembered for the types they want, each once for every type, of all tenants together: some 8 bytes each. Each
/// type is one more.
pub const MATCHES_REMEMBERED_MAX: usize = if cfg!(test) { 16 } else { 8_000_000 };
/// Most rows a transaction writes for one request; wider work is committed as a decision and runs in slices. Unit tests get by
/// with few, so that slices are many.
pub const REQUEST_ROWS_MAX: usize = if cfg!(test) { 8 } else { 1_000 };
/// Most entries of the audit log that one call looks at.
pub const AUDIT_EXAMINED_MAX: usize = if cfg!(test) { 10 } else { 5_000 };
/// Most webhooks, or answered requests, that one transaction encrypts with another master key.
pub const ROTATION_ROWS_MAX: usize = REQUEST_ROWS_MAX / 4;
/// Most events waiting in one publish stream for their commit.
pub const STREAM_EVENTS_IN_FLIGHT_MAX: usize = 1_024;
/// Most events a publish stream hands to the store as one batch.
pub const PUBLISH_BATCH_EVENTS_MAX: usize = 256;
/// Most bytes of events waiting for their commit, over all callers.
pub const ACCEPT_BYTES_IN_FLIGHT_MAX: usize = 32 * 1024 * 1024;
/// Most bytes of events one commit writes; more waits for the next, so that outcomes are never far behind.
pub const COMMIT_EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Most rows of due deliveries that the events of one commit add, give or take one batch.
pub const COMMIT_ROWS_MAX: usize = 10 * REQUEST_ROWS_MAX;
/// Most outcomes one commit writes.
pub const COMMIT_OUTCOMES_MAX: usize = 250;
/// Most rows that one step of upkeep moves or removes.
pub const UPKEEP_ROWS_MAX: usize = 1_000;
/// Size at which a chunk of events or outcomes is closed; one entry may be larger than that. Pages of the store are powers of
/// two, so a chunk that is a little larger than one takes, and writes, twice as much: hence the room for what is around it.
pub const CHUNK_BYTES: usize = 64 * 1024 - 256;
/// What each entry of a chunk takes besides itself, at most: tag and length.
pub const CHUNK_ENTRY_BYTES: usize = 5;
/// Most hints of due deliveries in memory, over all lanes.
pub const HINTS_MAX: usize = 65_536;
/// Most hints of one lane.
pub const LANE_WINDOW_HINTS_MAX: usize = 256;
/// Only deliveries due this soon enter a lane's window.
pub const LANE_HORIZON: Duration = Duration::from_secs(2);
/// Most bytes of bodies read for dispatch and not yet attempted to the end.
pub const DISPATCH_BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most that an event weighs in memory, with all that belongs to it.
pub const EVENT_WEIGHT_BYTES_MAX: usize = EVENT_BODY_BYTES_MAX
    + LABELS_MAX * (ID_BYTES_MAX + LABEL_VALUE_BYTES_MAX + 16)
    + ORDERING_KEY_BYTES_MAX
    + CONTENT_TYPE_BYTES_MAX
    + 256;
/// Most events dispatch reads with one call.
pub const DISPATCH_LOAD_EVENTS_MAX: usize = 256;
/// Most such calls at a time.
pub const DISPATCH_LOADS_MAX: usize = 8;
/// Most lanes dispatch reads at a time.
pub const DISPATCH_REFILLS_MAX: usize = 16;
/// Most lanes on a page when dispatch surveys all of them.
pub const DISPATCH_SURVEY_LANES_MAX: usize = 256;
/// Most webhooks whose failures or rate are remembered while nothing is pending for them.
pub const DISPATCH_IDLE_GATES_MAX: usize = 16_384;
/// Threads that read the store where memory does not do.
pub const READER_THREADS: usize = 4;
/// How many of them may read for callers and watchers at a time.
pub const CALLER_READS_MAX: usize = READER_THREADS / 2;
/// Most log entries a watch message carries.
pub const WATCH_UPDATES_MAX: usize = 500;
/// Most log entries one feed call examines.
pub const FEED_EXAMINED_MAX: usize = 5_000;
/// Most deliveries one list call examines.
pub const LIST_EXAMINED_MAX: usize = 5_000;
/// Most webhooks one list call looks at. Unit tests cannot make as many.
pub const LIST_WEBHOOKS_EXAMINED_MAX: usize = if cfg!(test) { 40 } else { 10_000 };
/// So many of them at a time, between which changes of webhooks have their turn.
pub const LIST_WEBHOOKS_RUN: usize = if cfg!(test) { 7 } else { 500 };
/// Most deliveries that replays have pending for one webhook: what is published meanwhile waits behind no more.
pub const REPLAY_PENDING_MAX: u64 = 250;
/// Most deliveries that one commit makes for a replay.
pub const REPLAY_STEP_DELIVERIES_MAX: usize = if cfg!(test) { 3 } else { 100 };
/// Most pending deliveries of a replay that one commit cancels.
pub const REPLAY_CANCEL_DELIVERIES_MAX: usize = if cfg!(test) { 2 } else { 125 };
/// Most events that are looked at for a replay with one read.
pub const REPLAY_EXAMINED_MAX: usize = 1_000;
/// Most bytes of events that are read for a replay at once, give or take one.
pub const REPLAY_READ_BYTES_MAX: usize = 1024 * 1024;
/// How much later than an event another one may be stored that was accepted before it: it waited for its commit.
pub const ACCEPT_DISORDER_MAX: Duration = Duration::from_mins(10);
/// A watched replay is told of no more often than this.
pub const REPLAY_WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// An idle watch stream says where it stands this often.
pub const WATCH_HEARTBEAT: Duration = Duration::from_secs(15);

// A body that was accepted fits one commit and one transport message.
const _: () = assert!(EVENT_BODY_BYTES_MAX <= COMMIT_EVENT_BYTES_MAX);
const _: () = assert!(EVENT_BODY_BYTES_MAX < GRPC_MESSAGE_BYTES_MAX);
// The largest event always fits the byte permits it needs, or it would wait for ever.
const _: () = assert!(2 * EVENT_BODY_BYTES_MAX < ACCEPT_BYTES_IN_FLIGHT_MAX);
const _: () = assert!(4 * EVENT_WEIGHT_BYTES_MAX < DISPATCH_BODY_BYTES_MAX);
const _: () = assert!(RESPONSE_KEPT_BYTES_MAX <= RESPONSE_READ_BYTES_MAX);
// The longest head that hyper takes, and a body in chunks of one byte each, which are six on the network.
const _: () = assert!(512 * 1024 + 6 * RESPONSE_READ_BYTES_MAX < ANSWER_WIRE_BYTES_MAX);
const _: () = assert!(ANSWER_STRETCH_BYTES < ANSWER_WIRE_BYTES_MAX);
// A page that is just short of full still fits a message with the largest entry on top.
const _: () = assert!(PAGE_BYTES + 512 * 1024 < GRPC_MESSAGE_BYTES_MAX);
// While receivers hang, an attempt begins when another one has timed out.
const _: () = assert!(STALLED_AFTER.as_secs() > ATTEMPT_TIMEOUT_MAX.as_secs() + OPS_LOOK_INTERVAL.as_secs());
// One late beat is no reason to be restarted.
const _: () = assert!(COMMITTER_SILENT_MAX.as_secs() >= 4 * COMMITTER_BEAT_INTERVAL.as_secs());
// What a replay makes, or cancels, in one commit is within what one request may write.
const _: () = assert!(cfg!(test) || REPLAY_STEP_DELIVERIES_MAX * 5 <= REQUEST_ROWS_MAX);
const _: () = assert!(cfg!(test) || REPLAY_CANCEL_DELIVERIES_MAX * 8 <= REQUEST_ROWS_MAX);
// One that has to make room finds one that has ended.
const _: () = assert!(REPLAYS_RUNNING_MAX < REPLAYS_MAX);
// They are counted in 16 bits.
const _: () = assert!(DELIVERY_ATTEMPTS_MAX < 1 << 16);
// A tenant that has published nothing today can publish any event.
const _: () = assert!(EVENT_WEIGHT_BYTES_MAX <= QUOTA_BYTES_PER_DAY_MIN);
// A webhook that could be created can be called.
const _: () = assert!(URL_BYTES_MAX < REQUEST_URL_BYTES_MAX);
const _: () = assert!(PUBLISH_BATCH_EVENTS_MAX <= STREAM_EVENTS_IN_FLIGHT_MAX);
