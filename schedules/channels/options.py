"""What stands about a channel in ``config/channels.toml``, checked.

Must never quote a key, nor take one that stands in the file itself.
"""

import difflib
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from schedules.channels.http import Http
from schedules.channels.keys import CheckingKey, SigningKey, checking_key, signing_key
from worker import guard
from worker.breaker import Policy
from worker.errors import BadFieldError
from worker.models import Allowed
from worker.refusals import words


@dataclass(frozen=True)
class FromOutside:
    """Marks a field that is named in the file by ``<name>_env`` or ``<name>_file``.

    Attributes:
        secret: it may not stand in the file itself.
    """

    secret: bool = True


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is empty")
    return value.strip()


def key_text(value: object) -> str:
    """Return an API key; it goes into headers and URLs.

    Raises:
        ValueError: it is no line of visible ASCII; never quotes it.
    """
    text = _text(value)
    if not (text.isascii() and text.isprintable()) or " " in text or len(text) > 512:
        raise ValueError("must be one line of at most 512 visible ASCII characters")
    return text


ApiKey = Annotated[str, BeforeValidator(key_text), Field(repr=False), FromOutside()]
PrivateKey = Annotated[SigningKey, BeforeValidator(lambda v: signing_key(_text(v))), FromOutside()]
PublicKey = Annotated[
    CheckingKey, BeforeValidator(lambda v: checking_key(_text(v))), FromOutside(secret=False)
]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._@|*:-]{1,128}$")]


_Model = TypeVar("_Model", bound=BaseModel)
_STRICT = ConfigDict(
    extra="forbid",
    frozen=True,
    hide_input_in_errors=True,
    strict=True,
    arbitrary_types_allowed=True,
)


class ChannelOptions(BaseModel):
    """What every channel has, whatever its adapter."""

    model_config = _STRICT

    adapter: str
    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217, upper case")
    rate_per_s: float = Field(10.0, ge=0.01, le=1000, description="most questions a second")
    timeout_s: float = Field(5.0, ge=0.1, le=60, description="total deadline of one question")
    breaker_failures: int = Field(5, ge=1, le=1000, description="failures in a row that open it")
    breaker_open_s: float = Field(30.0, ge=0.1, le=3600, description="first pause; doubles")
    breaker_open_max_s: float = Field(600.0, ge=0.1, le=86_400, description="longest pause")
    routes: list[dict[str, Any]] = Field([], max_length=16)

    def breaker(self) -> Policy:
        """Return the numbers of each route's breaker."""
        return Policy(
            failures=self.breaker_failures,
            open_s=self.breaker_open_s,
            open_max_s=self.breaker_open_max_s,
        )


class AllowedOptions(BaseModel):
    """Exceptions from the guard for one route, as endpoints have them."""

    model_config = _STRICT

    http: bool = False
    ports: list[int] = []
    networks: list[str] = []

    def granted(self) -> Allowed:
        """Return them checked.

        Raises:
            ValueError: they cannot be meant.
        """
        allowed = Allowed(http=self.http, ports=tuple(self.ports), networks=tuple(self.networks))
        try:
            guard.check_allowed(allowed)
        except BadFieldError as error:
            raise ValueError(f"{error.field}: {error.problem}") from None
        return allowed


class RouteOptions(BaseModel):
    """What every adapter's routes have; each adapter adds its own."""

    model_config = _STRICT

    url: str = Field(description="where the channel is asked")
    currency: str
    timeout_s: float
    allowed: AllowedOptions = AllowedOptions()
    ca: Annotated[str | None, FromOutside(secret=False)] = Field(
        None, description="PEM authorities that replace the machine's"
    )
    reply_max_bytes: int = Field(262_144, ge=1024, le=4_194_304)

    @field_validator("allowed")
    @classmethod
    def _granted(cls, value: AllowedOptions) -> AllowedOptions:
        value.granted()
        return value

    def urls(self) -> tuple[str, ...]:
        """Return the addresses that will be asked, for the guard to look at."""
        return (self.url,)

    def http(self) -> Http:
        """Make what sends this route's questions.

        Raises:
            ValueError: ``ca`` holds no certificates.
        """
        try:
            return Http(
                timeout_s=self.timeout_s,
                reply_max_bytes=self.reply_max_bytes,
                allowed=self.allowed.granted(),
                ca_pem=self.ca,
            )
        except (ssl.SSLError, UnicodeEncodeError):
            raise ValueError("holds no certificates") from None


def checked(
    model: type[_Model], values: dict[str, Any], besides: Collection[str] = ()
) -> tuple[_Model | None, list[str]]:
    """Make options of a table.

    Args:
        model: which options.
        values: the table.
        besides: fields whose problem is known already.

    Returns:
        The options, or None; and what is wrong, one sentence each, beginning with the field.
    """
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        return None, [
            _sentence(problem, model)
            for problem in error.errors(include_url=False, include_input=False)
            if not (problem["loc"] and problem["loc"][0] in besides)
        ]


def _sentence(problem: Any, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _written(model)
        near = difflib.get_close_matches(where, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
        return f"{where}: no such field; {hint}"
    if problem["type"] == "missing":
        return f"{where}: missing"
    message = words(problem)
    return f"{where}: {message}" if where else message


def _written(model: type[BaseModel]) -> set[str]:
    """Return the names that may stand in the file."""
    names: set[str] = set()
    for name, info in model.model_fields.items():
        if any(isinstance(mark, FromOutside) for mark in info.metadata):
            names |= {f"{name}_env", f"{name}_file"}
        else:
            names.add(name)
    return names
