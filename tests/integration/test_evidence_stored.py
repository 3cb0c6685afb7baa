"""Whatever a merchant answers can be kept on both databases, and read back."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from tests.seeding import RETRY, add_due, add_lane, age, attempts_of, store_on, verdict_on
from worker.evidence import decode, encode
from worker.models import Pool

_NASTY = [b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\\", b"\n\r\t\x1b[31m", "成功".encode()]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=st.binary(max_size=6000) | st.lists(st.sampled_from(_NASTY)).map(b"".join))
def test_any_reply_is_kept_as_evidence_and_read_back(engine: Engine, body: bytes) -> None:
    store = store_on(engine)
    with engine.connect() as connection:
        empty = connection.exec_driver_sql("SELECT count(*) FROM paynotify_lane").scalar() == 0
    if empty:
        add_due(engine, add_lane(engine))
    age(engine, 61)
    store.stage(limit=1)
    [row] = store.claim(Pool.FAST, limit=1, worker="w").rows
    assert store.settle([verdict_on(row, RETRY, evidence=encode(body))]).stale == ()
    kept = attempts_of(engine, row.id)[-1].evidence
    found, cut = decode(kept)
    assert found == body[: len(found)]
    assert cut == (len(found) < len(body))
    assert len(kept.encode()) <= 4096
