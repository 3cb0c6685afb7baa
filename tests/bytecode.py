"""Bytecode is kept, whatever the environment says: tests start hundreds of programs."""

import os
import sys


def keep() -> None:
    """Let this process and all that it starts write ``.pyc`` files; again is harmless.

    Images often set ``PYTHONDONTWRITEBYTECODE``. Each program then compiles the same six hundred
    files anew: two seconds of processor where half of one is enough.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
