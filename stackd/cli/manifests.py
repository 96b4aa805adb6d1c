"""``stackd manifests``: what stackd needs in the cluster, as YAML for ``kubectl apply -f -``.

Owns: the options that ``stackd setup`` has kept beside the configuration. Both commands begin with them, so that they print
and apply the same.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from stackd.cli.options import config_option, loaded, quantity_option, stacked
from stackd.contract import MOST_MEMBERS

if TYPE_CHECKING:
    from stackd.cli.provision import ManifestOptions
    from stackd.config import Config

# The default networks of kubeadm, kind and k3s for pods and services.
NETWORKS = ("10.244.0.0/16", "10.96.0.0/12", "10.42.0.0/16", "10.43.0.0/16")
WHY = {
    "Namespace": "one for the stacks, and one for stackd's account, out of the stacks' reach",
    "Secret": "a token that does not expire (--token lasting)",
    "Role": "exactly what stackd does in the stacks' namespace",
    "ConfigMap": "the configuration; a change is in force within a minute or two, as after `stackd reload`",
    "PersistentVolumeClaim": "the state file; --no-volume does without",
    "PodDisruptionBudget": "it holds back no drain: of two replicas only the owner is ready, and the other takes over at once",
    "Deployment": "the daemon. Of two replicas, the one that owns the stacks is ready and gets the Service's connections. Where "
    "the state is an emptyDir, a new pod rebuilds stacks, ports and templates from the cluster; timelines, jobs, "
    "Idempotency-Keys and the list of links are lost",
    "own token": "a new token for itself, before the old one expires",
    "ClusterRole": "what cannot be granted within a namespace",
    "ResourceQuota": "an example: as many stacks as there are node ports; see --quota-cpu and --quota-memory",
    "LimitRange": "an example: no container is larger than this (policy.max_…), and none fills a node's disk; where nodes "
    "report no ephemeral-storage (`stackd doctor` says so), leave that out with --no-ephemeral-storage",
    "default-deny": "policies add up: nothing is allowed in this namespace but what the others list",
    "stacks-from-outside": "clients outside the cluster's networks (--cluster-cidr; kubectl get nodes -o yaml | grep "
    "podCIDR) reach the stacks. Node ports lead to target ports only; --target-port closes the others to the nodes' "
    "network, too",
    "stacks-to-dns": "the cluster's DNS",
    "ValidatingAdmissionPolicy": "only stackd writes the objects of its stacks, and whoever may remove this policy: "
    "otherwise somebody who may create Services here could have stackd run a stack of his own (Kubernetes 1.30 "
    "and later; --no-admission-policy leaves it out)",
    "stacks-from-gateway": "the Gateway's pods reach the stacks that have names ([routes]); --gateway-namespace says where "
    "they run",
    "egress-": "stacks of templates with this network.egress, to which the policies for all stacks do not apply",
    "checks": "the pods that check stacks (templates with a check) reach what players reach: node ports, the Gateway, the stacks",
    "stacks-from-checks": "the same, on the side of the stacks",
    "stacks-to-internet": "the internet, but no private network, not the cluster, and no metadata address",
}


# The file beside the configuration with the options for the cluster.
OPTIONS = "setup-options"
# The line before the flags that ``setup`` has chosen by itself.
DETECTED = "# what this cluster cannot serve; looked up at each run of stackd setup"
LASTING = "lasting"
OF_RUN = ("image", "replicas", "volume")
AMOUNTS = ("cpu", "memory", "ephemeral_storage")


def _networks(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(value)) for value in values)
    except ValueError as error:
        raise click.BadParameter(f"{error}; a network such as 10.244.0.0/16 is expected", ctx, param) from error


def _ranges(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    ranges = []
    for value in values:
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", value)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 0 < first <= last < 65536:
            raise click.BadParameter(f"{value} is not a port or a range such as 8000-8999", ctx, param)
        ranges.append((first, last))
    return tuple(ranges)


def server_address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The address of an API server, with its scheme and a host."""
    if value and not re.fullmatch(r"https?://[^/\s$`\\]+(/[^\s$`\\]*)?", value):
        raise click.BadParameter(f"{value!r} is no address such as https://10.0.0.1:6443", ctx, param)
    return value


# The options that describe this site's manifests.
site_options = stacked(
    click.option("--cluster-cidr", "cluster_cidrs", callback=_networks, metavar="CIDR", multiple=True,
                 help=f"Networks of pods and services.  [{', '.join(NETWORKS)}]"),
    click.option("--egress", type=click.Choice(["none", "internet"]), default="none", show_default=True,
                 help="What stacks may reach."),
    click.option("--gateway-namespace", "gateway_namespaces", metavar="NAME", multiple=True,
                 help="Namespaces of the Gateway's pods, if not that of routes.gateway."),
    click.option("--dns/--no-dns", help="Let stacks use the cluster's DNS (k8s-app=kube-dns in kube-system).  [no]"),
    click.option("--members", type=click.IntRange(0, MOST_MEMBERS), default=0,
                 help="How many members a stack may have at most; more if a template has more.  [0]"),
    click.option("--target-port", "target_ports", callback=_ranges, metavar="PORT[-PORT]", multiple=True,
                 help="The only target ports that can be reached.  [all ports]"),
    quantity_option("--quota-cpu", "cpu", help="CPU of all stacks together, such as 64."),
    quantity_option("--quota-memory", "memory", help="Memory of all stacks together, such as 128Gi."),
    quantity_option("--quota-ephemeral-storage", "ephemeral_storage", help="Disk of all stacks together, such as 500Gi."),
    click.option("--ephemeral-storage/--no-ephemeral-storage", "storage", default=True,
                 help="Limit each container's disk; not where nodes report none, as no stack would run there.  [yes]"),
    click.option("--admission-policy/--no-admission-policy", default=True,
                 help="Let only stackd write the objects of its stacks; needs Kubernetes 1.30.  [yes]"),
    click.option("--token", type=click.Choice(["renewed", "lasting"]), default="renewed", show_default=True,
                 help="A token that expires and that stackd renews, or one in a Secret that does not expire."),
    click.option("--token-hours", type=click.IntRange(1, 8760), default=720, show_default=True,
                 help="How long each token is valid, and so how long stackd may be stopped."),
    click.option("--account", default="stackd", show_default=True, help="The ServiceAccount."),
    click.option("--account-namespace", default="stackd", show_default=True,
                 help="Its namespace; not that of the stacks."),
)  # fmt: skip


@click.command()
@config_option
@site_options
@click.option(
    "--kubeconfig-for", "server", metavar="URL", callback=server_address,
    help="Print a script instead that creates a kubeconfig for that server.",
)  # fmt: skip
@click.option("--run", "image", metavar="IMAGE", help="Print also what runs stackd in the cluster, from that image.")
@click.option(
    "--replicas", type=click.IntRange(1, 2), default=1, show_default=True, help="With --run: pods; one owns the stacks."
)
@click.option("--volume/--no-volume", default=True, help="With --run, one replica: keep the state in a volume.  [yes]")
def manifests(
    config_path: Path | None, server: str | None, image: str | None, replicas: int, volume: bool, **options: Any
) -> None:
    """Print what stackd needs in its cluster; apply it with: stackd manifests | kubectl apply -f -

    The options of `stackd setup` count, too, unless they are given here. With --run, the Secret has api-key and play-secret
    from beside the configuration.
    """
    own = stated(click.get_current_context())
    kept = {} if config_path is None else remembered(config_path, detected=True)
    kept = {name: one for name, one in kept.items() if name not in own}
    options |= {name: value for name, (value, _) in kept.items()}
    if kept:
        flags = "".join(text for _, text in kept.values())
        click.echo(f"# with{flags}, as `stackd setup` was run")
    config = loaded(config_path, serving=False, cluster=False).config
    site = site_of(config, **options | ({"token": "kubelet"} if image else {}))
    if server is not None:
        click.echo(_kubeconfig_script(server, **options | {"account_namespace": site.account_namespace}), nl=False)
        return
    import yaml

    from stackd.cli.provision import documents

    wanted = documents(site)
    if image:
        wanted += _running(config, config_path, site, image, replicas=replicas, volume=volume and replicas == 1)
    for one in wanted:
        click.echo(f"---\n{_comment(one)}{yaml.safe_dump(one, sort_keys=False)}", nl=False)


def _running(
    config: Config, path: Path | None, site: ManifestOptions, image: str, **options: Any
) -> list[dict[str, Any]]:
    """What runs stackd itself; says how to make the Secret where there is no key for it."""
    from msgspec import json

    from stackd.cli.in_cluster import CONFIG, run_documents
    from stackd.config.credentials import API_KEY, PLAY_SECRET

    files = {CONFIG: path.read_text(encoding="utf-8") if path else ""}
    if path and (key := path.with_name(API_KEY)).exists():
        files |= {file.name: file.read_text() for file in (key, key.with_name(PLAY_SECRET)) if file.exists()}
    else:
        click.echo(
            f"# there is no {API_KEY} beside the configuration; make the Secret once: kubectl -n {site.account_namespace} "
            f'create secret generic {site.account} --from-literal={API_KEY}="$(stackd key new --plain)" '
            f'--from-literal={PLAY_SECRET}="$(openssl rand -hex 32)"'
        )
    documents = [*run_documents(config, site, image, files, **options)]
    whole: list[dict[str, Any]] = json.decode(json.encode(documents))  # nothing is shared, which YAML would abbreviate
    return whole


def stated(context: click.Context) -> dict[str, tuple[Any, str]]:
    """The options of this command line that ``stackd manifests`` takes: name → value, and its text."""
    names = {parameter.name for parameter in manifests.params} - {"config_path", "server", *OF_RUN}
    found = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params[name]
            found[name] = value, "".join(f" {flag}" for flag in _flags(parameter, value))
    return found


def remembered(config_path: Path, *, detected: bool = False) -> dict[str, tuple[Any, str]]:
    """The same of the last ``stackd setup``, with those that it has ``detected`` if wanted; none, and a warning, for a user
    who may not look. Raises UsageError if somebody has spoilt the file."""
    file = config_path.with_name(OPTIONS)
    try:
        text = file.read_text(encoding="utf-8")
        words = shlex.split(text if detected else text.partition(DETECTED)[0], comments=True)
        return stated(manifests.make_context(str(file), words))
    except FileNotFoundError:
        return {}
    except PermissionError:
        click.echo(f"warning: {file} cannot be read, so the options of setup are missing; run this as root", err=True)
        return {}
    except click.UsageError as error:
        raise click.UsageError(f"{file}: {error.format_message()}") from error
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{file} cannot be read: {error}") from error


def _flags(parameter: click.Parameter, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [(parameter.opts if value else parameter.secondary_opts)[0]]
    values = value if isinstance(value, tuple) else (value,)
    texts = ["-".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in values]
    return [f"{parameter.opts[0]} {shlex.quote(text)}" for text in texts]


def _comment(document: dict[str, Any]) -> str:
    own = any(rule["resources"] == ["serviceaccounts/token"] for rule in document.get("rules", ()))
    name = "egress-" if document["metadata"]["name"].startswith("egress-") else document["metadata"]["name"]
    kind = "" if "stringData" in document else document["kind"]
    why = WHY["own token"] if own else WHY.get(name) or WHY.get(kind)
    return textwrap.fill(why, 118, initial_indent="# ", subsequent_indent="# ") + "\n" if why else ""


def site_of(config: Config, **options: Any) -> ManifestOptions:
    """``ManifestOptions`` from the options of ``site_options`` and the configuration. Raises UsageError."""
    stacks, policy, gateway = config.stacks, config.policy, config.routes.served_by
    if options["ephemeral_storage"] and not options["storage"]:
        raise click.UsageError(
            "--quota-ephemeral-storage makes each pod ask for disk, and --no-ephemeral-storage gives it none"
        )
    from stackd.cli.provision import ManifestOptions
    from stackd.kube.routes import kinds_of
    from stackd.lifecycle.templates import all_templates
    from stackd.quantity import parse

    if not Path(config.templates.directory).is_dir():
        config = config.model_copy(update={"templates": type(config.templates)()})
    templates = tuple(all_templates(config).values())
    own = {one.egress for one in templates if one.egress.kind}
    fixed = sorted(
        {(port, port) for one in templates for port in one.node_ports.values() if port not in stacks.node_ports}
    )
    ranges = ((stacks.node_ports.first, stacks.node_ports.last), *fixed)
    most = {f"largest_{name}": getattr(policy, f"max_{name}") for name in AMOUNTS}
    largest: dict[str, Any] = {
        name: str(parse(text)) for name, text in most.items() if text
    }  # of one container: as of a pod
    members = max([options["members"], *(len(one.spec.members) for one in templates)])
    names = ("account", "account_namespace", "admission_policy", "egress", "dns", "target_ports")
    chosen: dict[str, Any] = {name: options[name] for name in names}
    chosen |= {name: str(options[name] or "") for name in AMOUNTS}
    if not (cluster_rights := config.cluster.rights == "cluster"):
        chosen["account_namespace"] = stacks.namespace
    if not options["storage"]:
        largest["largest_ephemeral_storage"] = ""
    return ManifestOptions(
        namespace=stacks.namespace,
        instance=config.cluster.instance,
        profile=policy.profile,
        token=options["token"],
        cluster_rights=cluster_rights,
        stacks=config.limits.max_stacks or len(stacks.node_ports),
        cluster_cidrs=options["cluster_cidrs"] or NETWORKS,
        template_egress=tuple(sorted(own, key=lambda egress: egress.kind)),
        members=members,
        checks=ranges if any(one.check is not None for one in templates) else (),
        routes=kinds_of(config.routes),
        domain=config.routes.domain,
        gateway=gateway,
        gateway_namespaces=options["gateway_namespaces"] or ((gateway.partition("/")[0],) if gateway else ()),
        **chosen,
        **largest,
    )


def kubeconfig_text(cluster: Mapping[str, Any], token: str) -> str:
    """stackd's kubeconfig, with the address and the authority of ``cluster``."""
    import yaml

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "stackd",
        "clusters": [{"name": "stacks", "cluster": dict(cluster)}],
        "users": [{"name": "stackd", "user": {"token": token}}],
        "contexts": [{"name": "stackd", "context": {"cluster": "stacks", "user": "stackd"}}],
    }
    return yaml.safe_dump(config, sort_keys=False)


def _kubeconfig_script(server: str, **options: Any) -> str:
    """A script that prints a kubeconfig. If kubectl fails, the script stops and prints nothing."""
    account, kubectl = options["account"], f"kubectl -n {options['account_namespace']}"
    token = f"$({kubectl} create token {account} --duration={options['token_hours']}h)"
    if options["token"] == LASTING:
        token = f"$({kubectl} get secret {account}-token -o 'go-template={{{{.data.token | base64decode}}}}')"
    return f"""\
# Run this where kubectl works as an administrator. Save what it prints as /etc/stackd/kubeconfig (mode 0600) on the VM.
set -eu
authority=$({kubectl} get configmap kube-root-ca.crt -o 'jsonpath={{.data.ca\\.crt}}')
authority=$(printf '%s\\n' "$authority" | base64 | tr -d '\\n')
token={token}
cat <<END
{kubeconfig_text({"server": server, "certificate-authority-data": "$authority"}, "$token")}END
"""
