"""Orders whose channels lose, lie and stall: all settled, told once, every disagreement a case."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.faults import orders


@pytest.mark.timeout(300)
def test_orders_end_as_they_must_whatever_the_channels_do(engine: Engine, tmp_path: Path) -> None:
    ran = orders.run(engine, tmp_path / "sim", count=200)
    print(ran.text())
    assert not ran.problems, ran.text()
