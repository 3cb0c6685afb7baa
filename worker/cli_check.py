"""``paynotify check-config``: says everything that is wrong before anything is started."""

import typer

from worker.cli_input import Json, example
from worker.cli_print import note, say, say_json


def check_config(as_json: Json = False) -> None:
    """Check settings, servers, secrets, URLs, cron table, channels, alerts; lists all problems."""
    # Everything it looks at, which --help need not wait for.
    from worker import selfcheck  # noqa: PLC0415

    findings = selfcheck.look()
    bad = [finding for finding in findings if finding.problems]
    if as_json:
        say_json({"ok": not bad, "checks": findings})
    else:
        for finding in findings:
            if not finding.problems:
                say(f"ok   {finding.name}: {finding.fact}")
        for finding in bad:
            for problem in finding.problems:
                note(f"BAD  {finding.name}: {problem}")
    if bad:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(epilog=example("paynotify check-config --json"))(check_config)
