//! `maquette completions`: a completion script for a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::failure::Result;
use crate::ui;

const EXAMPLES: &str = "\
Examples:
  maquette completions bash > ~/.local/share/bash-completion/completions/maquette
  maquette completions zsh > ~/.zfunc/_maquette
  maquette completions fish > ~/.config/fish/completions/maquette.fish";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Which shell.
    shell: Shell,
}

/// Prints the script; with `--json` too, for it is the result.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "maquette", &mut script);
    ui::print(&String::from_utf8_lossy(&script))
}
