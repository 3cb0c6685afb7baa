"""Flower's options, taken from paynotify's settings; Flower runs this file at its start.

Used by ``paynotify flower`` and ``paynotify up``. By hand, from the project's folder:
``celery -A worker.app flower --conf=config/flowerconfig.py``. Names are Flower's own.
"""  # noqa: INP001 - not a package, a file of values

from worker import settings

_chosen = settings.load(host=True)

# The settings refuse an address that others can reach without basic_auth.
address = _chosen.flower_address
port = _chosen.flower_port
# Here and not on the command line: arguments are there for all to read.
basic_auth = [pair.get_secret_value() for pair in _chosen.flower_basic_auth]
# Without a login nobody may stop a worker or run a task from a browser.
read_only = not basic_auth

# 7.7 KB of memory each, so some 150 MB; Flower's own default would take 0.8 GB.
max_tasks = 20_000
# Worker processes keep their names over a restart; who is gone for an hour stays gone.
purge_offline_workers = 3600
# Our workers send events from their start; no broadcast every five seconds is needed.
enable_events = False
tasks_columns = "name,args,result,state,runtime,received,worker,uuid"


def format_task(task):
    """Show a task's one-line result without the quotes of its repr."""
    if task.result:
        task.result = task.result.strip("'\"")
    return task
