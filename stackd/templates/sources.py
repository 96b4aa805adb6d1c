"""Which texts are in force: a file's before any other of its name, and of the others, those that are right. One that is not
right leaves the last good one in force.

Owns: the sentence for each text that is not in force, and what a tenant may have of templates in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from stackd.config import Config, LimitsSection
from stackd.contract import TemplateTrouble
from stackd.errors import InvalidTemplate, Reason
from stackd.model import StoredTemplate
from stackd.names import LABEL_FORM, is_label
from stackd.podspec.reasons import ROOT
from stackd.templates.read import parse_template
from stackd.templates.template import Template, TemplateProblem, TemplateSet

BYTES_PER_KEY: Final = 1 << 20
"""How long the texts of all templates of a tenant's key may be. Those that were read take some 30 times as much memory."""

TEXT_PER_POD_SPEC: Final = 2
"""How many times as long as a pod spec (``limits.pod_spec``) the text of a template may be."""

MOST_PROBLEMS: Final = 100

NO_TEXTS: Final[Mapping[str, StoredTemplate | str]] = {}


class Reader:
    """Reads texts under one configuration, the same one only once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._read: dict[tuple[str, str, bool, str], Template | InvalidTemplate] = {}

    def read(self, stored: StoredTemplate) -> Template:
        """The template. Raises InvalidTemplate with a reason for each mistake."""
        key = (stored.name, stored.text, stored.tenant, stored.source)
        if key not in self._read:
            try:
                self._read[key] = self._parsed(stored)
            except InvalidTemplate as error:
                self._read[key] = error
        if isinstance(found := self._read[key], InvalidTemplate):
            raise found
        return replace(found, stored=replace(stored, pool=found.pool))

    def forget_but(self, texts: Iterable[StoredTemplate]) -> None:
        keys = {(text.name, text.text, text.tenant, text.source) for text in texts}
        self._read = {key: found for key, found in self._read.items() if key in keys}

    def _parsed(self, stored: StoredTemplate) -> Template:
        longest = TEXT_PER_POD_SPEC * self.config.limits.pod_spec
        if not is_label(stored.name):
            raise _wrong(f"{stored.name[:64]!r} is not the name of a template: {LABEL_FORM} are expected")
        if len(stored.text.encode()) > longest:
            raise _wrong(f"the text is longer than {longest} bytes (twice limits.pod_spec)")
        return parse_template(stored, self.config)


def in_force(
    files: TemplateSet,
    kept: Iterable[StoredTemplate],
    reader: Reader,
    seen: Mapping[str, StoredTemplate | str] | None = None,
) -> TemplateSet:
    """The templates of the ``files``; of what was ``seen`` in the cluster by name (a sentence where there is no text), all that
    is right; and of what was ``kept``, the last good ones of names that have a wrong one now. While the cluster was not
    seen (None), those that were kept.
    """
    how = reader.config.templates.from_cluster
    last_good = {text.name: right for text in kept if (right := _with_rights(text, how)) is not None}
    accepted: list[Template] = []
    tried: list[StoredTemplate] = []
    problems = []
    names = {*last_good, *(last_good if seen is None else seen)}
    for name in sorted(names, key=lambda name: (name not in last_good, name)):  # what was in force before counts first
        good, text = last_good.get(name), (last_good if seen is None else seen).get(name)
        if isinstance(text, StoredTemplate) and (text := _with_rights(given := text, how)) is None:
            if good is None:
                continue
            text = _IGNORED.format(by=given.by.name)
        if name in files:
            by = text.by.name if isinstance(text, StoredTemplate) else "somebody"
            problems += [] if text is None else [_problem(name, "shadowed", _SHADOWED.format(name=name, by=by))]
        elif text is None:
            problems.append(_problem(name, "missing", _MISSING.format(name=name)))
        else:
            template, why = _read(text, reader, tried)
            if template is None and good is not None and good != text:
                template, _ = _read(good, reader, tried)
            if why:
                kind: TemplateTrouble = "faulty" if template is None else "stale"
                by = "" if isinstance(text, str) else f" (by {text.by.name})"
                problems.append(_problem(name, kind, _WRONG[kind].format(name=name, by=by, why=why)))
            accepted += [] if template is None else [template]
    reader.forget_but(
        [*last_good.values(), *(text for text in (seen or NO_TEXTS).values() if not isinstance(text, str))]
    )
    problems.sort(key=lambda problem: problem.name)
    if len(problems) > MOST_PROBLEMS:
        problems[MOST_PROBLEMS:] = [replace(problems[MOST_PROBLEMS], message=_MORE)]
    return TemplateSet([*files.values(), *accepted], problems)


def _with_rights(stored: StoredTemplate, how: str) -> StoredTemplate | None:
    """The text with the rights of what others have put into the cluster, if they have; None: it is ignored."""
    if stored.source == "api":
        return stored
    return None if how == "none" else replace(stored, tenant=how == "tenant")


def why_over_budget(stored: StoredTemplate, others: Iterable[StoredTemplate], limits: LimitsSection) -> str | None:
    """Why the tenant's template cannot be there beside the ``others``, of which those of its owner count."""
    own = [text for text in others if text.tenant and text.by.id == stored.by.id and text.name != stored.name]
    if not stored.tenant:
        return None
    size = sum(len(text.text.encode()) for text in (*own, stored))
    pool = sum(text.pool for text in (*own, stored))
    if len(own) >= limits.templates_per_key:
        return f"the key has {len(own)} templates already (limits.templates_per_key)"
    if size > BYTES_PER_KEY:
        return f"the templates of the key would have {size} bytes; {BYTES_PER_KEY} at most"
    if stored.pool and pool > limits.pool_per_key:
        return f"the pools of the key would have {pool} stacks; {limits.pool_per_key} at most (limits.pool_per_key)"
    return None


_SHADOWED: Final = (
    "the template {name} is in a file, which is in force, and {by} has written one of this name into the cluster: rename the "
    "file, or delete that one (DELETE /templates/{name})"
)
_MISSING: Final = (
    "the template {name} is not in the cluster any more, and nobody has deleted it over the API: nothing is created from it, and "
    "its pool and shared stack stay; write it again, or delete it (DELETE /templates/{name})"
)
_IGNORED: Final = "somebody else than stackd has written it ({by}), and templates.from_cluster ignores that"
_MORE: Final = f"more than {MOST_PROBLEMS} texts are not in force; the first of them are listed"
_WRONG: Final = {
    "faulty": "the template {name}{by} is not in force: {why}",
    "stale": "the newest text of the template {name}{by} is not in force, the last good one stays: {why}",
}


def _read(text: StoredTemplate | str, reader: Reader, tried: list[StoredTemplate]) -> tuple[Template | None, str]:
    """The template in the text, or why there is none. All that others have put into the cluster, right or wrong, has one
    tenant's budget; ``tried`` are those before."""
    if isinstance(text, str):
        return None, text
    if text.source != "cluster":
        return _parsed(text, reader)
    limits, unread = reader.config.limits, replace(text, pool=0)
    if why := why_over_budget(unread, tried, limits):
        return None, why
    template, why = _parsed(text, reader)
    stored = template.stored if template is not None else None
    if stored is not None and (too_much := why_over_budget(stored, tried, limits)):
        template, why, stored = None, too_much, None
    tried.append(stored or unread)
    return template, why


def _parsed(text: StoredTemplate, reader: Reader) -> tuple[Template | None, str]:
    try:
        return reader.read(text), ""
    except InvalidTemplate as error:
        return None, str(error)


def _problem(name: str, problem: TemplateTrouble, message: str) -> TemplateProblem:
    return TemplateProblem(name=name, problem=problem, message=message)


def _wrong(text: str) -> InvalidTemplate:
    return InvalidTemplate([Reason(path=ROOT, text=text)])
