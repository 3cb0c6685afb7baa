"""The demo's payment channel: it knows what was paid, whoever was told.

A real HTTP server. Must never share anything with the engine but what it is asked over HTTP.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from worker import clock

NAME = "harbour-bank"


class Bank:
    """A server on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self._paid: dict[str, dict[str, object]] = {}
        bank = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                self.answer(bank._paid.get(self.path.rpartition("/")[2]))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        """Its TCP port."""
        return int(self._server.server_address[1])

    @property
    def paid(self) -> list[str]:
        """Numbers of the orders it was paid."""
        return [*self._paid]

    def open(self) -> None:
        """Start serving."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def pay(self, order_no: str, amount_minor: int, currency: str) -> None:
        """Take a payment, and forget to tell anybody."""
        self._paid[order_no] = {
            "order_no": order_no,
            "state": "PAID",
            "amount_minor": amount_minor,
            "currency": currency,
            "txn_no": f"HB{order_no}",
            "paid_at": clock.now().isoformat(timespec="seconds"),
        }

    def description(self) -> str:
        """Describe itself as an operator would in ``channels.toml``."""
        return f"""[channels.{NAME}]
adapter = "generic_json"
currency = "CNY"
url = "http://127.0.0.1:{self.port}/orders/{{order_no}}"
allowed = {{ http = true, ports = [{self.port}], networks = ["127.0.0.0/8"] }}
order_path = "order_no"
state_path = "state"
states = {{ PAID = "paid" }}
amount_path = "amount_minor"
amount_unit = "minor"
currency_path = "currency"
txn_path = "txn_no"
paid_at_path = "paid_at"
not_found_statuses = [404]
"""


class _Handler(BaseHTTPRequestHandler):
    def answer(self, found: dict[str, object] | None) -> None:
        """Send what is known as JSON."""
        body = json.dumps(found or {"error": "no such order"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing: the screen belongs to the demo."""
