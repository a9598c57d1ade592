//! JSON indented for people without being read into values, so that every digit and every key stays as it was sent.

use serde::de::IgnoredAny;

/// The text indented by two spaces a level; none if it is not JSON.
pub(super) fn reindent(json: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(json).ok()?;
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut tokens = Tokens { rest: json }.peekable();
    while let Some(token) = tokens.next() {
        match token {
            "{" | "[" => {
                out.push_str(token);
                if matches!(tokens.peek(), Some(&("}" | "]"))) {
                    out.extend(tokens.next());
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            "}" | "]" => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push_str(token);
            }
            "," => {
                out.push_str(token);
                new_line(&mut out, depth);
            }
            ":" => out.push_str(": "),
            value => out.push_str(value),
        }
    }
    Some(out)
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// The tokens of valid JSON, as they are written.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let first = *self.rest.as_bytes().first()?;
        let length = match first {
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            b'"' => string_length(self.rest),
            _ => self.rest.find(|c: char| c.is_ascii_whitespace() || "{}[],:".contains(c)).unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(token)
    }
}

/// How long the string at the start of the text is, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|b| {
        let ends = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |at| at + 2)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn json_is_indented_and_nothing_else() {
        for (json, expected) in [
            ("1", Some("1")),
            (" {} ", Some("{}")),
            ("[ ]", Some("[]")),
            (r#"{"b":[1,{}],"a":"x"}"#, Some("{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": \"x\"\n}")),
            (r#""{[,:\"\\" "#, Some(r#""{[,:\"\\""#)),
            ("123456789012345678901234567890.10", Some("123456789012345678901234567890.10")),
            ("{", None),
            ("", None),
            ("plain", None),
        ] {
            assert_eq!(reindent(json).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn what_comes_out_means_the_same() {
        let json = r#"[{"é\\":"\"}","k":[[],{},[null,true,-1.5e3]]},"\\\\\""]"#;
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(value(&reindent(json).unwrap()), value(json));
    }
}
