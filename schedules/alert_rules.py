"""The rules of ``config/alerts.toml``: which measure, how much is too much, who is told.

A bad rule is refused with its line and the reason; the others work. Must never let a rule that
cannot be read at the moment look like one that was taken away: its alerts would end by themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from schedules.alert_file import Entry, entries, fields, nearest, problems_of
from schedules.alert_sinks import Sink, make_sink, sink_fields
from schedules.measures import MEASURES
from schedules.readings import Measure
from worker import settings
from worker.errors import SettingsError
from worker.incidents import Conduct, Severity
from worker.settings import Settings

FILE = "alerts.toml"
Threshold = int | Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule.

    Attributes:
        thresholds: rising; reaching a higher one makes an open alert worse.
        subjects: patterns of the subjects it is for, with ``*`` and ``?``.
        minimum: see :class:`schedules.readings.Question`.
        covers: rules that open nothing new while this one has an open alert.
    """

    name: str
    measure: Measure
    thresholds: tuple[Threshold, ...]
    subjects: tuple[str, ...]
    window_s: int
    baseline_s: int
    minimum: int
    covers: tuple[str, ...]
    enabled: bool
    conduct: Conduct

    def concerns(self, subject: str) -> bool:
        """Tell whether this rule is for a subject."""
        return any(fnmatchcase(subject, pattern) for pattern in self.subjects)


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What a file says.

    Attributes:
        rules: those that work, also those that are not enabled.
        refused: one sentence for each problem.
        names: of all rules, refused ones too; None when more rules may be meant than can be read:
            something was refused that is no rule with a name, or there is no rule at all.
    """

    rules: tuple[Rule, ...]
    sinks: Mapping[str, Sink]
    refused: tuple[str, ...]
    names: frozenset[str] | None


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _numbers(value: object) -> object:
    given = _listed(value)
    if not given or any(type(each) not in (int, Decimal) for each in given):  # type: ignore[attr-defined]
        raise ValueError("must be a number, or a list of rising numbers")
    return given


_Seconds = Annotated[int, Field(ge=0, le=604_800, strict=True)]
_Words = Annotated[list[str], BeforeValidator(_listed)]


class RuleEntry(BaseModel):
    """A rule as it is written; the defaults are what ``config/alerts.toml`` explains."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    measure: str
    threshold: Annotated[list[Threshold], BeforeValidator(_numbers)]
    subjects: _Words = ["*"]
    window_s: int = Field(300, ge=60, le=604_800, strict=True)
    baseline_s: int = Field(10_800, ge=600, le=86_400, strict=True)
    minimum: int = Field(20, ge=1, le=1_000_000, strict=True)
    cool_down_s: _Seconds = 300
    per_hour: int = Field(4, ge=1, le=60, strict=True)
    severity: Severity = Severity.WARNING
    escalate_after_s: _Seconds = 0
    recovery: bool = Field(default=True, strict=True)
    sinks: _Words = ["log"]
    fold_over: int = Field(5, ge=1, le=1000, strict=True)
    covers: _Words = []
    enabled: bool = Field(default=True, strict=True)

    @model_validator(mode="after")
    def _together(self) -> "RuleEntry":
        if self.measure not in MEASURES:
            raise ValueError(
                f"measure: no measure {self.measure!r}{nearest(self.measure, MEASURES)}"
            )
        if any(a >= b for a, b in zip(self.threshold, self.threshold[1:], strict=False)):
            raise ValueError("threshold: several must rise, for example [50, 70, 90, 100]")
        if self.threshold[0] <= 0:
            raise ValueError("threshold: must be above 0; measures are the higher the worse")
        if MEASURES[self.measure].name == "amount_waiting" and any(
            type(each) is not int for each in self.threshold
        ):
            raise ValueError("threshold: money is given in whole minor units (100.00 is 10000)")
        return self


def load(chosen: Settings, file: Path | None = None) -> Book:
    """Read the rules and sinks in force; one refused entry does not hinder the others.

    Args:
        chosen: the settings in force, for what sinks send by.
        file: None is ``alerts.toml`` beside the settings' file, else the shipped one.

    Raises:
        SettingsError: the file cannot be read at all.
    """
    path = file or settings.beside_or_ours(FILE)
    refused: list[str] = []
    sinks: dict[str, Sink] = {}
    written = entries(path)
    for entry in written:
        if entry.problem:
            refused.append(f"{path.name} {entry.problem}")
        elif entry.kind == "sink":
            _sink(entry, sinks, refused, path.name, chosen)
        elif entry.kind != "rule":
            hint = nearest(entry.kind, ["rule", "sink"])
            refused.append(f"{path.name} line {entry.line}: no [[{entry.kind}]] is known{hint}")
    # A head that is mistyped hides a rule, or makes it a part of the entry before.
    hidden = bool(refused)
    rules: dict[str, Rule] = {}
    for entry in written:
        if entry.kind == "rule" and entry.values is not None:
            _rule(entry, rules, sinks, refused, path.name)
    names = [entry.name for entry in written if entry.kind == "rule"]
    known = frozenset(name for name in names if name)
    return Book(
        rules=_uncovering_unknown(rules, refused, path.name),
        sinks=sinks,
        refused=tuple(refused),
        names=None if hidden or not known or None in names else known,
    )


def _sink(
    entry: Entry, sinks: dict[str, Sink], refused: list[str], file: str, chosen: Settings
) -> None:
    try:
        sink = make_sink(entry.values or {}, chosen)
    except ValidationError as error:
        refused += [
            f"{file} {problem}" for problem in problems_of(entry, error, sink_fields(entry.values))
        ]
    except SettingsError as error:
        refused += [f"{file} line {entry.line}: {problem}" for problem in error.problems]
    else:
        if sink.name in sinks:
            refused.append(f"{file} line {entry.line}: sink {sink.name}: is there already")
        else:
            sinks[sink.name] = sink


def _rule(
    entry: Entry, rules: dict[str, Rule], sinks: Mapping[str, Sink], refused: list[str], file: str
) -> None:
    about = f"{file} rule {entry.name or '?'}"
    try:
        written = RuleEntry(**(entry.values or {}))
    except ValidationError as error:
        refused += [
            f"{about}, {_placed(entry, problem)}"
            for problem in problems_of(entry, error, fields(RuleEntry))
        ]
        return
    unknown = [name for name in written.sinks if name not in sinks]
    if written.name in rules:
        refused.append(f"{about}, line {entry.line_of('name')}: name: another rule has it")
    elif unknown:
        where = f"line {entry.line_of('sinks')}: sinks"
        refused.append(f"{about}, {where}: no sink {unknown[0]!r}{nearest(unknown[0], sinks)}")
    else:
        rules[written.name] = _made(written)


def _placed(entry: Entry, problem: str) -> str:
    """Give a problem of several fields together the line of the one it names."""
    head, _, rest = problem.partition(": ")
    field = rest.partition(":")[0]
    return (
        f"line {entry.line_of(field)}: {rest}"
        if field in RuleEntry.model_fields
        else (f"{head}: {rest}")
    )


def _made(written: RuleEntry) -> Rule:
    return Rule(
        name=written.name,
        measure=MEASURES[written.measure],
        thresholds=tuple(written.threshold),
        subjects=tuple(written.subjects),
        window_s=written.window_s,
        baseline_s=written.baseline_s,
        minimum=written.minimum,
        covers=tuple(written.covers),
        enabled=written.enabled,
        conduct=Conduct(
            rule=written.name,
            measure=written.measure,
            severity=written.severity,
            steps=len(written.threshold),
            cool_down_s=written.cool_down_s,
            per_hour=written.per_hour,
            escalate_after_s=written.escalate_after_s,
            recovery=written.recovery,
            sinks=tuple(dict.fromkeys(written.sinks)),
            fold_over=written.fold_over,
        ),
    )


def _uncovering_unknown(
    rules: Mapping[str, Rule], refused: list[str], file: str
) -> tuple[Rule, ...]:
    """Say which covered rules there are not; the rule works without them."""
    for rule in rules.values():
        for name in rule.covers:
            if name not in rules:
                hint = nearest(name, rules)
                refused.append(f"{file} rule {rule.name}: covers: no rule {name!r}{hint}")
    # Those that cover others are asked first.
    return tuple(sorted(rules.values(), key=lambda rule: not rule.covers))


def describe(rule: Rule) -> Mapping[str, Any]:
    """Return a rule as people and scripts read it."""
    return {
        "name": rule.name,
        "measure": rule.measure.name,
        "threshold": ", ".join(map(str, rule.thresholds)),
        "unit": rule.measure.unit,
        "window_s": rule.window_s,
        "severity": rule.conduct.severity.value,
        "sinks": ", ".join(rule.conduct.sinks),
        "enabled": rule.enabled,
    }
