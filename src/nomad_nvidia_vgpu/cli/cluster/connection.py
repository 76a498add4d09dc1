# SPDX-License-Identifier: MPL-2.0
"""Nomad's HTTP API, reached as the `nomad` command reaches it: by the NOMAD_… variables.

Tokens and passwords are sent and never shown.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlencode, urlsplit

from nomad_nvidia_vgpu.errors import VgpuError

DEFAULT_ADDRESS = "http://127.0.0.1:4646"
READ_NODES = 'node { policy = "read" }'
PAGE = 200
"""Nodes and allocations are asked for by so many: a node with 128 vGPUs is some 30 kB."""

_TIMEOUT_S = 60.0
_MAX_BYTES = 256 << 20
_NEXT = "X-Nomad-Nexttoken"
_NOT_THE_TOKEN = ("ACL token not found", "ACL token expired")
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""What OpenSSL, by its version, calls an answer that is not TLS."""
_WANTS_TLS = b"HTTPS server"
"""In what Go's servers of TLS answer to plain HTTP."""
_MAX_SAID = 300


class NomadError(VgpuError):
    """Nomad's API gives no answer that can be used; the text says at which address, and why."""

    def __init__(self, sentence: str, remedy: str = "", *, half: str = "") -> None:
        """`half`: what is said of Nomad, without its address, to be put into another sentence."""
        super().__init__(sentence, remedy)
        self.half = half or sentence


class RefusedError(NomadError):
    """Nobody listens at the address."""


class TlsError(NomadError):
    """One side speaks TLS and the other does not."""


class NotThereError(NomadError):
    """Nomad knows nothing of that name."""


class ForbiddenError(NomadError):
    """The token may not; the text names the policy that it lacks."""


def read_jobs(namespace: str) -> str:
    """The rule of a policy that lets a token read the jobs of a namespace."""
    return f'namespace "{namespace}" {{ policy = "read" }}'


def submit_jobs(namespace: str) -> str:
    """The rule of a policy that lets a token plan jobs."""
    return f'namespace "{namespace}" {{ policy = "write" }}'


class _Answer(NamedTuple):
    status: int
    body: bytes
    next_page: str


class Connection:
    """A connection that is kept open over its requests, until `close`; of one thread only."""

    def __init__(self, environment: Mapping[str, str], timeout_s: float = _TIMEOUT_S) -> None:
        """`environment` holds the variables of Nomad's command line. Connects to nothing yet."""
        self.environment = environment
        self._timeout_s = timeout_s
        self.namespace = environment.get("NOMAD_NAMESPACE") or "default"
        address = environment.get("NOMAD_ADDR") or DEFAULT_ADDRESS
        self.shown = without_login(address)
        self._parts = self._split(address)
        self._headers = self._made_headers()
        self._open: http.client.HTTPConnection | None = None

    def another(self) -> Connection:
        """One to the same address, for another thread."""
        return Connection(self.environment, self._timeout_s)

    def get(self, path: str, needs: str, **query: str) -> Any:
        """The document at `path`, which is quoted already. `needs` is the policy rule that a token must have for it."""
        return self._document(path, self._answer("GET", path, needs, query))

    def post(self, path: str, document: object, needs: str, **query: str) -> Any:
        """What Nomad makes of a document that is sent to `path`."""
        body = json.dumps(document).encode()
        return self._document(path, self._answer("POST", path, needs, query, body))

    def pages(self, path: str, needs: str, **query: str) -> Iterator[Any]:
        """The entries of a list, page by page, so that no answer is larger than a page."""
        asked = {**query, "per_page": str(PAGE)}
        while True:
            answer = self._answer("GET", path, needs, asked)
            yield from self._document(path, answer) or ()
            if not answer.next_page:
                return
            asked["next_token"] = answer.next_page

    def close(self) -> None:
        """Ends the connection; the next request makes a new one."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _split(self, address: str) -> SplitResult:
        with suppress(ValueError):  # whose text holds the address
            parts = urlsplit(address)
            if parts.scheme == "unix" and parts.path:
                return parts
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
                return parts
        raise NomadError(
            f"NOMAD_ADDR ({self.shown}) is no address",
            "write http://host:port, https://host:port or unix:///path",
            half="has no address of the form http://host:port, https://host:port or unix:///path",
        )

    def _made_headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if token := self.environment.get("NOMAD_TOKEN"):
            if not (token.isascii() and token.isprintable()):
                # Said here, because http.client would quote it.
                raise NomadError(
                    "NOMAD_TOKEN holds a line end, or what is not ASCII", "set it again"
                )
            headers["X-Nomad-Token"] = token
        login = self.environment.get("NOMAD_HTTP_AUTH") or self._parts.netloc.rpartition("@")[0]
        if login:
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        return headers

    def _answer(
        self, method: str, path: str, needs: str, query: Mapping[str, str], body: bytes = b""
    ) -> _Answer:
        region = self.environment.get("NOMAD_REGION")
        asked = {**({"region": region} if region else {}), **query}
        target = f"{path}?{urlencode(asked)}" if asked else path
        answer = self._sent(method, target, body)
        if answer.status == http.client.OK:
            return answer
        said = _said(answer.body)
        if answer.status == http.client.FORBIDDEN:
            raise self._forbidden(said, needs)
        if answer.status == http.client.NOT_FOUND:
            raise self._failed(NotThereError, f"answers {path} with: {said or 'not found'}")
        if answer.status == http.client.BAD_REQUEST and _WANTS_TLS in answer.body:
            remedy = "write https:// in NOMAD_ADDR and set NOMAD_CACERT"
            raise self._failed(TlsError, "speaks TLS", remedy)
        half = f"answers {path} with status {answer.status}: {said or 'no text'}"
        raise self._failed(NomadError, half)

    def _failed(self, kind: type[NomadError], half: str, remedy: str = "") -> NomadError:
        return kind(f"Nomad at {self.shown} {half}", remedy, half=half)

    def _forbidden(self, said: str, needs: str) -> NomadError:
        if any(text in said for text in _NOT_THE_TOKEN):
            half = f"does not know the token in NOMAD_TOKEN ({said})"
            return self._failed(ForbiddenError, half, "set a valid one")
        if not self.environment.get("NOMAD_TOKEN"):
            half = "wants a token, and NOMAD_TOKEN is not set"
            return self._failed(ForbiddenError, half, f"set one whose policy has {needs}")
        return ForbiddenError(
            f"the token in NOMAD_TOKEN may not do this at {self.shown}",
            f"its policy lacks {needs}",
            half=f"wants a token whose policy has {needs}",
        )

    def _sent(self, method: str, target: str, body: bytes) -> _Answer:
        """One request; once more on a new connection where the kept one has been closed."""
        kept = self._open is not None
        try:
            return self._once(method, target, body)
        except (ConnectionError, http.client.BadStatusLine) as error:
            self.close()
            if kept and not isinstance(error, ConnectionRefusedError):
                return self._sent(method, target, body)
            raise self._unreachable(error) from error
        except ssl.SSLError as error:
            self.close()
            raise self._no_tls(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise self._unreachable(error) from error

    def _once(self, method: str, target: str, body: bytes) -> _Answer:
        if self._open is None:
            self._open = self._made_connection()
        kept = self._open
        kept.request(method, target, body=body or None, headers=self._headers)
        response = kept.getresponse()
        text = response.read(_MAX_BYTES)
        if not response.isclosed() and response.read(1):
            self.close()
            raise self._failed(NomadError, f"answers with more than {_MAX_BYTES} bytes")
        return _Answer(response.status, text, response.headers.get(_NEXT) or "")

    def _document(self, path: str, answer: _Answer) -> Any:
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            half = f"answers {path} with something that is not JSON"
            remedy = "set NOMAD_ADDR to a Nomad agent"
            raise NomadError(f"{self.shown} {half}", remedy, half=half) from error

    def _unreachable(self, error: Exception) -> NomadError:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        kind = RefusedError if isinstance(error, ConnectionRefusedError) else NomadError
        remedy = "set NOMAD_ADDR to an agent that runs"
        return self._failed(kind, f"does not answer ({said})", remedy)

    def _no_tls(self, error: ssl.SSLError) -> NomadError:
        if error.reason in _NO_TLS:
            return self._failed(TlsError, "does not speak TLS", "write http:// in NOMAD_ADDR")
        return self._failed(
            NomadError,
            f"cannot be trusted ({error.reason or error})",
            "set NOMAD_CACERT, and NOMAD_TLS_SERVER_NAME where its certificate has another name",
        )

    def _made_connection(self) -> http.client.HTTPConnection:
        parts = self._parts
        if parts.scheme == "unix":
            return _Unix(parts.path, self._timeout_s)
        host = parts.hostname or ""
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port, timeout=self._timeout_s)
        try:
            context = _tls_context(self.environment)
        except (OSError, ValueError) as error:  # of ssl too
            said = getattr(error, "strerror", None) or str(error)
            why = f"the TLS files that the NOMAD_… variables name cannot be used: {said}"
            raise NomadError(why, half=f"cannot be asked, because {why}") from error
        name = self.environment.get("NOMAD_TLS_SERVER_NAME") or host
        return _Https(host, parts.port, self._timeout_s, context, name)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Https(http.client.HTTPConnection):
    """TLS with a name of the server that may be another than the address."""

    default_port = 4646

    def __init__(
        self, host: str, port: int | None, timeout_s: float, context: ssl.SSLContext, name: str
    ) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self._context = context
        self._name = name

    def connect(self) -> None:
        raw = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._context.wrap_socket(raw, server_hostname=self._name)


def _tls_context(environment: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cafile=environment.get("NOMAD_CACERT") or None,
        capath=environment.get("NOMAD_CAPATH") or None,
    )
    if environment.get("NOMAD_SKIP_VERIFY", "").lower() in ("1", "t", "true"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate := environment.get("NOMAD_CLIENT_CERT"):
        context.load_cert_chain(certificate, environment.get("NOMAD_CLIENT_KEY") or None)
    return context


def without_login(address: str) -> str:
    """An address without the name and the password that may stand in it, to be shown."""
    scheme, slashes, rest = address.partition("://")
    if scheme not in ("http", "https", "unix"):  # it may be the password, if that holds slashes
        return address.rpartition("@")[2]
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}"


def _said(body: bytes) -> str:
    return " ".join(body[:_MAX_SAID].decode(errors="replace").split())
