"""Which test runs beside which: of those that start a fleet of processes, two and never three."""

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Processes by the dozen first, then whole commands, then what takes no time and fills the end.
_ROOMS = ("tests/faults/", "tests/acceptance/", "tests/integration/")


def in_turn(items: list[pytest.Item]) -> None:
    """Put the slow rooms first; within a room the order stays."""
    items.sort(key=lambda item: [not item.nodeid.startswith(room) for room in _ROOMS])


class FromBothEnds(LoadScopeScheduling):  # type: ignore[misc]
    """Two workers take tests from the front, where the slow ones are; all others from the back.

    Fleets wait for deadlines, not for a processor: beside two of them there is time for short
    tests, but a third would measure the machine.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self.nodes.index(node) >= 2:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)
