//! One attempt as those see it who look closely: where its time went, and what the receiver answered.

use postrider_client::v1::{AttemptTimings, Outcome};
use serde_json::{Value, json};

use crate::{
    json::{outcome, span},
    output::{counted, duration, printable},
};

/// An outcome and what those say besides who look at one attempt.
pub(crate) fn json(attempt: &Outcome) -> Value {
    let mut value = outcome(attempt);
    value["timings"] = attempt.timings.as_ref().map_or(Value::Null, |timings| {
        json!({
            "dns": span(timings.dns.as_ref()),
            "connect": span(timings.connect.as_ref()),
            "tls": span(timings.tls.as_ref()),
            "first_byte": span(timings.first_byte.as_ref()),
        })
    });
    value["remote_address"] = json!(attempt.remote_address);
    let headers = attempt.response_headers.iter();
    value["response_headers"] = headers.map(|it| json!({ "name": it.name, "value": it.value })).collect();
    value["omitted_response_headers"] = json!(attempt.omitted_response_headers);
    value
}

/// The parts that there were, such as `connect 0.2 ms, first byte 12.5 ms`.
pub(crate) fn parts(timings: Option<&AttemptTimings>) -> String {
    let Some(AttemptTimings { dns, connect, tls, first_byte }) = timings else { return String::new() };
    let parts = [("dns", dns), ("connect", connect), ("tls", tls), ("first byte", first_byte)];
    let there = parts.into_iter().filter_map(|(name, took)| Some((name, took.as_ref()?)));
    there.map(|(name, took)| format!("{name} {}", duration(Some(took)))).collect::<Vec<_>>().join(", ")
}

/// Headers and body of the answer, as far as there are any, with an empty line between.
pub(crate) fn answer(attempt: &Outcome) -> String {
    let headers = attempt.response_headers.iter();
    let mut headers: Vec<_> = headers.map(|it| printable(&format!("{}: {}", it.name, it.value))).collect();
    if attempt.omitted_response_headers > 0 {
        let omitted = counted(attempt.omitted_response_headers.into(), "more header", "more headers");
        headers.push(format!("(and {omitted})"));
    }
    let body = String::from_utf8_lossy(&attempt.response_body);
    let body: Vec<_> = body.lines().map(printable).collect();
    let sections = [headers, body].map(|lines| lines.join("\n"));
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use postrider_client::v1::ResponseHeader;
    use prost_types::Duration;

    use super::*;

    fn attempt() -> Outcome {
        let took = |nanos| Some(Duration { seconds: 0, nanos });
        let header = |name: &str, value: &str| ResponseHeader { name: name.into(), value: value.into() };
        Outcome {
            timings: Some(AttemptTimings {
                connect: took(200_000),
                first_byte: took(12_500_000),
                ..Default::default()
            }),
            remote_address: "192.0.2.7:443".into(),
            response_headers: vec![header("server", "\u{1b}[31mx"), header("via", "y")],
            omitted_response_headers: 2,
            response_body: b"one\ntwo\x07".to_vec(),
            ..Outcome::default()
        }
    }

    #[test]
    fn answers_for_people_cannot_play_tricks() {
        let expected = "server: \u{fffd}[31mx\nvia: y\n(and 2 more headers)\n\none\ntwo\u{fffd}";
        assert_eq!(answer(&attempt()), expected);
        assert_eq!(answer(&Outcome::default()), "");
        assert_eq!(parts(attempt().timings.as_ref()), "connect 0.2 ms, first byte 12.5 ms");
        assert_eq!(parts(None), "");
    }

    #[test]
    fn programs_are_told_everything() {
        let shown = json(&attempt());
        let timings = json!({ "dns": null, "connect": "0.000200s", "tls": null, "first_byte": "0.012500s" });
        assert_eq!(shown["timings"], timings);
        assert_eq!(shown["remote_address"], "192.0.2.7:443");
        assert_eq!(shown["response_headers"][1], json!({ "name": "via", "value": "y" }));
        assert_eq!((&shown["omitted_response_headers"], &shown["attempt"]), (&json!(2), &json!(0)));
        assert_eq!(json(&Outcome::default())["timings"], Value::Null);
    }
}
