"""Where notices of alerts go: the log, a signed webhook, and everything apprise can reach.

What a sink does is a value, never an exception: empty when it took the notice, else why not.
Every send ends within its ``timeout_s``, whatever the other side does. Must never show an
address that holds a token, nor dial what the guard forbids a webhook.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from schedules.secret_source import Source
from worker import guard, ping, settings, telemetry
from worker.alert_post import Notice
from worker.errors import BadFieldError, PaynotifyError
from worker.incidents import Occasion, Severity
from worker.models import Allowed, Endpoint, Secret
from worker.settings import Settings
from worker.signers.registry import find

_LEVELS: dict[Severity, telemetry.Level] = {
    Severity.INFO: "info",
    Severity.WARNING: "warning",
    Severity.CRITICAL: "error",
}
_KINDS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}
_WORD_MIN = 5
# The child looks for its deadline itself too, should we be gone by then.
_CHILD = "schedules.apprise_child"


class Sink(Protocol):
    """One place that is told of alerts."""

    @property
    def name(self) -> str:
        """What rules call it."""
        ...

    @property
    def kind(self) -> str:
        """What it is."""
        ...

    def send(self, notice: Notice) -> str:
        """Hand a notice over; returns why it was not taken, empty when it was."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSink:
    """One line in the log of the process that sends."""

    name: str
    kind: str = "log"

    def send(self, notice: Notice) -> str:
        """Write the line; it is always taken."""
        over = notice.occasion is Occasion.RESOLVED
        telemetry.log(
            telemetry.Event.ALERT,
            level="info" if over else _LEVELS[notice.alert.severity],
            alert=notice.alert.id,
            occasion=notice.occasion.value,
            rule=notice.alert.rule,
            subject=notice.alert.subject,
            text=notice.text,
        )
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSink:
    """A POST of JSON, signed as Standard Webhooks; ``webhook-id`` is the same for every try."""

    name: str
    url: str = field(repr=False)
    secret: Source
    allowed: Allowed
    timeout_s: float
    chosen: Settings = field(repr=False)
    kind: str = "webhook"

    def send(self, notice: Notice) -> str:
        """Send it through the guard; any status from 200 to 299 takes it."""
        kind = f"paynotify.alert.{notice.occasion.value}"
        document = {"type": kind, "text": notice.text, "alert": asdict(notice.alert)}
        try:
            pong = ping.once(
                self._endpoint(),
                self.chosen,
                message_id=f"alrt_{notice.id}_{notice.alert.id}",
                event_type=kind,
                payload=_json(document),
            )
        except PaynotifyError as error:
            return str(error)
        return "" if pong.acked else f"it answered {pong.status or pong.code}"

    def _endpoint(self) -> Endpoint:
        value = self.secret.read(f"sink {self.name}")
        find("standard-webhooks").check_secret(value)
        return Endpoint(
            id=0,
            name=self.name,
            merchant="",
            url=self.url,
            timeout_s=self.timeout_s,
            allowed=self.allowed,
            secrets=(Secret(version=1, value=value),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AppriseSink:
    """Mail, DingTalk, WeCom, Feishu, Slack and a hundred more, by apprise's URLs.

    Sent by a process of its own: only that can be ended for sure when a server drips bytes.
    """

    name: str
    url: Source
    timeout_s: float
    kind: str = "apprise"

    def send(self, notice: Notice) -> str:
        """Send it and wait, at most ``timeout_s``."""
        try:
            url = self.url.read(f"sink {self.name}")
        except PaynotifyError as error:
            return str(error)
        over = notice.occasion is Occasion.RESOLVED
        letter = {
            "url": url,
            "title": f"paynotify: {notice.alert.rule} {notice.occasion.value}",
            "body": notice.text,
            "kind": "success" if over else _KINDS[notice.alert.severity],
            "timeout_s": self.timeout_s,
        }
        try:
            done = subprocess.run(  # noqa: S603 - our own module
                [sys.executable, "-m", _CHILD],
                # By standard input: arguments can be read by every user of the machine.
                input=json.dumps(letter),
                capture_output=True,
                text=True,
                timeout=self.timeout_s,
                env=settings.bare_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it took longer than {self.timeout_s:g} s"
        except OSError as error:
            return f"the sender could not be started ({error.strerror})"
        return "" if done.returncode == 0 else _without(url, done.stdout.strip())


def _json(document: Mapping[str, object]) -> bytes:
    def text(value: datetime) -> str:
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")

    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=text).encode()


def _without(url: str, text: str) -> str:
    """Take every part of an address out of a text; what is left may be shown."""
    for part in sorted(re.split(r"[/:@?&=#,\s]+", url), key=len, reverse=True):
        if len(part) >= _WORD_MIN:
            text = text.replace(part, "***")
    return text or "it was not taken"


_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
_Env = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
_Timeout = Annotated[float, Field(ge=1, le=60)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name


class _LogEntry(_Entry):
    kind: Literal["log"]


class _WebhookEntry(_Entry):
    kind: Literal["webhook"]
    url: str
    secret_env: _Env | None = None
    secret_file: Path | None = None
    timeout_s: _Timeout = 10.0
    allow_http: bool = False
    allow_ports: list[int] = []
    allow_networks: list[str] = []

    @model_validator(mode="after")
    def _one_place(self) -> "_WebhookEntry":
        _one_of("secret", self.secret_env, self.secret_file)
        try:
            guard.check_allowed(self.allowed)
            guard.check_url(self.url, self.allowed)
        except BadFieldError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def allowed(self) -> Allowed:
        return Allowed(
            http=self.allow_http,
            ports=tuple(self.allow_ports),
            networks=tuple(self.allow_networks),
        )


class _AppriseEntry(_Entry):
    kind: Literal["apprise"]
    url_env: _Env | None = None
    url_file: Path | None = None
    timeout_s: _Timeout = 15.0

    @model_validator(mode="after")
    def _one_place(self) -> "_AppriseEntry":
        _one_of("url", self.url_env, self.url_file)
        return self


def _one_of(what: str, env: str | None, file: Path | None) -> None:
    if (env is None) == (file is None):
        raise ValueError(f"give exactly one of {what}_env and {what}_file: where it is kept")
    if env is not None and env.startswith(settings.PREFIX):
        raise ValueError(f"{what}_env: {env} begins like our own settings; choose another name")


_ENTRY: TypeAdapter[_LogEntry | _WebhookEntry | _AppriseEntry] = TypeAdapter(
    Annotated[_LogEntry | _WebhookEntry | _AppriseEntry, Field(discriminator="kind")]
)


def make_sink(values: dict[str, Any], chosen: Settings) -> Sink:
    """Make a sink of one entry of the file; reads no secret yet.

    Raises:
        pydantic.ValidationError: the entry is wrong.
    """
    entry = _ENTRY.validate_python(values)
    if isinstance(entry, _WebhookEntry):
        return WebhookSink(
            name=entry.name,
            url=entry.url,
            secret=Source(env=entry.secret_env, file=entry.secret_file),
            allowed=entry.allowed,
            timeout_s=entry.timeout_s,
            chosen=chosen,
        )
    if isinstance(entry, _AppriseEntry):
        return AppriseSink(
            name=entry.name,
            url=Source(env=entry.url_env, file=entry.url_file),
            timeout_s=entry.timeout_s,
        )
    return LogSink(name=entry.name)


def sink_fields(values: Mapping[str, Any] | None) -> list[str]:
    """Return the fields that a sink of this entry's kind may have."""
    kinds: dict[object, type[BaseModel]] = {
        "log": _LogEntry,
        "webhook": _WebhookEntry,
        "apprise": _AppriseEntry,
    }
    return list(kinds.get((values or {}).get("kind"), _Entry).model_fields)
