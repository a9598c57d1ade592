//! `postrider`: the command line tool of Postrider.

mod attempt;
mod audit;
mod cli;
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
mod replays;
mod triggers;
mod watch;
mod webhooks;

fn main() -> ! {
    cli::run()
}
