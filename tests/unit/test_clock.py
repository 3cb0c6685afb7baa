"""Time comes from one place, so a test can hold it still."""

from datetime import UTC, datetime

import pytest
from freezegun import freeze_time

from worker import clock
from worker.judging import judged
from worker.models import Claimed, Endpoint, Pool, Reply, Schedule
from worker.settler import Batch, Sent

CLAIMED = Claimed(
    id=1,
    lane_id=1,
    endpoint_id=1,
    config_no=1,
    attempt_no=1,
    tries=1,
    claim_no=1,
    troubled=False,
    message_id="msg_1",
    event_type="payment.succeeded",
    event_key="k",
    order_no=None,
    payload=b"{}",
    content_type=None,
    headers=(),
    notify_url=None,
    schedule=None,
    trace_id=None,
    expires_in_s=None,
)


@freeze_time("2026-03-29 01:59:59")
def test_all_readings_are_of_the_same_frozen_moment() -> None:
    assert clock.now() == datetime(2026, 3, 29, 1, 59, 59, tzinfo=UTC)
    assert clock.unix_s() == 1774749599


@freeze_time("2026-01-01 12:00:00")
def test_an_http_date_in_retry_after_is_measured_from_now() -> None:
    endpoint = Endpoint(id=1, name="acme", merchant="acme", url="https://acme.com/")
    sent = Sent(CLAIMED, endpoint, 1, Batch(1, Pool.FAST, capped=False), 0.0)
    reply = Reply(status=503, retry_after="Thu, 01 Jan 2026 12:10:00 GMT")
    settlement = judged(
        sent,
        reply,
        schedule=Schedule(delays_s=(60,), jitter_ratio=0.0),
        terminal_statuses=(),
        retry_after_max_s=21_600,
    )
    assert settlement.verdict.delay_s == pytest.approx(600)


@pytest.mark.parametrize("moment", ["1970-01-01 00:00:00.000001", "2100-02-28 23:59:59.999999"])
def test_a_moment_survives_the_way_into_microseconds_and_back(moment: str) -> None:
    with freeze_time(moment):
        now = clock.now()
    assert clock.from_us(clock.to_us(now)) == now
