"""Templates: stacks that are described in files or texts of the API, one each, and that creates request by name.

template    ``Template`` and ``TemplateSet``, frozen; the ``digest`` by which pools compare templates; the values
            generated for each stack: ``<hex:N>``, ``<base32:N>``, ``<uuid>``; ``Egress``: what its stacks may reach
hiding      keeps generated values out of what others say about a stack
sharing     reads what concerns its shared stack and its check
readers     reads the fields that are neither the pod nor about its rights
read        reads a folder of files into a ``TemplateSet``, and the text of one of the API; reports all mistakes at once
markdown    reads Markdown, also that of the guides
sources     which of these are in force

Knows the configuration and the pod-spec policy; nothing of existing stacks, HTTP or Kubernetes.
"""

from __future__ import annotations

from stackd.templates.read import parse_template as parse_template
from stackd.templates.read import read_templates as read_templates
from stackd.templates.sources import Reader as Reader
from stackd.templates.sources import in_force as in_force
from stackd.templates.template import NO_TEMPLATES as NO_TEMPLATES
from stackd.templates.template import Check as Check
from stackd.templates.template import Template as Template
from stackd.templates.template import TemplateProblem as TemplateProblem
from stackd.templates.template import TemplateSet as TemplateSet
