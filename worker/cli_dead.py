"""``paynotify dead …``: what was given up, and what becomes of it.

Must never resolve a letter without a person and a reason, nor stop in the middle of a page.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from worker import cli_story, deadletters, lookup
from worker.cli_input import ID_MAX, Json, Yes, confirm, desk, example, moment, need
from worker.cli_pages import Gate, progress_bar
from worker.cli_print import console, note, say, say_json, table
from worker.deadletters import Filters, Progress
from worker.errors import BadFieldError
from worker.models import Reason

if TYPE_CHECKING:
    from worker.runtime import Desk

app = typer.Typer(no_args_is_help=True, help="What was given up, and what becomes of it.")

_Id = Annotated[
    int, typer.Argument(min=1, max=ID_MAX, help="Id of the dead letter.", show_default=False)
]
_Ids = Annotated[
    list[int] | None,
    typer.Argument(min=1, max=ID_MAX, help="Ids of dead letters.", show_default=False),
]
_Endpoint = Annotated[str | None, typer.Option("--endpoint", help="Of one endpoint.")]
_Reason = Annotated[Reason | None, typer.Option("--reason", help="Why they died.")]
_Since = Annotated[
    str | None, typer.Option("--since", help="Died since: 15m, 2h, 3d, 2026-01-31T08:00:00Z.")
]
_Until = Annotated[str | None, typer.Option("--until", help="Died before; written like --since.")]
_All = Annotated[bool, typer.Option("--all", help="Every open one.")]
_Who = Annotated[str, typer.Option("--who", help="Who orders it; kept in the audit log.")]
_Why = Annotated[str, typer.Option("--why", help="Why; kept in the audit log.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count; change nothing.")]


@app.command("list", epilog=example("paynotify dead list --endpoint acme --since 2h"))
def list_(
    endpoint: _Endpoint = None,
    reason: _Reason = None,
    since: _Since = None,
    until: _Until = None,
    resolved: Annotated[
        bool, typer.Option("--all", help="Also those redriven or discarded already.")
    ] = False,
    limit: Annotated[int, typer.Option(help=f"At most, 1 to {deadletters.PAGE_MAX}.")] = 50,
    after: Annotated[
        int, typer.Option(min=0, max=ID_MAX, help="Go on after a page: the last id it showed.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """List dead letters, oldest first."""
    with desk() as at:
        filters = _filters(at, (), endpoint, reason, since, until, open_only=not resolved)
        found = deadletters.find(at.engine, filters, after_id=after, limit=limit)
    if as_json:
        for letter in found:
            say_json(cli_story.letter_document(letter))
        return
    console().print(
        table(
            ("ID", "DIED", "ENDPOINT", "ORDER", "REASON", "TRIES", "LAST", "NOTIFICATION", "THEN"),
            (
                (
                    letter.id,
                    letter.died_at,
                    letter.endpoint,
                    letter.order_no,
                    letter.reason.value,
                    letter.attempts,
                    cli_story.last_answer(letter),
                    letter.notification_id,
                    letter.resolution and f"{letter.resolution} by {letter.resolved_by}",
                )
                for letter in found
            ),
        )
    )
    if len(found) == limit:
        note(f"There may be more: add --after {found[-1].id}")


@app.command(epilog=example("paynotify dead explain 17"))
def explain(letter_id: _Id, as_json: Json = False) -> None:
    """Show how a letter's notification came to die, and what became of it."""
    with desk() as at:
        notification_id = deadletters.explain(at.engine, letter_id).notification_id
        with at.engine.connect() as connection:
            found = lookup.get(connection, notification_id)
        story = cli_story.read(at.engine, found, whole_payload=False)
    if as_json:
        say_json(cli_story.document(story))
    else:
        cli_story.show(story)


@app.command(
    epilog=example(
        'paynotify dead redrive 17 18 --who li --why "they fixed their certificate"',
        'paynotify dead redrive --endpoint acme --since 3d --rate 20 --who li --why "back online"',
    )
)
def redrive(  # noqa: PLR0913, PLR0917 - one option per field
    ids: _Ids = None,
    endpoint: _Endpoint = None,
    reason: _Reason = None,
    since: _Since = None,
    until: _Until = None,
    every: _All = False,
    rate: Annotated[
        float,
        typer.Option(help=f"Most that are sent in a second, up to {deadletters.RATE_MAX_PER_S:g}."),
    ] = 50.0,
    out_of_order: Annotated[
        bool,
        typer.Option("--out-of-order", help="Also those a newer one of their key has overtaken."),
    ] = False,
    who: _Who = "",
    why: _Why = "",
    dry_run: _DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Send dead letters again, each with a fresh budget of tries; again is harmless.

    One that a newer notification of its ordering key has overtaken is left alone, and counted.
    """
    deadletters.check_rate(rate)
    with desk() as at:
        filters = _chosen(at, ids, endpoint, reason, since, until, every)

        def work(on_progress: Callable[[Progress], None], wait: Callable[[float], None]) -> int:
            return deadletters.redrive(
                at.store,
                at.engine,
                filters=filters,
                who=who,
                why=why,
                rate_per_s=rate,
                out_of_order=out_of_order,
                on_progress=on_progress,
                wait=wait,
            )

        skip = dry_run and not out_of_order
        skipped = deadletters.count_overtaken(at.engine, filters) if skip else 0
        _resolve(at, filters, "redriven", work, (who, why), dry_run, yes, as_json, skipped=skipped)


@app.command(
    epilog=example('paynotify dead discard --endpoint old-shop --who li --why "contract ended"')
)
def discard(
    ids: _Ids = None,
    endpoint: _Endpoint = None,
    reason: _Reason = None,
    since: _Since = None,
    until: _Until = None,
    every: _All = False,
    who: _Who = "",
    why: _Why = "",
    dry_run: _DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Close dead letters for good: their notifications are cancelled."""
    with desk() as at:
        filters = _chosen(at, ids, endpoint, reason, since, until, every)

        def work(on_progress: Callable[[Progress], None], _: Callable[[float], None]) -> int:
            return deadletters.discard(
                at.store, at.engine, filters=filters, who=who, why=why, on_progress=on_progress
            )

        _resolve(at, filters, "discarded", work, (who, why), dry_run, yes, as_json)


_Work = Callable[[Callable[[Progress], None], Callable[[float], None]], int]


def _resolve(
    at: "Desk",
    filters: Filters,
    done_word: str,
    work: _Work,
    person: tuple[str, str],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    *,
    skipped: int = 0,
) -> None:
    total = deadletters.count(at.engine, filters)
    if dry_run:
        count = total - skipped
        if as_json:
            say_json({"would_be": done_word, "count": count, **_left(skipped)})
        else:
            say(f"{_letters(count)} would be {done_word}; nothing was changed")
            _tell_overtaken(skipped)
        return
    need(person[0], "--who", "li")
    need(person[1], "--why", '"they are back"')
    if total:
        confirm(f"{_letters(total)} will be {done_word}. Go on?", yes=yes)
    reached = left = 0
    try:
        with progress_bar(total) as draw, Gate() as gate:

            def advance(progress: Progress) -> None:
                nonlocal reached, left
                reached, left = progress.done, progress.overtaken
                draw(progress.seen)
                gate.check()

            count = work(advance, gate.wait)
    except KeyboardInterrupt:
        note(
            f"Stopped after {reached} of {total}; these stay {done_word}. "
            "Run the same command again to go on with the rest."
        )
        raise typer.Exit(130) from None
    if as_json:
        say_json({"done": done_word, "count": count, **_left(left)})
    else:
        say(f"{_letters(count)} {done_word}")
        _tell_overtaken(left)


def _left(count: int) -> dict[str, int]:
    return {"overtaken": count} if count else {}


def _tell_overtaken(count: int) -> None:
    if count:
        note(
            f"{_letters(count)} left: a newer notification of the same ordering key was sent. "
            "Discard them, or add --out-of-order to send them all the same."
        )


def _letters(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


def _chosen(
    at: "Desk",
    ids: list[int] | None,
    endpoint: str | None,
    reason: Reason | None,
    since: str | None,
    until: str | None,
    every: bool,
) -> Filters:
    if not (ids or endpoint or reason or since or until or every):
        raise BadFieldError(
            "ids", "say which: ids, or --endpoint, --reason, --since, --until, or --all"
        )
    return _filters(at, tuple(ids or ()), endpoint, reason, since, until, open_only=True)


def _filters(
    at: "Desk",
    ids: tuple[int, ...],
    endpoint: str | None,
    reason: Reason | None,
    since: str | None,
    until: str | None,
    *,
    open_only: bool,
) -> Filters:
    now = at.store.now()
    return Filters(
        ids=ids,
        endpoint=endpoint,
        reason=reason,
        since=moment(since, "--since", now=now),
        until=moment(until, "--until", now=now),
        open_only=open_only,
    )
