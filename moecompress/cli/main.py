"""`moecompress`: one module of this package per command, found by folder scan. Exit codes: 0 ok, 1 failed, 2 bad usage.

A command module defines `COMMAND`, a function with typer annotations; its name is the module's, less a trailing `_`.
Commands import what they need inside, so `generate` and `inspect` run where torch is not installed.
"""

from __future__ import annotations

import os
import sys

import typer

from moecompress import __version__
from moecompress.cli.console import fail
from moecompress.core.errors import MoecompressError
from moecompress.core.registry import member, members, names

_KIND = ("moecompress.cli.commands", "COMMAND", "moecompress.commands")
_COMPRESS_EXTRA = {"torch", "transformers", "datasets", "accelerate", "safetensors", "scipy", "matplotlib"}


def _version(show: bool) -> None:
    if show:
        print(f"moecompress {__version__}")
        raise typer.Exit


def build_app(only: str | None = None) -> typer.Typer:
    """The application with every command of `moecompress.cli.commands` and of plug-ins, or with one of them."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        help="Compress a Mixture-of-Experts language model by a recipe; run the artifact inside a memory budget.",
    )

    @app.callback()
    def options(
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    ) -> None:
        """Options before the command."""

    commands = members(*_KIND) if only is None else {only: member(only, *_KIND)}
    for name, command in commands.items():
        app.command(name.rstrip("_"))(command)
    return app


def named_command(arguments: list[str]) -> str | None:
    """The module of the built-in command that the arguments name, so that no other is imported."""
    return next((name for name in names(_KIND[0]) if arguments[:1] == [name.rstrip("_")]), None)


def main() -> None:
    """Entry point: errors become one sentence on stderr and an exit code; Ctrl-C ends quietly with 130."""
    try:
        build_app(named_command(sys.argv[1:]))()
    except MoecompressError as error:
        fail(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        words = f"error: {error.strerror or error}{where}. Nothing that was finished is lost; the same command goes on."
        fail(words)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _COMPRESS_EXTRA:
            raise
        words = f"error: this command needs {error.name}; install it with: pip install 'moecompress[compress]'"
        fail(words)
        sys.exit(2)


if __name__ == "__main__":
    main()
