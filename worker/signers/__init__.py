"""Signing schemes: each file shapes a notification the way one kind of merchant expects it.

The contract stands in ``contract.py``, the names in ``registry.py``. A scheme signs bytes: it
must never parse, re-encode or reorder a payload, never do IO and never read a clock; the time
of signing is part of the message. To add one: a file with a class that keeps the contract, a
line in ``registry.py``, and a test with a vector somebody else published. What
platforms are told and when they have acknowledged is data: ``profiles/`` holds one table each.
"""
