//! What a webhook's requests look like, but for its headers and credentials: see `encrypted.rs`.

use std::{collections::BTreeMap, fmt};

use prost::Message;

use super::Corrupt;
use crate::model::request::{BodyFormat, ExtraFields, Method, Query, RequestShape};

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct RequestShapeRecord {
    /// 0: POST; 1: PUT; 2: PATCH; 3: GET; 4: HEAD; 5: DELETE.
    #[prost(uint32, tag = "1")]
    method: u32,
    #[prost(btree_map = "string, string", tag = "3")]
    query: BTreeMap<String, String>,
    /// A JSON object; empty: no fields.
    #[prost(string, tag = "4")]
    body: String,
    /// 0: JSON; 1: form.
    #[prost(uint32, tag = "5")]
    body_format: u32,
    #[prost(bool, tag = "8")]
    no_retry_on_timeout: bool,
}

impl fmt::Debug for RequestShapeRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestShapeRecord").finish_non_exhaustive()
    }
}

impl RequestShapeRecord {
    pub(super) fn new(shape: &RequestShape) -> Self {
        Self {
            method: match shape.method {
                Method::Post => 0,
                Method::Put => 1,
                Method::Patch => 2,
                Method::Get => 3,
                Method::Head => 4,
                Method::Delete => 5,
            },
            query: shape.query.parameters().clone(),
            body: shape.body.to_json(),
            body_format: match shape.body_format {
                BodyFormat::Json => 0,
                BodyFormat::Form => 1,
            },
            no_retry_on_timeout: !shape.retry_on_timeout,
        }
    }

    pub(super) fn shape(self) -> Result<RequestShape, Corrupt> {
        let method = match self.method {
            0 => Method::Post,
            1 => Method::Put,
            2 => Method::Patch,
            3 => Method::Get,
            4 => Method::Head,
            5 => Method::Delete,
            other => return Err(Corrupt::new("webhook's method", other)),
        };
        let body_format = match self.body_format {
            0 => BodyFormat::Json,
            1 => BodyFormat::Form,
            other => return Err(Corrupt::new("webhook's body format", other)),
        };
        let body = if self.body.is_empty() { Ok(ExtraFields::default()) } else { ExtraFields::parse(&self.body) };
        Ok(RequestShape {
            method,
            query: Query::new(self.query).map_err(|error| Corrupt::new("webhook's query", error))?,
            body: body.map_err(|error| Corrupt::new("webhook's body fields", error))?,
            body_format,
            retry_on_timeout: !self.no_retry_on_timeout,
            ..RequestShape::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_kept() {
        let full = RequestShape {
            query: Query::new([("a b".to_owned(), "ü&".to_owned())].into()).unwrap(),
            body: ExtraFields::parse(r#"{"n":1.5,"é":["s3cret"]}"#).unwrap(),
            body_format: BodyFormat::Form,
            retry_on_timeout: false,
            ..RequestShape::default()
        };
        let methods = [Method::Post, Method::Put, Method::Patch, Method::Get, Method::Head, Method::Delete];
        let shapes = methods.map(|method| RequestShape { method, ..full.clone() });
        for shape in shapes.into_iter().chain([full, RequestShape::default()]) {
            let record = RequestShapeRecord::new(&shape);
            assert!(!format!("{record:?}").contains("s3cret"));
            let read = RequestShapeRecord::decode(&*record.encode_to_vec()).unwrap();
            assert_eq!(read.shape().unwrap(), shape);
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let broken = [
            RequestShapeRecord { method: 9, ..RequestShapeRecord::default() },
            RequestShapeRecord { body_format: 9, ..RequestShapeRecord::default() },
            RequestShapeRecord { body: "[]".into(), ..RequestShapeRecord::default() },
        ];
        for record in broken {
            assert!(record.shape().is_err());
        }
    }
}
