"""The verbs of the API on stored objects, from decoded requests to bodies. Knows no HTTP library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from stackd.embedded import patch as patching
from stackd.embedded.admission import Admission
from stackd.embedded.decode import decode
from stackd.embedded.defaults import in_order, pod_status
from stackd.embedded.deletion import Deletion
from stackd.embedded.gc import GarbageCollector
from stackd.embedded.quota import QuotaLedger
from stackd.embedded.request import Target, is_true, whole_number
from stackd.embedded.resources import PODS, RESOURCE_QUOTAS, Json, Resource
from stackd.embedded.selectors import parse
from stackd.embedded.status import already_exists, bad_request, conflict, invalid, not_allowed
from stackd.embedded.store import Record, Store

_FIXED = ("name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp")
_OBJECT_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


class Api:
    """Creates, changes and deletes."""

    def __init__(
        self,
        store: Store,
        admission: Admission,
        deletion: Deletion,
        collector: GarbageCollector,
        quotas: QuotaLedger,
    ) -> None:
        self._store = store
        self._admission = admission
        self._deletion = deletion
        self._collector = collector
        self._quotas = quotas

    def get(self, target: Target) -> bytes:
        """The object. Raises ApiError 404."""
        if target.resource is RESOURCE_QUOTAS:
            self._quotas.refresh()
        return self._store.of(target.resource).get(target.namespace, target.name).alone()

    def create(self, target: Target, query: Mapping[str, str], body: bytes) -> bytes:
        """The object as it was stored, or would be. Raises ApiError."""
        resource = target.resource
        strict = query.get("fieldValidation") == "Strict"
        obj = decode(resource, _read_object(body, resource), strict=strict)
        obj = self._admission.for_create(resource, target.namespace, obj)
        prepared = self._store.prepare(resource, target.namespace, obj)
        if "dryRun" in query:
            name = prepared["metadata"]["name"]
            if (target.namespace, name) in self._store.of(resource).records:
                raise already_exists(resource, name)
            return Record(resource, ("", ""), prepared, 0).alone()
        return self._store.create(resource, prepared).alone()

    def patch(self, target: Target, query: Mapping[str, str], content_type: str, body: bytes) -> bytes:
        """The object as it is afterwards. Raises ApiError."""
        before = self._store.of(target.resource).get(target.namespace, target.name)
        whole = {"kind": target.resource.kind, "apiVersion": target.resource.api_version} | before.obj
        patched = patching.apply(content_type.partition(";")[0].strip(), whole, _read_json(body))
        return self._replace(target, query, before, patched)

    def update(self, target: Target, query: Mapping[str, str], body: bytes) -> bytes:
        """The object as it is afterwards. Raises ApiError."""
        before = self._store.of(target.resource).get(target.namespace, target.name)
        return self._replace(target, query, before, _read_object(body, target.resource))

    def delete(self, target: Target, query: Mapping[str, str], body: bytes) -> bytes:
        """The object, or a Status, as Kubernetes answers for the kind. Raises ApiError 404 or 409."""
        record = self._store.of(target.resource).get(target.namespace, target.name)
        options = _read_options(query, body)
        _check_preconditions(record, options.get("preconditions") or {})
        if "dryRun" not in query and not options.get("dryRun"):
            if options.get("propagationPolicy") == "Orphan":
                self._collector.orphan(record.uid)
            record = self._deletion.delete(record, options.get("gracePeriodSeconds"))
        return record.alone() if record.resource.returns_deleted else _deleted_status(record)

    def delete_collection(self, target: Target, query: Mapping[str, str], body: bytes) -> bytes:
        """The list of what went. Raises ApiError."""
        selector = parse(target.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        options = _read_options(query, body)
        records = list(self._store.of(target.resource).select(target.namespace, selector))
        if "dryRun" not in query:
            grace = options.get("gracePeriodSeconds")
            records = [self._deletion.delete(record, grace) for record in records]
        head = {
            "kind": f"{target.resource.kind}List",
            "apiVersion": target.resource.api_version,
            "metadata": {"resourceVersion": str(self._store.revision)},
        }
        return orjson.dumps(head)[:-1] + b',"items":[' + b",".join(record.body() for record in records) + b"]}"

    def _replace(self, target: Target, query: Mapping[str, str], before: Record, raw: Json) -> bytes:
        resource = target.resource
        obj = decode(resource, raw, strict=query.get("fieldValidation") == "Strict")
        _check_version(before, obj["metadata"])
        parts = _changes(target, before, obj)
        if not target.subresource:
            parts = self._admission.for_update(before, before.obj | parts)
        if resource.generation and parts.get("spec", before.obj.get("spec")) != before.obj.get("spec"):
            generation = before.obj["metadata"].get("generation", 0) + 1
            parts["metadata"] = in_order("ObjectMeta", parts["metadata"] | {"generation": generation})
        if "dryRun" in query:
            return Record(resource, before.key, before.obj | parts, before.revision).alone()
        record = self._store.update(before, **{key: parts[key] for key in parts})
        if record is not before and record.obj["metadata"].get("deletionGracePeriodSeconds") == 0:
            record = self._deletion.finish(record)
        return record.alone()


def _changes(target: Target, before: Record, obj: Json) -> Json:
    """The parts of the object that the request may change."""
    old = before.obj["metadata"]
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _FIXED}
    metadata |= {key: old[key] for key in (*_FIXED, "deletionGracePeriodSeconds") if key in old}
    metadata["resourceVersion"] = old["resourceVersion"]
    for field in ("name", "namespace"):
        if obj["metadata"].get(field, old.get(field)) != old.get(field):
            raise invalid(before.resource, before.key[1], [not_allowed(f"metadata.{field}", "field is immutable")])
    ordered = _like(old, in_order("ObjectMeta", metadata))
    if target.subresource == "status":
        status: Json = obj.get("status") or before.obj.get("status") or {}
        return {"metadata": ordered, "status": pod_status(status) if before.resource is PODS else status}
    return {"metadata": ordered} | {k: v for k, v in obj.items() if k not in {"metadata", "status"}}


def _like(old: Json, new: Json) -> Json:
    """The new metadata, with the very labels of the old if they are equal (indexes compare by identity)."""
    if new.get("labels") == old.get("labels") and "labels" in old:
        new["labels"] = old["labels"]
    return new


def _check_version(before: Record, metadata: Json) -> None:
    given = metadata.get("resourceVersion")
    if given and given != str(before.revision):
        raise conflict(before.resource, before.key[1], _OBJECT_MODIFIED)
    uid = metadata.get("uid")
    if uid and uid != before.uid:
        problem = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before.uid}"
        raise conflict(before.resource, before.key[1], problem)


def _check_preconditions(record: Record, conditions: Json) -> None:
    name, kind = record.key[1], record.resource.kind
    if (uid := conditions.get("uid")) and uid != record.uid:
        message = (
            f"the UID in the precondition ({uid}) does not match the UID in record ({record.uid}). "
            "The object might have been deleted and then recreated"
        )
        raise conflict(record.resource, name, message, kind=kind)
    if (version := conditions.get("resourceVersion")) and version != str(record.revision):
        message = (
            f"the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record "
            f"({record.revision}). The object might have been modified"
        )
        raise conflict(record.resource, name, message, kind=kind)


def _deleted_status(record: Record) -> bytes:
    resource = record.resource
    details = {"name": record.key[1], "group": resource.group, "kind": resource.plural, "uid": record.uid}
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return orjson.dumps(status | {"details": {key: value for key, value in details.items() if value}})


def _read_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise bad_request(f"the object provided is unrecognized (must be of type JSON): {exc}") from exc


def _read_object(body: bytes, resource: Resource) -> Json:
    raw = _read_json(body)
    if not isinstance(raw, dict):
        raise bad_request("the object provided is unrecognized: json: cannot unmarshal into Go value of type struct")
    given = (raw.get("apiVersion", resource.api_version), raw.get("kind", resource.kind))
    if given != (resource.api_version, resource.kind):
        raise bad_request(
            f"the API version in the data ({given[0]}, Kind={given[1]}) does not match the expected API version "
            f"({resource.api_version}, Kind={resource.kind})"
        )
    return raw


def _read_options(query: Mapping[str, str], body: bytes) -> Json:
    options = _read_json(body) if body.strip() else {}
    if not isinstance(options, dict):
        raise bad_request("json: cannot unmarshal into Go value of type v1.DeleteOptions")
    if (grace := whole_number(query, "gracePeriodSeconds")) is not None:
        options["gracePeriodSeconds"] = grace
    if policy := query.get("propagationPolicy"):
        options["propagationPolicy"] = policy
    if is_true(query.get("orphanDependents")):
        options["propagationPolicy"] = "Orphan"
    return options
