"""Every error this project raises on purpose, in one tree.

    PaynotifyError
    ├── SettingsError              a setting, file or environment variable is wrong
    ├── BadFieldError              a value handed to us is wrong; names the field
    │   └── UrlRefusedError        a URL the guard does not let through
    ├── EventKeyConflictError      same endpoint and event key, other payload
    ├── NotFoundError              an id or name nobody knows
    ├── WrongStateError            the subject exists but cannot do that now
    ├── SecretError                a secret cannot be read with this master key
    └── UnavailableError           database, broker or program cannot be reached
        └── TablesError            the database is there, our tables are not or are others

What a merchant does (500, timeout, bad TLS) is never an error here: it is a
:class:`worker.models.Reply`. Messages say subject, what was expected, what was found and what
to do; never a secret, never a body. Every argument reaches ``Exception.__init__``, so each
error survives pickling.
"""


class PaynotifyError(Exception):
    """Anything we raise on purpose; ``str()`` of it is fit for an operator's eyes."""


class SettingsError(PaynotifyError):
    """Settings are wrong; ``problems`` lists all of them, one sentence each."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class BadFieldError(PaynotifyError):
    """A field of a call is wrong.

    Args:
        field: name of the field, with a path inside it where that helps (``payload.items[2]``).
        problem: what is wrong with its value and what would be right, one sentence.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class UrlRefusedError(BadFieldError):
    """The guard refused a URL; ``code`` is the short reason (``ip_literal``, ``port``, …)."""

    def __init__(self, field: str, problem: str, code: str) -> None:
        PaynotifyError.__init__(self, field, problem, code)
        self.field = field
        self.problem = problem
        self.code = code


class EventKeyConflictError(PaynotifyError):
    """An event key was used before on this endpoint with another payload."""

    def __init__(self, endpoint: str, event_key: str, notification_id: int) -> None:
        super().__init__(endpoint, event_key, notification_id)
        self.endpoint = endpoint
        self.event_key = event_key
        self.notification_id = notification_id

    def __str__(self) -> str:
        return (
            f"event_key {self.event_key!r} of endpoint {self.endpoint}: notification "
            f"{self.notification_id} has this key with another payload; the first stays as it "
            "is. Use a new key for a new event."
        )


class NotFoundError(PaynotifyError):
    """Nobody knows this id or name."""

    def __init__(self, kind: str, name: str, hint: str = "") -> None:
        super().__init__(kind, name, hint)
        self.kind = kind
        self.name = name
        self.hint = hint

    def __str__(self) -> str:
        return f"no {self.kind} {self.name!r}" + (f"; {self.hint}" if self.hint else "")


class WrongStateError(PaynotifyError):
    """The subject is in a state in which this cannot be done."""

    def __init__(self, subject: str, state: str, wanted: str) -> None:
        super().__init__(subject, state, wanted)
        self.subject = subject
        self.state = state
        self.wanted = wanted

    def __str__(self) -> str:
        return f"{self.subject} is {self.state}; {self.wanted}"


class SecretError(PaynotifyError):
    """A stored secret cannot be decrypted: wrong master key or a row that was moved."""


class UnavailableError(PaynotifyError):
    """Something we need outside this process does not answer."""

    def __init__(self, what: str, why: str, fix: str = "") -> None:
        super().__init__(what, why, fix)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f"; {self.fix}" if self.fix else "")


class TablesError(UnavailableError):
    """The database answers, but waiting does not help: somebody has to migrate it."""
