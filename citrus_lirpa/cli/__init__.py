"""The command line: each command parses, calls one function, prints."""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

from .._version import __version__
from ..errors import CitrusError, is_out_of_memory, unknown
from .output import HELP, examples

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: The module of each command, which is imported when it is called, and what the command does.
COMMANDS = {
    "train": ("train", "Train a network."),
    "eval": ("evaluate", "Certify a trained network."),
    "check": ("check", "Check the proofs of an evaluation."),
    "compare": ("compare", "Compare trained and evaluated runs."),
    "report": ("report", "Write runs as one HTML page, to be read, printed and sent."),
    "attack": ("attack", "Craft a universal perturbation."),
    "smooth": ("smooth", "Certify a network under Gaussian noise (randomized smoothing)."),
    "suggest": ("suggest", "Write a recipe for your own data and network."),
    "sweep": ("sweep", "Train, evaluate and compare every combination of a TOML file."),
    "tune": ("tune", "Search for the front of standard accuracy and UCert."),
    "front": ("front", "Compare the fronts of tuned methods."),
    "export": ("export", "Write a network for other programs and verifiers."),
    "verify": ("verify", "Decide a query in VNN-LIB."),
    "supports": ("supports", "Say what queries verify decides."),
    "presets": ("lists", "List the settings and the methods to train with."),
    "config": ("config", "Say what a key of the configuration means."),
    "models": ("lists", "List the architectures and the trained networks."),
    "completion": ("completion", "Teach the shell to complete commands and options."),
    "doctor": ("doctor", "Versions, device, data sets, and a check of the bounds."),
}


#: Commands that several processes of one job share.
_SHARED = ("train", "eval", "attack", "smooth")

#: The exit status of commands; the classes of errors.py name the status of each error.
EXIT_STATUS = {
    0: "done; with --requeue also stopped by SIGTERM, to be started again",
    1: "failed: a run or a data set is missing or damaged, nothing can be written, memory ran "
    "out, a check failed",
    2: "refused: an option, a value, a configuration, a network or another file given is unknown, "
    "unusable or in the way",
    130: "interrupted by Ctrl-C or SIGTERM; what was finished is kept",
}


class _Commands(click.Group):
    """The commands; an error raised on purpose is one line and an exit status, no traceback."""

    #: The commands of this program.
    names: tuple[str, ...] = tuple(COMMANDS)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.names)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.names:
            return None
        if (
            name not in _SHARED
            and "RANK" in os.environ
            and os.environ.get("WORLD_SIZE", "1") != "1"
        ):
            raise _one_line(
                f"{name} runs in one process; leave out torchrun, which is for "
                f"{', '.join(_SHARED)}",
                2,
            )
        module = importlib.import_module(f".{COMMANDS[name][0]}", __package__)
        return getattr(module, f"{name}_command")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            ctx.fail(unknown("command", args[0], self.names))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.names])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit status"):
            formatter.write_dl([(str(status), what) for status, what in EXIT_STATUS.items()])
        super().format_epilog(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands without importing them."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=COMMANDS[name][1])
            for name in self.names
            if name.startswith(incomplete)
        ]

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        _leave_stdout_to_python()
        try:
            with _one_line_warnings():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _one_line("interrupted", 130) from None
        except (CitrusError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise _one_line(str(error), getattr(error, "exit_code", 1)) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise _one_line(
                "out of memory; use a smaller batch (--set train.batch_size=... or "
                "--batch-size), or a larger machine",
                1,
            ) from error


class _Line(click.ClickException):
    """An error on one line, its first word in red where there are colours.

    Of several processes with the same error, only the first prints it.
    """

    def show(self, file: IO[Any] | None = None) -> None:
        distributed = sys.modules.get("citrus_lirpa.distributed")
        if distributed is None or not distributed.claimed(self.message):
            line = f"{click.style('Error:', fg='red', bold=True)} {self.format_message()}"
            click.echo(line, file=file, err=file is None, color=self.show_color)


def _leave_stdout_to_python() -> None:
    """Drop what compiled code prints to stdout: HiGHS 1.12 does, even with its output off.

    Until the process ends, as some of it is still in a buffer when HiGHS returns. Threads and
    child processes with a stdout of their own see no difference.
    """
    before = sys.stdout
    if not isinstance(before, io.TextIOWrapper) or before is not sys.__stdout__:
        return  # a caller has taken it elsewhere
    before.flush()
    sys.stdout = open(os.dup(1), "w", encoding=before.encoding, errors=before.errors)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print Python's warnings on one line each, without the code that raised them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_: f"warning: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _one_line(message: str, exit_code: int) -> click.ClickException:
    wrapped: Any = _Line(" ".join(message.split()))
    wrapped.exit_code = exit_code
    return wrapped


@click.group(
    cls=_Commands,
    context_settings=HELP,
    epilog=examples(
        (
            "train, certify, look at the result",
            "citrus-lirpa train --preset digits --out runs/digits",
        ),
        ("", "citrus-lirpa eval runs/digits"),
        ("", "citrus-lirpa report runs/digits"),
        ("judge somebody else's network", "citrus-lirpa eval net.onnx --dataset mnist --eps 0.1"),
        ("see what there is", "citrus-lirpa presets"),
        ("every command teaches by example", "citrus-lirpa eval --help"),
    ),
)
@click.version_option(__version__, prog_name="citrus-lirpa")
def main() -> None:
    """Train and certify networks against universal adversarial perturbations."""
