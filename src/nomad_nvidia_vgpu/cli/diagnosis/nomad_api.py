# SPDX-License-Identifier: MPL-2.0
"""Asks a Nomad agent's HTTP API about its node, as Nomad's own command line is told to."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from nomad_nvidia_vgpu.cli.agent.config import ENABLE_CLIENT

_SCHEMES = ("http", "https")
DEFAULT_ADDRESS = "http://127.0.0.1:4646"

_TIMEOUT_S = 5.0
_MAX_BYTES = 64 << 20
_BAD_REQUEST = 400
_FORBIDDEN = 403
_NOT_FOUND = 404
_OK = 200
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""What OpenSSL, by its version, calls an answer that is not TLS."""
_WANTS_TLS = b"HTTPS server"
"""In what Go's servers of TLS answer to plain HTTP."""
_OR_FIX = ", or fix tls in the agent's configuration"


class ApiGroup(NamedTuple):
    """A device group as Nomad knows it."""

    vendor: str
    type: str
    name: str
    instances: Mapping[str, str]
    """Id to why it is unhealthy; empty: it is healthy."""

    @property
    def device(self) -> str:
        """By which a job can ask for it."""
        return f"{self.vendor}/{self.type}/{self.name}"


class NomadLook(NamedTuple):
    """What the API says of this node."""

    address: str
    problem: str = ""
    """Why it says nothing, in half a sentence."""
    refused: bool = False
    """Whether nobody listens there."""
    version: str | None = None
    node_id: str | None = None
    groups: tuple[ApiGroup, ...] | None = None
    """None: it does not say."""
    remedy: str = ""
    """What to do about the problem, if that is known."""
    client: bool | None = None
    """Whether the agent that was asked is a client; None: it does not say."""
    early: bool = False
    """Whether it may be that the agent has only just started."""
    docker_runtimes: tuple[str, ...] | None = None
    """Those that Nomad's docker driver has found; None: it has found no docker, or does not say."""
    allocations: Mapping[str, str] | None = None
    """The node's allocations, each with how its client has it; None: it does not say."""
    all_allocations: bool = False
    """Whether those are all: with ACLs there may be others, which this token may not see."""


class ApiError(Exception):
    """The text is half a sentence about why there is no answer."""

    def __init__(
        self, text: str, *, refused: bool = False, remedy: str = "", early: bool = False
    ) -> None:
        """`refused`: nobody listens at the address; `early`: that may change by itself soon."""
        super().__init__(text)
        self.refused = refused
        self.remedy = remedy
        self.early = early or refused


class NotFoundError(ApiError):
    """There is nothing at the path."""


def look_at_nomad(environment: Mapping[str, str], name: str) -> NomadLook:
    """What the agent that `environment` leads to says of its own node, or else the one of `name`.

    The variables are those of Nomad's command line. Takes some seconds at most for each of four
    requests.
    """
    address = environment.get("NOMAD_ADDR") or DEFAULT_ADDRESS
    shown = without_login(address)
    version = client = None
    try:
        api = _Api(address, environment)
        try:
            agent = api.get("/v1/agent/self")
        except ApiError as error:
            if error.refused:
                raise
            agent = {}  # not everybody may ask an agent about itself
        version = _at(agent, "config", "Version", "Version")
        client = _at(agent, "config", "Client", "Enabled")
        node_id = _at(agent, "stats", "client", "node_id") or _listed(api, name, client=client)
        node = _node(api, str(node_id))
    except ApiError as error:
        problem = NomadLook(shown, str(error), error.refused, version, remedy=error.remedy)
        return problem._replace(client=client, early=error.early)
    devices = _at(node, "NodeResources", "Devices") or []
    return NomadLook(
        shown,
        version=version or _at(node, "Attributes", "nomad.version"),
        node_id=node_id,
        groups=tuple(_group(raw) for raw in devices if isinstance(raw, dict)),
        client=client,
        allocations=_allocations(api, str(node_id)),
        all_allocations=_at(agent, "config", "ACL", "Enabled") is False,
        docker_runtimes=_runtimes(_at(node, "Attributes", "driver.docker.runtimes")),
    )


def without_login(address: str) -> str:
    """An address without the name and the password that may stand in it, to be shown."""
    scheme, slashes, rest = address.partition("://")
    if scheme not in _SCHEMES:  # it may be the password, if that holds slashes
        return address.rpartition("@")[2]
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}"


def _node(api: _Api, node_id: str) -> Any:
    try:
        return api.get(f"/v1/node/{quote(node_id)}")
    except NotFoundError as error:
        raise ApiError(
            f"does not know this node yet ({node_id}), because the agent has just started",
            remedy="look again in some seconds; if it stays so, see the agent's log",
            early=True,
        ) from error


def _allocations(api: _Api, node_id: str) -> Mapping[str, str] | None:
    """Those of all namespaces that the token may see; None if it may not ask."""
    try:
        listed = api.get(f"/v1/node/{quote(node_id)}/allocations")
    except ApiError:
        return None
    known = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else None
    if known is None:
        return None
    return {str(one.get("ID")): str(one.get("ClientStatus")) for one in known}


def _listed(api: _Api, name: str, *, client: bool | None) -> str:
    """The id of the node of this name, asked of an agent that is a client or not."""
    nodes = api.get("/v1/nodes")
    found = [n["ID"] for n in nodes if isinstance(n, dict) and n.get("Name") == name and "ID" in n]
    if not found and client is False:
        raise ApiError(
            f"is of an agent that is no client, and knows no node of the name {name}",
            remedy=f"{ENABLE_CLIENT} in its configuration and restart it, or set NOMAD_ADDR to"
            " this node's agent",
        )
    if len(found) != 1:
        raise ApiError(f"knows {len(found) or 'no'} node of the name {name}", early=not found)
    return str(found[0])


def _group(raw: Mapping[str, Any]) -> ApiGroup:
    instances = {
        str(instance.get("ID")): ""
        if instance.get("Healthy")
        else str(instance.get("HealthDescription") or "without a word")
        for instance in raw.get("Instances") or []
    }
    vendor, kind, name = (str(raw.get(part, "")) for part in ("Vendor", "Type", "Name"))
    return ApiGroup(vendor, kind, name, instances)


def _runtimes(attribute: object) -> tuple[str, ...] | None:
    return tuple(attribute.split(",")) if isinstance(attribute, str) and attribute else None


def _at(document: Any, *path: str) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document


class _Api:
    def __init__(self, address: str, environment: Mapping[str, str]) -> None:
        try:
            self._parts = urlsplit(address)
            good = self._parts.scheme in _SCHEMES and bool(self._parts.hostname)
            self._port = self._parts.port
        except ValueError:  # whose text holds the address
            good = False
        if not good:
            raise ApiError("has no address of the form http://host:port or https://host:port")
        self._environment = environment
        self._headers = _headers(environment)
        region = environment.get("NOMAD_REGION")
        self._query = f"?{urlencode({'region': region})}" if region else ""

    def get(self, path: str) -> Any:
        """The JSON document at `path`; ApiError."""
        connection = self._connection()
        try:
            connection.request("GET", f"{path}{self._query}", headers=self._headers)
            response = connection.getresponse()
            body = response.read(_MAX_BYTES)
        except ConnectionRefusedError as error:
            raise ApiError("refuses connections", refused=True) from error
        except ssl.SSLError as error:
            if error.reason in _NO_TLS:
                raise ApiError(
                    "was asked by https and does not speak TLS",
                    remedy=f"write http:// in NOMAD_ADDR{_OR_FIX}",
                ) from error
            raise ApiError(f"does not answer ({error})") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ApiError(f"does not answer ({said})") from error
        finally:
            connection.close()
        if response.status == _FORBIDDEN:
            raise ApiError("wants a token that may read nodes")
        if response.status == _BAD_REQUEST and _WANTS_TLS in body:
            raise ApiError(
                "was asked by http and speaks TLS",
                remedy=f"write https:// in NOMAD_ADDR and set NOMAD_CACERT{_OR_FIX}",
            )
        if response.status == _NOT_FOUND:
            raise NotFoundError(f"answers {path} with status {response.status}")
        if response.status != _OK:
            raise ApiError(f"answers {path} with status {response.status}")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ApiError(f"answers {path} with something that is not JSON") from error

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        return _Https(host, port, self._environment)


class _Https(http.client.HTTPConnection):
    """TLS by the variables of Nomad's command line."""

    default_port = http.client.HTTPS_PORT

    def __init__(self, host: str, port: int | None, environment: Mapping[str, str]) -> None:
        super().__init__(host, port, timeout=_TIMEOUT_S)
        self._server_name = environment.get("NOMAD_TLS_SERVER_NAME") or host
        try:
            self._context = _tls(environment)
        except (OSError, ValueError) as error:  # of ssl too
            said = getattr(error, "strerror", None) or str(error)
            raise ApiError(
                f"cannot be asked, because of the NOMAD_… files of TLS: {said}"
            ) from error

    def connect(self) -> None:
        raw = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._context.wrap_socket(raw, server_hostname=self._server_name)


def _tls(environment: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cafile=environment.get("NOMAD_CACERT") or None,
        capath=environment.get("NOMAD_CAPATH") or None,
    )
    if environment.get("NOMAD_SKIP_VERIFY", "").lower() in ("1", "t", "true"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = environment.get("NOMAD_CLIENT_CERT")
    if certificate:
        context.load_cert_chain(certificate, environment.get("NOMAD_CLIENT_KEY") or None)
    return context


def _headers(environment: Mapping[str, str]) -> dict[str, str]:
    headers = {"Accept": "application/json"}
    if token := environment.get("NOMAD_TOKEN"):
        if not (token.isascii() and token.isprintable()):
            # Said here, because http.client would quote it.
            raise ApiError("cannot be asked: NOMAD_TOKEN holds a line end, or what is not ASCII")
        headers["X-Nomad-Token"] = token
    if login := environment.get("NOMAD_HTTP_AUTH"):
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    return headers
