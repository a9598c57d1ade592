//! The daemon, built as a binary of this crate so that its tests can start and kill it.

fn main() -> std::process::ExitCode {
    postrider_server::cli::run()
}
