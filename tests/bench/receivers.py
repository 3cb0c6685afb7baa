"""The merchants of the bench: nginx, which answers everybody the word they expect.

Must never be what limits a run: it is native, and its share of the machine is measured.
"""

import re
import socket
from contextlib import suppress
from typing import Self
from urllib.request import urlopen

from tests.bench.children import BenchError
from tests.programs import program
from tests.services import Child

# One process, no log, keep-alive without end. multi_accept and a large backlog: two senders
# open hundreds of connections in one moment.
_CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/log warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; use epoll; multi_accept on; }}
http {{
  access_log off;
  server_tokens off;
  default_type text/plain;
  tcp_nodelay on;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  client_max_body_size 1m;
  client_body_buffer_size 512k;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 'success'; }}
    location = /count {{ stub_status; }}
  }}
}}
"""


class Nginx(Child):
    """A private nginx on a free port, ended with the block."""

    def __init__(self) -> None:
        super().__init__("nginx")
        self._asked = 0

    def __enter__(self) -> Self:
        config = self.folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=self.folder, port=self.port))
        self._run([str(program("nginx")), "-c", str(config), "-e", str(self.folder / "log")])
        if not self._await(self._listens, 10):
            log = self.log()
            self.stop()
            raise BenchError(f"nginx does not listen on port {self.port}:\n{log}")
        return self

    @property
    def base(self) -> str:
        """``http://127.0.0.1:port``, no slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def received(self) -> int:
        """Count the callbacks it has answered since its start."""
        with urlopen(f"{self.base}/count", timeout=5) as reply:
            found = re.search(rb"\n\s*\d+\s+\d+\s+(\d+)", reply.read())
        if found is None:
            raise BenchError("nginx does not tell how many requests it had")
        # nginx counts our asking as well.
        self._asked += 1
        return int(found[1]) - self._asked

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False
