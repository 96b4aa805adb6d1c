"""The recordings of a real API server, and aioresponses made to play them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse
from aioresponses import aioresponses
from yarl import URL

FOLDER = Path(__file__).parent.parent / "recordings"
SERVER = "http://kubernetes.test"


def recording(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return document


def all_recordings() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


class _Writer:
    """What aiohttp looks at of the request's writer, which aioresponses does not make."""

    output_size = 0


class PlayedResponse(ClientResponse):
    def __init__(self, method: str, url: URL, **kwargs: Any) -> None:
        super().__init__(method, url, stream_writer=_Writer(), **kwargs)  # type: ignore[arg-type]


def play(player: aioresponses, name: str, *, path: str = "", method: str = "") -> None:
    """Have the next request that matches the recording answered by it."""
    document = recording(name)
    body = document["response"]["body"]
    player.add(
        SERVER + (path or document["request"]["path"]),
        method=method or document["request"]["method"],
        status=document["response"]["status"],
        body=body if isinstance(body, str) else json.dumps(body),
        response_class=PlayedResponse,
    )
