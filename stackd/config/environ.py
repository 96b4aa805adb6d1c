"""Keys from the environment: ``STACKD_<SECTION>__<KEY>``.

Owns the names, and how the text of a variable becomes the kind of value that its key wants: strings, numbers and flags
as they are; lists and tables as JSON, as TOML, or as ``a,b`` and ``k=v,k2=v2``.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic.fields import FieldInfo

PREFIX: Final = "STACKD_"
KEY_VARIABLE: Final = "STACKD_AUTH__KEY"
_TRUE: Final = dict.fromkeys(("true", "1", "yes", "on"), True)
_FLAGS: Final = _TRUE | dict.fromkeys(("false", "0", "no", "off"), False)
_OTHERS: Final = frozenset({KEY_VARIABLE, "STACKD_URL", "STACKD_API_KEY", "STACKD_CONFIG"})
_SERVICE_LINK: Final = re.compile(r"STACKD_(?:SERVICE_(?:HOST|PORT(?:_.*)?)|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_.*)?)?)")


def variable(section: str, key: str) -> str:
    """The variable that sets a key: ``STACKD_BATCH_DELETE__MAX_IDS``."""
    return f"{PREFIX}{section.upper()}__{key.upper()}"


def is_ours(name: str) -> bool:
    """Whether a variable is meant for the configuration.

    Not so: the client's and the tests' own, and those that Kubernetes sets in a pod beside a Service named ``stackd``.
    """
    if not name.startswith(PREFIX) or name in _OTHERS:
        return False
    return not name.startswith("STACKD_TEST_") and not _SERVICE_LINK.fullmatch(name)


def value_of(text: str, field: FieldInfo) -> object:
    """The text as the kind of value that the field wants; text that is no such value stays, for the model to refuse."""
    kind = field.annotation
    if kind is bool:
        return _FLAGS.get(text.strip().lower(), text)
    if kind is int:
        return _whole(text)
    if kind is float and not _has_unit(field):
        return _number(text)
    if get_origin(kind) is tuple:
        return _list(text)
    if get_origin(kind) is Mapping:
        return _table(text, get_args(kind)[1])
    return text


def _has_unit(field: FieldInfo) -> bool:
    return any(getattr(item, "unit", "") for item in field.metadata)


def _whole(text: str) -> object:
    return int(text) if re.fullmatch(r"\s*-?[0-9]{1,18}\s*", text) else text


def _number(text: str) -> object:
    return float(text) if re.fullmatch(r"\s*-?[0-9]{1,18}(?:\.[0-9]{1,18})?\s*", text) else text


def _list(text: str) -> object:
    parsed = _structured(text)
    if parsed is not None:
        return parsed
    return [part.strip() for part in text.split(",") if part.strip()]


def _table(text: str, kind: Any) -> object:
    parsed = _structured(text)
    if parsed is not None:
        return parsed
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        return text
    numbers = (get_args(kind)[0] if get_origin(kind) is Annotated else kind) is int
    return {name.strip(): _whole(value) if numbers else value.strip() for name, _, value in pairs}


def _structured(text: str) -> object:
    """JSON or TOML in brackets; None where the text is neither."""
    if text.strip()[:1] not in ("[", "{"):
        return None
    try:
        parsed: object = json.loads(text)
    except ValueError:
        try:
            parsed = tomllib.loads(f"value = {text.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return parsed
