"""How an endpoint speaks: whether scheme, encoding, fields, options and secret fit together.

Pure. Must never quote a secret.
"""

from collections.abc import Mapping

from worker.errors import BadFieldError
from worker.field_map import FieldMap, check_names
from worker.fields import quoted
from worker.models import Encoding, Endpoint, Secret
from worker.signers import registry
from worker.signers.contract import Message


def check_encoding(value: str | Encoding) -> Encoding:
    """Return the encoding of that name."""
    try:
        return Encoding(value)
    except ValueError:
        there_are = ", ".join(Encoding)
        raise BadFieldError(
            "encoding", f"{quoted(value, 20)} is none; there are {there_are}"
        ) from None


def check_fields(fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the field map as pairs; :func:`check_manner` looks what stands in it."""
    if not isinstance(fields, Mapping):
        raise BadFieldError("fields", "must be a table: the merchant's names, how each is made")
    return tuple(fields.items())


def check_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options; :func:`check_manner` looks what stands in them."""
    if not isinstance(options, Mapping):
        raise BadFieldError("options", "must be a table of text")
    return dict(options)


def check_manner(endpoint: Endpoint) -> None:
    """Refuse scheme, encoding, method, fields and options that do not fit together.

    Raises:
        BadFieldError: names the field (``fields.money``, ``options.charset``).
    """
    raw = endpoint.encoding is Encoding.RAW
    if (endpoint.encoding is Encoding.QUERY) != (endpoint.method == "GET") and not raw:
        raise BadFieldError(
            "method",
            f"{endpoint.method} cannot carry {endpoint.encoding}; GET and query go together",
        )
    if raw and endpoint.fields:
        raise BadFieldError("fields", "are of no use to raw payloads; set encoding: form, json …")
    if not raw and not endpoint.fields:
        raise BadFieldError("fields", f"are none; {endpoint.encoding} needs the merchant's names")
    registry.find(endpoint.scheme).check_options(endpoint.encoding, endpoint.options)
    FieldMap(endpoint.fields, currency=endpoint.currency, zone=endpoint.zone)
    check_names(endpoint.fields, endpoint.encoding)


def check_signs(endpoint: Endpoint, secret: str) -> None:
    """Refuse a secret, or names of fields, that the endpoint's scheme cannot sign with.

    Raises:
        BadFieldError: field ``secret`` or ``fields.NAME``; never quotes a secret.
    """
    scheme = registry.find(endpoint.scheme)
    scheme.check_secret(secret)
    trial = Message(
        message_id="msg_trial",
        event_type="trial",
        event_key="trial",
        order_no=None,
        attempt_no=1,
        url="https://merchant.example.com/",
        method=endpoint.method,
        content_type=endpoint.content_type,
        headers=(),
        body=b"{}",
        signed_at=0,
        secrets=(Secret(version=1, value=secret),),
        encoding=endpoint.encoding,
        fields=tuple((name, "1") for name, _ in endpoint.fields),
        options=endpoint.options,
    )
    try:
        scheme.shape(trial)
    except BadFieldError as error:
        # What else is wrong with a message of no substance is no news.
        if error.field == "secret" or error.field.startswith("fields."):
            raise
