"""``paynotify profile …``: which delivery profiles there are, and what one means.

Reads the shipped files and the settings only; needs no database.
"""

from typing import Annotated

import typer

from worker import ack as acks
from worker import endpoint_fields as check
from worker import profiles
from worker.cli_input import Json, example
from worker.cli_print import console, facts, note, say, say_json, table
from worker.profiles import Profile

app = typer.Typer(no_args_is_help=True, help="How platforms want to be told.")


@app.command("list", epilog=example("paynotify profile list"))
def list_(as_json: Json = False) -> None:
    """List the profiles there are, ready ones and your own; 1 when a table was refused."""
    shelf = profiles.load()
    if as_json:
        for profile in shelf.profiles.values():
            say_json(_document(profile))
    else:
        rows = (
            (one.name, "ready" if one.ready else "own", one.implied["scheme"], one.about)
            for one in shelf.profiles.values()
        )
        console().print(table(("NAME", "", "SCHEME", "ABOUT"), rows))
    for problem in shelf.problems:
        note(f"REFUSED  {problem}")
    if shelf.problems:
        raise typer.Exit(1)


@app.command(epilog=example("paynotify profile show epay"))
def show(
    name: Annotated[str, typer.Argument(help="Name of the profile.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show what an endpoint gets that chooses this profile."""
    profile = profiles.load().find(name)
    document = _document(profile)
    if as_json:
        say_json(document)
        return
    tables = ("fields", "options")
    plain = document | {"ready": "yes" if profile.ready else "no, your own"}
    if "schedules" in document:
        plain["schedules"] = "; ".join(
            f"{pattern}: {', '.join(map(str, plan.delays_s))}"
            for pattern, plan in check.check_schedules(profile.implied["schedules"])
        )
    console().print(facts([(key, value) for key, value in plain.items() if key not in tables]))
    for key in tables:
        pairs = document[key]
        if isinstance(pairs, dict) and pairs:
            say("")
            console().print(table((key.upper(), "HOW IT IS MADE"), pairs.items()))


def _document(profile: Profile) -> dict[str, object]:
    implied = profile.implied
    document: dict[str, object] = {
        "name": profile.name,
        "about": profile.about,
        "ready": profile.ready,
        "scheme": implied["scheme"],
        "method": implied["method"],
        "encoding": str(implied["encoding"]),
    }
    if implied["fields"]:
        document |= {"currency": implied["currency"], "zone": implied["zone"]}
    else:
        document["content_type"] = implied["content_type"]
    if "ack" in implied:
        document["ack"] = acks.text(check.check_ack(implied["ack"]))
    if "timeout_s" in implied:
        document["timeout_s"] = implied["timeout_s"]
    if "schedules" in implied:
        document["schedules"] = {
            pattern: plan.delays_s for pattern, plan in check.check_schedules(implied["schedules"])
        }
    return {**document, "fields": dict(implied["fields"]), "options": dict(implied["options"])}
