//! What filters see of one event: its body is read once, when the first filter asks for it.

use std::collections::HashMap;

use cel::{
    Context,
    common::{
        types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt},
        value::Val,
    },
};
use serde_json::Value;

use super::{FilterError, PayloadFilter, Trouble, filter::BODY};
use crate::{
    limits::PAYLOAD_FILTERS_COST_MAX,
    model::event::{Event, is_json},
};

/// One event, as filters see it. Counts what they cost.
pub struct View<'e> {
    event: &'e Event,
    body: Option<Result<Body, FilterError>>,
    spent: u64,
}

impl std::fmt::Debug for View<'_> {
    /// Never shows the body.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("event", &self.event.id).field("spent", &self.spent).finish_non_exhaustive()
    }
}

/// A body that was read.
struct Body {
    context: Context<'static, 'static>,
    /// How many values it holds, and a little for long texts.
    size: u64,
}

impl<'e> View<'e> {
    /// What filters see of this event.
    pub fn of(event: &'e Event) -> Self {
        Self { event, body: None, spent: 0 }
    }

    /// The event.
    pub fn event(&self) -> &'e Event {
        self.event
    }

    /// Whether the body was asked for: then looking took time.
    pub fn was_read(&self) -> bool {
        self.body.is_some()
    }

    /// Whether the body passes the filter. All filters of one event together may cost `PAYLOAD_FILTERS_COST_MAX`.
    pub(super) fn judge(&mut self, filter: &PayloadFilter) -> Result<bool, FilterError> {
        let body = self.body.get_or_insert_with(|| read(self.event));
        let body = body.as_ref().map_err(Clone::clone)?;
        let cost = filter.cost(body.size);
        if self.spent + cost > PAYLOAD_FILTERS_COST_MAX {
            return Err(FilterError::new(
                Trouble::TooCostly,
                "the filters of this event cost more than they may in all",
            ));
        }
        self.spent += cost;
        filter.evaluate(&body.context)
    }
}

fn read(event: &Event) -> Result<Body, FilterError> {
    let not_json = |why| FilterError::new(Trouble::NotJson, why);
    if !is_json(&event.content_type) {
        return Err(not_json("the event's content type is not JSON"));
    }
    // Nests at most 128 deep, so that what follows may recurse.
    let body: Value = serde_json::from_slice(&event.body).map_err(|_| not_json("the body is not JSON"))?;
    let mut size = event.body.len() as u64 / 1024;
    let body = value(body, &mut size);
    let mut context = Context::default();
    context.add_variable_as_val(BODY, body);
    Ok(Body { context, size })
}

/// A JSON value as the filter language has it; counts the values.
fn value(json: Value, size: &mut u64) -> Box<dyn Val> {
    *size += 1;
    match json {
        Value::Null => Box::new(CelNull),
        Value::Bool(it) => Box::new(CelBool::from(it)),
        Value::Number(it) => match (it.as_i64(), it.as_u64()) {
            (Some(it), _) => Box::new(CelInt::from(it)),
            (None, Some(it)) => Box::new(CelUInt::from(it)),
            (None, None) => Box::new(CelDouble::from(it.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(it) => Box::new(CelString::from(it)),
        Value::Array(them) => {
            let them: Vec<Box<dyn Val>> = them.into_iter().map(|it| value(it, size)).collect();
            Box::new(CelList::from(them))
        }
        Value::Object(them) => {
            let them: HashMap<CelMapKey<'static>, Box<dyn Val>> =
                them.into_iter().map(|(key, it)| (CelMapKey::from(key), value(it, size))).collect();
            Box::new(CelMap::from(them))
        }
    }
}
