"""Print the API's description, as a stackd with default settings serves it at /openapi.json."""

from __future__ import annotations

import sys

from msgspec import json

from stackd.config import Config
from stackd.play import ROUTES
from stackd.web.openapi import document

sys.stdout.buffer.write(json.format(json.encode(document(ROUTES, Config()))))
