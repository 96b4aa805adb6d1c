"""``stackd manifests``: what has to be in the cluster, as YAML for ``kubectl apply -f -``."""

from __future__ import annotations

import ipaddress
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import click
import yaml

from stackd.cli.options import config_option
from stackd.config import Config, load
from stackd.errors import ConfigError
from stackd.kube.provision import Site, documents

NETWORKS = ("10.244.0.0/16", "10.96.0.0/12", "10.42.0.0/16", "10.43.0.0/16")
"""What kubeadm, kind and k3s take for pods and services unless told otherwise."""

WHY = {
    "Namespace": "where the stacks are, and where stackd's account is: no stack gets near the account",
    "Secret": "a token that does not expire; or leave this out, and use: kubectl create token --duration",
    "Role": "exactly what stackd does in the stacks' namespace",
    "ClusterRole": "what cannot be granted within a namespace",
    "ResourceQuota": "an example: as many stacks as there are node ports; see --quota-cpu and --quota-memory",
    "LimitRange": "an example: no container is larger than this, and none fills a node's disk",
    "default-deny": "policies add up: nothing is allowed in this namespace but what the others list",
    "stacks-from-outside": "who is outside of the cluster's networks (--cluster-cidr; kubectl get nodes -o yaml | grep "
    "podCIDR) reaches the stacks. Node ports lead to target ports only; --target-port closes the others to the nodes' "
    "network, too",
    "stacks-to-dns": "the cluster's DNS",
    "stacks-to-internet": "the internet, but no private network, not the cluster, and no metadata address",
}


def _networks(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Networks in their plain form."""
    try:
        return tuple(str(ipaddress.ip_network(value)) for value in values)
    except ValueError as error:
        raise click.BadParameter(f"{error}; a network such as 10.244.0.0/16 is expected", ctx, param) from error


def _ranges(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Ports and ranges of ports, each as the first and the last."""
    found = []
    for value in values:
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", value)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 0 < first <= last < 65536:
            raise click.BadParameter(f"{value} is not a port or a range such as 8000-8999", ctx, param)
        found.append((first, last))
    return tuple(found)


@click.command()
@config_option
@click.option(
    "--cluster-cidr",
    "cidrs",
    callback=_networks,
    metavar="CIDR",
    multiple=True,
    help=f"Networks of pods and services.  [{', '.join(NETWORKS)}]",
)
@click.option(
    "--egress",
    type=click.Choice(["none", "internet"]),
    default="none",
    show_default=True,
    help="What stacks may reach.",
)
@click.option("--dns/--no-dns", help="Let stacks ask the cluster's DNS (k8s-app=kube-dns in kube-system).  [no]")
@click.option(
    "--target-port",
    "ports",
    callback=_ranges,
    metavar="PORT[-PORT]",
    multiple=True,
    help="What is reachable of a stack.  [all ports]",
)
@click.option("--quota-cpu", default="", metavar="QUANTITY", help="CPU of all stacks together, such as 64.")
@click.option("--quota-memory", default="", metavar="QUANTITY", help="Memory of all stacks together, such as 128Gi.")
@click.option("--account", default="stackd", show_default=True, help="The ServiceAccount.")
@click.option("--account-namespace", default="stackd", show_default=True, help="Where it is; not with the stacks.")
@click.option(
    "--kubeconfig-for", "server", metavar="URL", help="Print instead how to make a kubeconfig for that server."
)
def manifests(config_path: Path | None, server: str | None, **options: Any) -> None:
    """Print what stackd needs in its cluster; apply it with: stackd manifests | kubectl apply -f -"""
    if server is not None:
        click.echo(_kubeconfig(server, options["account"], options["account_namespace"]), nl=False)
        return
    click.echo(text(_site(_config(config_path), **options)), nl=False)


def text(site: Site) -> str:
    """The documents as YAML, each with a word on what it is for."""
    return "".join(f"---\n{_comment(one)}{yaml.safe_dump(one, sort_keys=False)}" for one in documents(site))


def _comment(document: dict[str, Any]) -> str:
    why = WHY.get(document["metadata"]["name"]) or WHY.get(document["kind"])
    return textwrap.fill(why, 118, initial_indent="# ", subsequent_indent="# ") + "\n" if why else ""


def _config(path: Path | None) -> Config:
    """The configuration; without a file, the defaults, for this needs neither a key nor a cluster."""
    try:
        return load(path, os.environ).config
    except ConfigError:
        if path is not None:
            raise
        return Config()


def _site(config: Config, **options: Any) -> Site:
    stacks = config.stacks
    return Site(
        namespace=stacks.namespace,
        profile=config.policy.profile,
        account=options["account"],
        account_namespace=options["account_namespace"],
        stacks=config.limits.max_stacks or stacks.node_port_max - stacks.node_port_min + 1,
        cluster_cidrs=options["cidrs"] or NETWORKS,
        egress=options["egress"],
        dns=options["dns"],
        target_ports=options["ports"],
        cpu=options["quota_cpu"],
        memory=options["quota_memory"],
    )


def _kubeconfig(server: str, account: str, namespace: str) -> str:
    secret = f"kubectl -n {namespace} get secret {account}-token -o"
    return f"""\
# Run this where kubectl works as an administrator, and take the file to the VM as /etc/stackd/kubeconfig (mode 0600).
set -eu
umask 077
cat > stackd.kubeconfig <<END
apiVersion: v1
kind: Config
current-context: stackd
clusters:
  - name: stacks
    cluster:
      server: {server}
      certificate-authority-data: $({secret} 'jsonpath={{.data.ca\\.crt}}')
users:
  - name: stackd
    user:
      token: $({secret} 'jsonpath={{.data.token}}' | base64 -d)
contexts:
  - name: stackd
    context:
      cluster: stacks
      user: stackd
END
"""
