//! Ids as arguments: what cannot be one is refused before anybody is asked.

/// A webhook's id.
pub(crate) fn parse_webhook_id(text: &str) -> Result<String, &'static str> {
    parse(text, "wh_").ok_or("must be a webhook's id: wh_ and 32 hexadecimal digits (0-9, a-f)")
}

/// A delivery's id.
pub(crate) fn parse_delivery_id(text: &str) -> Result<String, &'static str> {
    parse(text, "dlv_").ok_or("must be a delivery's id: dlv_ and 32 hexadecimal digits (0-9, a-f)")
}

/// A replay's id.
pub(crate) fn parse_replay_id(text: &str) -> Result<String, &'static str> {
    parse(text, "rpl_").ok_or("must be a replay's id: rpl_ and 32 hexadecimal digits (0-9, a-f)")
}

fn parse(text: &str, prefix: &str) -> Option<String> {
    let digits = text.strip_prefix(prefix)?;
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    (digits.len() == 32 && digits.bytes().all(is_digit)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shape_is_judged() {
        let digits = "0193a5e2c4b87d3f9a1c5e7b2d4f6a80";
        for (text, webhook, delivery) in [
            (format!("wh_{digits}"), true, false),
            (format!("dlv_{digits}"), false, true),
            (format!("wh_{}", digits.to_uppercase()), false, false),
            (format!("wh_{digits}0"), false, false),
            (format!("wh_{}", &digits[1..]), false, false),
            (format!("wh_{}g", &digits[1..]), false, false),
            (format!(" wh_{digits}"), false, false),
            (digits.to_owned(), false, false),
            ("wh_".to_owned(), false, false),
            (String::new(), false, false),
        ] {
            assert_eq!(parse_webhook_id(&text).is_ok(), webhook, "{text}");
            assert_eq!(parse_delivery_id(&text).is_ok(), delivery, "{text}");
        }
    }
}
