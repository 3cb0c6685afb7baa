"""Payment channels that are simulated, and a shop whose orders are asked about at them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.channel_sim import ChannelSim
from tests.reconciling import Shop


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChannelSim]:
    """The process, one for all tests of a file."""
    with ChannelSim(tmp_path_factory.mktemp("channels")) as sim:
        yield sim


@pytest.fixture
def sim(running: ChannelSim) -> ChannelSim:
    """The process as if it was new."""
    running.forget()
    running.behave()
    return running


@pytest.fixture
def file(sim: ChannelSim) -> Path:
    """A channels.toml with every kind of channel, in a hurry."""
    return sim.config(rate_per_s=1000, timeout_s=0.5)


@pytest.fixture
def shop(engine: Engine, sim: ChannelSim, file: Path) -> Shop:
    """A host with orders and a merchant."""
    made = Shop(engine, sim, file)
    made.merchant()
    return made
