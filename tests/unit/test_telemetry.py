"""One event, one line; no secret in it; metrics that a scraper can read."""

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from prometheus_client import REGISTRY

from worker import telemetry
from worker.telemetry import Event, Form, Level, configure, log, serve_metrics

HOSTILE = [
    '\n{"level":"info","event":"worker.stopped"}',
    "\r\nfaked",
    "\x1b[31mred\x1b[0m",
    "\u2028\u2029\x85\x0b\x0c",
    "\0\x7f\x9b",
    "\u202eevil",
    "\udc80",
    "\U000e0001",
]


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def sink(form: Form = "json", level: Level = "info") -> io.StringIO:
    stream = io.StringIO()
    configure(level, form, stream)
    # Half a surrogate in pytest's own copy of a line cannot be sent to the process that reports.
    root = logging.getLogger()
    root.handlers[:] = [each for each in root.handlers if getattr(each, "stream", None) is stream]
    return stream


def fail(message: str) -> None:
    raise ValueError(message)


def test_an_event_is_one_json_object_with_its_facts() -> None:
    stream = sink()
    log(Event.RELEASED, level="warning", again=3, why="租约到期")
    line = json.loads(stream.getvalue())
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\d\+00:00", line.pop("at"))
    assert line == {"level": "warning", "event": "lease.released", "again": 3, "why": "租约到期"}
    assert "租约到期" in stream.getvalue()


def test_text_form_is_one_line_for_people() -> None:
    stream = sink("text")
    log(Event.RELEASED, level="warning", again=3, why='it "said" so', url="https://m.com/cb")
    line = stream.getvalue().split(" ", 1)[1]
    assert line == ('warning lease.released again=3 why="it \\"said\\" so" url=https://m.com/cb\n')


def test_an_event_without_facts_is_a_line_too() -> None:
    stream = sink("text")
    log(Event.WORKER_STARTED)
    assert stream.getvalue().endswith(" info    worker.started\n")


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("evil", HOSTILE)
def test_a_hostile_value_cannot_break_out_of_its_line(form: Form, evil: str) -> None:
    stream = sink(form)
    log(Event.UNSENDABLE, why=evil)
    logging.getLogger("celery").warning("reply %s", evil)
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    for line in text.split("\n")[:2]:
        assert line.isprintable()
        if form == "json":
            facts = json.loads(line)
            assert facts.get("why", evil) == evil
            assert facts.get("message", f"reply {evil}") == f"reply {evil}"


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_sink_shows_a_secret_or_a_card_number(form: Form) -> None:
    stream = sink(form)
    log(
        Event.UNSENDABLE,
        secret="two words topSecret",
        why="Authorization: Bearer topSecret1 and whsec_topSecret2",
        url="https://m.com/cb?sign=topSecret3",
        dsn="postgresql://app:topSecret4@db/pay",
        nested={"password": "top Secret5 topSecret6"},
        card="4111 1111 1111 1111",
        order_no="20260101120000123456",
    )
    other = logging.getLogger("other")
    other.warning("%s%s token=topSecret7", "41111111", "11111111")
    try:
        fail("password='topSecret8' 4111-1111-1111-1111")
    except ValueError:
        other.exception("sign=topSecret9")
    text = stream.getvalue()
    assert "topSecret" not in text
    assert "1111111111" not in re.sub(r"[ -]", "", text)
    assert "20260101120000123456" in text
    assert len(text.splitlines()) == 3


def test_a_traceback_stays_in_its_line() -> None:
    stream = sink()
    try:
        fail("broken")
    except ValueError:
        logging.getLogger("other").exception("it broke")
    line = json.loads(stream.getvalue())
    assert line["message"] == "it broke"
    assert line["traceback"].endswith("ValueError: broken")
    assert (line["level"], line["logger"]) == ("error", "other")


def test_a_field_cannot_pose_as_the_head_of_the_line() -> None:
    stream = sink()
    log(Event.RELEASED, at="yesterday", logger="root")
    line = json.loads(stream.getvalue())
    assert line["event"] == "lease.released"
    assert line["at"] != "yesterday"


def test_lines_below_the_level_are_not_written() -> None:
    stream = sink(level="warning")
    log(Event.WORKER_STARTED)
    log(Event.RELEASED, level="debug")
    assert stream.getvalue() == ""
    log(Event.RELEASED, level="error")
    assert stream.getvalue() != ""


def test_configuring_again_replaces_the_handler() -> None:
    first = sink()
    second = sink("text")
    log(Event.WORKER_STARTED)
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


def test_importing_starts_no_thread_and_adds_no_handler() -> None:
    script = (
        "import worker.telemetry, threading, logging;"
        "print(threading.active_count(), logging.getLogger().handlers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1 []\n"


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_counting_moves_the_metrics_by_what_happened() -> None:
    names = {
        "paynotify_claims_total": 1,
        "paynotify_claimed_total": 200,
        "paynotify_stale_settles_total": 3,
        "paynotify_settle_retries_total": 1,
        "paynotify_abandoned_attempts_total": 4,
        "paynotify_guard_refusals_total": 1,
    }
    before = {name: value(name) for name in names}
    settled = value("paynotify_settled_total", decision="retry")
    bells = value("paynotify_bells_total", result="rung")
    telemetry.count_claim(200)
    telemetry.count_settled(["delivered", "retry", "retry"], 2)
    telemetry.count_stale()
    telemetry.count_settle_retry()
    telemetry.count_abandoned(4)
    telemetry.count_refusal()
    telemetry.count_bell("rung")
    assert {name: value(name) - before[name] for name in names} == names
    assert value("paynotify_settled_total", decision="retry") - settled == 2
    assert value("paynotify_bells_total", result="rung") - bells == 1


def test_series_exist_before_anything_happens() -> None:
    for decision in ("delivered", "retry", "dead", "hold"):
        sample = REGISTRY.get_sample_value("paynotify_settled_total", {"decision": decision})
        assert sample is not None


def test_gauges_show_the_present() -> None:
    telemetry.show_in_flight(lambda: 7)
    telemetry.show_broker_away(away=True)
    assert value("paynotify_in_flight") == 7
    assert value("paynotify_broker_away") == 1
    telemetry.show_broker_away(away=False)
    assert value("paynotify_broker_away") == 0


def test_metric_names_follow_the_convention() -> None:
    ours = [metric for metric in REGISTRY.collect() if metric.name.startswith("paynotify")]
    assert len(ours) >= 10
    for metric in ours:
        assert metric.documentation
        for sample in metric.samples:
            if metric.type == "counter":
                assert sample.name.endswith(("_total", "_created"))


def test_a_second_process_serves_metrics_on_the_port_behind() -> None:
    port, close = serve_metrics(0)
    try:
        second, close_second = serve_metrics(port)
        try:
            assert second > port
            with urlopen(f"http://127.0.0.1:{second}/metrics") as page:
                assert b"paynotify_claims_total" in page.read()
        finally:
            close_second()
        with pytest.raises(OSError, match="in use"):
            serve_metrics(port, tries=1)
    finally:
        close()


def test_an_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(OSError, match="assign"):
        serve_metrics(0, address="192.0.2.1")
