"""The command ``napari-wsi-xai``.

Commands are thin: they turn arguments into one call of the public API and print what comes back,
data on standard output, progress and complaints on standard error. Exit status 0: done,
1: failed, 2: bad usage, 130: interrupted. Heavy modules are imported inside the commands, so that
``--help`` answers at once.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from napari_wsi_xai.cli.console import (
    INTERRUPTED,
    complain,
    describe,
    exit_status,
    only_own_messages,
    say,
)

__all__ = ["app", "main"]


class Commands(TyperGroup):
    """The group of commands; turns every error raised on purpose into one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command named in ``ctx``."""
        debug = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted.")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # the reader of our output has gone away: typer ends quietly
        except Exception as error:
            status = exit_status(error)
            if status is None:
                raise
            if debug:
                traceback.print_exc()
            complain(describe(error))
            raise typer.Exit(status) from None


app = typer.Typer(
    name="napari-wsi-xai",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from napari_wsi_xai import __version__

        typer.echo(f"napari-wsi-xai {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the program an error came from.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and stop."
        ),
    ] = False,
) -> None:
    """See why a deep-learning model called a whole-slide image what it called it."""
    if not debug:
        only_own_messages()


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM (a job scheduler's time limit) end a command as cleanly as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status.

    Parameters
    ----------
    arguments
        Words after the program's name; those of the process by default.
    """
    with _terminated_like_interrupted():
        app(arguments, prog_name="napari-wsi-xai")
    raise SystemExit(0)


# The commands register themselves with `app`.
from napari_wsi_xai.cli import (  # noqa: E402
    checkpoints,  # noqa: F401
    demo,  # noqa: F401
    features,  # noqa: F401
    models,  # noqa: F401
    reproduce,  # noqa: F401
    score,  # noqa: F401
    slides,  # noqa: F401
    train,  # noqa: F401
    view,  # noqa: F401
)
