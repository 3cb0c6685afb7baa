"""``python3 -m worker``: makes ``.venv`` on a bare machine, then hands over to the CLI.

Must never need anything but Python's standard library before the packages are there.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older one gets a sentence, not a traceback
    sys.exit("paynotify needs Python 3.11 or newer; run it as: python3.11 -m worker")

import importlib

from worker import bootstrap


def main() -> None:
    """Make sure the packages are there, then run the command line."""
    bootstrap.ensure()
    # Found by name: the module needs packages that are only now certain to be there.
    importlib.import_module("worker.cli").main()


if __name__ == "__main__":
    main()
