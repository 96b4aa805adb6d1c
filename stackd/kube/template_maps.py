"""The ConfigMap that holds a template: its manifest, and what stackd keeps of it. Pure.

``stackd-default-web-1`` holds the text of the template web-1 of the instance default. What stackd has written there carries
annotations that say for whom, and the digest of the text: with our admission policy, nobody else writes these. Without them,
or with a text of another digest, somebody else has written the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from stackd.clock import from_nanoseconds, to_nanoseconds
from stackd.kube import labels
from stackd.kube.objects import ObjectKind
from stackd.kube.wire import CONFIG_MAPS, KINDS
from stackd.model import CLUSTER, Principal, StoredTemplate, struct

KEY: Final = "template.yaml"
LONGEST_TEXT: Final = 512 << 10
"""In bytes. Kubernetes allows 1 MiB of a ConfigMap; of a longer text stackd keeps nothing."""

MOST_BY_OTHERS: Final = 1000
MOST_BYTES_BY_OTHERS: Final = 16 << 20
TOO_MANY: Final = (
    f"stackd reads at most {MOST_BY_OTHERS} templates, of {MOST_BYTES_BY_OTHERS >> 20} MiB in all, that others write into the "
    "cluster: delete some"
)

DIGEST, OWNER, WRITTEN_BY, WRITTEN_AT, SCOPE = (
    f"stackd.io/{name}" for name in ("template-digest", "owner", "written-by", "written-at", "scope")
)
ADMIN, TENANT = "admin", "tenant"


@struct
class TemplateMap:
    """A ConfigMap with a template. ``stored`` is what it holds, None where it has no text, or too long a one; ``is_ours``:
    stackd has written the text as it is. ``mistake``: why it can hold no template, or empty.
    """

    resource: ClassVar[str] = CONFIG_MAPS
    name: str
    uid: str
    resource_version: str
    instance: str
    template: str
    stored: StoredTemplate | None
    is_ours: bool
    mistake: str = ""
    deleting: bool = False


def name_of(template: str, instance: str) -> str:
    return f"{labels.lease_name(instance)}-{template}"


def selector(instance: str) -> str:
    return f"{labels.TEMPLATE},{labels.INSTANCE}={instance}"


def template_manifest(stored: StoredTemplate, *, namespace: str, instance: str) -> dict[str, Any]:
    return {
        **KINDS[CONFIG_MAPS].type_meta,
        "metadata": {
            "name": name_of(stored.name, instance),
            "namespace": namespace,
            "labels": {labels.TEMPLATE: stored.name, labels.INSTANCE: instance},
            "annotations": {
                DIGEST: _digest(stored.text),
                OWNER: stored.by.id,
                WRITTEN_BY: stored.by.name,
                WRITTEN_AT: from_nanoseconds(stored.at),
                SCOPE: TENANT if stored.tenant else ADMIN,
            },
        },
        "data": {KEY: stored.text},
    }


def template_map(raw: Mapping[str, Any]) -> TemplateMap:
    """The view of a ConfigMap's JSON. What is not a template's belongs to no instance."""
    metadata, marks = raw["metadata"], labels.labels_of(raw)
    name, text = marks.get(labels.TEMPLATE, ""), (raw.get("data") or {}).get(KEY, "")
    instance = marks.get(labels.INSTANCE, "") if name else ""
    mistake = ""
    if metadata["name"] != (right := name_of(name, instance)):
        mistake = f"the ConfigMap {metadata['name']} must have the name {right}"
    elif not text:
        mistake = f"the ConfigMap {metadata['name']} has no {KEY}"
    elif len(text.encode()) > LONGEST_TEXT:
        mistake = f"the text in the ConfigMap {metadata['name']} is longer than {LONGEST_TEXT} bytes"
    ours = None if mistake else _written(name, text, labels.annotations_of(raw))
    return TemplateMap(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata.get("resourceVersion", ""),
        instance=instance,
        template=name,
        stored=None if mistake else ours or _by_others(name, text, metadata),
        is_ours=ours is not None,
        mistake=mistake,
        deleting="deletionTimestamp" in metadata,
    )


TEMPLATES: ObjectKind[TemplateMap] = ObjectKind(resource=CONFIG_MAPS, read=template_map)


class Others:
    """Which texts by others the copy of the cluster keeps: so many, and so long in all. Those that it has come first."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._without: set[str] = set()

    def limited(self, seen: TemplateMap) -> TemplateMap:
        """The ConfigMap as the copy has it from now on: without its text, if that is one too many."""
        self.forget(seen.name)
        if seen.is_ours or seen.stored is None:
            return seen
        size = len(seen.stored.text)
        if len(self._sizes) >= MOST_BY_OTHERS or sum(self._sizes.values()) + size > MOST_BYTES_BY_OTHERS:
            self._without.add(seen.name)
            return replace(seen, stored=None, mistake=TOO_MANY)
        self._sizes[seen.name] = size
        return seen

    def listed(self, names: Container[str]) -> None:
        """A list was read, which has these ConfigMaps."""
        for name in [name for name in (*self._sizes, *self._without) if name not in names]:
            self.forget(name)

    def forget(self, name: str) -> None:
        """This ConfigMap is gone, or another one by now."""
        self._sizes.pop(name, None)
        self._without.discard(name)

    @property
    def have_room(self) -> bool:
        """Whether others that have no text now may have one: half of what there may be is free again."""
        full = max(len(self._sizes) / MOST_BY_OTHERS, sum(self._sizes.values()) / MOST_BYTES_BY_OTHERS)
        return bool(self._without) and full < 1 / 2


def _written(name: str, text: str, notes: Mapping[str, str]) -> StoredTemplate | None:
    """What stackd has written; None if the annotations or the text are not as it wrote them."""
    scope, owner, by = notes.get(SCOPE), notes.get(OWNER), notes.get(WRITTEN_BY)
    if scope not in (ADMIN, TENANT) or not owner or not by or notes.get(DIGEST) != _digest(text):
        return None
    try:
        at = to_nanoseconds(notes.get(WRITTEN_AT, ""))
    except (ValueError, OverflowError):
        return None
    return StoredTemplate(name=name, text=text, by=Principal(id=owner, name=by), tenant=scope == TENANT, at=at)


def _by_others(name: str, text: str, metadata: Mapping[str, Any]) -> StoredTemplate:
    fields = metadata.get("managedFields") or ()
    times = [entry["time"] for entry in fields if entry.get("time")]
    at = to_nanoseconds(max(times, default=metadata["creationTimestamp"]))
    return StoredTemplate(name=name, text=text, by=CLUSTER, tenant=True, at=at, source="cluster")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
