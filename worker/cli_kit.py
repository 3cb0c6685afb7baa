"""``paynotify receiver-kit``: prints the file a merchant copies.

Must never print anything else: its output is a program.
"""

import sys
from pathlib import Path

import typer

from worker import receiver_kit as kit
from worker.cli_input import example


def receiver_kit() -> None:
    """Print the Python file by which a merchant verifies and acknowledges; it stands alone."""
    sys.stdout.write(Path(kit.__file__).read_text(encoding="utf-8"))


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("receiver-kit", epilog=example("paynotify receiver-kit > notify.py"))(receiver_kit)
