//! Credentials for receivers.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use thiserror::Error;
use zeroize::Zeroize as _;

use crate::limits::{PASSWORD_BYTES_MAX, TOKEN_BYTES_MAX, USERNAME_BYTES_MAX};

/// Who we are to a receiver. `Debug` never shows password or token, and memory that held them is cleared.
#[derive(Clone, PartialEq, Eq)]
pub enum Authorization {
    /// RFC 7617, as UTF-8.
    Basic {
        /// Without a colon.
        username: Box<str>,
        /// A secret.
        password: Box<str>,
    },
    /// RFC 6750.
    Bearer {
        /// A secret.
        token: Box<str>,
    },
}

/// Why texts are no [`Authorization`]. Says nothing of what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidCredentials {
    /// The name is too long or has what it must not.
    #[error("must be at most {USERNAME_BYTES_MAX} bytes without a colon and control characters")]
    Username,
    /// Neither name nor password.
    #[error("must be set, or the password")]
    Nobody,
    /// The password is too long or has what it must not.
    #[error("must be at most {PASSWORD_BYTES_MAX} bytes without control characters")]
    Password,
    /// The token is empty, too long or has what it must not.
    #[error("must be 1 to {TOKEN_BYTES_MAX} bytes of visible ASCII without spaces")]
    Token,
}

impl Authorization {
    /// A user and its password, of which one may be empty.
    pub fn basic(username: &str, password: &str) -> Result<Self, InvalidCredentials> {
        if username.len() > USERNAME_BYTES_MAX || username.contains(|c: char| c == ':' || c.is_control()) {
            return Err(InvalidCredentials::Username);
        }
        if password.len() > PASSWORD_BYTES_MAX || password.contains(char::is_control) {
            return Err(InvalidCredentials::Password);
        }
        if username.is_empty() && password.is_empty() {
            return Err(InvalidCredentials::Nobody);
        }
        Ok(Self::Basic { username: username.into(), password: password.into() })
    }

    /// A token.
    pub fn bearer(token: &str) -> Result<Self, InvalidCredentials> {
        let visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        if visible && (1..=TOKEN_BYTES_MAX).contains(&token.len()) {
            Ok(Self::Bearer { token: token.into() })
        } else {
            Err(InvalidCredentials::Token)
        }
    }

    /// The value of the header `authorization`.
    pub fn header(&self) -> HeaderValue {
        let text = match self {
            Self::Basic { username, password } => {
                format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
            }
            Self::Bearer { token } => format!("Bearer {token}"),
        };
        let mut value = HeaderValue::try_from(text).expect("base64 and visible ASCII can be sent");
        value.set_sensitive(true);
        value
    }
}

impl Drop for Authorization {
    fn drop(&mut self) {
        match self {
            Self::Basic { password, .. } => password.zeroize(),
            Self::Bearer { token } => token.zeroize(),
        }
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => f.debug_struct("Basic").field("username", username).finish_non_exhaustive(),
            Self::Bearer { .. } => f.debug_struct("Bearer").finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7617, sections 2 and 2.1, and of RFC 6750, section 2.1.
    #[test]
    fn headers_are_those_of_the_standards() {
        let check = |authorization: Result<Authorization, InvalidCredentials>, expected: &str| {
            assert_eq!(authorization.unwrap().header(), expected);
        };
        check(Authorization::basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        check(Authorization::basic("test", "123£"), "Basic dGVzdDoxMjPCow==");
        check(Authorization::basic("", ":"), "Basic Ojo=");
        check(Authorization::bearer("mF_9.B5f-4.1JqM"), "Bearer mF_9.B5f-4.1JqM");
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let basic = |username: &str, password: &str, expected| {
            assert_eq!(Authorization::basic(username, password).err(), expected, "{username:?} {password:?}");
        };
        basic(&"x".repeat(256), &"x".repeat(1024), None);
        basic("key", "", None);
        basic("", "", Some(InvalidCredentials::Nobody));
        for username in ["a:b", "a\n", &"x".repeat(257)] {
            basic(username, "p", Some(InvalidCredentials::Username));
        }
        for password in ["\r\n", "\0", &"x".repeat(1025)] {
            basic("u", password, Some(InvalidCredentials::Password));
        }
        assert!(Authorization::bearer(&"x".repeat(4096)).is_ok());
        for token in ["", "a b", "a\r\nx: y", "é", &"x".repeat(4097)] {
            assert_eq!(Authorization::bearer(token), Err(InvalidCredentials::Token), "{token:?}");
        }
    }
}
