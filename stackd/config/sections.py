"""The sections of the configuration file and their keys.

Owns every key: its name, kind, default, and one line of why. Knows nothing of files or the environment. All sections
are frozen; durations are in seconds, sizes in bytes. A test compares the example file with these models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, Field, SecretStr
from pydantic.fields import FieldInfo

from stackd.errors import Reason
from stackd.keys import ApiKey
from stackd.kinds import (
    AT_START,
    LIVE,
    Address,
    Addresses,
    ClientLabels,
    Count,
    DnsLabel,
    Domain,
    Duration,
    Expects,
    FilePath,
    Flag,
    GatewayName,
    LabelLimits,
    LabelName,
    LabelRates,
    Labels,
    LeaseDuration,
    Networks,
    NodePort,
    OptionalDnsLabel,
    Period,
    PlayUrl,
    Port,
    Rate,
    Secret,
    Section,
    Share,
    Size,
    Text,
    TextSize,
    as_tuple,
    key,
)
from stackd.model import PortRange, Route, RoutedTarget, TargetPort
from stackd.podspec.policy import Policy, PolicySection, RestartPolicy

AddressType = Literal["ExternalIP", "InternalIP", "Hostname", "ExternalDNS", "InternalDNS"]
_EMPTY: Mapping[str, Any] = MappingProxyType({})


class ServerSection(Section):
    """Where the API listens."""

    host: Address = key(
        "127.0.0.1", 'Address to listen on, "::" for all of IPv6 and IPv4; a public one should have TLS.'
    )
    port: Port = key(8081, "The API's port.")
    shutdown_timeout: Duration = key(10.0, "How long a stop waits for requests in flight.")
    max_body: Size = key(1 << 20, "Larger request bodies are refused with 413.")
    tls_cert: FilePath = key("", "PEM certificate chain; reloaded when the file changes.")
    tls_key: FilePath = key("", "PEM private key of tls_cert.")
    trusted_proxies: Annotated[Networks, LIVE] = key(
        (), "Addresses and networks of proxies whose X-Forwarded-For names the caller."
    )
    dashboard: Flag = key(True, "Serve the dashboard at /dashboard; it holds no data without a key.")


class OidcSection(Section):
    """The issuer of OpenID Connect that people sign in with; without any key, nobody can."""

    issuer: str = Field(default="", description="the issuer's address exactly as in its own description")
    client_id: str = Field(default="", description="the id that the issuer has given to stackd")
    client_secret_file: str = Field(default="", description="the path of a file with the client's secret")
    url: str = Field(default="", description='the address of stackd in browsers, such as "https://stackd.example.org",')
    admins: Annotated[tuple[str, ...], as_tuple] = Field(
        default=(), description="a list of groups and e-mail addresses"
    )
    readers: Annotated[tuple[str, ...], as_tuple] = Field(
        default=(), description="a list of groups and e-mail addresses"
    )
    groups: str = Field(default="groups", min_length=1, description="the name of the claim that has a person's groups")

    def __bool__(self) -> bool:
        """Whether people can sign in."""
        return bool(self.issuer)

    @property
    def redirect(self) -> str:
        """Where the issuer sends browsers back to: this has to be registered there."""
        return f"{self.url.rstrip('/')}/auth/callback"


class AuthSection(Section):
    """Who may call."""

    enabled: Flag = key(
        True, "Every endpoint needs a key; false warns at every start and refuses other sites' web pages."
    )
    key_file: Annotated[FilePath, LIVE] = key(
        "", "File with admin keys, one a line, so that this file needs to hold none."
    )
    keys: Annotated[
        tuple[ApiKey, ...], as_tuple, Expects(what="a list of tables, each [[auth.keys]]", secret=True), LIVE
    ] = key((), "Named keys by their SHA-256, with a scope; `stackd key new` prints one.")
    oidc: Annotated[OidcSection, Expects(what="a table, [auth.oidc]")] = key(
        OidcSection(), "People sign in to the dashboard with OpenID Connect; keys stay for programs."
    )


class StateSection(Section):
    """Where the state is kept."""

    path: Annotated[str, Field(min_length=1), Expects(what="the path of a file", path=True)] = key(
        "stackd.db", "The SQLite file with everything stackd knows; relative to the working directory."
    )


class ClusterSection(Section):
    """Which Kubernetes cluster."""

    mode: Annotated[Literal["auto", "kubeconfig", "in-cluster", "embedded"], Expects(what="a mode")] = key(
        "auto", "auto takes the configured kubeconfig, else the pod's service account, else $KUBECONFIG."
    )
    kubeconfig: FilePath = key("", 'Empty means the credential "kubeconfig", $KUBECONFIG or ~/.kube/config.')
    context: Text = key("", "A context of the kubeconfig; empty means its current one.")
    rights: Annotated[Literal["cluster", "namespace"], Expects(what="a kind of rights")] = key(
        "cluster",
        '"namespace": a Role is enough; nodes are not read, and public_ips["*"] is where their ports are reached.',
    )
    instance: LabelName = key("default", "Keeps several stackds in one namespace apart; written on every object.")
    lease_duration: LeaseDuration = key(
        30.0, "How long the owner may be silent before a standby takes over; it renews three times as often."
    )


class StacksSection(Section):
    """What a stack gets."""

    namespace: Annotated[DnsLabel, AT_START] = key("stacks", "The namespace of the pods and services.")
    ttl: Period = key(7200.0, "How long a stack lives unless its create says otherwise.")
    max_ttl: Period = key(86400.0, "The longest life, extensions included.")
    node_selector: Annotated[Labels, AT_START] = key(
        MappingProxyType({"role": "stack"}), "Stacks run on nodes with these labels only."
    )
    node_port_min: Annotated[NodePort, AT_START] = key(
        31001, "First node port handed out; the cluster's own range is the limit."
    )
    node_port_max: Annotated[NodePort, AT_START] = key(32767, "Last node port handed out.")
    spare_services: Annotated[int, Field(ge=0, le=1000)] = key(
        32, "NodePort Services that are there before a create asks for one, which makes it faster; 0 is off."
    )
    scheduling_timeout: Period = key(20.0, "How long a create waits for a node before it fails with 503.")
    unschedulable_grace: Duration = key(
        0.0, "How long to wait after the scheduler finds no node; for clusters that add nodes."
    )
    restart_policy: Annotated[RestartPolicy, Expects(what="a restart policy"), AT_START] = key(
        "Never", "What the kubelet does when a container ends."
    )
    readiness: Annotated[Literal["", "tcp"], Expects(what="a kind of probe")] = key(
        "", '"tcp": a container without a readiness probe is ready once its published port answers.'
    )
    image_pull_grace: Duration = key(60.0, "How long pulling an image may fail before the stack counts as failed.")
    public_ips: Addresses = key(_EMPTY, 'Node name ("*" is any) to public address, where the cluster knows none.')
    address_types: Annotated[
        tuple[Annotated[AddressType, Expects(what="a node address type")], ...],
        as_tuple,
        Expects(what='a list such as ["ExternalIP", "InternalIP"]'),
    ] = key(("ExternalIP",), "Node address types that count as public, in order of preference.")
    address_family: Annotated[Literal["auto", "ipv4", "ipv6"], Expects(what="an address family")] = key(
        "auto", "Family of the addresses to report, if the cluster has it; auto is that of its Services."
    )
    require_ingress_network_policy: Flag = key(
        True, "Create nothing while no ingress NetworkPolicy protects the stacks' namespace."
    )
    keep_history: Duration = key(86400.0, "How long a stack's timeline is kept after the stack is gone.")

    @property
    def dual_stack(self) -> bool:
        """Whether Services are to be of both families, since the cluster's first need not be the one to report."""
        return self.address_family != "auto"

    @property
    def node_ports(self) -> PortRange:
        """The node ports that stackd may hand out."""
        return PortRange(self.node_port_min, self.node_port_max)


class RoutesSection(Section):
    """Names instead of node ports, through a Gateway of the Gateway API. Unless domain is set, there are none."""

    domain: Domain = key("", "The domain below which routed ports get their names; empty is off.")
    gateway: GatewayName = key("", 'The Gateway that serves them, as "namespace/name".')
    http_listener: OptionalDnsLabel = key(
        "", 'The Gateway\'s listener for ports with route "http"; empty refuses these.'
    )
    https_listener: OptionalDnsLabel = key(
        "", 'The listener for route "https", which terminates TLS; empty refuses these.'
    )
    tls_listener: OptionalDnsLabel = key("", 'The listener for route "tls", which chooses by SNI; empty refuses these.')
    http_port: NodePort = key(80, "The port in the URLs of new stacks with http.")
    port: NodePort = key(443, "The port in the URLs of new stacks with https.")
    tls_port: NodePort = key(443, "The port that new stacks with tls are shown with.")
    accept_timeout: Duration = key(
        2.0, "How long a create waits until the Gateway has accepted its route; 0s does not wait."
    )

    @property
    def served_by(self) -> str:
        """The Gateway that serves names, as ``namespace/name``; empty if there are no names."""
        return self.gateway if self.domain else ""

    def listener(self, route: Route) -> str:
        """The name of the listener for such ports; empty if there is none."""
        return {Route.HTTP: self.http_listener, Route.HTTPS: self.https_listener, Route.TLS: self.tls_listener}[route]

    @property
    def offered(self) -> list[Route]:
        return [route for route in Route if not self._refusal(route)]

    def refusals(self, ports: Iterable[TargetPort]) -> list[Reason]:
        """Why some of these ``target_port`` cannot have the route that they ask for."""
        return [
            Reason(path=f"target_port[{index}].route", text=text)
            for index, port in enumerate(ports)
            if isinstance(port, RoutedTarget) and (text := self._refusal(port.route))
        ]

    def _refusal(self, route: Route) -> str:
        if not self.domain:
            return "there are no names for ports here (routes.domain is not set); leave route out to get a node port"
        return "" if self.listener(route) else f'"{route}" is not offered here (routes.{route}_listener is not set)'


class TemplatesSection(Section):
    """Stacks that creates ask for by name."""

    directory: FilePath = key("", "Folder with NAME.yaml for each template; read at the start and at a reload.")
    from_cluster: Annotated[Literal["tenant", "admin", "none"], Expects(what="whose rights they have")] = key(
        "tenant",
        'Whose rights a template has that others write into the cluster; "none" ignores it.',
    )
    refill_per_second: float = key(
        10.0, "Most stacks per second that pools make or replace; creates of clients come first.", ge=0.1, le=1000.0
    )


class ReconcileSection(Section):
    """How the state file and the cluster are kept in step."""

    interval: Period = key(10.0, "Time between passes; a pass reads the local mirror only.")
    orphan_grace: Duration = key(
        120.0, "Objects without a row are left alone until this age, then adopted or reported as unknown."
    )
    max_delete_share: Share = key(
        0.2, "A pass that would end more than ten stacks, and more than this share of them, waits for you."
    )


class BatchDeleteSection(Section):
    """Batch jobs, of all actions."""

    concurrency: Annotated[int, Field(ge=1, le=100), Expects(what="a whole number from 1 to 100")] = key(
        1, "Deletes at a time within a job; 1 is sequential, as the API documents it."
    )
    max_ids: Annotated[int, Field(ge=1, le=1_000_000), Expects(what="a whole number from 1 to 1000000")] = key(
        10_000, "Most ids of one job; longer lists are refused with 413."
    )
    keep_jobs: Period = key(86400.0, "How long a finished job is kept.")


class LimitsSection(Section):
    """Limits; the sentence of a refusal names the key."""

    requests_per_second: Rate = key(0.0, "Requests per second and key before a 429; 0 is off.")
    creates_per_second: Rate = key(0.0, "Creates per second and key before a 429; 0 is off.")
    creates_in_flight: Count = key(1000, "Creates at the same time before a 429; they take turns at the cluster.")
    max_stacks: Count = key(0, "Stacks in all before a 503; 0 leaves it to ports and quota.")
    stacks_per_label: LabelLimits = key(
        _EMPTY, "Stacks per value of a label in any letter case, such as { player = 1 }."
    )
    cost_per_label: LabelLimits = key(
        _EMPTY, "What the stacks per value of a label may cost in all, by `cost` of their templates, else 1 each."
    )
    pod_spec: TextSize = key(64 << 10, "Longest pod spec, as sent and with its YAML aliases expanded.")
    templates_per_key: Count = key(200, "Templates that one tenant's key may have over the API before a 409.")
    pool_per_key: Count = key(20, "Stacks that the pools of a tenant's templates may have in all before a 409.")
    required_labels: ClientLabels = key(
        (), "Labels that every create must have, so that nobody evades a limit by leaving one out."
    )
    creates_per_label: LabelRates = key(
        _EMPTY, 'Creates and starts per value of a label before a 429, such as { player = "6/min" }.'
    )
    header_size: Annotated[Size, AT_START] = key(16 << 10, "Longest request line or header.")
    slow_client_timeout: Period = key(
        30.0, "A client is cut off if its request takes longer, or if it reads nothing of an answer for longer."
    )
    connections: Count = key(
        4096, "Open connections; above that, those without a valid key are closed first. 0 is off."
    )
    connections_per_key: Count = key(
        0, "Open connections of one key before a 429; 0 is half of connections while there are other keys."
    )
    failed_auth_per_minute: Count = key(120, "Wrong keys per minute and address before a 429; 0 is off.")
    event_streams: Count = key(1000, "Open event streams before a 503; each costs a little memory.")
    event_streams_per_key: Count = key(
        0, "Open event streams of one key before a 429; 0 is half of event_streams while there are other keys."
    )


class LogSection(Section):
    """Logging."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Expects(what="a level")] = key(
        "info", "Least severe level that is logged."
    )
    format: Annotated[Literal["auto", "json", "text"], Expects(what="a format")] = key(
        "auto", "auto is the journal's own under systemd, text on a terminal, JSON elsewhere."
    )
    audit: FilePath = key("", "File that gets one JSON object a line: refusals, reloads, keys, takeovers and changes.")


class MetricsSection(Section):
    """Metrics."""

    public: Annotated[Flag, LIVE] = key(False, "Serve /metrics without a key, for a scraper that cannot send one.")


class PlaySection(Section):
    """Links by which players start stacks on stackd's own page, /play; off without a secret."""

    url: PlayUrl = key("", 'Where browsers reach stackd, such as "https://stackd.example"; links begin with it.')
    host_name: Text = key(
        "", 'Whom players ask, as in "ask your teacher"; empty: the organisers, in the language of the page.'
    )
    secret: Secret = key(
        SecretStr(""), 'Signs the links; better in the credential "play-secret". Of several, the first signs.'
    )


class BackupSection(Section):
    """What `stackd backup` does with a backup that is written."""

    command: Annotated[SecretStr, Expects(what="a line for sh", secret=True)] = key(
        SecretStr(""), 'Takes it to another machine: a line for sh, with the file as "$1"; empty: it stays here.'
    )
    timeout: Duration = key(600.0, "How long the command may take.")


class Config(Section):
    """All sections."""

    server: ServerSection = Field(default_factory=ServerSection)
    auth: AuthSection = Field(default_factory=AuthSection)
    state: StateSection = Field(default_factory=StateSection)
    cluster: ClusterSection = Field(default_factory=ClusterSection)
    stacks: Annotated[StacksSection, LIVE] = Field(default_factory=StacksSection)
    policy: Annotated[PolicySection, LIVE] = Field(default_factory=PolicySection)
    routes: Annotated[RoutesSection, LIVE] = Field(default_factory=RoutesSection)
    templates: Annotated[TemplatesSection, LIVE] = Field(default_factory=TemplatesSection)
    reconcile: Annotated[ReconcileSection, LIVE] = Field(default_factory=ReconcileSection)
    batch_delete: Annotated[BatchDeleteSection, LIVE] = Field(default_factory=BatchDeleteSection)
    limits: Annotated[LimitsSection, LIVE] = Field(default_factory=LimitsSection)
    log: Annotated[LogSection, LIVE] = Field(default_factory=LogSection)
    metrics: MetricsSection = Field(default_factory=MetricsSection)
    play: Annotated[PlaySection, LIVE] = Field(default_factory=PlaySection)
    backup: Annotated[BackupSection, LIVE] = Field(default_factory=BackupSection)


SECTIONS: Final = {name: cast(type[BaseModel], field.annotation) for name, field in Config.model_fields.items()}
"""The model of each section, by name, in the order of the file."""


def fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """Section, key and field of each key, in the order of the file."""
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            yield section, name, field


def expectation(field: FieldInfo) -> Expects:
    """What is expected of a field; for fields of nested models, their description."""
    for item in field.metadata:
        if isinstance(item, Expects):
            return item
    return Expects(what=field.description or "something else", secret=field.repr is False)


def policy_of(config: Config) -> Policy:
    """The pod policy of this configuration. Raises ConfigError if its keys contradict each other."""
    return Policy(**dict(config.policy), restart_policy=config.stacks.restart_policy, max_text=config.limits.pod_spec)
