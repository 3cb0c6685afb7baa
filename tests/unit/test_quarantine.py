"""Processes for suspects that cannot start are started less and less often."""

import io
import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest

from worker import quarantine, telemetry
from worker.store import Released, Store


@pytest.mark.parametrize("end", ["sys.exit('cannot start')", "pass"])
def test_a_process_that_does_nothing_is_started_less_and_less_often(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (sys.executable, "-S", "-c", f"import sys; {end}")
    monkeypatch.setattr(quarantine, "COMMAND", command)
    now_s = 1000.0
    monkeypatch.setattr("worker.quarantine.clock.monotonic_s", lambda: now_s)
    log = io.StringIO()
    telemetry.configure("info", "json", log)
    store = SimpleNamespace(suspects=lambda: True, condemn=lambda **_: Released())
    tended = quarantine.Quarantine(cast("Store", store), {})
    begun = []
    for second in range(1000, 1200):
        now_s = float(second)
        tended.tend()
        for process in tended._processes:
            process.wait(10)
            begun.append(second - 1000)
    telemetry.configure("info", "json", io.StringIO())
    gaps = [b - a for a, b in pairwise(begun)]
    assert gaps[:6] == [2, 3, 5, 9, 17, 33]
    assert max(gaps) == 61
    assert log.getvalue().count("alone.failed") == len(begun)
