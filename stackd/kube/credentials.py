"""Which cluster stackd works with and as whom: a kubeconfig, the service account of a pod, a token that stackd renews.

Owns the Kubernetes client library's configuration loading (contexts, exec plugins, client certificates, token files); the
claims of a service account's token that ends (a JWT; nothing here judges its signature); and the file in which the latest
one is kept over a restart. ``access`` uses what is loaded here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.request import getproxies, proxy_bypass

import yaml
from kubernetes.aio import config as loading
from kubernetes.aio.client import ApiClient, Configuration
from yarl import URL

from stackd.clock import DAY_SECONDS
from stackd.config import Config, require_cluster
from stackd.config.credentials import current
from stackd.errors import ConfigError
from stackd.names import is_loopback
from stackd.validity import validity

Mode = Literal["auto", "kubeconfig", "in-cluster"]
_IN_CLUSTER_VARIABLE = "KUBERNETES_SERVICE_HOST"
UNREADABLE = (loading.ConfigException, OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError)
LONGEST_AGE: Final = DAY_SECONDS
"""Seconds after which a token is renewed, however long it is good for: a stackd that was off for weeks has a fresh one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Whose it is, and from when to when it is good, in seconds since the epoch."""

    text: str = field(repr=False)
    issuer: str
    namespace: str
    account: str
    uid: str
    begins: float
    ends: float

    @property
    def lifetime(self) -> float:
        """For how many seconds it was issued."""
        return self.ends - self.begins

    @property
    def due(self) -> float:
        """When it is to be renewed: with half of its time left, and at least once a day."""
        return self.begins + min(self.lifetime / 2, LONGEST_AGE)

    def is_of_the_same(self, other: Token) -> bool:
        """Whether both are of one account of one cluster."""
        return (self.issuer, self.namespace, self.account, self.uid) == (
            other.issuer,
            other.namespace,
            other.account,
            other.uid,
        )


def read_token(text: str) -> Token | None:
    """The token; None where the text is not one of a service account, or is one that does not end."""
    try:
        _, claims, _ = text.strip().split(".")
        found = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        about = found["kubernetes.io"]
        return Token(
            text=text.strip(),
            issuer=str(found["iss"]),
            namespace=str(about["namespace"]),
            account=str(about["serviceaccount"]["name"]),
            uid=str(about["serviceaccount"]["uid"]),
            begins=float(found["iat"]),
            ends=float(found["exp"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def token_file_of(state_path: str) -> str:
    """The file of a stackd with its state at ``state_path``: in the one folder that the service may write to."""
    return f"{state_path}.token"


def kept_token(path: str) -> Token | None:
    """The token in the file; None where there is none, or it cannot be read."""
    try:
        return read_token(Path(path).read_text(encoding="ascii")) if path else None
    except (OSError, ValueError):
        return None


def keep_token(path: str, token: Token) -> None:
    """Put the token into the file, whole or not at all, for its owner's eyes only. Raises OSError."""
    fresh = Path(f"{path}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token.text + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTarget:
    """Which cluster, as whom, and where in it.

    ``token_file``, if any, is where a token that stackd has renewed is kept over a restart.
    ``timeout`` bounds one call with all its repetitions, ``attempt_timeout`` one repetition, in seconds.
    """

    mode: Mode = "auto"
    kubeconfig: str = ""
    context: str = ""
    token_file: str = ""
    instance: str = "default"
    namespace: str = "stacks"
    timeout: float = 10.0
    attempt_timeout: float = 5.0
    max_in_flight: int = 64
    reload_interval: float = 2.0

    @classmethod
    def of(cls, config: Config, *, instance: str = "") -> ClusterTarget:
        """The configured one, as that ``instance`` or the configured one. Raises ConfigError where it is undecided."""
        require_cluster(config)
        chosen = config.cluster
        return cls(
            mode="in-cluster" if chosen.mode == "in-cluster" else "kubeconfig",
            kubeconfig=chosen.kubeconfig,
            context=chosen.context,
            token_file=token_file_of(config.state.path),
            instance=instance or chosen.instance,
            namespace=config.stacks.namespace,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What was loaded: the client library's objects, and whether nobody but stackd and the operator renews them (``lasting``).

    ``traits`` is a digest that tells one set from another; ``certificate_ends`` is in seconds since the epoch.
    """

    client: ApiClient
    lasting: bool
    traits: bytes
    certificate_ends: float | None


async def load_credentials(target: ClusterTarget) -> Credentials:
    """Load them; nothing is sent. Raises ConfigError."""
    configuration = Configuration(connection_pool_maxsize=target.max_in_flight + 8)
    mode = _resolved(target)
    lasting = False
    try:
        if mode == "kubeconfig":
            lasting = await _kubeconfig(target, configuration)
        else:
            loading.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        _decide_proxy(configuration)
        client = ApiClient(configuration)  # reads the certificates
        _trust_as_kubectl_does(client.rest_client.ssl_context)
        return Credentials(
            client=client,
            lasting=lasting,
            traits=_traits(configuration),
            certificate_ends=_end_of(configuration.cert_file),
        )
    except UNREADABLE as exc:
        raise ConfigError([f"[cluster] {mode}: {_reason(target, mode, exc)}"]) from exc


def _trust_as_kubectl_does(context: ssl.SSLContext) -> None:
    """Check chain, time and name, on each Python in the same way, and not how the authority's certificate was made.

    Since 3.13 Python wants each extension of RFC 5280 in it, which those of many clusters do not have, and takes an
    intermediate authority for a root where it is the one that was given. Go, and so kubectl, does only the latter.
    """
    context.verify_flags = (context.verify_flags & ~ssl.VERIFY_X509_STRICT) | ssl.VERIFY_X509_PARTIAL_CHAIN


def _decide_proxy(configuration: Configuration) -> None:
    """Look for a proxy in the environment once, not (as the client would, on another thread) for every request.

    As with kubectl, the environment's proxy is not asked for an address of this machine.
    """
    if configuration.proxy:
        return
    address = URL(configuration.host)
    if address.host and not is_loopback(address.host) and not proxy_bypass(address.host):
        configuration.proxy = getproxies().get(address.scheme)


async def _kubeconfig(target: ClusterTarget, configuration: Configuration) -> bool:
    """Whether the credentials stand in the file themselves, so that no plugin and no other file renews them."""
    paths = _kubeconfig_paths(target)
    for path in _existing(paths):
        _must_be_mapping(path)
    loader = await loading.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=paths,
        context=target.context or None,
        client_configuration=configuration,
        # The file is the operator's; what a plugin renews is kept in memory.
        persist_config=False,
    )
    if configuration.host == "http://localhost":
        raise ValueError("the context names no server")
    user = loader._user  # noqa: SLF001 - the only place where it is to be had
    return not any(user is not None and key in user for key in ("exec", "auth-provider", "tokenFile"))


def _traits(one: Configuration) -> bytes:
    """A digest that tells one set of credentials from another."""
    told = repr((one.host, sorted(one.api_key.items()), one.verify_ssl, one.tls_server_name, one.proxy)).encode()
    files = [Path(path).read_bytes() for path in (one.ssl_ca_cert, one.cert_file, one.key_file) if path]
    return hashlib.sha256(b"\0".join([told, *files])).digest()


def _end_of(cert_file: str | None) -> float | None:
    """When a client certificate ends, None where there is none or its time cannot be read."""
    try:
        return validity(Path(cert_file)).ends if cert_file else None
    except (OSError, ValueError):
        return None


def _existing(paths: str) -> list[Path]:
    """Those of the list (KUBECONFIG may name several) that are there. Raises OSError if none is."""
    found = [path for text in paths.split(os.pathsep) if text and (path := Path(text).expanduser()).is_file()]
    if not found:
        raise OSError(f"there is no file {paths}")
    return found


def _must_be_mapping(path: Path) -> None:
    """Otherwise the client library complains that None, or a string, does not support item assignment."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if document is None:
        raise ValueError("the file is empty; a kubeconfig is expected")
    if not isinstance(document, dict):
        raise ValueError("it is not a kubeconfig: clusters, users and contexts are expected")


def _kubeconfig_paths(target: ClusterTarget) -> str:
    paths = target.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    return os.pathsep.join(str(current(Path(path))) if path else "" for path in paths.split(os.pathsep))


def _resolved(target: ClusterTarget) -> Mode:
    if target.mode != "auto":
        return target.mode
    if target.kubeconfig or os.environ.get("KUBECONFIG"):
        return "kubeconfig"
    with suppress(RuntimeError):
        if Path("~/.kube/config").expanduser().is_file():
            return "kubeconfig"
    return "in-cluster" if os.environ.get(_IN_CLUSTER_VARIABLE) else "kubeconfig"


def _reason(target: ClusterTarget, mode: Mode, exc: BaseException) -> str:
    if mode != "kubeconfig" or isinstance(exc, OSError):
        return str(exc)
    paths = _kubeconfig_paths(target)
    if isinstance(exc, yaml.YAMLError):
        return f"{paths}: it is not YAML: {_in_one_line(exc)}"
    if isinstance(exc, KeyError | TypeError | AttributeError):
        return f"{paths}: its parts are not those of a kubeconfig ({exc})"
    return f"{paths}: {' '.join(str(exc).split())}"


def _in_one_line(exc: yaml.YAMLError) -> str:
    """What is wrong and where, without the piece of the file: that may be a secret."""
    mark = getattr(exc, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    return f"{getattr(exc, 'problem', None) or 'it cannot be read'}{place}"
