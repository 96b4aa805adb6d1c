"""Print the API's description, as a stackd with default settings serves it at /openapi.json."""

from __future__ import annotations

import sys

import orjson

from stackd.config import Config
from stackd.play import ROUTES
from stackd.web.openapi import document

sys.stdout.buffer.write(orjson.dumps(document(ROUTES, Config()), option=orjson.OPT_INDENT_2))
