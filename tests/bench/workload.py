"""What every contender is given to deliver: the same endpoints, the same payloads.

Must never favour one contender: whatever one of them sends, all of them send.
"""

import psycopg

# How many merchants share the work, unless a run says otherwise.
ENDPOINTS = 200

# 32 bytes, as Standard Webhooks asks for.
SECRET = b"paynotify-bench-secret-of-32-byt"
SECRET_TEXT = "whsec_cGF5bm90aWZ5LWJlbmNoLXNlY3JldC1vZi0zMi1ieXQ="

# What a payment notification looks like: about 330 bytes.
PAYLOAD = (
    '{"event_type":"payment.succeeded","order_no":"20260101120000%012d","trade_no":'
    '"4200001234202601011234567890","merchant_no":"M10000042","amount_minor":12900,'
    '"currency":"CNY","channel":"wechat_native","state":"PAID","paid_at":'
    '"2026-01-01T12:00:00+08:00","attach":"card:steam-100;qty:1","buyer":"o6_bmjrPTlm6_2sgVt7hMZ"}'
)


def payload(number: int) -> bytes:
    """Return the body of the ``number``-th callback."""
    return (PAYLOAD % number).encode()


def url(base: str, endpoint_no: int) -> str:
    """Return the address of one merchant on the receiver at ``base``."""
    return f"{base}/merchants/{endpoint_no}/notify"


def create_endpoints(connection: psycopg.Connection, base: str, endpoints: int) -> None:
    """Write ``endpoints`` endpoints with a lane each, without the engine's help."""
    connection.execute(
        "INSERT INTO paynotify_endpoint (name, merchant, url, config)"
        " SELECT 'm' || i, 'm' || i, %s || '/merchants/' || i || '/notify', '{}'"
        " FROM generate_series(1, %s) i",
        (base, endpoints),
    )
    connection.execute(
        "INSERT INTO paynotify_lane (endpoint_id, in_flight_cap)"
        " SELECT id, 100 FROM paynotify_endpoint"
    )


def clear(connection: psycopg.Connection) -> None:
    """Forget every notification; endpoints stay."""
    connection.execute("TRUNCATE paynotify_notification, paynotify_delivery, paynotify_attempt")


def fill(connection: psycopg.Connection, count: int) -> None:
    """Write ``count`` due notifications, spread evenly over the endpoints there are."""
    connection.execute(
        "INSERT INTO paynotify_notification"
        " (id, endpoint_id, message_id, event_type, event_key, order_no, payload)"
        " SELECT i, e.id, 'msg_' || md5(i::text), 'payment.succeeded', 'k' || i,"
        "   '20260101120000' || lpad(i::text, 12, '0'),"
        "   convert_to(replace(%s, '%%012d', lpad(i::text, 12, '0')), 'UTF8')"
        " FROM generate_series(1, %s) i"
        " JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS no, count(*) OVER () AS many"
        "         FROM paynotify_endpoint) e ON e.no = i %% e.many",
        (PAYLOAD, count),
    )
    connection.execute(
        "INSERT INTO paynotify_delivery (id, lane_id, state, due_at)"
        " SELECT n.id, l.id, 'pending', now() FROM paynotify_notification n"
        " JOIN paynotify_lane l USING (endpoint_id) ORDER BY n.id"
    )


def settle_down(connection: psycopg.Connection) -> None:
    """Bring statistics up to date and write dirty pages out, so that no run pays for another.

    The connection must be in autocommit.
    """
    connection.execute(
        "VACUUM (ANALYZE) paynotify_notification, paynotify_delivery, paynotify_attempt,"
        " paynotify_lane, paynotify_endpoint"
    )
    connection.execute("CHECKPOINT")


def delivered(connection: psycopg.Connection) -> int:
    """Count the deliveries that are truly done: delivered, with a closed and acked attempt."""
    row = connection.execute(
        "SELECT count(*) FROM paynotify_delivery d JOIN paynotify_attempt a"
        " ON a.notification_id = d.id AND a.attempt_no = d.attempt_no"
        " WHERE d.state = 'delivered' AND a.outcome = 'acked' AND a.finished_at IS NOT NULL"
    ).fetchone()
    return int(row[0]) if row else 0
