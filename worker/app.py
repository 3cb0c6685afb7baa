"""The Celery app: queues, acks and broker settings. No rules live here.

Messages carry no data: a lost one costs a tick, a doubled one nothing. Early acks, because the
lease is what brings work back; late ones would only add duplicates.
"""

from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from kombu import Queue

from worker import broker, mailbox, settings
from worker.bells import KEY_PREFIX

QUEUES = ("deliver", "deliver.slow", "sweep", "alerts")

# The schedules by name: they import the engine, never the other way round.
app = Celery("paynotify", include=["worker.tasks", "schedules.tasks"])


def configuration() -> dict[str, Any]:
    """Read the broker's settings; Celery calls this when it first needs them."""
    chosen = settings.load(host=True)
    url = broker.current_url(chosen)
    mailbox.install()
    return {
        "broker_url": url or "redis://127.0.0.1:6379/0",
        "broker_transport_options": _transport_options(url or ""),
        "broker_connection_retry_on_startup": True,
        # For ever: callbacks go out without the broker meanwhile.
        "broker_connection_max_retries": None,
        "broker_pool_limit": 10,
        "broker_heartbeat": 0,
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_publish_retry_policy": {
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.2,
        },
        "task_queues": [Queue(name, routing_key=name) for name in QUEUES],
        "task_default_queue": "deliver",
        "task_create_missing_queues": False,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": True,
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # A running task only waits for replies; its rows come back by their lease.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "timezone": "UTC",
    }


def _transport_options(url: str) -> dict[str, Any]:
    if not url.startswith(("redis", "unix", "sentinel")):
        return {}
    options: dict[str, Any] = {
        # Nothing runs longer than a lease; 15 minutes only bound what a killed worker hid.
        "visibility_timeout": 900,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 3,
        # More than the second a worker blocks in one read.
        "socket_timeout": 10,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "max_connections": 64,
        "global_keyprefix": KEY_PREFIX,
        "client_name": "paynotify",
    }
    master = parse_qs(urlsplit(url).query).get("master_name")
    if master:
        options["master_name"] = master[0]
    return options


app.add_defaults(configuration)
