//! `postrider triggers`.

use clap::Args;
use futures::TryStreamExt as _;
use postrider_client::v1::EventType;
use serde_json::json;

use crate::{
    cli::Session,
    failure::Failure,
    json,
    output::{Format, printable, rows_or, say, say_json, table},
};

#[derive(Debug, Default, Args)]
#[command(after_help = "Examples:
  postrider triggers
  postrider triggers --examples")]
pub(crate) struct TriggersArgs {
    /// Print an example body for each.
    #[arg(long)]
    examples: bool,
}

impl TriggersArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let event_types: Vec<EventType> = session.client.event_types().try_collect().await?;
        match (session.format, self.examples) {
            (Format::Json, _) => {
                let entries: Vec<_> = event_types.iter().map(json::event_type).collect();
                say_json(&json!({ "event_types": entries }))
            }
            (Format::Table, true) => say(examples(&event_types)),
            (Format::Table, false) => {
                let mut rows = table(&["NAME", "TITLE", "DESCRIPTION"]);
                for it in &event_types {
                    rows.add_row([printable(&it.name), printable(&it.title), printable(&it.description)]);
                }
                say(rows_or(&rows, "There are no event types."))
            }
        }
    }
}

fn examples(event_types: &[EventType]) -> String {
    let example = |it: &EventType| {
        let body: Vec<String> = it.example.lines().map(printable).collect();
        format!("{} ({})\n{}", printable(&it.name), printable(&it.title), body.join("\n"))
    };
    event_types.iter().map(example).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_keep_their_lines() {
        let it =
            EventType { name: "A".into(), title: "Aha".into(), example: "{\n  1\n}".into(), ..EventType::default() };
        assert_eq!(examples(&[it.clone(), it]), "A (Aha)\n{\n  1\n}\n\nA (Aha)\n{\n  1\n}");
    }
}
