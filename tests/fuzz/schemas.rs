//! JSON Schemas of event types.

use std::collections::BTreeMap;

use postrider_server::{limits::EVENT_SCHEMA_BYTES_MAX, model::schema::Schema};
use proptest::prelude::*;

use crate::{
    filters::event,
    harness::{explore, texts},
};

/// Whatever compiles answers about every body, the same after a restart, and takes nothing that is no JSON.
#[test]
fn schemas_always_answer() {
    let cases = (texts(include_str!("corpus/schemas.txt")), texts(include_str!("corpus/bodies.txt")));
    explore("schemas", cases, |(text, body)| {
        let Ok(schema) = Schema::compile(&text) else { return Ok(()) };
        prop_assert!(text.len() <= EVENT_SCHEMA_BYTES_MAX);
        let event = event(BTreeMap::new(), &body);
        let first = schema.check(&event);
        if serde_json::from_str::<serde_json::Value>(&body).is_err() {
            prop_assert!(first.is_err(), "what is no JSON is taken: {:?}", body);
        }
        prop_assert_eq!(Schema::from_stored(&text).check(&event), first);
        Ok(())
    });
}
