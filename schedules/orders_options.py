"""What may stand in ``config/orders.toml``: how orders are treated, and where they stand.

Pure: it checks the text of the file alone; the table itself is compared in ``orders_mapped``.
Must never let an option pass that nothing reads.
"""

from collections.abc import Mapping
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schedules.decisions import EVENTS, LatePayment, Policy
from schedules.order_layout import HostState, TimeForm, check_currency
from schedules.ports import OrderState, RefundState
from worker.errors import BadFieldError, SettingsError
from worker.refusals import words

_STATES_NEEDED = (OrderState.PENDING, OrderState.PAID, OrderState.CLOSED)
_REFUND_STATES_NEEDED = (RefundState.PROCESSING, RefundState.SUCCESS, RefundState.FAILED)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PolicyOptions(_Part):
    """How orders are treated; see :class:`schedules.decisions.Policy`."""

    late_payment: LatePayment = LatePayment.HUMAN
    events: tuple[str, ...] = tuple(sorted(Policy().events))
    close_unconfirmed_s: int = Field(600, ge=0, le=604_800)
    unanswered_after: int = Field(8, ge=1, le=1000)
    refund_slow_s: int = Field(259_200, ge=60, le=2_592_000)

    @field_validator("events")
    @classmethod
    def _events(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - set(EVENTS))
        if unknown:
            raise ValueError(f"{unknown[0][:64]!r} is none of {', '.join(EVENTS)}")
        return value

    def policy(self, late_payment: LatePayment | None = None) -> Policy:
        """Make the policy of a merchant."""
        return Policy(
            late_payment=late_payment or self.late_payment,
            events=frozenset(self.events),
            close_unconfirmed_s=self.close_unconfirmed_s,
            unanswered_after=self.unanswered_after,
            refund_slow_s=self.refund_slow_s,
        )


class MerchantOptions(_Part):
    """What is different for one merchant."""

    late_payment: LatePayment


class CompensationOptions(_Part):
    """Which paid orders are looked at for a notification nobody wrote."""

    look_back_s: int = Field(86_400, ge=600, le=2_592_000)
    grace_s: int = Field(300, ge=10, le=86_400)


class Columns(_Part):
    """Names of the host's columns."""

    order_no: str
    amount: str
    state: str
    placed_at: str
    merchant: str | None = None
    channel: str | None = None
    currency: str | None = None
    expires_at: str | None = None
    paid_at: str | None = None
    changed_at: str | None = None
    channel_txn_no: str | None = None
    refunded: str | None = None
    notify_url: str | None = None


class Fixed(_Part):
    """What is the same for all orders of the table."""

    merchant: str | None = None
    channel: str | None = None
    currency: str | None = None

    @field_validator("currency")
    @classmethod
    def _currency(cls, value: str | None) -> str | None:
        try:
            return None if value is None else check_currency(value)
        except BadFieldError as error:
            raise ValueError(error.problem) from None


class RefundColumns(_Part):
    """Names of the columns of the host's refunds."""

    refund_no: str
    order_no: str
    amount: str
    state: str
    placed_at: str
    changed_at: str | None = None


class RefundOptions(_Part):
    """Where the host's refunds stand."""

    name: str
    columns: RefundColumns
    states: Mapping[RefundState, tuple[HostState, ...]]

    @field_validator("states")
    @classmethod
    def _states(cls, value: Mapping[Any, tuple[HostState, ...]]) -> Mapping[Any, Any]:
        return _once(value, _REFUND_STATES_NEEDED)


class TableOptions(_Part):
    """Where the host's orders stand; without it they stand in our own table."""

    name: str
    in_schema: str | None = Field(None, alias="schema")
    amount_unit: Literal["minor", "major"]
    times: TimeForm = TimeForm.TIMESTAMP
    zone: str = "UTC"
    columns: Columns
    fixed: Fixed = Fixed()
    states: Mapping[OrderState, tuple[HostState, ...]]
    channels: Mapping[str, str] = Field(default_factory=dict)
    refunds: RefundOptions | None = None

    @field_validator("states")
    @classmethod
    def _states(cls, value: Mapping[Any, tuple[HostState, ...]]) -> Mapping[Any, Any]:
        return _once(value, _STATES_NEEDED)

    @field_validator("zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value[:64]!r} is no time zone; write Asia/Shanghai") from None
        return value

    @model_validator(mode="after")
    def _one_source(self) -> "TableOptions":
        for name in ("merchant", "channel", "currency"):
            if (getattr(self.columns, name) is None) == (getattr(self.fixed, name) is None):
                raise ValueError(
                    f"{name}: give its column in [table.columns] or its one value in "
                    "[table.fixed], one of the two"
                )
        return self


class OrdersOptions(_Part):
    """The whole file."""

    policy: PolicyOptions = Field(default_factory=lambda: PolicyOptions.model_validate({}))
    merchants: Mapping[str, MerchantOptions] = Field(default_factory=dict)
    compensation: CompensationOptions = Field(
        default_factory=lambda: CompensationOptions.model_validate({})
    )
    table: TableOptions | None = None


def check(values: Mapping[str, Any], where: str) -> OrdersOptions:
    """Check what a file holds.

    Args:
        values: the file's.
        where: its name, for messages.

    Raises:
        SettingsError: with one sentence per problem, all of them.
    """
    try:
        return OrdersOptions.model_validate(values)
    except ValidationError as error:
        raise SettingsError(*(_sentence(where, problem) for problem in error.errors())) from None


def _once(
    states: Mapping[Any, tuple[HostState, ...]], needed: tuple[Any, ...]
) -> Mapping[Any, tuple[HostState, ...]]:
    for state in needed:
        if not states.get(state):
            raise ValueError(f"{state.value}: is missing; name the host's values for it")
    seen: dict[HostState, Any] = {}
    for state, values in states.items():
        for value in values:
            if value in seen:
                raise ValueError(
                    f"{value!r} stands under {seen[value].value} and {state.value}; it can "
                    "mean only one"
                )
            seen[value] = state
    return states


def _sentence(where: str, problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    message = words(problem)
    if problem["type"] == "extra_forbidden":
        message = "no such option; take it away or correct its name"
    elif problem["type"] == "missing":
        message = "is missing"
    return f"{where}: {name}: {message}" if name else f"{where}: {message}"
