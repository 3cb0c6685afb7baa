"""Tables of endpoints that were frozen because they kept failing, and of what they showed before.

Must never hold an address in the clear: legacy merchants keep keys in the query of their URL.
"""

from sqlalchemy import Column, Index, Table, Text, text

from worker.columns import BigId, metadata, moment, number, words

# The present freeze of an endpoint, or its last one.
freeze = Table(
    "paynotify_freeze",
    metadata,
    Column("endpoint_id", BigId, primary_key=True, autoincrement=False),
    moment("frozen_at", nullable=False),
    words("why"),
    # SHA-256 of its URL when it was frozen.
    words("url_sha256"),
    # SHA-256 of the certificate it showed before, or first while frozen; empty: none was seen.
    words("certificate"),
    # Times it was frozen without a recovery in between, this one included.
    number("times", 1),
    # Openings of its breaker when it was let go: fewer later mean that it recovered in between.
    number("trips"),
    # When it is probed next, and by whom now: one at a time over all processes.
    moment("probe_at", nullable=False),
    number("claim_no"),
    moment("lease_until"),
    number("probes"),
    moment("probed_at"),
    # Of the last probe: acked, not_acked, timeout, tls, ...
    words("code"),
    number("status"),
    # Why no probe may let it go; empty: one may.
    words("person"),
    # NULL while it is frozen; then who let it go: freeze, or a person.
    moment("unfrozen_at"),
    words("unfrozen_by"),
    # freezes.take: whose probe is due.
    Index(
        "paynotify_freeze_due",
        "probe_at",
        postgresql_where=text("unfrozen_at IS NULL"),
        sqlite_where=text("unfrozen_at IS NULL"),
    ),
)

# What each endpoint showed last while it was called; one probe per key.
certificate = Table(
    "paynotify_certificate",
    metadata,
    Column("endpoint_id", BigId, primary_key=True, autoincrement=False),
    # Of the certificate as it is (DER), hex.
    Column("sha256", Text, nullable=False),
    moment("seen_at", nullable=False, default=True),
)
