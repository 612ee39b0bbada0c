"""The `netplane` command: its list of commands, and the one place where an error becomes a line and a status.

Exit 0: works. 1: broken or failed. 2: undetermined, or bad usage.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from netplane import __version__
from netplane.errors import ConfigError, NetplaneError, cause_of

Command = Callable[..., Any]

# Command → the module that has it under that name. Groups are commands, too.
COMMANDS = {
    "up": "machine",
    "init": "machine",
    "token": "machine",
    "uninstall": "machine",
    "supervise": "supervise",
    "controlplane": "controlplane",
    "node": "daemons",
    "proxy": "daemons",
    "dns": "daemons",
    "cni": "cni",
    "lab": "lab",
    "explain": "look",
    "doctor": "doctor",
    "services": "look",
    "endpoints": "look",
    "flows": "look",
    "top": "top",
    "status": "look",
    "sync": "change",
    "mode": "change",
    "flush": "change",
    "bench": "bench",
}


class Lazy(click.Group):
    """Loads the module of a command when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"netplane.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line a command, whole: what a command is for is not cut off."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(100)) for name, one in found if one is not None]
            )


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name=None, version=__version__, prog_name="netplane")
def netplane() -> None:
    """Pod networking and Service load balancing for Linux machines.

    \b
    Example:
      netplane lab demo               a cluster in namespaces on this machine, explained
      netplane up                     all in one on this machine
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: this process's) name; the exit status comes back."""
    debug = bool(os.environ.get("NETPLANE_DEBUG"))
    try:
        status = netplane.main(arguments, prog_name="netplane", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return 2
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: it has what it wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except BaseException as error:
        if debug or not _is_explainable(error):
            raise
        causes = list(leaves(error))
        for cause in causes:
            say(one_line(cause))
        return 2 if all(isinstance(cause, ConfigError) for cause in causes) else 1
    return status if isinstance(status, int) else 0


def say(line: str) -> None:
    """One line for the person, on stderr."""
    click.echo(f"netplane: {line}", err=True)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside groups that tasks make of them."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def _is_explainable(error: BaseException) -> bool:
    return all(isinstance(leaf, NetplaneError | OSError) for leaf in leaves(error))


def one_line(error: BaseException) -> str:
    """An error's text without line breaks; a bare system error in the same form as our own."""
    if isinstance(error, OSError) and not isinstance(error, NetplaneError):
        where = f" {error.filename}" if error.filename else ""
        hint = ". Run it with sudo" if isinstance(error, PermissionError) and os.geteuid() != 0 else ""
        return f"cannot use{where or ' the system'}: {cause_of(error)}{hint}"
    return " ".join(str(error).split())


def default_root() -> Path:
    """NETPLANE_ROOT, which `lab exec` sets, or this machine's own root."""
    return Path(os.environ.get("NETPLANE_ROOT") or "/")


def root_option(command: Command) -> Command:
    """`--root DIR`."""
    return click.option(
        "--root",
        type=click.Path(path_type=Path, file_okay=False),
        default=default_root,
        show_default="NETPLANE_ROOT or /",
        help="Where this machine's files are.",
    )(command)
