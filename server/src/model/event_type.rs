//! Event types that somebody registered, beside those that are built in.

use std::sync::Arc;

use super::{
    catalogue,
    ids::{EventTypeName, InvalidId, Tenant, is_name},
    schema::Schema,
    time::Timestamp,
};

/// What its owner says about an event type and may change at any time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventTypeContent {
    /// The title people know it by.
    pub title: Box<str>,
    /// When such an event happens.
    pub description: Box<str>,
    /// An example body.
    pub example: Box<str>,
    /// What bodies must hold to; `None`: anything.
    pub schema: Option<Arc<Schema>>,
}

/// Which event type: a name belongs to one tenant or to all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTypeKey {
    /// Whose it is; `None`: every tenant's.
    pub tenant: Option<Tenant>,
    /// Its name; never a built-in one.
    pub name: EventTypeName,
}

/// One registered event type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType {
    /// Which one.
    pub key: EventTypeKey,
    /// Grows with every event type that is created; never used again.
    pub no: u64,
    /// What its owner says about it.
    pub content: EventTypeContent,
    /// Grows with every change of its content; its etag.
    pub version: u64,
    /// When it was created.
    pub create_time: Timestamp,
    /// When its content last changed.
    pub update_time: Timestamp,
}

impl EventType {
    /// As it begins.
    pub fn register(key: EventTypeKey, no: u64, content: EventTypeContent, time: Timestamp) -> Self {
        Self { key, no, content, version: 1, create_time: time, update_time: time }
    }

    /// As its owner's decision leaves it; the same if nothing changes.
    #[must_use]
    pub fn updated(&self, content: EventTypeContent, time: Timestamp) -> Self {
        if content == self.content {
            return self.clone();
        }
        Self { content, version: self.version + 1, update_time: time, ..self.clone() }
    }

    /// The opaque text callers hand back to guard against concurrent changes.
    pub fn etag(&self) -> String {
        format!("{:x}", self.version)
    }

    /// How long its schema is.
    pub fn schema_bytes(&self) -> usize {
        self.content.schema.as_ref().map_or(0, |schema| schema.text().len())
    }
}

/// The name of an event type to register: `[A-Za-z0-9_.-]{1,64}`. `None`: it is a built-in one's.
pub fn new_name(text: &str) -> Result<Option<EventTypeName>, InvalidId> {
    if !is_name(text) {
        return Err(InvalidId { expected: "a name: [A-Za-z0-9_.-]{1,64}" });
    }
    Ok(catalogue::find(text).is_none().then(|| EventTypeName::new(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["order.created", "A", "a-b_c.1", &"x".repeat(64)] {
            assert_eq!(new_name(good).unwrap().unwrap().as_str(), good);
        }
        assert_eq!(new_name("ADD_TAG"), Ok(None));
        for bad in ["", "*", "a b", "é", "a/b", "a,b", &"x".repeat(65)] {
            assert!(new_name(bad).is_err(), "{bad:?}");
        }
    }
}
