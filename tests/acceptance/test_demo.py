"""``python -m worker demo``: it runs by itself, compares the books and leaves nothing behind."""

import re
import signal
from pathlib import Path

from tests.acceptance.started import Started, until


def test_it_compares_the_books_and_exits_0(tmp_path: Path) -> None:
    # A configured database is somebody's real one: the demo must leave it alone.
    configured = {"database_url": "postgresql://nobody@127.0.0.1:1/real", "flower_port": 1}
    with Started("demo", data_dir=tmp_path, **configured) as demo:
        until(lambda: "paynotify-1@" in " ".join(demo.family().values()))
        code = demo.ends(within_s=100)
        assert code == 0
        said = demo.said()
        assert demo.nobody_is_left(within_s=1)
    assert "lost 0, phantom 0, unexpected 0, duplicates 0, unfinished 0" in said
    assert "The books agree." in said
    assert "Flower answered 200" in said
    assert "was rolled back: nobody heard of it" in said
    assert re.search(r"sunny-tea .*│ +1 │", said), "one forged callback, refused"
    # It went through what it promises to show.
    assert "its 4 notifications are dead letters" in said
    assert "redrives its dead letters" in said
    assert re.search(r"Order \S+ was paid in silence: the bank was asked, sunny-tea was told", said)
    assert re.search(r"Alert: \d notifications? w\w+ given up within 5 min\.", said)
    assert not [*(tmp_path / "demo").iterdir()]


def test_ctrl_c_ends_it_at_once_with_everything_it_started(tmp_path: Path) -> None:
    with Started("demo", "--keep", data_dir=tmp_path) as demo:
        until(lambda: "the worker process comes up" in demo.said())
        assert demo.stop(signal.SIGINT, within_s=20) == 130
        assert demo.nobody_is_left(within_s=1)
        assert "Traceback" not in demo.said()
    assert not [*(tmp_path / "demo").iterdir()]
