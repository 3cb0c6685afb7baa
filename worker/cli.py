"""Everything an operator does from a terminal: ``paynotify …`` and ``python3 -m worker …``.

Must never answer bad input with a traceback: one sentence on standard error, exit code 1, or 2
when the command itself was not understood.
"""

import os
import sys
from collections.abc import Collection
from importlib import import_module

import typer
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from typer.exceptions import TyperException

from worker import (
    cli_check,
    cli_dead,
    cli_endpoint,
    cli_endpoint_state,
    cli_hold,
    cli_kit,
    cli_missed,
    cli_profile,
    cli_reseal,
    cli_route,
    cli_run,
    cli_show,
    cli_status,
    database,
)
from worker.cli_print import note
from worker.errors import PaynotifyError

USAGE_ERROR = 2
INTERRUPTED = 130

# By their names, for the schedules import the engine and never the other way round, and only when
# they are asked for: together they take half a second to import.
SCHEDULES = {
    "schedule": ("schedules.cli", "What runs by the clock, and what became of it."),
    "case": ("schedules.cli_case", "Disagreements that a person has to settle."),
    "order": ("schedules.cli_order", "Orders, and what their channels said of them."),
    "channel": ("schedules.cli_channel", "Payment channels that are asked about orders."),
    "alert": ("schedules.cli_alert", "What is wrong, and who is told."),
}

cli_endpoint_state.register(cli_endpoint.app)
cli_endpoint.app.add_typer(cli_route.app, name="route")


def commands(wanted: Collection[str]) -> typer.Typer:
    """Build the commands; of the schedules' only those in ``wanted`` are more than a name."""
    app = typer.Typer(
        name="paynotify",
        help="Delivers payment notifications to merchants and never loses one.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    for part in (cli_run, cli_check, cli_show, cli_status, cli_kit, cli_reseal, cli_missed):
        part.register(app)
    app.add_typer(cli_endpoint.app, name="endpoint")
    app.add_typer(cli_profile.app, name="profile")
    app.add_typer(cli_dead.app, name="dead")
    app.add_typer(cli_hold.app, name="hold")
    for name, (module, text) in SCHEDULES.items():
        group = import_module(module).app if name in wanted else typer.Typer(help=text)
        app.add_typer(group, name=name, help=text)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit.

    Args:
        arguments: without the program's name; None takes those of this process.

    Raises:
        SystemExit: always. 0 is done, 1 could not be done, 2 was not understood, 130 Ctrl-C.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us has seen enough. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    raise SystemExit(code)


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code and has said on standard error what went wrong."""
    try:
        _check_text(arguments)
        app = commands(arguments[:1])
        result = app(arguments, prog_name="paynotify", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except TyperException as error:
        note(f"paynotify: {_usage(error)}")
        return USAGE_ERROR
    except (KeyboardInterrupt, typer.Abort):
        note("Stopped; nothing more was changed.")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        note(f"paynotify: {sentence}")
        return 1


def _sentence(error: Exception) -> str | None:
    """Say what was wrong with what we were given; None when the mistake is our own."""
    if isinstance(error, PaynotifyError):
        return str(error)
    if isinstance(error, DBAPIError):
        return str(database.unavailable(error))
    if isinstance(error, SQLAlchemyError):
        return f"database: {type(error).__name__}; check that the server runs and is not overloaded"
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or type(error).__name__}"
    return None


def _check_text(arguments: list[str]) -> None:
    for text in arguments:
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise PaynotifyError("arguments: are not UTF-8; set your terminal to UTF-8")


def _usage(error: TyperException) -> str:
    """Turn a usage error into one sentence with where to look."""
    message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "paynotify"
    # Without any word typer shows the help and raises an error that says nothing.
    return f"{message or 'say what to do'}; see `{command} --help`"
