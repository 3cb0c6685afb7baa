"""The only reader of the environment and of ``config/``; lists every problem at once.

Order, first wins: environment ``PAYNOTIFY_*``, the TOML file (``PAYNOTIFY_CONFIG``, else
``config/paynotify.toml`` of this project when it is there), the defaults below.
"""

import difflib
import os
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from worker.bootstrap import ROOT, SHIPPED
from worker.errors import SettingsError
from worker.models import Schedule
from worker.refusals import words
from worker.route_facts import check_steps

PREFIX = "PAYNOTIFY_"
_LISTS = (
    "schedule_s", "terminal_statuses", "route_steps", "flower_basic_auth", "previous_master_keys",
)  # fmt: skip


class Settings(BaseSettings):
    """Every knob: name, default, unit, range, effect. ``config/paynotify.toml`` lists the same."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    database_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL; none: SQLite in data_dir"
    )
    broker_url: SecretStr | None = Field(
        None, description="Celery broker URL; none: our own Valkey in data_dir"
    )
    data_dir: Path = Field(
        Path("~/.local/share/paynotify"), description="folder of the embedded default"
    )
    master_key: SecretStr | None = Field(
        None, description="32 bytes in base64 that seal endpoint secrets"
    )
    previous_master_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="keys that only open: those of before, while secrets are sealed anew"
    )
    batch_size: int = Field(400, ge=1, le=1000, description="rows per claim and per settle")
    in_flight_max: int = Field(
        2000, ge=1, le=20_000, description="requests on the wire at once, per process"
    )
    slots: int = Field(6, ge=1, le=64, description="Celery threads per process")
    lease_s: int = Field(60, ge=6, le=3600, description="seconds a claim holds")
    tick_s: float = Field(1.0, ge=0.05, le=60, description="seconds between two ticks of a worker")
    settle_ms: int = Field(50, ge=1, le=1000, description="ms a verdict waits for company")
    linger_ms: int = Field(
        1000, ge=0, le=15_000, description="ms a task waits for its stragglers before it ends"
    )
    timeout_s: float = Field(15.0, ge=0.1, le=60, description="total deadline of one request")
    connect_timeout_s: float = Field(3.0, ge=0.1, le=30, description="TCP and TLS set-up")
    connection_max_age_s: int = Field(
        300, ge=1, le=300, description="keep-alive connections live this long at most"
    )
    reply_max_bytes: int = Field(65_536, ge=1024, le=1_048_576, description="read at most")
    schedule_s: Annotated[tuple[int, ...], NoDecode] = Field(
        (60, 300, 600, 1800, 3600, 7200, 21600),
        description="seconds after the first, second, ... failed try",
    )
    jitter_ratio: float = Field(0.1, ge=0, le=0.1, description="added to each delay at most")
    retry_after_max_s: int = Field(
        21_600, ge=0, le=86_400, description="longest wait a merchant's Retry-After can ask for"
    )
    terminal_statuses: Annotated[tuple[int, ...], NoDecode] = Field(
        (), description="HTTP statuses after which nothing is tried again"
    )
    poison_after: int = Field(
        3, ge=3, le=10, description="losses in a row, the last one alone, that make a dead letter"
    )
    endpoint_in_flight_cap: int = Field(
        100, ge=1, le=10_000, description="default requests on the wire per endpoint"
    )
    breaker_failures: int = Field(
        20, ge=1, le=10_000, description="failures in a row that open a breaker"
    )
    breaker_ratio: float = Field(
        0.5, gt=0, le=1, description="share of failures in the window that opens a breaker"
    )
    breaker_window_s: int = Field(60, ge=1, le=3600, description="length of that window")
    breaker_minimum: int = Field(
        40, ge=1, le=100_000, description="sends in the window before the share counts"
    )
    breaker_open_s: int = Field(
        30, ge=1, le=3600, description="first pause; doubles each time the probe fails"
    )
    breaker_open_max_s: int = Field(600, ge=1, le=86_400, description="longest pause")
    route_failures: int = Field(5, ge=1, le=10_000, description="failures in a row to trip a route")
    route_steps: Annotated[tuple[int, ...], NoDecode] = Field(
        (5, 25, 100), description="percent of its traffic a returning route gets, step by step"
    )
    route_step_s: float = Field(20.0, ge=0.1, le=3600, description="least length of such a step")
    freeze_after_trips: int = Field(
        3, ge=0, le=100, description="openings of a breaker in a row that freeze; 0: never"
    )
    freeze_after_minutes: int = Field(
        10, ge=0, le=1440, description="minutes without a recovery that freeze; 0: never"
    )
    freeze_probe_s: int = Field(
        30, ge=1, le=120, description="seconds between two pings to a frozen endpoint"
    )
    freeze_trial_minutes: int = Field(
        30, ge=0, le=10_080, description="until one that answers no ping gets a notification"
    )
    slow_after_ms: int = Field(
        2000, ge=1, le=60_000, description="smoothed reply time that makes a lane slow"
    )
    broker_timeout_s: float = Field(
        0.05, ge=0.001, le=2, description="longest a host's commit may wait for the doorbell"
    )
    ordering_wait_s: int = Field(
        3600, ge=1, le=604_800, description="longest an event holds up later ones of its key"
    )
    revive_batch_max: int = Field(
        64, ge=1, le=1000, description="dead letters of one endpoint revived at once, at most"
    )
    revive_times_max: int = Field(
        2, ge=0, le=100, description="times one notification is revived; 0: nothing is"
    )
    revive_within_days: int = Field(
        7, ge=1, le=365, description="older dead letters are left to people"
    )
    keep_finished_days: int = Field(
        90, ge=1, le=3650, description="delivered and cancelled notifications: the replay window"
    )
    keep_ticks_days: int = Field(30, ge=1, le=3650, description="history of the schedules")
    keep_rollups_days: int = Field(30, ge=1, le=3650, description="counts per minute")
    keep_evidence_days: int = Field(
        365, ge=1, le=3650, description="evidence of reconciliation and resolved cases"
    )
    keep_alerts_days: int = Field(90, ge=1, le=3650, description="resolved alerts")
    flower_address: str = Field("127.0.0.1", description="address Flower binds to")
    flower_port: int = Field(5555, ge=0, le=65_535, description="port of Flower; 0: any free one")
    flower_basic_auth: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="user:password pairs; needed beyond 127.0.0.1"
    )
    metrics_port: int = Field(
        0, ge=0, le=65_535, description="Prometheus port of the first worker process; 0: none"
    )
    schedules_file: Path | None = Field(
        None, description="cron table; none: schedules.toml beside the settings file, else ours"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    log_format: Literal["json", "text"] = Field("text", description="one event, one line")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before the values given (which come from the file)."""
        return env_settings, init_settings

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("schedule_s")
    @classmethod
    def _schedule(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(value) > 50 or any(not 1 <= delay <= 2_592_000 for delay in value):
            raise ValueError("must be at most 50 delays of 1 to 2592000 seconds")
        return value

    @field_validator("terminal_statuses")
    @classmethod
    def _statuses(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 100 <= status <= 999 for status in value):
            raise ValueError("must be HTTP statuses from 100 to 999")
        return value

    _steps = field_validator("route_steps")(check_steps)

    @field_validator("data_dir")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        if self.lease_s < 2 * self.timeout_s + 2:
            raise ValueError(
                f"lease_s is {self.lease_s} but must be at least twice timeout_s "
                f"({self.timeout_s:g}) plus 2, or a slow reply outlasts its lease"
            )
        if self.flower_address not in ("127.0.0.1", "localhost", "::1") and not (
            self.flower_basic_auth
        ):
            raise ValueError(
                f"flower_address is {self.flower_address}, which others can reach; set "
                "flower_basic_auth (user:password) or bind to 127.0.0.1"
            )
        return self

    @property
    def sqlite(self) -> bool:
        """Whether the database is SQLite."""
        return self.database_dsn.startswith("sqlite")

    @property
    def embedded_broker(self) -> bool:
        """Whether the broker is our own."""
        return self.broker_url is None

    @cached_property
    def database_dsn(self) -> str:
        """The SQLAlchemy URL in force; may hold a password, so never log it."""
        if self.database_url is None:
            return f"sqlite:///{self.data_dir / 'paynotify.db'}"
        dsn = self.database_url.get_secret_value()
        for short in ("postgres://", "postgresql://"):
            if dsn.startswith(short):
                return "postgresql+psycopg://" + dsn.removeprefix(short)
        return dsn

    @property
    def timeout_max_s(self) -> float:
        """The longest deadline an endpoint may have: two of them fit into a lease."""
        return min(60.0, (self.lease_s - 2) / 2)

    @property
    def cron_table(self) -> Path:
        """The file of the cron table in force."""
        if self.schedules_file is not None:
            return self.schedules_file.expanduser().absolute()
        return beside_or_ours("schedules.toml")

    @property
    def schedule(self) -> Schedule:
        """The schedule of endpoints that name none."""
        return Schedule(delays_s=self.schedule_s, jitter_ratio=self.jitter_ratio)


def load(path: Path | None = None, *, host: bool = False, **overrides: Any) -> Settings:
    """Read the settings in force.

    Args:
        path: TOML file; None looks at ``PAYNOTIFY_CONFIG``, then ``config/paynotify.toml``.
        host: whether a host platform asks; hosts only enqueue and never hold the master key.
        overrides: values that go before the file but not before the environment.

    Raises:
        SettingsError: with one sentence per problem, all of them.
    """
    file = path or settings_file()
    values: dict[str, Any] = {}
    if file is not None:
        values = read_toml(file)
    # Read and judged by profiles.py, which also knows the signing schemes.
    values.pop("profiles", None)
    unknown = [
        f"{name}: no such setting{_nearest(name.removeprefix(PREFIX).lower(), PREFIX)}"
        for name in os.environ
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in _KNOWN
    ]
    unknown += [
        f"{file}: {name}: no such setting{_nearest(name)}"
        for name in values
        if name not in Settings.model_fields
    ]
    known = {name: value for name, value in values.items() if name in Settings.model_fields}
    try:
        settings = Settings(**known | overrides)
    except ValidationError as error:
        raise SettingsError(*unknown, *(_sentence(problem) for problem in error.errors())) from None
    if settings.database_url and not settings.master_key and not host:
        unknown.append(
            "master_key (PAYNOTIFY_MASTER_KEY): missing, and a configured database needs one: "
            "32 bytes in base64, for example from `openssl rand -base64 32`"
        )
    if unknown:
        raise SettingsError(*unknown)
    return settings


def settings_file() -> Path | None:
    """Return the file of settings in force; None when there is none."""
    if "PAYNOTIFY_CONFIG" in os.environ:
        return Path(os.environ["PAYNOTIFY_CONFIG"])
    ours = SHIPPED / "paynotify.toml"
    return ours if ours.exists() else None


def profile_tables() -> tuple[Path | None, object]:
    """Return ``[profiles.NAME]`` of the file of settings in force, unread, and the file.

    Raises:
        SettingsError: the file cannot be read.
    """
    file = settings_file()
    return file, {} if file is None else read_toml(file).get("profiles", {})


def read_toml(file: Path) -> dict[str, Any]:
    """Read a file of settings, for whoever knows what must stand in it.

    Raises:
        SettingsError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except IsADirectoryError:
        raise SettingsError(f"{file}: is a folder; set PAYNOTIFY_CONFIG to a file in it") from None
    except OSError as error:
        raise SettingsError(
            f"{file}: cannot be read ({error.strerror}); set PAYNOTIFY_CONFIG"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from None


def folder() -> Path:
    """Return the folder of the files in force: that of ``PAYNOTIFY_CONFIG``, else ``config/``."""
    if "PAYNOTIFY_CONFIG" in os.environ:
        return Path(os.environ["PAYNOTIFY_CONFIG"]).absolute().parent
    return SHIPPED


def beside_or_ours(name: str) -> Path:
    """Return the file of this name in the folder in force, or the shipped one if it has none."""
    beside = folder() / name
    return beside if beside.exists() else SHIPPED / name


def secret(name: str) -> str | None:
    """Return what an environment variable holds that a file of settings names; None if nothing."""
    return os.environ.get(name)


def bare_environment(*, root: Path = ROOT) -> dict[str, str]:
    """Build the environment of a child process that needs nothing of ours: no setting, no key."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    return environment | {"PYTHONPATH": str(root)}


def alone(**values: Any) -> Settings:
    """Make settings of these values and the defaults; neither environment nor file is read."""
    values["_env_prefix"] = "NOT_FROM_THE_ENVIRONMENT_"
    return Settings(**values)


def child_environment(settings: Settings, *, root: Path = ROOT) -> dict[str, str]:
    """Build the environment in which a child process reads exactly these settings.

    It holds secrets, as the environment of a service does; arguments must not.

    Args:
        settings: in force here; every field goes along, so that no file changes them there.
        root: where the child finds our packages.
    """
    path = os.environ.get("PYTHONPATH")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    environment["PYTHONPATH"] = f"{root}{os.pathsep}{path}" if path else str(root)
    if "PAYNOTIFY_CONFIG" in os.environ:
        environment["PAYNOTIFY_CONFIG"] = os.environ["PAYNOTIFY_CONFIG"]
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if value is not None:
            environment[PREFIX + name.upper()] = _text(value)
    return environment


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _sentence(problem: Any) -> str:
    name, *place = map(str, problem["loc"] or ("",))
    which = f"number {int(place[0]) + 1} of it " if place else ""
    return f"{name} ({PREFIX}{name.upper()}): {which}{words(problem)}" if name else words(problem)


def _nearest(name: str, prefix: str = "") -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    return f"; did you mean {prefix + (near[0].upper() if prefix else near[0])}?" if near else ""


_KNOWN = {*Settings.model_fields, "config"}  # PAYNOTIFY_CONFIG is read above
