"""HTTP/2 against nginx: chosen by TLS, shared by many requests, and no less safe."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import authority_in, leaf
from tests.sending import Sender, request
from worker import clock
from worker.models import Request

_CONFIG = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  log_format seen '$server_protocol $connection $request_method $http_webhook_id';
  access_log {folder}/access.log seen;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.pem;
    keepalive_requests 60;
    location / {{ default_type text/plain; return 200 "success"; }}
  }}
}}
"""


class Nginx:
    """A TLS server that speaks HTTP/2 and ends each connection after 60 requests."""

    def __init__(self, folder: Path) -> None:
        trusted = authority_in(folder)
        (folder / "server.pem").write_text(leaf(trusted).pem)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        (folder / "nginx.conf").write_text(_CONFIG.format(folder=folder, port=self.port))
        self.ca_pem = trusted.certificate_pem
        self.log = folder / "access.log"
        self._child = subprocess.Popen(["nginx", "-c", folder / "nginx.conf"])
        self._await()

    def _await(self) -> None:
        end_s = clock.monotonic_s() + 10
        while clock.monotonic_s() < end_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            clock.sleep(0.05)
        raise RuntimeError("nginx did not start")

    def resolve(self) -> tuple[str, ...]:
        return (f"merchant.test:{self.port}:127.0.0.1",)

    def order(self, number: int) -> Request:
        return request(
            f"https://merchant.test:{self.port}/",
            headers=(("webhook-id", f"msg_{number}"), ("content-type", "application/json")),
            ca_pem=self.ca_pem,
            tag=number,
        )

    def seen(self, count: int) -> list[list[str]]:
        """Wait until so many requests are logged; each is protocol, connection, method, id."""
        end_s = clock.monotonic_s() + 10
        while clock.monotonic_s() < end_s:
            lines = self.log.read_text().splitlines()
            if len(lines) >= count:
                break
            clock.sleep(0.05)
        return [line.split() for line in lines]

    def stop(self) -> None:
        self._child.terminate()
        self._child.wait(10)


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    server = Nginx(tmp_path)
    yield server
    server.stop()


def test_http_2_is_used_where_the_merchant_speaks_it(nginx: Nginx) -> None:
    with Sender(resolve=nginx.resolve) as sender:
        for number in range(10):
            reply = sender.send(nginx.order(number))
            assert (reply.status, reply.body, reply.content_type) == (200, b"success", "text/plain")
    seen = nginx.seen(10)
    assert {protocol for protocol, *_ in seen} == {"HTTP/2.0"}
    assert len({connection for _, connection, *_ in seen}) == 1


def test_each_of_many_requests_at_once_is_sent_once_though_connections_retire(
    nginx: Nginx,
) -> None:
    with Sender(resolve=nginx.resolve, in_flight_max=50) as sender:
        sender.transport.submit([nginx.order(number) for number in range(1000)])
        finished = sender.wait(1000)
    seen = [message_id for *_, message_id in nginx.seen(1000)]
    failed = [reply.detail for _, reply in finished if reply.status != 200]
    assert len(seen) == len(set(seen))
    assert len(failed) == 0, (len(failed), failed[:3])
