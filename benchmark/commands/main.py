"""The command line: which commands there are, and what becomes of their errors. A command is imported when it is named."""

import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import cast

import click

from benchmark import __version__
from benchmark.base.errors import LoobenchError, telling, unknown
from benchmark.base.text import line
from benchmark.commands import terminal
from benchmark.commands.options import Call, Command

BAD_INPUT, INTERRUPTED = 2, 130  # exit codes
GROUPS = {
    "For everyone": ("run", "report", "list", "show", "plot", "cite", "prepare", "truth", "score", "doctor"),
    "For submitters": ("new", "check", "tune", "submit"),
    "For maintainers": ("verify", "audit", "reproduce", "migrate", "speed"),
}
COMMANDS = tuple(name for group in GROUPS.values() for name in group)


class Commands(click.Group):
    """All commands, each in a module of its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Their names."""
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> Command:  # noqa: ARG002
        """The command of a name. Raises LoobenchError where there is none."""
        if cmd_name not in COMMANDS:
            raise unknown("command", cmd_name, COMMANDS)
        return cast(Command, import_module(f"benchmark.commands.{cmd_name}").command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them in groups."""
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.get_command(ctx, name).get_short_help_str(200)) for name in names])


ALL = Commands(
    "loobench",
    help="Training-data influence against exact leave-one-out retraining.",
    epilog="`loobench COMMAND --help` has the options of a command, and examples.",
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[],
)
click.version_option(__version__, prog_name="loobench", message="%(prog)s %(version)s")(ALL)


def asked(arguments: Sequence[str]) -> Call:
    """The call that a command line asks for.

    Raises click.exceptions.Exit where all is done, as after --help; UsageError and LoobenchError for bad input.
    """
    with ALL.make_context("loobench", [*arguments] or ["--help"]) as context:
        return cast(Call, ALL.invoke(context))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, or 1 where an estimator failed or a check did, 2 for bad input, 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # where a terminal lacks a letter
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "loobench"
        terminal.tell("error", f"{line(error.format_message(), 10_000).rstrip('.')}; see `{where} --help`")
    except LoobenchError as error:
        terminal.tell("error", line(error, 10_000))
    except OSError as error:  # of a folder or a disk, wherever it was met
        what = f"{error.filename or 'the system'}: {error.strerror or error}"
        terminal.tell("error", f"{what}; mend that, or choose another place")
    except KeyboardInterrupt:
        print("\ninterrupted: what was done is kept, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    return BAD_INPUT


def _run(arguments: Sequence[str]) -> int:
    code = 0
    with terminal.patient_reader():
        try:
            call = asked(arguments)
        except click.exceptions.Exit as ended:
            return ended.exit_code
        with telling(_show if getattr(call.options, "traceback", False) else lambda text: None):
            code = call()
    return code


def _show(traceback: str) -> None:
    print(traceback, file=sys.stderr)
