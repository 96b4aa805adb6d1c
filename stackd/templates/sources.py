"""Which texts are in force: a file's before one of the API that has its name, and of those of the API, all that are right.

Owns: the sentence for each text that is not in force.
"""

from __future__ import annotations

from collections.abc import Iterable

from stackd.config import Config
from stackd.errors import InvalidTemplate
from stackd.model import StoredTemplate
from stackd.templates.read import parse_template
from stackd.templates.template import TemplateProblem, TemplateSet


def in_force(files: TemplateSet, stored: Iterable[StoredTemplate], config: Config) -> TemplateSet:
    """The templates of the files, and those of the API that are right and have a name of their own."""
    templates, problems = [*files.values()], []
    for kept in stored:
        if kept.name in files:
            problems.append(_shadowed(kept))
            continue
        try:
            templates.append(parse_template(kept, config))
        except InvalidTemplate as error:
            message = f"the template {kept.name} of the API (by {kept.by.name}) is not in force: {error}"
            problems.append(TemplateProblem(name=kept.name, problem="faulty", message=message))
    return TemplateSet(templates, problems)


def _shadowed(kept: StoredTemplate) -> TemplateProblem:
    message = (
        f"the template {kept.name} is in a file, which is in force, and {kept.by.name} has written one of this name "
        f"over the API: rename the file, or delete that one (DELETE /templates/{kept.name})"
    )
    return TemplateProblem(name=kept.name, problem="shadowed", message=message)
