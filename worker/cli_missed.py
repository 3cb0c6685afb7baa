"""``paynotify export-missed``: what a merchant has not acknowledged, for the merchant.

Must never print a card number or a secret, nor overwrite a file.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli_input import Json, Who, Why, desk, example, moment, need, person
from worker.cli_pages import Gate, progress_bar
from worker.cli_print import note, say, say_json
from worker.errors import BadFieldError

if TYPE_CHECKING:
    from worker.missed import Page


def export_missed(
    endpoint: Annotated[str, typer.Option(help="Name of the endpoint.")],
    since: Annotated[
        str | None, typer.Option(help="Created then or later: 2h, 3d, 2026-01-31T08:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Created before then. [default: now]")] = None,
    cursor: Annotated[str, typer.Option(help="Go on where an export stopped.")] = "",
    csv: Annotated[
        bool, typer.Option("--csv", help="CSV for spreadsheets, not JSON lines.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; beside it FILE.manifest.json, signed for the merchant."),
    ] = None,
    why: Why = "",
    who: Who = "",
    as_json: Json = False,
) -> None:
    """Export what an endpoint has not acknowledged: dead, held, waiting, in flight.

    The merchant checks the manifest with the code that checks its callbacks, and the file by the
    SHA-256 in it. Without --out, rows go to standard output and the manifest to standard error.
    May be interrupted; the same call with --out goes on.
    """
    # The cryptography library and libcurl, which --help need not wait for.
    from worker import missed_file  # noqa: PLC0415

    need(why, "--why", '"they lost a day"')
    if csv and as_json:
        raise BadFieldError("--csv", "and --json are two forms; give one")
    with desk() as at:
        now = at.store.now()
        wanted = missed_file.Wanted(
            endpoint=endpoint,
            form=missed_file.Form.CSV if csv else missed_file.Form.JSON,
            since=moment(since, "--since", now=now),
            until=moment(until, "--until", now=now),
            cursor=cursor,
        )
        sink = missed_file.FileSink(out, wanted) if out else missed_file.Sink(sys.stdout.write)
        try:
            with Gate() as gate, progress_bar(100, "percent looked at") as show:

                def shown(page: "Page") -> None:
                    show(100 * page.seen // max(1, page.of))
                    gate.check()

                manifest = missed_file.export(
                    at.engine, at.sealer, wanted, who=person(who), why=why, sink=sink,
                    on_page=shown,
                )  # fmt: skip
        except KeyboardInterrupt:
            how = "the same command goes on" if out else f"--cursor {sink.cursor} goes on"
            note(f"Stopped after {sink.rows} rows; {how}.")
            raise typer.Exit(130) from None
    if out is not None:
        said = {"rows": manifest.rows, "file": str(out), "manifest": f"{out}.manifest.json"}
        say_json(said) if as_json else say(
            f"{manifest.rows} notifications in {out}; {out}.manifest.json is the signed proof"
        )
    else:
        sys.stdout.flush()
        # What the merchant is to check must reach it as it is: no mask may touch the signature.
        print(json.dumps(asdict(manifest)), file=sys.stderr)  # noqa: T201


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(
        "export-missed",
        epilog=example(
            'paynotify export-missed --endpoint acme --since 1d --why "they lost a day"',
            "paynotify export-missed --endpoint acme --since 2026-01-30 --csv --out acme.csv "
            '--why "asked by mail"',
        ),
    )(export_missed)
