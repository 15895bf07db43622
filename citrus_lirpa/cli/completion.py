"""``citrus-lirpa completion``."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from .output import command

#: What makes the lines for each shell, where it reads what it should run at its start, and that.
_FILES = {
    "bash": (BashComplete, "~/.bashrc", 'eval "$(citrus-lirpa completion bash)"'),
    "zsh": (ZshComplete, "~/.zshrc", 'eval "$(citrus-lirpa completion zsh)"'),
    "fish": (FishComplete, "~/.config/fish/config.fish", "citrus-lirpa completion fish | source"),
}


@command("completion", *((f"at the end of {file}", line) for _, file, line in _FILES.values()))
@click.argument("shell", type=click.Choice(list(_FILES)))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Teach the shell to complete commands, options and names: print the lines that do."""
    program = "citrus-lirpa"
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    kind = _FILES[shell][0]
    click.echo(kind(ctx.find_root().command, {}, program, variable).source())
