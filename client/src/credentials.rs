//! How a client says who it is.

use std::fmt;

use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use crate::Error;

/// What is sent along with every call. Never printed.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    authorization: Option<MetadataValue<Ascii>>,
}

impl Credentials {
    /// An API key. Fails with `INVALID_ARGUMENT` if it is nothing that can be sent, without repeating it.
    pub(crate) fn api_key(key: &str) -> Result<Self, Error> {
        let sendable = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        let value = sendable.then(|| format!("Bearer {key}").parse::<MetadataValue<Ascii>>().ok()).flatten();
        let mut value = value.ok_or_else(|| {
            Error::new(Code::InvalidArgument, "the API key is empty, or has characters that no key has")
        })?;
        // So that neither logs nor the compression of headers remember it.
        value.set_sensitive(true);
        Ok(Self { authorization: Some(value) })
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.authorization.is_some() { "Credentials(API key)" } else { "Credentials(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sent_and_never_shown() {
        let mut credentials = Credentials::api_key("prk_secret").unwrap();
        let request = credentials.call(Request::new(())).unwrap();
        let sent = request.metadata().get("authorization").unwrap();
        assert_eq!(sent.to_str().unwrap(), "Bearer prk_secret");
        assert!(!format!("{credentials:?} {request:?} {sent:?}").contains("secret"));
        assert!(Credentials::default().call(Request::new(())).unwrap().metadata().is_empty());
        for wrong in ["", "a b", "prk_secret\n", "prk_é"] {
            let error = Credentials::api_key(wrong).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{wrong:?}");
            assert!(!error.to_string().contains("prk"), "{error}");
        }
    }
}
