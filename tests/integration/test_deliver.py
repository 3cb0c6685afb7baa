"""The story of a delivery against a real merchant, on both databases."""

from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from sqlalchemy import Engine, text
from standardwebhooks import Webhook

from tests.office import add_endpoint, enqueue, office, state_of, until
from tests.receiver import Receiver
from tests.seeding import age, attempts_of, letters_of, notification_of, row_of
from worker import clock
from worker.errors import SecretError
from worker.models import EndpointState, Pool, Schedule


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("merchant")) as running:
        yield running


def calls(receiver: Receiver, message_id: str) -> int:
    return sum(record.message_id == message_id for record in receiver.ledger())


def message_id(engine: Engine, notification_id: int) -> str:
    return str(notification_of(engine, notification_id).message_id)


def test_an_acked_notification_is_delivered_once_with_a_signature_that_verifies(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn) as working:
        endpoint = add_endpoint(working, receiver, ack="200 exact:success")
        row_id = enqueue(working, endpoint, "k1", payload={"amount": 100, "名": "会员"})
        until(lambda: state_of(working, row_id) == "delivered")
    mine = message_id(engine, row_id)
    [record] = [r for r in receiver.ledger() if r.message_id == mine]
    assert record.body == '{"amount":100,"名":"会员"}'
    assert Webhook(endpoint.secrets[0].value).verify(record.body, record.headers)
    [attempt] = attempts_of(engine, row_id)
    assert (attempt.outcome, attempt.status, attempt.evidence) == ("acked", 200, "success")
    assert (attempt.remote_ip, attempt.secret_version) == ("127.0.0.1", 1)


def test_a_200_without_the_merchants_word_is_asked_again_a_minute_later(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn) as working:
        endpoint = add_endpoint(working, receiver, "/fail", ack="200 exact:success")
        row_id = enqueue(working, endpoint, "k2")
        until(lambda: state_of(working, row_id) == "waiting")
        wait_s = (row_of(engine, row_id).due_at - working.desk.store.now()).total_seconds()
        assert 55 < wait_s <= 66
        [attempt] = attempts_of(engine, row_id)
        assert (attempt.outcome, attempt.status, attempt.evidence) == ("not_acked", 200, "fail")


def test_tries_used_up_make_a_dead_letter_and_a_redrive_delivers_it(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn) as working:
        receiver.control("mended", 500)
        endpoint = add_endpoint(
            working, receiver, "/toggle/mended", schedules=Schedule(delays_s=(1, 1))
        )
        row_id = enqueue(working, endpoint, "k3")
        for tries in (1, 2):
            until(lambda tries=tries: row_of(engine, row_id).attempt_no == tries)  # type: ignore[misc]
            until(lambda: state_of(working, row_id) == "waiting")
            age(engine, 2)
        until(lambda: state_of(working, row_id) == "dead")
        [letter] = letters_of(engine, row_id)
        assert (letter.reason, letter.attempts, letter.last_status) == ("exhausted", 3, 500)
        receiver.control("mended", 200)
        working.desk.store.redrive([letter.id], who="kim", why="mended", over_s=0)
        until(lambda: state_of(working, row_id) == "delivered")
    assert [a.attempt_no for a in attempts_of(engine, row_id)] == [1, 2, 3, 4]
    assert calls(receiver, message_id(engine, row_id)) == 4


def test_a_410_holds_the_endpoint_and_resuming_delivers_what_waited(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn) as working:
        receiver.control("gone", 410)
        endpoint = add_endpoint(working, receiver, "/toggle/gone")
        first = enqueue(working, endpoint, "k4")
        until(lambda: working.desk.endpoints.get(endpoint.id).state is EndpointState.GONE)
        until(lambda: state_of(working, first) == "pending")
        second = enqueue(working, endpoint, "k5")
        assert working.courier.deliver(Pool.FAST) == "nothing due"
        assert row_of(engine, first).tries == 0
        assert row_of(engine, second).attempt_no == 0
        receiver.control("gone", 200)
        working.desk.endpoints.resume(endpoint.name, who="kim", why="they are back")
        until(lambda: state_of(working, first) == state_of(working, second) == "delivered")
    assert calls(receiver, message_id(engine, first)) == 2
    assert calls(receiver, message_id(engine, second)) == 1


def test_retry_after_is_a_floor(engine: Engine, dsn: str, receiver: Receiver) -> None:
    with office(dsn) as working:
        endpoint = add_endpoint(working, receiver, "/503?retry_after=500")
        row_id = enqueue(working, endpoint, "k6")
        until(lambda: state_of(working, row_id) == "waiting")
        wait_s = (row_of(engine, row_id).due_at - working.desk.store.now()).total_seconds()
    assert 490 < wait_s <= 500


def test_what_expired_while_it_waited_is_buried_without_a_call(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn, start=False) as working:
        endpoint = add_endpoint(working, receiver)
        expires_at = clock.now() + timedelta(milliseconds=200)
        row_id = enqueue(working, endpoint, "k7", expires_at=expires_at)
        until(lambda: working.desk.store.now() > expires_at)
        working.start()
        until(lambda: state_of(working, row_id) == "dead")
        working.close()
    [letter] = letters_of(engine, row_id)
    assert letter.reason == "expired"
    assert [a.outcome for a in attempts_of(engine, row_id)] == ["not_sent"]
    assert calls(receiver, message_id(engine, row_id)) == 0


@pytest.mark.parametrize("path", ["/nul", "/utf8-bad", "/surrogate", "/long-line", "/huge"])
def test_no_reply_keeps_its_outcome_from_being_written(
    engine: Engine, dsn: str, receiver: Receiver, path: str
) -> None:
    with office(dsn) as working:
        endpoint = add_endpoint(working, receiver, path, ack="2xx")
        row_id = enqueue(working, endpoint, f"evidence{path}")
        until(lambda: state_of(working, row_id) == "delivered")
    [attempt] = attempts_of(engine, row_id)
    assert attempt.outcome == "acked"
    assert "\x00" not in attempt.evidence
    assert len(attempt.evidence.encode()) <= 4096


def test_a_later_time_is_kept(engine: Engine, dsn: str, receiver: Receiver) -> None:
    with office(dsn) as working:
        endpoint = add_endpoint(working, receiver)
        later = working.desk.store.now() + timedelta(hours=1)
        row_id = enqueue(working, endpoint, "k8", deliver_at=later)
        assert state_of(working, row_id) == "waiting"
        working.tick.once()
        assert state_of(working, row_id) == "waiting"
        age(engine, 3601)
        until(lambda: state_of(working, row_id) == "delivered")


def test_a_url_the_guard_forbids_by_now_is_not_called(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn, start=False) as working:
        endpoint = add_endpoint(working, receiver)
        row_id = enqueue(working, endpoint, "k9", notify_url=receiver.url("/order"))
        working.desk.endpoints.update(
            endpoint.name,
            who="kim",
            why="exception ended",
            url="https://acme.com/cb",
            allowed=type(endpoint.allowed)(),
        )
        working.start()
        until(lambda: state_of(working, row_id) == "waiting")
        working.close()
    [attempt] = attempts_of(engine, row_id)
    assert (attempt.outcome, attempt.error.split(":")[0]) == ("not_sent", "target_refused")
    assert calls(receiver, message_id(engine, row_id)) == 0


def test_a_stop_finishes_what_is_on_the_wire(engine: Engine, dsn: str, receiver: Receiver) -> None:
    with office(dsn) as working:
        endpoint = add_endpoint(working, receiver, "/slow?ms=700")
        rows = [enqueue(working, endpoint, f"stop{n}") for n in range(5)]
        until(lambda: working.courier.in_flight == 5)
        assert working.close()
        assert [row_of(engine, row).state for row in rows] == ["delivered"] * 5


def test_a_worker_with_another_master_key_refuses_to_work(dsn: str, receiver: Receiver) -> None:
    with office(dsn, start=False) as working:
        add_endpoint(working, receiver)
        working.check_key()
    with (
        office(dsn, start=False, master_key=b64encode(bytes(range(32))).decode()) as other,
        pytest.raises(SecretError, match="PAYNOTIFY_MASTER_KEY"),
    ):
        other.check_key()


def test_half_a_body_never_meets_a_rule_that_speaks_of_the_whole(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    cut = b64encode(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\nsuccess").decode()
    with office(dsn) as working:
        path = f"/raw?{urlencode({'b64': cut, 'end': 'close'})}"
        exact = add_endpoint(working, receiver, path, ack="200 exact:success")
        status = add_endpoint(working, receiver, path, ack="200")
        refused = enqueue(working, exact, "cut")
        taken = enqueue(working, status, "cut")
        until(lambda: state_of(working, refused) == "waiting")
        until(lambda: state_of(working, taken) == "delivered")
    assert attempts_of(engine, refused)[0].error == "body_truncated"


def test_a_410_of_one_orders_own_address_stops_only_that_order(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn) as working:
        endpoint = add_endpoint(working, receiver)
        stale = enqueue(working, endpoint, "stale", notify_url=receiver.url("/410"))
        until(lambda: state_of(working, stale) == "dead")
        other = enqueue(working, endpoint, "other")
        until(lambda: state_of(working, other) == "delivered")
    assert letters_of(engine, stale)[0].reason == "terminal_status"


def test_a_late_410_does_not_hold_an_endpoint_that_was_mended_meanwhile(
    dsn: str, receiver: Receiver
) -> None:
    with office(dsn, start=False) as working:
        endpoint = add_endpoint(working, receiver, "/410")
        changed = working.desk.endpoints.update(
            endpoint.name, who="kim", why="new address", url=receiver.url("/success")
        )
        assert not working.desk.endpoints.mark_gone(endpoint.id, endpoint.config_no)
        assert working.desk.endpoints.mark_gone(endpoint.id, changed.config_no)


def test_an_endpoint_this_worker_cannot_read_burns_no_try(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn, start=False) as working:
        row_id = enqueue(working, add_endpoint(working, receiver), "sealed")
    with office(dsn, master_key=b64encode(bytes(range(32))).decode()) as other:
        until(lambda: state_of(other, row_id) == "waiting")
    assert row_of(engine, row_id).tries == 0
    assert "master key" in attempts_of(engine, row_id)[0].error


def test_one_failing_step_of_a_tick_does_not_keep_the_others_from_their_turn(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn, start=False) as working:
        endpoint = add_endpoint(working, receiver)
        row_id = enqueue(
            working, endpoint, "later", deliver_at=working.desk.store.now() + timedelta(hours=1)
        )
        age(engine, 3601)
        working.courier.start()
        with engine.begin() as tx:
            # An inbox nobody can read.
            tx.exec_driver_sql("ALTER TABLE paynotify_inbox RENAME TO paynotify_outbox")
        working.tick.once()
        assert state_of(working, row_id) != "waiting"
        with engine.begin() as tx:
            tx.exec_driver_sql("ALTER TABLE paynotify_outbox RENAME TO paynotify_inbox")
        working.courier.close(timeout_s=1)


def test_a_host_never_heard_of_gets_few_calls_at_once_until_it_answers(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn, start=False) as working:
        endpoint = add_endpoint(working, receiver)
        rows = [
            enqueue(working, endpoint, f"new{n}", notify_url=receiver.url("/success"))
            for n in range(12)
        ]
        assert len(working.desk.store.claim(Pool.SLOW, limit=50, worker="w").rows) == 0
        first = working.desk.store.claim(Pool.FAST, limit=50, worker="w").rows
        assert len(first) == 4
        age(engine, 61)
        working.start()
        until(lambda: all(state_of(working, row) == "delivered" for row in rows))
        working.close()


def test_a_task_goes_on_with_a_full_lane_as_its_places_come_free(
    dsn: str, receiver: Receiver
) -> None:
    with office(dsn, start=False, linger_ms=5000) as working:
        endpoint = add_endpoint(working, receiver, in_flight_cap=1)
        for number in range(5):
            enqueue(working, endpoint, f"one-by-one-{number}")
        working.courier.start()
        assert working.courier.deliver(Pool.FAST) == f"{endpoint.name}: 5 delivered"
        working.courier.close(timeout_s=5)


def test_thousands_of_lanes_that_nothing_may_be_claimed_of_are_gone_round_once(
    postgres_engine: Engine, receiver: Receiver
) -> None:
    dsn = postgres_engine.url.render_as_string(hide_password=False)
    with office(dsn, start=False) as working:
        endpoint = add_endpoint(working, receiver)
        rows = {"id": endpoint.id, "lanes": 2100}
        with postgres_engine.begin() as tx:
            tx.execute(
                text(
                    "INSERT INTO paynotify_lane (endpoint_id, host, held) "
                    "SELECT :id, 'https://h' || n, true FROM generate_series(1, :lanes) n"
                ),
                rows,
            )
            tx.execute(
                text(
                    "INSERT INTO paynotify_delivery (id, lane_id, state, due_at) "
                    "SELECT 1000000 + id, id, 'pending', now() FROM paynotify_lane WHERE held"
                )
            )
        working.courier.start()
        assert working.courier.deliver(Pool.FAST) == "nothing due"
        working.courier.close(timeout_s=5)


def test_a_quick_lane_does_not_wait_for_the_slow_ones_of_its_batch(
    dsn: str, receiver: Receiver
) -> None:
    with office(dsn, start=False, timeout_s=5) as working:
        quick = add_endpoint(working, receiver, in_flight_cap=1)
        hung = add_endpoint(working, receiver, "/hang", in_flight_cap=1, timeout_s=5)
        enqueue(working, hung, "hangs")
        rows = [enqueue(working, quick, f"quick-{number}") for number in range(5)]
        working.courier.start()
        assert "5 delivered, 1 on the way" in working.courier.deliver(Pool.FAST)
        assert [state_of(working, row) for row in rows] == ["delivered"] * 5
        working.courier.close(timeout_s=0)


def test_a_rate_limited_lane_is_gone_on_with_as_its_tokens_come(
    dsn: str, receiver: Receiver
) -> None:
    with office(dsn, start=False) as working:
        endpoint = add_endpoint(working, receiver, rate_per_s=50)
        for number in range(60):
            enqueue(working, endpoint, f"metered-{number}")
        working.courier.start()
        # What was saved up at once, the rest a few at a time, in the same task.
        assert working.courier.deliver(Pool.FAST) == f"{endpoint.name}: 60 delivered"
        working.courier.close(timeout_s=5)
