"""The `netplane` command: which words there are, and how every one of them fails.

Commands are imported when they are called, so that `netplane --help` and the CNI path stay fast.
"""

import importlib
import os
import sys

import click

from netplane.errors import ConfigError, NetplaneError

# Word → "module:command". The order is the order of the help.
COMMANDS = {
    "up": "netplane.cli.machine:up",
    "init": "netplane.cli.machine:init",
    "token": "netplane.cli.machine:token",
    "uninstall": "netplane.cli.machine:uninstall",
    "lab": "netplane.cli.lab:lab",
    "explain": "netplane.cli.look:explain",
    "services": "netplane.cli.look:services",
    "endpoints": "netplane.cli.look:endpoints",
    "flows": "netplane.cli.look:flows",
    "status": "netplane.cli.look:status",
    "bench": "netplane.cli.bench:bench",
    "supervise": "netplane.cli.supervise:supervise",
    "controlplane": "netplane.cli.daemons:controlplane",
    "node": "netplane.cli.daemons:node",
    "proxy": "netplane.cli.daemons:proxy",
    "dns": "netplane.cli.daemons:dns",
    "cni": "netplane.cli.cni:cni",
}
USAGE_ERROR = 2


class Commands(click.Group):
    """A group whose commands are loaded by name when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All words, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now."""
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, name = target.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help's table, one line a command."""
        rows = [(word, self.get_command(ctx, word).get_short_help_str(90)) for word in COMMANDS]  # type: ignore[union-attr]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=None, version=importlib.import_module("netplane").__version__)
def netplane() -> None:
    """Pod networking and Service load balancing for Linux.

    \b
    Example: netplane lab up --name try && netplane lab status --name try
    """


def main(arguments: list[str] | None = None) -> int:
    """Run one command. 0 works, 1 broken or failed, 2 undetermined or bad usage."""
    try:
        result = netplane.main(args=arguments, standalone_mode=False)
    except click.exceptions.Abort:
        print("netplane: interrupted", file=sys.stderr)
        return 130
    except click.ClickException as error:
        error.show()
        return USAGE_ERROR
    except NetplaneError as error:
        if os.environ.get("NETPLANE_DEBUG"):
            raise
        print(f"netplane: {error}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, ConfigError) else 1
    except BrokenPipeError:
        # The reader of our output went away: say nothing, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0
