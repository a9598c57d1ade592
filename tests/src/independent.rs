//! Standard Webhooks signatures, recomputed from the text of the standard and RFC 2104, over bytes of any kind.
//!
//! Deliberately shares nothing with the product's signing but the hash function.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use crate::receiver::Received;

/// The `webhook-signature` entry that the standard asks for.
///
/// # Panics
/// When `secret` is not `whsec_` and standard base64.
pub fn signature(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> String {
    let encoded = secret.strip_prefix("whsec_").expect("a secret starts with whsec_");
    let key = STANDARD.decode(encoded).expect("a secret is base64");
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    format!("v1,{}", STANDARD.encode(hmac_sha256(&key, &signed)))
}

/// Whether one of the request's signatures was made with `secret` over exactly what arrived.
pub fn is_signed(request: &Received, secret: &str) -> bool {
    let expected = signature(secret, request.header("webhook-id"), request.header("webhook-timestamp"), &request.body);
    request.header("webhook-signature").split(' ').any(|entry| entry == expected)
}

/// RFC 2104 with a block of 64 bytes.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_published_vectors() {
        // (secret, id, timestamp, body, signature): the standard's Rust library `test_sign`; Svix `worker.rs`.
        let vectors = [
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                "1649367553",
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                "1614265330",
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ];
        for (secret, id, timestamp, body, expected) in vectors {
            assert_eq!(signature(secret, id, timestamp, body.as_bytes()), expected);
            assert_ne!(signature(secret, id, timestamp, b"other"), expected);
        }
    }
}
