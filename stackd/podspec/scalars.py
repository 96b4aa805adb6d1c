"""What a plain (unquoted) YAML scalar means.

Owns: the resolution of plain scalars as Kubernetes' own tools do it (YAML 1.1 words for booleans, octal and hexadecimal
integers). The reader and the emitter share it, so what is written unquoted is read back as the same string.
Knows nothing of pods.
"""

from __future__ import annotations

import math
import re

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_SPECIAL_FLOATS = {
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:\Z|[Tt ])")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?\Z")
_NUMERIC_STARTS = frozenset("+-.0123456789")
_LONGEST_NUMBER = 400

MERGE_KEY = "<<"
_OTHER_WORDS = frozenset({MERGE_KEY, "="})


def resolve(plain: str) -> str | int | float | bool | None:
    """The value of a plain scalar. Timestamps stay strings; numbers that fit no 64-bit type become floats."""
    if plain[:1] not in _NUMERIC_STARTS:
        return _WORDS.get(plain, plain)
    return _number(plain)


def is_plain_string(text: str) -> bool:
    """Whether ``text``, written without quotes, would be read as that very string by this and other YAML readers."""
    if text[:1] not in _NUMERIC_STARTS:
        return text not in _WORDS and text not in _OTHER_WORDS
    if isinstance(_number(text), str) and not _FLOAT.match(text.replace("_", "")):
        return not (_TIMESTAMP.match(text) or _SEXAGESIMAL.match(text))
    return False


def _number(plain: str) -> str | int | float:
    special = _SPECIAL_FLOATS.get(plain)
    if special is not None:
        return special
    if len(plain) > _LONGEST_NUMBER:
        return plain
    digits = plain if plain[0] == "." else plain.replace("_", "")
    match = _INTEGER.match(digits)
    if match:
        value = _integer(match)
        return value if -(2**63) <= value < 2**64 else float(value)
    if _FLOAT.match(digits):
        number = float(digits)
        return number if math.isfinite(number) else plain
    return plain


def _integer(match: re.Match[str]) -> int:
    sign, hexadecimal, binary, octal, decimal = match.groups()
    if decimal is not None:
        value = int(decimal)
    elif hexadecimal is not None:
        value = int(hexadecimal, 16)
    elif binary is not None:
        value = int(binary, 2)
    else:
        value = int(octal, 8)
    return -value if sign == "-" else value
