"""Security contexts: what every pod and container gets, and what of a tenant's own is accepted.

Owns: the blocks that the profile puts in place. A tenant's context is refused, even an empty one, unless it asks only
for what the policy grants; the very block that stackd writes itself is accepted, so a sanitized spec can be sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackd.podspec.policy import Policy
from stackd.podspec.reasons import Reasons

_OWN = "not accepted; stackd sets the security context"
_USER = "not accepted, unless policy.run_as_user allows it"
_LARGEST_ID = 2**31 - 1
_IDS = frozenset({"runAsUser", "runAsGroup", "fsGroup"})


def container_context(policy: Policy) -> dict[str, Any]:
    """The block that every container gets."""
    context: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if policy.restricted:
        context["capabilities"] = {"drop": ["ALL"]}
    if policy.non_root:
        context["runAsNonRoot"] = True
    return context


def pod_context(policy: Policy) -> dict[str, Any]:
    """The block that every pod gets."""
    context: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if policy.non_root:
        context["runAsNonRoot"] = True
    return context


def settle_context(owner: dict[str, Any], path: str, profile: dict[str, Any], policy: Policy, reasons: Reasons) -> None:
    """Replace the owner's security context by the profile's block and whatever of the tenant's the policy grants."""
    given = owner.get("securityContext")
    owner["securityContext"] = profile
    if given is None:
        return
    here = f"{path}.securityContext"
    _check_whole(given, profile, here, reasons)
    for field, value in given.items():
        if field == "capabilities":
            _settle_capabilities(value, profile, f"{here}.{field}", policy, reasons)
        elif value != profile.get(field):
            _settle_field(field, value, profile, f"{here}.{field}", policy, reasons)


def _check_whole(given: Mapping[str, Any], profile: Mapping[str, Any], path: str, reasons: Reasons) -> None:
    """A context that asks for nothing is refused, unless it is the profile's block as a whole."""
    asks = any(value != profile.get(field) for field, value in given.items())
    if not asks and given.keys() != profile.keys():
        reasons.missing(path, _OWN, path)


def _settle_field(field: str, value: Any, profile: dict[str, Any], path: str, policy: Policy, reasons: Reasons) -> None:
    if field not in _IDS and field != "runAsNonRoot":
        reasons.add(path, _OWN)
    elif not policy.run_as_user:
        reasons.add(path, _USER)
    elif field in _IDS and not 0 <= value <= _LARGEST_ID:
        reasons.add(path, f"must be from 0 to {_LARGEST_ID}")
    elif policy.non_root and (value is False or (field == "runAsUser" and value == 0)):
        reasons.add(path, "containers may not run as root (policy.run_as_root, or the restricted profile)")
    else:
        profile[field] = value


def _settle_capabilities(
    value: Mapping[str, Any], profile: dict[str, Any], path: str, policy: Policy, reasons: Reasons
) -> None:
    if value == profile.get("capabilities"):
        return
    if not policy.add_capabilities:
        reasons.add(path, "not accepted, unless policy.add_capabilities allows it")
        return
    for index, name in enumerate(value.get("add", ())):
        if name not in policy.add_capabilities:
            reasons.add(f"{path}.add[{index}]", "only what policy.add_capabilities names may be added")
    settled = {**value, **profile.get("capabilities", {})}
    if settled:
        profile["capabilities"] = settled
