"""One request at a time on one libcurl handle: set it up, hear it out, say what came back.

Must never follow, decode or believe more of what a merchant sends than a Reply can hold, and
never send one request twice.
"""

import base64
import os
import socket
from hashlib import sha256
from io import BytesIO
from typing import Any

import pycurl

from worker import guard
from worker.heads import NO_HEAD, final_head
from worker.identity import Identity, Limits, Manner
from worker.models import Failure, Reply, Request

_TEXT_MAX = 256  # characters kept of a header value or of libcurl's message
_KEEP_BODY = 16_384  # a bigger payload is let go when its handle rests
_QUICK_EXIT = 322  # CURLOPT_QUICK_EXIT; pycurl has no name for it
# libcurl's words when a server says (RFC 9113 section 8.7) that it has not looked at a request.
_UNTOUCHED = b"refused by server, try again on a new connection"
_FIXED_HEADERS = [
    "Accept-Encoding: identity",  # so that no reply is a decompression bomb
    "Expect:",  # no waiting for "100 Continue"
    "Content-Type:",  # none but the request's own, which comes before this and wins
]
_ALWAYS = (
    (pycurl.NOSIGNAL, 1),
    (_QUICK_EXIT, 1),  # a look-up that hangs must not be waited for when its request is over
    (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
    (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS),
    (pycurl.HTTP09_ALLOWED, 0),
    (pycurl.FOLLOWLOCATION, 0),
    (pycurl.HTTP_CONTENT_DECODING, 0),
    (pycurl.NETRC, pycurl.NETRC_IGNORED),
    (pycurl.PROXY, ""),
    (pycurl.NOPROXY, "*"),
    (pycurl.USERAGENT, "paynotify/1"),
    (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
    (pycurl.SSL_VERIFYPEER, 1),
    (pycurl.SSL_VERIFYHOST, 2),
    (pycurl.OPT_CERTINFO, 1),  # read where a new connection was made; costs 3 % of a handshake
)

_FAILURES = {
    pycurl.E_COULDNT_RESOLVE_HOST: Failure.DNS,
    pycurl.E_COULDNT_CONNECT: Failure.CONNECT,
    pycurl.E_INTERFACE_FAILED: Failure.CONNECT,
    pycurl.E_OPERATION_TIMEDOUT: Failure.TIMEOUT,
    pycurl.E_URL_MALFORMAT: Failure.UNSENDABLE,
    pycurl.E_GOT_NOTHING: Failure.RESET,
    pycurl.E_SEND_ERROR: Failure.RESET,
    pycurl.E_RECV_ERROR: Failure.RESET,
    pycurl.E_PARTIAL_FILE: Failure.RESET,
    pycurl.E_SEND_FAIL_REWIND: Failure.RESET,
    pycurl.E_UNSUPPORTED_PROTOCOL: Failure.PROTOCOL,  # HTTP/0.9: the answer has no head at all
    pycurl.E_FTP_WEIRD_SERVER_REPLY: Failure.PROTOCOL,
    pycurl.E_HTTP2: Failure.PROTOCOL,
    pycurl.E_WRITE_ERROR: Failure.PROTOCOL,
    pycurl.E_BAD_CONTENT_ENCODING: Failure.PROTOCOL,
    92: Failure.RESET,  # CURLE_HTTP2_STREAM: the merchant reset this stream
    100: Failure.PROTOCOL,  # CURLE_TOO_LARGE: a header beyond libcurl's own cap
    pycurl.E_SSL_CONNECT_ERROR: Failure.TLS,
    pycurl.E_PEER_FAILED_VERIFICATION: Failure.TLS,
    pycurl.E_SSL_CERTPROBLEM: Failure.TLS,
    pycurl.E_SSL_CIPHER: Failure.TLS,
    pycurl.E_SSL_CACERT_BADFILE: Failure.TLS,
    pycurl.E_SSL_ISSUER_ERROR: Failure.TLS,
    pycurl.E_SSL_INVALIDCERTSTATUS: Failure.TLS,
    pycurl.E_SSL_ENGINE_INITFAILED: Failure.TLS,
    98: Failure.TLS,  # CURLE_SSL_CLIENTCERT: the merchant wants a client certificate
}


class _Lent:
    """A socket's descriptor for pycurl, which makes its own copy; this one closes at once."""

    def __init__(self, opened: socket.socket) -> None:
        self._fd = opened.detach()

    def fileno(self) -> int:
        return self._fd

    def __del__(self) -> None:
        os.close(self._fd)


class Wire:
    """A libcurl handle for one identity and method, used for one request after the other.

    Only what differs between two requests is set anew; resetting a handle costs more than the
    rest of a request together. Everything here runs on the transport's thread.

    Attributes:
        stale: the last request failed because the connection it reused was already dying.
    """

    __slots__ = (
        "_body", "_body_max", "_broken", "_head", "_limits", "_manner", "_networks",
        "_ours", "_peer",
        "_raw", "_ready", "_refused", "_size", "_started_s", "_timeout_ms", "curl",
        "host", "identity", "method", "request", "stale",
    )  # fmt: skip

    def __init__(self, identity: Identity, method: str, limits: Limits) -> None:
        self.identity = identity
        self.request: Request | None = None
        self.host = ""
        self.curl: Any = pycurl.Curl()
        self.curl.wire = self
        self._limits = limits
        self.method = method
        self._networks = identity.networks
        self._body_max = limits.reply_max_bytes
        self._timeout_ms = 0
        self._manner = Manner.PLAIN
        self._raw = BytesIO()
        self._configure()

    def begin(self, request: Request, host: str, now_s: float, manner: Manner) -> None:
        """Set the handle up for ``request``; it is sent when its multi gets to it.

        Args:
            request: what to send; ``method`` and identity are this wire's.
            host: of its address, as the guard read it.
            now_s: the monotonic clock.
            manner: how this host wants to be treated.

        Raises:
            ValueError: a header holds what no HTTP request can carry.
        """
        lines = [f"{name}: {value}" if value else f"{name};" for name, value in request.headers]
        if not "".join(lines).isprintable():
            raise ValueError("a header holds a control character")
        put = self.curl.setopt
        put(pycurl.URL, request.url)
        put(pycurl.HTTPHEADER, lines + _FIXED_HEADERS)
        if self.method != "GET":
            put(pycurl.POSTFIELDS, request.body)
        timeout_ms = max(1, int(request.timeout_s * 1000))
        if timeout_ms != self._timeout_ms:
            put(pycurl.TIMEOUT_MS, timeout_ms)
            self._timeout_ms = timeout_ms
        if manner is not self._manner:
            self._behave(manner)
        if self._limits.resolve is not None:
            put(pycurl.RESOLVE, list(self._limits.resolve()))
        self.request, self.host = request, host
        self._started_s = now_s
        self._head = NO_HEAD
        self._raw.seek(0)
        self._raw.truncate()
        self._body: list[bytes] = []
        self._size = 0
        self._broken = self._refused = self._peer = ""
        self._ready = self._ours = self.stale = False

    def end(self, code: int, message: str, now_s: float) -> Reply:
        """Say what came back and let go of the request.

        Args:
            code: libcurl's result, 0 is success.
            message: libcurl's words for it.
            now_s: the monotonic clock.
        """
        elapsed_ms = int((now_s - self._started_s) * 1000)
        if self._head is NO_HEAD:
            self._read_head()
            # Too late to close the connection: it is not to be used again.
            self.stale = self.stale or bool(self._head.fault)
        if self._head.status >= 200 and not self._head.fault:
            reply = self._answered(code, message, elapsed_ms)
        else:
            reply = Reply(
                failure=self._failure(code),
                elapsed_ms=elapsed_ms,
                detail=self._detail(code, message),
                remote_ip=self._peer,
                requested=self.curl.getinfo(pycurl.REQUEST_SIZE) > 0,
            )
        request, self.request = self.request, None
        if request is not None and len(request.body) > _KEEP_BODY:
            self.curl.setopt(pycurl.POSTFIELDS, b"")
        return reply

    @property
    def shared(self) -> bool:
        """Whether the last reply came over HTTP/2."""
        return self._head.shared

    def close(self) -> None:
        """Free the handle; it must be in no multi."""
        self.curl.wire = None
        self.curl.close()

    def _answered(self, code: int, message: str, elapsed_ms: int) -> Reply:
        note = detail = ""
        if self._size > self._body_max:
            note = "body_capped"
        elif code:
            # A full head decides; what happens to the body afterwards is only worth a note.
            note, detail = "body_truncated", self._detail(code, message)
        return Reply(
            status=self._head.status,
            body=b"".join(self._body)[: self._body_max],
            content_type=self._head.content_type,
            retry_after=self._head.retry_after,
            elapsed_ms=elapsed_ms,
            detail=detail,
            note=note,
            remote_ip=self._peer,
            requested=True,
        )

    def certificate(self) -> str:
        """SHA-256 (hex) of what the merchant showed if the last request opened a connection."""
        if not self.curl.getinfo(pycurl.NUM_CONNECTS):
            return ""
        for certificate in self.curl.getinfo_raw(pycurl.INFO_CERTINFO):
            pem: bytes = dict(certificate).get(b"Cert", b"")
            body = pem.partition(b"-----\n")[2].partition(b"-----")[0]
            return sha256(base64.b64decode(body)).hexdigest() if body else ""
        return ""

    def _failure(self, code: int) -> Failure:
        if self._refused:
            return Failure.REFUSED
        if self._ours:
            return Failure.LOCAL
        if self._head.fault:
            return Failure.PROTOCOL
        if code == pycurl.E_ABORTED_BY_CALLBACK:
            return Failure.RESET
        # Success without a full head: the merchant closed in the middle of it.
        return _FAILURES.get(code, Failure.CONNECT) if code else Failure.PROTOCOL

    def _detail(self, code: int, message: str) -> str:
        if self._refused:
            return f"{self._refused} is an address that must not be called"
        words = self._broken or message or "the reply ended inside its head"
        return " ".join(words.split())[:_TEXT_MAX] + (f" (libcurl {code})" if code else "")

    def _configure(self) -> None:
        put, limits, identity = self.curl.setopt, self._limits, self.identity
        for option, value in _ALWAYS:
            put(option, value)
        put(pycurl.CONNECTTIMEOUT_MS, max(1, int(limits.connect_timeout_s * 1000)))
        put(pycurl.MAXAGE_CONN, limits.connection_max_age_s)
        put(pycurl.MAXLIFETIME_CONN, limits.connection_max_age_s)
        self.curl.unsetopt(pycurl.CAPATH)  # one source of trust: the file, or the text over it
        put(pycurl.CAINFO, str(limits.ca_file))
        if identity.ca_pem is not None:
            put(pycurl.CAINFO_BLOB, identity.ca_pem.encode())
        if identity.client_pem is not None:
            put(pycurl.SSLCERT_BLOB, identity.client_pem.encode())
            put(pycurl.SSLKEY_BLOB, identity.client_pem.encode())
        put(pycurl.OPENSOCKETFUNCTION, self._on_socket)
        put(pycurl.PREREQFUNCTION, self._on_ready)
        put(pycurl.DEBUGFUNCTION, self._on_log)
        # A builtin: seven calls a reply, none of which may cost a Python frame.
        put(pycurl.HEADERFUNCTION, self._raw.write)
        put(pycurl.WRITEFUNCTION, self._on_body)
        if self.method == "GET":
            put(pycurl.HTTPGET, 1)
        else:
            put(pycurl.POST, 1)
        if self.method not in ("GET", "POST"):
            put(pycurl.CUSTOMREQUEST, self.method)

    def _behave(self, manner: Manner) -> None:
        alone = int(manner is Manner.ALONE)
        self.curl.setopt(pycurl.FRESH_CONNECT, alone)
        self.curl.setopt(pycurl.FORBID_REUSE, alone)
        # Only libcurl's log tells why it sends again, and it is too slow to read for all.
        self.curl.setopt(pycurl.VERBOSE, int(manner is Manner.SHARED))
        self._manner = manner

    def _on_log(self, kind: int, text: bytes) -> None:
        if kind == pycurl.INFOTYPE_TEXT and _UNTOUCHED in text:
            self._ready = False  # sending this once more is no second send

    def _on_socket(self, _purpose: int, address: Any) -> Any:
        family, kind, protocol, name = address
        ip = name[0] if family in (socket.AF_INET, socket.AF_INET6) else "not an IP address"
        # After one refusal all others are refused too: a name that also points somewhere
        # forbidden is not to be trusted with its other addresses.
        if self._refused or not guard.may_dial(ip, self._networks):
            self._refused = self._refused or ip
            return pycurl.SOCKET_BAD
        self._peer = ip
        try:
            return _Lent(socket.socket(family, kind, protocol))
        except OSError as error:
            self._broken = f"no socket to dial with: {error.strerror}"
            self._ours = True
            return pycurl.SOCKET_BAD

    def _on_ready(self, ip: str, _local_ip: str, _port: int, _local_port: int) -> int:
        if self._ready:
            # libcurl sends again by itself when a reused connection died without an answer.
            # The merchant may have acted on the first send: the schedule decides, not we.
            self._broken = "the reused connection was closed before an answer came"
            self.stale = True
            return int(pycurl.PREREQFUNC_ABORT)
        self._ready = True
        self._broken = ""
        if not guard.may_dial(ip, self._networks):
            self._refused = ip
            return int(pycurl.PREREQFUNC_ABORT)
        self._peer = ip
        return int(pycurl.PREREQFUNC_OK)

    def _read_head(self) -> None:
        self._head = final_head(self._raw.getvalue())
        self._broken = self._broken or self._head.fault

    def _on_body(self, chunk: bytes) -> int | None:
        if not self._size:
            self._read_head()
        self._size += len(chunk)
        self._body.append(chunk)
        # Anything but None ends the transfer, and with it the connection.
        return -1 if self._size > self._body_max or self._head.fault else None
