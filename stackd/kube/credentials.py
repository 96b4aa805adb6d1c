"""Which cluster stackd works with and as whom: a kubeconfig, the service account of a pod, a token that stackd renews.

Owns: loading the Kubernetes client library's configuration (contexts, exec plugins, client certificates, token files);
reading the claims of a service account's token that expires (a JWT; its signature is not checked here); and the file
that keeps the latest token across restarts. ``access`` uses what is loaded here.
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
from stackd.files import write_private
from stackd.names import is_loopback
from stackd.validity import validity

Mode = Literal["auto", "kubeconfig", "in-cluster"]
_IN_CLUSTER_VARIABLE = "KUBERNETES_SERVICE_HOST"
UNREADABLE = (loading.ConfigException, OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError)
LONGEST_AGE: Final = DAY_SECONDS
"""A token is renewed after this many seconds at the latest, even if it is valid for much longer. So a stackd that was
off for weeks still has a valid token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A service account's token: whose it is, and when it becomes valid and expires, in seconds since the epoch."""

    text: str = field(repr=False)
    issuer: str
    namespace: str
    account: str
    uid: str
    begins: float
    ends: float

    @property
    def lifetime(self) -> float:
        """How many seconds the token is valid in all."""
        return self.ends - self.begins

    @property
    def due(self) -> float:
        """When the token is to be renewed: after half of its lifetime, but after a day at the latest."""
        return self.begins + min(self.lifetime / 2, LONGEST_AGE)

    def is_of_the_same(self, other: Token) -> bool:
        """Whether both tokens are for the same account of the same cluster."""
        return (self.issuer, self.namespace, self.account, self.uid) == (
            other.issuer,
            other.namespace,
            other.account,
            other.uid,
        )


def read_token(text: str) -> Token | None:
    """The parsed token; None if the text is not a service account's token, or is one that does not expire."""
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
    """The token file for a stackd whose state is at ``state_path``: the service may write only to that folder."""
    return f"{state_path}.token"


def kept_token(path: str) -> Token | None:
    """The token in the file; None if there is none, or it cannot be read."""
    try:
        return read_token(Path(path).read_text(encoding="ascii")) if path else None
    except (OSError, ValueError):
        return None


def keep_token(path: str, token: Token) -> None:
    """Write the token to the file atomically, readable only by its owner (mode 0600). Raises OSError."""
    write_private(Path(path), token.text + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTarget:
    """Which cluster, as whom, and in which namespace.

    ``token_file``, if any, keeps a token that stackd has renewed across restarts.
    ``timeout`` limits one call with all its tries, ``attempt_timeout`` one try, in seconds. ``max_in_flight`` limits how
    many requests run at a time; logs, which a node may hold up, have a limit of their own, and the Lease has none.
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
    logs_in_flight: int = 24
    reload_interval: float = 2.0

    @classmethod
    def of(cls, config: Config, *, instance: str = "") -> ClusterTarget:
        """The configured target, with ``instance`` if given. Raises ConfigError if no cluster is chosen."""
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
    """What was loaded: the client library's object, and whether only stackd or the operator renews it (``lasting``).

    ``traits`` is a digest to compare two sets of credentials; ``certificate_ends`` is in seconds since the epoch.
    """

    client: ApiClient
    lasting: bool
    traits: bytes
    certificate_ends: float | None


async def load_credentials(target: ClusterTarget) -> Credentials:
    """Load the credentials; nothing is sent. Raises ConfigError."""
    configuration = Configuration(connection_pool_maxsize=target.max_in_flight + target.logs_in_flight + 8)
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
    """Check chain, time and name alike on each Python version, but not the extensions of the CA's certificate.

    Since 3.13 Python requires all extensions of RFC 5280 in that certificate, which those of many clusters lack. It
    also accepts an intermediate CA as the root if that is the one given. Go, and so kubectl, does only the latter.
    """
    context.verify_flags = (context.verify_flags & ~ssl.VERIFY_X509_STRICT) | ssl.VERIFY_X509_PARTIAL_CHAIN


def _decide_proxy(configuration: Configuration) -> None:
    """Read the proxy from the environment once. The client library would read it on another thread for each request.

    As with kubectl, no proxy of the environment is used for an address of this machine.
    """
    if configuration.proxy:
        return
    address = URL(configuration.host)
    if address.host and not is_loopback(address.host) and not proxy_bypass(address.host):
        configuration.proxy = getproxies().get(address.scheme)


async def _kubeconfig(target: ClusterTarget, configuration: Configuration) -> bool:
    """Load the kubeconfig; returns whether it holds the credentials itself, so that nothing else renews them."""
    paths = _kubeconfig_paths(target)
    for path in _existing(paths):
        _must_be_mapping(path)
    loader = await loading.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=paths,
        context=target.context or None,
        client_configuration=configuration,
        # The file belongs to the operator. What a plugin renews is kept in memory.
        persist_config=False,
    )
    if configuration.host == "http://localhost":
        raise ValueError("the context names no server")
    user = loader._user  # noqa: SLF001 - the only place where it is to be had
    return not any(user is not None and key in user for key in ("exec", "auth-provider", "tokenFile"))


def _traits(one: Configuration) -> bytes:
    """A digest to compare two sets of credentials."""
    told = repr((one.host, sorted(one.api_key.items()), one.verify_ssl, one.tls_server_name, one.proxy)).encode()
    files = [Path(path).read_bytes() for path in (one.ssl_ca_cert, one.cert_file, one.key_file) if path]
    return hashlib.sha256(b"\0".join([told, *files])).digest()


def _end_of(cert_file: str | None) -> float | None:
    """When the client certificate expires; None if there is none or it cannot be read."""
    try:
        return validity(Path(cert_file)).ends if cert_file else None
    except (OSError, ValueError):
        return None


def _existing(paths: str) -> list[Path]:
    """The existing files of the list (KUBECONFIG can name several). Raises OSError if there are none."""
    found = [path for text in paths.split(os.pathsep) if text and (path := Path(text).expanduser()).is_file()]
    if not found:
        raise OSError(f"there is no file {paths}")
    return found


def _must_be_mapping(path: Path) -> None:
    """Raise ValueError with a clear text; the client library would complain about item assignment instead."""
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
    """What is wrong and where, without the quoted part of the file, which may be a secret."""
    mark = getattr(exc, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    return f"{getattr(exc, 'problem', None) or 'it cannot be read'}{place}"
