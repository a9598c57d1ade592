//! `postrider`: the command line tool of Postrider.

mod attempt;
mod audit;
mod cli;
mod clock;
mod completions;
mod deliveries;
mod erasures;
mod event_types;
mod events;
mod failure;
mod ids;
mod json;
mod keys;
mod listen;
mod output;
mod publish;
mod quotas;
mod replays;
mod triggers;
mod watch;
mod webhooks;

fn main() -> ! {
    cli::run()
}
