//! `postriderd`.

fn main() -> std::process::ExitCode {
    postrider_server::cli::run()
}
