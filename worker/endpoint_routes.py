"""What a person may do to the routes of an endpoint: each is a change of its configuration.

Pure. Must never give a number to a second route, nor leave an endpoint pinned to one that is gone.
"""

from dataclasses import replace

from worker.errors import BadFieldError, NotFoundError, WrongStateError
from worker.guard import check_url
from worker.models import Endpoint, EndpointState
from worker.route_facts import OWN, Route

ROUTES_MAX = 8
WEIGHT_MAX = 100


def added(endpoint: Endpoint, url: str, *, weight: int) -> Endpoint:
    """Return the endpoint with one more route, the last in order.

    Raises:
        BadFieldError: it has too many, has this one already, or the weight is none.

    Examples:
        >>> acme = Endpoint(id=1, name="acme", merchant="m", url="https://a.example.com/")
        >>> added(acme, "https://b.example.com/", weight=0).routes
        (Route(no=1, url='https://b.example.com/', weight=0),)
    """
    if len(endpoint.routes) >= ROUTES_MAX:
        raise BadFieldError(
            "routes", f"are {len(endpoint.routes)} beside the endpoint's own URL; remove one first"
        )
    if url in (endpoint.url, *(route.url for route in endpoint.routes)):
        raise BadFieldError("url", f"is a route of {endpoint.name} already; change its weight")
    made = Route(no=endpoint.routes_made + 1, url=url, weight=_weight(weight))
    return replace(endpoint, routes=(*endpoint.routes, made), routes_made=made.no)


def removed(endpoint: Endpoint, no: int) -> Endpoint:
    """Return the endpoint without a route.

    Raises:
        BadFieldError: it is the endpoint's own URL, or the one it is pinned to.
        NotFoundError: it has no such route.
    """
    _known(endpoint, no)
    if no == OWN:
        raise BadFieldError("route", f"{OWN} is the endpoint's own URL; change it with --url")
    if no == endpoint.pinned:
        raise BadFieldError("route", f"{no} is pinned; unpin it first")
    return replace(endpoint, routes=tuple(route for route in endpoint.routes if route.no != no))


def weighted(endpoint: Endpoint, no: int, weight: int) -> Endpoint:
    """Return the endpoint with another weight of a route.

    Raises:
        BadFieldError: the weight is none.
        NotFoundError: it has no such route.
    """
    _known(endpoint, no)
    if no == OWN:
        return replace(endpoint, weight=_weight(weight))
    return replace(
        endpoint,
        routes=tuple(
            replace(route, weight=_weight(weight)) if route.no == no else route
            for route in endpoint.routes
        ),
    )


def pinned(endpoint: Endpoint, no: int | None) -> Endpoint:
    """Return the endpoint with all of its traffic on one route, well or not; None frees it.

    Raises:
        NotFoundError: it has no such route.
    """
    if no is not None:
        _known(endpoint, no)
    return replace(endpoint, pinned=no)


def allowed(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint when its routes may be what they are.

    Raises:
        UrlRefusedError: the guard forbids one of them.
        WrongStateError: the endpoint was deleted.
    """
    if endpoint.state is EndpointState.DELETED:
        raise WrongStateError(f"endpoint {endpoint.name}", "deleted", "register a new one")
    for route in endpoint.routes:
        check_url(route.url, endpoint.allowed, field=f"route {route.no}")
    return endpoint


def through(endpoint: Endpoint, no: int) -> Endpoint:
    """Return the endpoint as it is called through one of its routes.

    Raises:
        NotFoundError: it has no such route.
    """
    _known(endpoint, no)
    urls = {route.no: route.url for route in endpoint.routes}
    return replace(endpoint, url=urls.get(no, endpoint.url))


def _known(endpoint: Endpoint, no: int) -> None:
    numbers = [OWN, *(route.no for route in endpoint.routes)]
    if no not in numbers:
        listed = ", ".join(map(str, numbers))
        raise NotFoundError("route", f"{no} of {endpoint.name}", f"it has {listed}")


def _weight(value: int) -> int:
    if type(value) is not int or not 0 <= value <= WEIGHT_MAX:
        raise BadFieldError(
            "weight", f"is {value!r}, must be a whole number from 0 to {WEIGHT_MAX}"
        )
    return value
