"""Which signing schemes there are, by name. Must never fall back to another scheme."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from worker.errors import BadFieldError
from worker.signers.adyen import Adyen
from worker.signers.alipay_rsa2 import AlipayRsa2
from worker.signers.contract import Scheme
from worker.signers.epay import Epay
from worker.signers.jeepay import Jeepay
from worker.signers.plain_hmac import PlainHmac
from worker.signers.roncoo import Roncoo
from worker.signers.square import Square
from worker.signers.standard_webhooks import StandardWebhooks
from worker.signers.standard_webhooks_v1a import StandardWebhooksV1a
from worker.signers.stripe_style import StripeStyle
from worker.signers.unionpay_51 import Unionpay51
from worker.signers.wechat_v2 import WechatV2
from worker.signers.wechat_v3 import WechatV3

_ALL: tuple[Scheme, ...] = (
    Adyen(),
    AlipayRsa2(),
    Epay(),
    Jeepay(),
    PlainHmac(),
    Roncoo(),
    Square(),
    StandardWebhooks(),
    StandardWebhooksV1a(),
    StripeStyle(),
    Unionpay51(),
    WechatV2(),
    WechatV3(),
)
_SCHEMES: Mapping[str, Scheme] = MappingProxyType({scheme.name: scheme for scheme in _ALL})


def find(name: str) -> Scheme:
    """Return the scheme of that name; always the same object.

    Raises:
        BadFieldError: field ``scheme``; names the nearest and all there are.

    Examples:
        >>> find("standard-webhooks").name
        'standard-webhooks'
        >>> try:
        ...     find("standard_webhook")
        ... except BadFieldError as error:
        ...     print(error.problem.partition("?")[0])
        no scheme 'standard_webhook'; did you mean standard-webhooks
    """
    scheme = _SCHEMES.get(name)
    if scheme is None:
        near = difflib.get_close_matches(name, _SCHEMES, n=1)
        hint = f"did you mean {near[0]}? There are" if near else "there are"
        raise BadFieldError("scheme", f"no scheme {name[:64]!r}; {hint}: {', '.join(names())}")
    return scheme


def names() -> tuple[str, ...]:
    """Return the names of all schemes, sorted."""
    return tuple(sorted(_SCHEMES))
