"""Measures of what runs by the clock, of the channels, and of cases nobody has taken up.

Must never read more than the newest answers of a channel: their number grows for ever.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, literal, or_, select, text

from schedules.readings import SUBJECTS_MAX, Measure, Question, Reading, percent, span
from worker.tables_orders import evidence, recon_case
from worker.tables_schedules import sweep, tick

# The newest answers of all channels, the window's and the usual ones together.
_ANSWERS_MAX = 20_000
# As their index says it, so that a plan can use it.
_OPEN_TICK = text("paynotify_tick.state IN ('due', 'running')")
# The row in which beats give signs of life.
_BEAT = "beat"
_CASES_MAX = 10_000
# How the evidence calls a channel's answer that said nothing: timeout, 5xx, bad signature, ...
_UNCLEAR = "unknown"


def _age_s(now: datetime, moment: datetime) -> int:
    return max(0, int((now - moment).total_seconds()))


def _beat_silent(connection: Connection, question: Question) -> Sequence[Reading]:
    """Seconds since any beat gave a sign of life; nothing where none ever ran."""
    seen_at = connection.scalar(select(sweep.c.beat_at).where(sweep.c.name == _BEAT))
    if seen_at is None:
        return []
    quiet_s = _age_s(question.now, seen_at)
    return [
        Reading(
            value=quiet_s,
            summary=f"no beat was heard of for {span(quiet_s)}; start `paynotify beat`",
        )
    ]


def _ticks_late(connection: Connection, question: Question) -> Sequence[Reading]:
    """Age of a schedule's oldest tick that nobody runs, seconds."""
    oldest = func.min(tick.c.tick_at)
    rows = connection.execute(
        select(tick.c.name, oldest)
        .where(
            _OPEN_TICK,
            tick.c.tick_at < question.now,
            or_(tick.c.lease_until.is_(None), tick.c.lease_until < question.now),
        )
        .group_by(tick.c.name)
        .order_by(oldest)
        .limit(SUBJECTS_MAX)
    ).all()
    return [
        Reading(
            subject=name,
            value=_age_s(question.now, tick_at),
            summary=f"nobody has run it for {span(_age_s(question.now, tick_at))}",
        )
        for name, tick_at in rows
    ]


def _sweeps_silent(connection: Connection, question: Question) -> Sequence[Reading]:
    """Seconds since the last batch of a sweep that is in the middle of its round."""
    beat_at = func.coalesce(sweep.c.beat_at, sweep.c.round_started_at)
    rows = connection.execute(
        select(sweep.c.name, beat_at, sweep.c.last_error)
        .where(
            sweep.c.round_started_at.is_not(None),
            or_(
                sweep.c.round_finished_at.is_(None),
                sweep.c.round_finished_at < sweep.c.round_started_at,
            ),
        )
        .order_by(sweep.c.name)
        .limit(SUBJECTS_MAX)
    ).all()
    return [
        Reading(
            subject=name,
            value=_age_s(question.now, moment),
            summary=f"it has stood still in its round for {span(_age_s(question.now, moment))}"
            + (f"; last error: {error}" if error else ""),
        )
        for name, moment, error in rows
    ]


def _channel_failures(connection: Connection, question: Question) -> Sequence[Reading]:
    """How much more of a channel's answers are unclear than usual, 0 to 1."""
    newest = (
        select(
            evidence.c.at,
            evidence.c.channel,
            (evidence.c.at >= question.since).label("fresh"),
            (evidence.c.decision == _UNCLEAR).label("unclear"),
        )
        .order_by(evidence.c.id.desc())
        .limit(_ANSWERS_MAX)
        .subquery()
    )
    rows = connection.execute(
        select(newest.c.channel, newest.c.fresh, newest.c.unclear, func.count())
        .where(newest.c.at >= question.usual_since)
        .group_by(newest.c.channel, newest.c.fresh, newest.c.unclear)
    )
    counts: Counter[tuple[str, bool, bool]] = Counter()
    for channel, fresh, unclear, count in rows:
        counts[channel, bool(fresh), bool(unclear)] = count
    readings = []
    for channel in sorted({key[0] for key in counts}):
        now_bad, now_all = _share(counts, channel, fresh=True)
        bad, total = _share(counts, channel, fresh=False)
        if now_all < question.minimum:
            continue
        ratio = now_bad / now_all
        usual = bad / total if total >= question.minimum else 0.0
        readings.append(
            Reading(
                subject=channel,
                value=round(max(0.0, ratio - usual), 4),
                summary=(
                    f"{now_bad} of {now_all} questions had no clear answer within "
                    f"{span(question.window_s)} ({percent(ratio)}; usually {percent(usual)})"
                ),
            )
        )
    return readings


def _share(
    counts: Counter[tuple[str, bool, bool]], channel: str, *, fresh: bool
) -> tuple[int, int]:
    bad = counts[channel, fresh, True]
    return bad, bad + counts[channel, fresh, False]


def _old_cases(connection: Connection, question: Question) -> Sequence[Reading]:
    few = (
        select(literal(1))
        .where(
            recon_case.c.resolved_at.is_(None),
            recon_case.c.opened_at < question.now - timedelta(seconds=question.window_s),
        )
        .limit(_CASES_MAX)
        .subquery()
    )
    count = connection.execute(select(func.count()).select_from(few)).scalar_one()
    age = span(question.window_s)
    return [
        Reading(
            value=count,
            summary=f"{count} cases have been open for more than {age}; see `paynotify case list`",
        )
    ]


MEASURES = (
    Measure(name="beat_silent_s", unit="seconds", subject="", take=_beat_silent),
    Measure(name="ticks_late_s", unit="seconds", subject="schedule", take=_ticks_late),
    Measure(name="sweeps_silent_s", unit="seconds", subject="sweep", take=_sweeps_silent),
    Measure(
        name="channel_failures",
        unit="share of answers above the usual share",
        subject="channel",
        take=_channel_failures,
    ),
    Measure(name="old_cases", unit="cases", subject="", take=_old_cases),
)
