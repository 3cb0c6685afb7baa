"""``paynotify reseal``: secrets under a new master key, while everything runs.

Must never show a key or a secret.
"""

from typing import Annotated

import typer

from worker.cli_input import Json, Who, Why, desk, example, need, person
from worker.cli_pages import Gate, progress_bar
from worker.cli_print import note, say, say_json


def reseal(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what is under an old key.")
    ] = False,
    why: Why = "",
    who: Who = "",
    as_json: Json = False,
) -> None:
    """Seal secrets and client keys anew with PAYNOTIFY_MASTER_KEY.

    May be interrupted and called again; whoever works meanwhile opens both. The old key stands in
    PAYNOTIFY_PREVIOUS_MASTER_KEYS until `check-config` finds nothing under it.
    """
    # The cryptography library, which --help need not wait for.
    from worker import resealing  # noqa: PLC0415

    with desk() as at:
        before = resealing.look(at.engine, at.sealer)
        if dry_run:
            done = before
        else:
            need(why, "--why", '"yearly"')
            with Gate() as gate, progress_bar(before.seen, "sealed rows") as show:

                def shown(standing: resealing.Standing) -> None:
                    show(standing.seen)
                    gate.check()

                done = resealing.reseal(
                    at.engine, at.sealer, who=person(who), why=why, on_progress=shown
                )
    if as_json:
        say_json({"dry_run": dry_run, "rows": done.seen, "old": before.old,
                  "resealed": 0 if dry_run else done.old, "unreadable": done.lost})  # fmt: skip
    elif dry_run:
        say(f"{done.old} of {done.seen} sealed rows are under an old key; nothing was changed")
    else:
        say(f"{done.old} of {done.seen} sealed rows were sealed anew")
    if done.lost:
        note(
            f"{done.lost} rows cannot be opened with any key and were left alone: "
            f"{', '.join(done.unreadable)}; add their key to PAYNOTIFY_PREVIOUS_MASTER_KEYS"
        )
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(
        epilog=example("paynotify reseal --dry-run", 'paynotify reseal --why "yearly rotation"')
    )(reseal)
