//! `postrider webhooks test`.

use clap::Args;
use postrider_client::v1::{DeliveryState, Outcome};
use serde_json::json;

use crate::{
    attempt,
    cli::Session,
    failure::Failure,
    ids::parse_webhook_id,
    output::{Format, printable, say, say_json},
};

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The webhook's id.
    #[arg(value_parser = parse_webhook_id)]
    id: String,
    /// The event type whose example is sent; see `postrider triggers`.
    #[arg(long = "event-type", value_name = "TYPE")]
    event_type: String,
}

/// Sends the example and says what the receiver made of it. One that did not take it is a failure.
pub(super) async fn test(session: &Session, args: TestArgs) -> Result<(), Failure> {
    let outcome = session.client.send_test_event(args.id, args.event_type).await?;
    match session.format {
        Format::Json => say_json(&json!({ "outcome": attempt::json(&outcome) }))?,
        Format::Table => say(describe(&outcome))?,
    }
    if outcome.state() == DeliveryState::Delivered { Ok(()) } else { Err(Failure::Local("not delivered".into())) }
}

fn describe(outcome: &Outcome) -> String {
    let status = if outcome.http_status == 0 { "no answer".into() } else { format!("status {}", outcome.http_status) };
    let error = if outcome.error.is_empty() { String::new() } else { format!(": {}", printable(&outcome.error)) };
    let parts = attempt::parts(outcome.timings.as_ref());
    let course: Vec<_> =
        [printable(&outcome.remote_address), parts].into_iter().filter(|text| !text.is_empty()).collect();
    let course = if course.is_empty() { String::new() } else { format!("\n{}", course.join(": ")) };
    let answer = attempt::answer(outcome);
    let answer = if answer.is_empty() { String::new() } else { format!("\n\n{answer}") };
    format!("Sent {}: {status}{error}{course}{answer}", printable(&outcome.event_id))
}

#[cfg(test)]
mod tests {
    use postrider_client::v1::AttemptTimings;

    use super::*;

    #[test]
    fn the_answer_is_shown_and_cannot_play_tricks() {
        let outcome = Outcome {
            event_id: "test_1".into(),
            http_status: 500,
            error: "the receiver answered 500".into(),
            response_body: b"out of \x1b[31mcoffee".to_vec(),
            ..Outcome::default()
        };
        let text = describe(&outcome);
        assert!(text.starts_with("Sent test_1: status 500: the receiver answered 500\n\nout of "), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        let course =
            Outcome { remote_address: "192.0.2.7:443".into(), timings: Some(AttemptTimings::default()), ..outcome };
        assert!(describe(&course).contains("answered 500\n192.0.2.7:443\n\nout of "), "{}", describe(&course));
        assert_eq!(describe(&Outcome { event_id: "t".into(), ..Outcome::default() }), "Sent t: no answer");
    }
}
