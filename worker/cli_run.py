"""The commands that run paynotify; each is a shell around what does the work.

Must hold no rules.
"""

from typing import Annotated

import typer

from worker import database, schema, settings
from worker.cli_input import example
from worker.cli_print import say

Processes = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="Worker processes. [default: one per core]"),
]


def up(
    processes: Processes = None,
    flower: Annotated[bool, typer.Option("--flower/--no-flower", help="With Flower.")] = True,
) -> None:
    """Run everything on this machine: broker, workers, beat and Flower, until Ctrl-C."""
    from worker import supervisor  # noqa: PLC0415 - only what runs pays for it

    raise typer.Exit(supervisor.up(settings.load(), processes=processes, with_flower=flower))


def worker(processes: Processes = None) -> None:
    """Run worker processes until SIGTERM or Ctrl-C; what is on the wire is finished first."""
    from worker import supervisor  # noqa: PLC0415 - as above

    raise typer.Exit(supervisor.work(settings.load(), processes=processes))


def flower() -> None:
    """Run the Flower console alone."""
    from worker import supervisor  # noqa: PLC0415 - as above

    raise typer.Exit(supervisor.flower(settings.load()))


def beat() -> None:
    """Run beat alone: it decides when the schedules run; several are harmless."""
    from worker import supervisor  # noqa: PLC0415 - as above

    raise typer.Exit(supervisor.beat(settings.load(host=True)))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards.")] = False,
) -> None:
    """Show retries, a redrive, an order put right and an alert in half a minute; needs nothing."""
    from worker import demo as show  # noqa: PLC0415 - as above

    raise typer.Exit(show.run(keep=keep))


def migrate() -> None:
    """Create or upgrade the tables; again is harmless."""
    chosen = settings.load()
    if chosen.database_url is None:
        chosen.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = database.connect(chosen.database_dsn)
    try:
        current = schema.is_current(engine)
        schema.migrate(engine)
    finally:
        engine.dispose()
    say(f"the tables {'were' if current else 'are now'} up to date (version {schema.HEAD})")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog=example("paynotify up --processes 2"))(up)
    app.command(epilog=example("paynotify worker --processes 4"))(worker)
    app.command(epilog=example("paynotify beat"))(beat)
    app.command(epilog=example("paynotify flower"))(flower)
    app.command(epilog=example("paynotify demo --keep"))(demo)
    app.command(epilog=example("paynotify migrate"))(migrate)
