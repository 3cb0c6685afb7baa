"""Payment channels: each file asks one kind of channel what became of an order.

The contract stands in ``contract.py``, the names in ``registry.py``, the wire in ``http.py``. An
adapter shapes requests and reads answers: it must never open a socket itself, never raise for
what a channel does, and never call an order unpaid because it could not find out. To add one: a
file with its options and a class that keeps :class:`schedules.ports.ChannelPort`, a line in
``registry.py``, an example in ``config/channels.toml``, and a dialect in the simulator of the
tests.
"""
