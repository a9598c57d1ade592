//! `postrider clock`.

use clap::{Args, Subcommand};
use postrider_client::v1::Clock;

use crate::{
    cli::Session,
    failure::Failure,
    json,
    output::{Format, properties, say, say_json, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ClockCommand {
    /// Show the server's clock and its machine's, and whether that is doubted.
    #[command(after_help = "Example: postrider clock show")]
    Show,
    /// Confirm that the machine's clock is right: removal and expiry go on, and the server's next start goes by it.
    #[command(after_help = "Example: postrider clock confirm --yes")]
    Confirm(ConfirmArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfirmArgs {
    /// Without this the clocks are shown, and nothing is confirmed.
    #[arg(long)]
    yes: bool,
}

impl ClockCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Show => show(session.format, &session.client.clock().await?),
            Self::Confirm(ConfirmArgs { yes: true }) => {
                show(session.format, &session.client.confirm_clock().await?)?;
                match session.format {
                    Format::Json => Ok(()),
                    Format::Table => say("Confirmed. Restart the server to go by the machine's clock."),
                }
            }
            Self::Confirm(ConfirmArgs { yes: false }) => {
                show(session.format, &session.client.clock().await?)?;
                let text = "nothing was confirmed: if the machine's clock is right, say so with --yes";
                Err(Failure::Usage(text.into()))
            }
        }
    }
}

fn show(format: Format, clock: &Clock) -> Result<(), Failure> {
    match format {
        Format::Json => say_json(&json::clock(clock)),
        Format::Table => say(properties(&[
            ("server", time(clock.server_time.as_ref())),
            ("machine", time(clock.machine_time.as_ref())),
            ("ahead", clock.ahead.as_ref().map(ahead).unwrap_or_default()),
            ("doubted since", time(clock.doubted_since.as_ref())),
            ("confirmed", if clock.confirmed { "yes".into() } else { String::new() }),
        ])),
    }
}

/// In whole seconds, with a sign if it is behind.
fn ahead(span: &prost_types::Duration) -> String {
    let seconds = humantime::format_duration(std::time::Duration::from_secs(span.seconds.unsigned_abs()));
    if span.seconds < 0 { format!("-{seconds}") } else { seconds.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_has_a_sign() {
        let shown = |seconds| ahead(&prost_types::Duration { seconds, nanos: 0 });
        assert_eq!((shown(0), shown(7_260), shown(-90)), ("0s".into(), "2h 1m".into(), "-1m 30s".into()));
    }
}
