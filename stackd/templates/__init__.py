"""Templates: stacks that the operator has described beforehand, one file each, and that creates ask for by name.

template    ``Template`` and ``TemplateSet``, frozen; what a pool compares is a template's ``digest``; what is made anew for
            each stack: ``<hex:N>``, ``<base32:N>``, ``<uuid>``
read        a folder of files to a ``TemplateSet``, or to all mistakes at once

Knows the configuration and the pod-spec policy; nothing of stacks that exist, of HTTP or of Kubernetes.
"""

from __future__ import annotations

from stackd.templates.read import read_templates
from stackd.templates.template import NO_TEMPLATES, Template, TemplateSet

__all__ = ["NO_TEMPLATES", "Template", "TemplateSet", "read_templates"]
