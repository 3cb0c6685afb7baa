"""Rules are evaluated though no beat runs: by one worker, and only then."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from schedules import alert_delivery, alert_evaluation, alert_rounds
from schedules.alert_watch import Watch
from tests.alarms import SHIPPED, alerts_of, minutes, notices_of, now_of
from tests.office import office
from worker.runtime import Desk
from worker.tables_schedules import sweep


class _Minute:
    left_s = 60.0


@pytest.fixture
def desk(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    (tmp_path / "paynotify.toml").write_text("")
    (tmp_path / "alerts.toml").write_text(SHIPPED.read_text())
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(tmp_path / "paynotify.toml"))
    with office(dsn, start=False) as working:
        yield working.desk


def test_one_worker_takes_over_an_evaluation_that_did_not_come(engine: Engine) -> None:
    now = now_of(engine)
    assert not alert_rounds.take_round(engine, now=now)
    alert_rounds.note_round(engine, now=now)
    assert not alert_rounds.take_round(engine, now=now + minutes(2))
    with ThreadPoolExecutor(4) as pool:
        taken = pool.map(lambda _: alert_rounds.take_round(engine, now=now + minutes(3)), range(4))
        assert sum(taken) == 1
    assert alert_rounds.last_round(engine) == now + minutes(3)


def test_a_beat_that_died_is_told_of_by_a_worker(desk: Desk) -> None:
    silent_since = desk.store.now() - minutes(10)
    with desk.engine.begin() as tx:
        tx.execute(insert(sweep).values(name="beat", beat_at=silent_since))
        tx.execute(insert(sweep).values(name=alert_rounds.NAME, beat_at=silent_since))
    watch = Watch(desk)
    assert watch.once()
    assert not watch.once()
    [row] = alerts_of(desk.engine)
    assert (row.rule, row.severity) == ("beat-silent", "critical")
    [notice] = notices_of(desk.engine)
    assert (notice.sink, notice.state) == ("log", "sent")


def test_the_jobs_say_in_one_line_what_they_did_and_keep_the_watch_quiet(desk: Desk) -> None:
    said = alert_evaluation.run(desk, {}, _Minute())
    assert said == "20 rules: 0 opened, 0 escalated, 0 resolved, 0 open"
    assert alert_delivery.run(desk, {}, _Minute()) == "nothing is due"
    assert not Watch(desk).once()
