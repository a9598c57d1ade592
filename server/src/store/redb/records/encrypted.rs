//! What of a webhook is kept encrypted, each value for its own place: see `model::keyring`.

use std::{collections::BTreeMap, fmt};

use prost::{Message, Oneof};
use zeroize::Zeroizing;

use super::{
    Corrupt, decode,
    signing::{PreviousKeysRecord, PreviousRecord, pair, secret},
};
use crate::model::{
    keyring::{Keyring, Place},
    request::{Authorization, Headers, RequestShape},
    signing::{KeyPair, Keys},
    tls::Identity,
    webhook::Settings,
};

/// The keys, and for what kind of row: what a request was answered is kept in a row of its own, from where nobody can bring a
/// secret back that was replaced since.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Vault<'a> {
    keyring: &'a Keyring,
    row: &'static str,
}

impl<'a> Vault<'a> {
    /// For rows of webhooks.
    pub(in super::super) fn webhooks(keyring: &'a Keyring) -> Self {
        Self { keyring, row: "webhook" }
    }

    /// For rows of requests.
    pub(in super::super) fn requests(keyring: &'a Keyring) -> Self {
        Self { keyring, row: "request" }
    }

    /// For one webhook's row.
    pub(super) fn drawer(self, tenant: &'a str, webhook: &'a [u8]) -> Drawer<'a> {
        Drawer { vault: self, tenant, webhook }
    }
}

/// Encrypts and decrypts what one row keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drawer<'a> {
    vault: Vault<'a>,
    tenant: &'a str,
    webhook: &'a [u8],
}

impl Drawer<'_> {
    fn place(&self, field: &'static str) -> Place<'_> {
        Place { row: self.vault.row, field, tenant: self.tenant, webhook: self.webhook }
    }

    /// Encrypts a field.
    pub(super) fn put(&self, field: &'static str, plaintext: &[u8]) -> Vec<u8> {
        self.vault.keyring.encrypt(self.place(field), plaintext, &mut rand::rng())
    }

    /// Decrypts a field.
    pub(super) fn take(&self, field: &'static str, encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>, Corrupt> {
        self.vault.keyring.decrypt(self.place(field), encrypted).map_err(|error| Corrupt::new(field, error))
    }

    /// Encrypts a field with the present key if it is with another. Whether it was.
    pub(super) fn renew(&self, field: &'static str, encrypted: &mut Vec<u8>) -> Result<bool, Corrupt> {
        if encrypted.is_empty() || self.vault.keyring.is_current(encrypted) {
            return Ok(false);
        }
        *encrypted = self.put(field, &self.take(field, encrypted)?);
        Ok(true)
    }

    fn put_message(&self, field: &'static str, message: &impl Message) -> Vec<u8> {
        self.put(field, &Zeroizing::new(message.encode_to_vec()))
    }

    fn take_message<M: Message + Default>(&self, field: &'static str, encrypted: &[u8]) -> Result<M, Corrupt> {
        decode(field, self.take(field, encrypted)?.as_slice())
    }
}

/// Names of fields, in errors and in what is authenticated: they are never to change.
const SECRET: &str = "webhook's secret";
const KEY_PAIR: &str = "webhook's key pair";
const PREVIOUS_KEYS: &str = "webhook's previous keys";
const HEADERS: &str = "webhook's headers";
const AUTHORIZATION: &str = "webhook's authorization";
const CLIENT_KEY: &str = "webhook's client key";

/// What is encrypted of a webhook. Empty: there is none.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptedRecord {
    #[prost(bytes = "vec", tag = "1")]
    secret: Vec<u8>,
    /// What its ed25519 key pair is made from.
    #[prost(bytes = "vec", tag = "2")]
    key_pair: Vec<u8>,
    /// A `PreviousKeysRecord`.
    #[prost(bytes = "vec", tag = "3")]
    previous_keys: Vec<u8>,
    /// A `HeadersRecord`.
    #[prost(bytes = "vec", tag = "4")]
    headers: Vec<u8>,
    /// An `AuthorizationRecord`.
    #[prost(bytes = "vec", tag = "5")]
    authorization: Vec<u8>,
    /// What belongs to the certificate that is shown to its receiver, as DER.
    #[prost(bytes = "vec", tag = "6")]
    client_key: Vec<u8>,
}

impl EncryptedRecord {
    pub(super) fn new(keys: &Keys, settings: &Settings, drawer: Drawer<'_>) -> Self {
        let request = settings.request.as_deref();
        let identity = settings.tls.as_ref().and_then(|tls| tls.identity());
        let previous: Vec<_> = keys.previous().iter().map(PreviousRecord::new).collect();
        let previous = (!previous.is_empty()).then_some(PreviousKeysRecord { keys: previous });
        let headers = request.filter(|request| request.headers.iter().len() > 0);
        let authorization = request.and_then(|request| request.authorization.as_ref());
        let put = |pair: &KeyPair| drawer.put(KEY_PAIR, pair.seed());
        Self {
            secret: drawer.put(SECRET, keys.secret().as_bytes()),
            key_pair: keys.pair().map(put).unwrap_or_default(),
            previous_keys: previous.map(|keys| drawer.put_message(PREVIOUS_KEYS, &keys)).unwrap_or_default(),
            headers: headers
                .map(|request| drawer.put_message(HEADERS, &HeadersRecord::new(&request.headers)))
                .unwrap_or_default(),
            authorization: authorization
                .map(|authorization| drawer.put_message(AUTHORIZATION, &AuthorizationRecord::new(authorization)))
                .unwrap_or_default(),
            client_key: identity.map(Identity::key).map(|key| drawer.put(CLIENT_KEY, key)).unwrap_or_default(),
        }
    }

    pub(super) fn keys(&self, drawer: Drawer<'_>) -> Result<Keys, Corrupt> {
        let pair = match self.key_pair.as_slice() {
            [] => None,
            encrypted => Some(pair(&drawer.take(KEY_PAIR, encrypted)?)?),
        };
        let previous: PreviousKeysRecord = match self.previous_keys.as_slice() {
            [] => PreviousKeysRecord::default(),
            encrypted => drawer.take_message(PREVIOUS_KEYS, encrypted)?,
        };
        let previous = previous.keys.iter().map(PreviousRecord::previous).collect::<Result<_, _>>()?;
        Ok(Keys::new(secret(&drawer.take(SECRET, &self.secret)?)?, pair, previous))
    }

    /// Completes what requests look like with what is secret of it.
    pub(super) fn complete(&self, shape: &mut RequestShape, drawer: Drawer<'_>) -> Result<(), Corrupt> {
        if !self.headers.is_empty() {
            shape.headers = drawer.take_message::<HeadersRecord>(HEADERS, &self.headers)?.headers()?;
        }
        if !self.authorization.is_empty() {
            let record: AuthorizationRecord = drawer.take_message(AUTHORIZATION, &self.authorization)?;
            shape.authorization = Some(record.authorization()?);
        }
        Ok(())
    }

    /// The key of the certificate that is shown to the receiver.
    pub(super) fn client_key(&self, drawer: Drawer<'_>) -> Result<Option<Zeroizing<Vec<u8>>>, Corrupt> {
        let encrypted = Some(self.client_key.as_slice()).filter(|encrypted| !encrypted.is_empty());
        encrypted.map(|encrypted| drawer.take(CLIENT_KEY, encrypted)).transpose()
    }

    /// Whether there is something secret about what requests look like.
    pub(super) fn is_of_requests(&self) -> bool {
        !self.headers.is_empty() || !self.authorization.is_empty()
    }

    /// Encrypts with the present key what is with another. Whether something was.
    pub(super) fn renew(&mut self, drawer: Drawer<'_>) -> Result<bool, Corrupt> {
        let fields = [
            (SECRET, &mut self.secret),
            (KEY_PAIR, &mut self.key_pair),
            (PREVIOUS_KEYS, &mut self.previous_keys),
            (HEADERS, &mut self.headers),
            (AUTHORIZATION, &mut self.authorization),
            (CLIENT_KEY, &mut self.client_key),
        ];
        fields.into_iter().try_fold(false, |renewed, (field, encrypted)| Ok(drawer.renew(field, encrypted)? | renewed))
    }
}

/// Never on disk but encrypted.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct HeadersRecord {
    #[prost(btree_map = "string, string", tag = "1")]
    headers: BTreeMap<String, String>,
}

impl HeadersRecord {
    fn new(headers: &Headers) -> Self {
        Self { headers: headers.texts().map(|(name, value)| (name.to_owned(), value.to_owned())).collect() }
    }

    fn headers(self) -> Result<Headers, Corrupt> {
        Headers::from_stored(self.headers).map_err(|error| Corrupt::new(HEADERS, error))
    }
}

/// Never on disk but encrypted.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct AuthorizationRecord {
    #[prost(oneof = "SchemeRecord", tags = "1, 2")]
    scheme: Option<SchemeRecord>,
}

#[derive(Clone, PartialEq, Oneof)]
#[prost(skip_debug)]
enum SchemeRecord {
    #[prost(message, tag = "1")]
    Basic(BasicRecord),
    #[prost(string, tag = "2")]
    Bearer(String),
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct BasicRecord {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(string, tag = "2")]
    password: String,
}

impl AuthorizationRecord {
    fn new(authorization: &Authorization) -> Self {
        let scheme = match authorization {
            Authorization::Basic { username, password } => {
                SchemeRecord::Basic(BasicRecord { username: (**username).into(), password: (**password).into() })
            }
            Authorization::Bearer { token } => SchemeRecord::Bearer((**token).into()),
        };
        Self { scheme: Some(scheme) }
    }

    fn authorization(self) -> Result<Authorization, Corrupt> {
        let read = match self.scheme {
            Some(SchemeRecord::Basic(basic)) => Authorization::basic(&basic.username, &basic.password),
            Some(SchemeRecord::Bearer(token)) => Authorization::bearer(&token),
            None => return Err(Corrupt::new(AUTHORIZATION, "it is missing")),
        };
        read.map_err(|error| Corrupt::new(AUTHORIZATION, error))
    }
}

macro_rules! show_nothing {
    ($($record:ident),*) => {$(
        impl fmt::Debug for $record {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($record)).finish_non_exhaustive()
            }
        }
    )*};
}

show_nothing!(HeadersRecord, AuthorizationRecord, SchemeRecord, BasicRecord);

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::model::{
        keyring::KeyNo,
        master_key::MasterKey,
        signing::{Key, Secret},
        target::Target,
        time::Timestamp,
        tls::TlsSettings,
        webhook::Subscription,
    };

    fn keyring(no: u32) -> (KeyNo, MasterKey) {
        (KeyNo(no), MasterKey::generate(&mut rand::rng()))
    }

    fn keys() -> Keys {
        let secret = |byte| Secret::from_bytes(&[byte; 24]).unwrap();
        let pair = |byte| KeyPair::from_seed(&[byte; 32]).unwrap();
        Keys::new(secret(b'A'), Some(pair(b'B')), Vec::new())
            .rotated(Key::Secret(secret(b'C')), Duration::from_hours(1), Timestamp::UNIX_EPOCH)
            .rotated(Key::Pair(pair(b'D')), Duration::from_hours(1), Timestamp::UNIX_EPOCH)
    }

    fn shape(authorization: Option<Authorization>) -> RequestShape {
        let headers = Headers::new([("X-A".into(), "EEEE".into()), ("x-b".into(), String::new())]).unwrap();
        RequestShape { headers, authorization, ..RequestShape::default() }
    }

    /// With a client certificate.
    fn settings(shape: Option<RequestShape>) -> Settings {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let tls = TlsSettings::parse("", &certificate, &key.serialize_pem()).unwrap().map(Arc::new);
        let target = Target::from_stored("https://receiver.example/").unwrap();
        Settings { request: shape.and_then(RequestShape::settled), tls, ..Settings::new(target, Subscription::All) }
    }

    /// The key that is kept.
    fn client_key(settings: &Settings) -> Option<Zeroizing<Vec<u8>>> {
        settings.tls.as_ref()?.identity().map(|identity| Zeroizing::new(identity.key().to_vec()))
    }

    fn shapes() -> [RequestShape; 3] {
        let schemes = [None, Some(Authorization::basic("ravi", "FFFF")), Some(Authorization::bearer("GGGG"))];
        schemes.map(|scheme| shape(scheme.map(Result::unwrap)))
    }

    #[test]
    fn everything_is_kept_and_nothing_can_be_read() {
        let (no, key) = keyring(1);
        let ring = Keyring::new(no, &key);
        let drawer = Vault::webhooks(&ring).drawer("t", &[7; 16]);
        for shape in shapes() {
            let settings = settings(Some(shape.clone()));
            let record = EncryptedRecord::new(&keys(), &settings, drawer);
            let bytes = record.encode_to_vec();
            let key = client_key(&settings).unwrap();
            for canary in [&key[..], b"AAAA", b"BBBB", b"CCCC", b"DDDD", b"EEEE", b"FFFF", b"GGGG", b"ravi", b"x-a"] {
                assert!(!bytes.windows(canary.len()).any(|part| part == canary), "{canary:?}");
            }
            let read = EncryptedRecord::decode(&*bytes).unwrap();
            let mut completed = RequestShape::default();
            read.complete(&mut completed, drawer).unwrap();
            assert_eq!((read.keys(drawer).unwrap(), completed), (keys(), shape));
            assert!(read.is_of_requests());
            assert_eq!(read.client_key(drawer).unwrap(), Some(key));
        }
        let least = Keys::from(keys().secret().clone());
        let record = EncryptedRecord::new(&least, &Settings { tls: None, ..settings(None) }, drawer);
        assert_eq!(record.client_key(drawer).unwrap(), None);
        let mut completed = RequestShape::default();
        record.complete(&mut completed, drawer).unwrap();
        assert_eq!((record.keys(drawer).unwrap(), completed), (least, RequestShape::default()));
        assert!(!record.is_of_requests());
    }

    /// A value that was copied to another webhook, another tenant, another kind of row or another field is refused.
    #[test]
    fn what_was_copied_elsewhere_does_not_open() {
        let (no, key) = keyring(1);
        let ring = Keyring::new(no, &key);
        let here = Vault::webhooks(&ring).drawer("t", &[7; 16]);
        let record = EncryptedRecord::new(&keys(), &settings(Some(shapes()[1].clone())), here);
        for there in [
            Vault::webhooks(&ring).drawer("t", &[8; 16]),
            Vault::webhooks(&ring).drawer("u", &[7; 16]),
            Vault::requests(&ring).drawer("t", &[7; 16]),
        ] {
            assert!(record.keys(there).is_err(), "{there:?}");
            assert!(record.complete(&mut RequestShape::default(), there).is_err(), "{there:?}");
            assert!(record.client_key(there).is_err(), "{there:?}");
        }
        let swapped = EncryptedRecord { client_key: record.secret.clone(), ..record.clone() };
        assert!(swapped.client_key(here).is_err());
        let swapped = EncryptedRecord { secret: record.key_pair.clone(), ..record.clone() };
        assert!(swapped.keys(here).is_err());
        let swapped = EncryptedRecord { headers: record.authorization.clone(), ..record };
        assert!(swapped.complete(&mut RequestShape::default(), here).is_err());
    }

    #[test]
    fn all_fields_are_renewed_once() {
        let (old, new) = (keyring(1), keyring(2));
        let rings = [Keyring::new(old.0, &old.1), Keyring::new(new.0, &new.1)];
        let both = Keyring::rotating((old.0, &old.1), (new.0, &new.1));
        let [before, after, under_way] =
            [&rings[0], &rings[1], &both].map(|ring| Vault::requests(ring).drawer("t", &[7; 16]));
        let settings = settings(Some(shapes()[2].clone()));
        let mut record = EncryptedRecord::new(&keys(), &settings, before);
        assert!(record.renew(under_way).unwrap());
        assert!(!record.renew(under_way).unwrap());
        assert_eq!(record.keys(after).unwrap(), keys());
        let mut completed = RequestShape::default();
        record.complete(&mut completed, after).unwrap();
        assert_eq!(completed, shapes()[2]);
        assert_eq!(record.client_key(after).unwrap(), client_key(&settings));
        assert!(record.keys(before).is_err());
    }
}
