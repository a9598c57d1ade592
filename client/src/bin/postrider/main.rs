//! `postrider`: the command line tool of Postrider.

mod cli;
mod deliveries;
mod event_types;
mod events;
mod failure;
mod ids;
mod json;
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
