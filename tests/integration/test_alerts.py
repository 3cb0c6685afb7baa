"""Alerts as rows: what is opened, told, escalated, silenced and ended, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, update

from schedules.alert_rules import Book
from tests.alarms import (
    SHIPPED,
    alerts_of,
    at,
    count_up,
    minutes,
    notices_of,
    now_of,
    shipped,
    written,
)
from tests.seeding import add_lane, change_lane
from worker import alerts, tables
from worker.errors import NotFoundError, WrongStateError
from worker.incidents import Conduct, Severity, Silence, Trip
from worker.tables_alerts import rollup
from worker.tables_schedules import sweep

LOG = '[[sink]]\nname = "log"\nkind = "log"\n'
DEAD = f'{LOG}[[rule]]\nname = "dead"\nmeasure = "dead_letters"\nthreshold = 1\nwindow_s = 60\n'


def dead_at(engine: Engine, when: datetime, count: int = 1) -> None:
    count_up(engine, 1, when, dead=count)


def occasions(engine: Engine) -> list[str]:
    return [row.occasion for row in notices_of(engine)]


def test_two_evaluations_at_once_open_one_alert_and_tell_it_once(
    engine: Engine, tmp_path: Path
) -> None:
    book, now = written(tmp_path, DEAD), now_of(engine)
    dead_at(engine, now)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: at(engine, book, now).opened, range(4)))
    assert sum(done) == 1
    assert len(alerts_of(engine)) == 1
    assert occasions(engine) == ["raised"]
    with ThreadPoolExecutor(4) as pool:
        over = list(pool.map(lambda _: at(engine, book, now + minutes(10)).resolved, range(4)))
    assert sum(over) == 1
    assert occasions(engine) == ["raised", "resolved"]


def test_two_thousand_failing_endpoints_are_one_alert_in_the_end(
    engine: Engine, tmp_path: Path
) -> None:
    """Everything that can go wrong with merchants does at once, under all shipped rules."""
    book, now = shipped(tmp_path), now_of(engine)
    ids = range(1, 2001)
    minute = now.replace(second=0, microsecond=0)
    with engine.begin() as tx:
        tx.execute(
            insert(tables.endpoint),
            [
                {
                    "id": i,
                    "name": f"m{i}",
                    "merchant": f"m{i}",
                    "url": "https://a.com/",
                    "config": "",
                }
                for i in ids
            ],
        )
        tx.execute(
            insert(tables.lane),
            [
                {
                    "endpoint_id": i,
                    "slow": True,
                    "failures_in_row": 20,
                    "open_until": now + minutes(1),
                }
                for i in ids
            ],
        )
        tx.execute(
            insert(rollup),
            [
                {"minute_at": minute, "endpoint_id": i, "worker": "w", "failed": 30, "dead": 1}
                for i in ids
            ],
        )
    enabled = replace(
        book, rules=tuple(rule for rule in book.rules if rule.name != "endpoint-dead-letters")
    )
    assert at(engine, enabled, now).opened == 1
    for later in range(1, 10):
        count_up(engine, 0, now + minutes(later))  # the workers live
        assert at(engine, enabled, now + minutes(later)).opened == 0
    [row] = alerts_of(engine)
    assert (row.rule, row.severity) == ("everything-fails", "critical")
    assert row.summary.startswith("2000 of 2000 endpoints")


def test_many_subjects_of_one_rule_are_one_alert_that_says_how_many(
    engine: Engine, tmp_path: Path
) -> None:
    book, now = written(tmp_path, _rule("endpoint_failures", "0.3")), now_of(engine)
    for number in range(8):
        count_up(engine, add_lane(engine, f"shop-{number}"), now, failed=20 + number)
    assert at(engine, book, now).opened == 1
    [row] = alerts_of(engine)
    assert (row.subject, row.subjects) == ("*", 8)
    assert row.summary.startswith("8 at once: shop-7, shop-6, shop-5 and 5 more. First: 27 of 27")
    assert at(engine, book, now + minutes(30)).resolved == 1


def _rule(measure: str, threshold: str, **fields: object) -> str:
    rest = "".join(f"{name} = {value}\n" for name, value in fields.items())
    return f'{LOG}[[rule]]\nname = "r"\nmeasure = "{measure}"\nthreshold = {threshold}\n{rest}'


def test_an_endpoint_on_its_way_to_an_open_breaker_gets_worse_step_by_step(
    engine: Engine, tmp_path: Path
) -> None:
    book = written(tmp_path, _rule("failures_in_row", "[50, 70, 90, 100]"))
    now = now_of(engine)
    lane = add_lane(engine, slow=True)
    seen = []
    for failures in (9, 10, 13, 14, 18, 20, 12):
        change_lane(engine, lane, failures_in_row=failures)
        at(engine, book, now)
        rows = alerts_of(engine)
        seen.append((rows[0].threshold, rows[0].severity) if rows else None)
    assert seen == [
        None,
        ("50", "warning"),
        ("50", "warning"),
        ("70", "warning"),
        ("90", "warning"),
        ("100", "critical"),
        ("50", "critical"),
    ]
    assert occasions(engine) == ["raised", "escalated", "escalated", "escalated"]


def test_what_nobody_takes_up_is_escalated_and_what_somebody_does_is_not(
    engine: Engine, tmp_path: Path
) -> None:
    book = written(tmp_path, _rule("endpoint_dead_letters", "1", escalate_after_s=600))
    now = now_of(engine)
    for name in ("acme", "globex"):
        count_up(engine, add_lane(engine, name), now + minutes(10), dead=1)
        count_up(engine, {"acme": 1, "globex": 2}[name], now, dead=1)
    at(engine, book, now)
    taken = alerts.acknowledge(engine, alerts_of(engine)[0].id, who="li", now=now)
    assert taken.acknowledged_by == "li"
    assert at(engine, book, now + minutes(10)).escalated == 1
    assert at(engine, book, now + minutes(11)).escalated == 0
    assert sorted(row.severity for row in alerts_of(engine)) == ["critical", "warning"]
    again = alerts.acknowledge(engine, taken.id, who="wang", now=now)
    assert again.acknowledged_by == "li"
    with engine.connect() as connection:
        rows = connection.execute(select(tables.audit.c.actor, tables.audit.c.action)).all()
    assert [tuple(row) for row in rows] == [("li", "alert.acknowledged")]


def test_an_alert_that_is_over_or_unknown_cannot_be_taken_up(
    engine: Engine, tmp_path: Path
) -> None:
    book, now = written(tmp_path, DEAD), now_of(engine)
    dead_at(engine, now)
    at(engine, book, now)
    at(engine, book, now + minutes(10))
    with pytest.raises(WrongStateError, match="is over"):
        alerts.acknowledge(engine, alerts_of(engine)[0].id, who="li", now=now)
    with pytest.raises(NotFoundError):
        alerts.acknowledge(engine, 999, who="li", now=now)


def test_what_is_silenced_is_told_when_the_silence_ends_and_it_still_lasts(
    engine: Engine, tmp_path: Path
) -> None:
    book, now = written(tmp_path, DEAD), now_of(engine)
    silence = Silence(rule="dead", subject="*")
    until = now + minutes(5)
    silence_id = alerts.keep_silent(engine, silence, until=until, who="li", why="x", now=now)
    dead_at(engine, now)
    at(engine, book, now)
    assert (len(alerts_of(engine)), occasions(engine)) == (1, [])
    dead_at(engine, now + minutes(5))
    at(engine, book, now + minutes(5))
    assert occasions(engine) == ["raised"]
    with pytest.raises(NotFoundError):
        alerts.end_silence(engine, silence_id, who="li", now=now + minutes(6))


CONDUCT = Conduct(rule="r", measure="m", steps=2)


def _trip(step: int) -> Trip:
    return Trip(subject="", value="9", threshold="5", summary="nine", step=step)


def test_what_gets_worse_during_a_silence_is_told_once_when_it_ends(engine: Engine) -> None:
    now, silence = now_of(engine), Silence(rule="*", subject="*")
    alerts.settle(engine, CONDUCT, [_trip(0)], now=now)
    alerts.keep_silent(engine, silence, until=now + minutes(5), who="li", why="x", now=now)
    for minute in range(1, 5):
        alerts.settle(engine, CONDUCT, [_trip(1)], now=now + minutes(minute))
    assert occasions(engine) == ["raised"]
    # Half of the way back is no other incident: how bad it was is told all the same.
    for minute in range(5, 10):
        alerts.settle(engine, CONDUCT, [_trip(0)], now=now + minutes(minute))
    assert occasions(engine) == ["raised", "escalated"]
    assert notices_of(engine)[1].text.startswith("[critical, escalated]")


def test_what_gets_worse_and_was_not_taken_up_only_gets_more_severe(engine: Engine) -> None:
    now = now_of(engine)
    slow = replace(CONDUCT, severity=Severity.INFO, escalate_after_s=600, steps=3)
    severities = []
    # Raised, critical by its last step when it is overdue; then nothing takes it back.
    for minute, step in ((0, 0), (11, 2), (12, 2), (30, 1)):
        alerts.settle(engine, slow, [_trip(step)], now=now + minutes(minute))
        severities.append(alerts_of(engine)[0].severity)
    assert severities == ["info", "critical", "critical", "critical"]
    assert occasions(engine) == ["raised", "escalated"]


def test_a_step_does_not_take_back_what_time_made_more_severe(engine: Engine) -> None:
    now = now_of(engine)
    slow = replace(CONDUCT, escalate_after_s=600, steps=3)
    for minute, step in ((0, 0), (11, 0), (12, 1)):
        alerts.settle(engine, slow, [_trip(step)], now=now + minutes(minute))
    assert [row.severity for row in alerts_of(engine)] == ["critical"]
    assert occasions(engine) == ["raised", "escalated", "escalated"]


def test_the_end_of_what_nobody_was_told_is_not_told(engine: Engine, tmp_path: Path) -> None:
    book, now = written(tmp_path, DEAD), now_of(engine)
    silence = Silence(rule="*", subject="*")
    alerts.keep_silent(engine, silence, until=now + minutes(60), who="li", why="x", now=now)
    dead_at(engine, now)
    at(engine, book, now)
    assert at(engine, book, now + minutes(10)).resolved == 1
    assert occasions(engine) == []


def test_flapping_opens_at_most_so_many_alerts_an_hour(engine: Engine, tmp_path: Path) -> None:
    flapping = _rule("beat_silent_s", "60", cool_down_s=60, per_hour=3)
    book, now = written(tmp_path, flapping), now_of(engine)

    with engine.begin() as tx:
        tx.execute(insert(sweep).values(name="beat", beat_at=now))
    for minute in range(180):
        moment = now + minutes(minute)
        # Three minutes of silence, three of life.
        if minute % 6 < 3:
            with engine.begin() as tx:
                tx.execute(update(sweep).values(beat_at=moment))
        at(engine, book, moment)
    opened = [row.opened_at for row in alerts_of(engine)]
    assert 6 <= len(opened) <= 9
    for first in opened:
        assert sum(first <= each < first + minutes(60) for each in opened) <= 3


def test_alerts_of_a_rule_that_was_taken_away_end_quietly(engine: Engine, tmp_path: Path) -> None:
    book, now = written(tmp_path, DEAD), now_of(engine)
    dead_at(engine, now)
    at(engine, book, now)
    without = written(tmp_path, DEAD.replace('"dead"', '"other"').replace("= 1", "= 9"))
    assert at(engine, without, now + minutes(1)).resolved == 1
    assert alerts_of(engine)[0].resolved_at is not None
    assert occasions(engine) == ["raised"]


def test_alerts_of_a_rule_that_cannot_be_read_stay_open(engine: Engine, tmp_path: Path) -> None:
    now = now_of(engine)
    dead_at(engine, now)
    at(engine, written(tmp_path, DEAD), now)
    for broken in (DEAD.replace("threshold", "treshold"), DEAD.replace("= 1", "= ")):
        book = written(tmp_path, broken)
        assert book.refused
        at(engine, book, now + minutes(60))
    assert alerts_of(engine)[0].resolved_at is None


@pytest.mark.parametrize("head", ["[[rules]]", "[rule]", "[[rule]", '[["rule"]]', ""])
def test_a_mistyped_head_or_an_emptied_file_ends_no_alert(
    head: str, engine: Engine, tmp_path: Path
) -> None:
    now = now_of(engine)
    dead_at(engine, now)
    at(engine, written(tmp_path, DEAD), now)
    entry = DEAD.removeprefix(LOG)
    other = entry.replace('"dead"', '"other"').replace("= 1", "= 9")
    for before in (LOG, LOG + other):
        edited = before + entry.replace("[[rule]]", head) if head else ""
        assert at(engine, written(tmp_path, edited), now + minutes(60)).resolved == 0
    assert at(engine, written(tmp_path, LOG), now + minutes(60)).resolved == 0
    assert alerts_of(engine)[0].resolved_at is None


def test_a_measure_that_fails_does_not_hinder_the_others(engine: Engine, tmp_path: Path) -> None:
    book, now = shipped(tmp_path), now_of(engine)
    with engine.begin() as tx:
        tx.exec_driver_sql("ALTER TABLE paynotify_recon_evidence RENAME TO gone_away")
    dead_at(engine, now, 20)
    assert at(engine, book, now).failed == 1
    assert {row.rule for row in alerts_of(engine)} == {"dead-letters", "endpoint-dead-letters"}


def test_a_summary_that_quotes_a_card_number_is_masked(engine: Engine, tmp_path: Path) -> None:
    book: Book = written(tmp_path, _rule("endpoint_dead_letters", "1"))
    now = now_of(engine)
    count_up(engine, add_lane(engine, "4111111111111111"), now, dead=1)
    at(engine, book, now)
    assert "4111111111111111" not in notices_of(engine)[0].text


def test_a_notice_cannot_steer_a_terminal(engine: Engine) -> None:
    odd = replace(_trip(0), subject="a\x1b[2J\u202e\x7f成功")
    alerts.settle(engine, CONDUCT, [odd], now=now_of(engine))
    text = notices_of(engine)[0].text
    assert text.isprintable()
    assert "a\\x1b[2J\\u202e\\x7f成功" in text


def test_the_shipped_rules_find_nothing_wrong_with_an_empty_database(
    engine: Engine, tmp_path: Path
) -> None:
    assert SHIPPED.exists()
    done = at(engine, shipped(tmp_path), now_of(engine))
    assert (done.rules, done.failed, done.open) == (21, 0, 0)
