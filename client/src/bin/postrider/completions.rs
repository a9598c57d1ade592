//! `postrider completions`.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::{failure::Failure, output::say};

#[derive(Debug, Args)]
#[command(after_help = "Write it where the shell looks for it, or read it at the start of each shell:

  bash  postrider completions bash > ~/.local/share/bash-completion/completions/postrider
  zsh   postrider completions zsh > \"${fpath[1]}/_postrider\"
  fish  postrider completions fish > ~/.config/fish/completions/postrider.fish

Example: postrider completions bash")]
pub(crate) struct CompletionsArgs {
    /// For which shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints what the shell has to know of a command.
    pub(crate) fn run(self, mut command: Command) -> Result<(), Failure> {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        generate(self.shell, &mut command, name, &mut script);
        say(String::from_utf8_lossy(&script).trim_end())
    }
}
