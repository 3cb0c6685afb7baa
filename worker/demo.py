"""The demo: everything for real on one machine in half a minute, then the books are compared.

Three merchants answer over HTTP, a shop takes orders, worker processes deliver, a bank is asked
what it forgot to say, an alert trips, Flower looks on.
Must never touch a configured database or broker.
"""

import base64
import secrets
import shutil
import tempfile
from pathlib import Path

from rich.console import Console

from worker import settings as settings_reader
from worker.crew import Signals
from worker.demo_story import StoppedError, Story
from worker.errors import UnavailableError
from worker.sealing import KEY_BYTES
from worker.settings import Settings


def run(*, keep: bool = False) -> int:
    """Run the demo; Ctrl-C ends it at any time, with everything it started.

    Of the settings only ``data_dir`` and ``log_level`` matter: the rest is the demo's own.

    Args:
        keep: stay up afterwards until Ctrl-C.

    Returns:
        0 when all books agree and Flower answered; 1 when not; 130 after Ctrl-C.

    Raises:
        SettingsError: a setting is wrong.
        UnavailableError: something cannot be started.
    """
    settings = settings_reader.load(host=True)
    parent = settings.data_dir / "demo"
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    except OSError as error:
        raise UnavailableError(
            "demo", f"{parent}: {error.strerror or error}", "set PAYNOTIFY_DATA_DIR"
        ) from error
    with Signals() as signals:
        try:
            code = Story(_private(settings, folder), folder, signals).run(keep=keep)
        except StoppedError:
            code = 130
    if code == 1:
        Console().print(f"What happened is kept in {folder}", soft_wrap=True, highlight=False)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _private(settings: Settings, folder: Path) -> Settings:
    """Settings of the demo's own, whatever is configured."""
    return settings_reader.alone(
        data_dir=folder,
        database_url=f"sqlite:///{folder / 'paynotify.db'}",
        master_key=base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode(),
        log_level=settings.log_level,
        flower_port=0,
        tick_s=0.2,
        timeout_s=5,
        lease_s=12,
        # Breakers have their own story: here every retry comes at its time.
        breaker_failures=10_000,
        breaker_minimum=100_000,
    )
