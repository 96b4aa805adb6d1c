"""A small client of the API for the commands: address and key by option or environment, errors as the API's sentences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import click

DEFAULT_URL = "http://127.0.0.1:8081"
SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Where the daemon is, and the key to it."""

    url: str
    key: str = field(repr=False)

    async def call(self, method: str, path: str, body: object = None, **params: str) -> Any:
        """The answer as JSON. Raises ClickException with the API's own sentence."""
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method, self.url.rstrip("/") + path, json=body, params=params, headers={"X-API-KEY": self.key}
                ) as response,
            ):
                answer = await response.json(content_type=None)
                if response.status >= 400:
                    raise click.ClickException(f"{answer.get('error', response.reason)} ({response.status})")
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise click.ClickException(f"{self.url} cannot be reached: {error}") from error
        except ValueError as error:
            raise click.ClickException(f"{self.url} does not answer like stackd") from error


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--url`` and ``--key``, and hand it a ``client``."""

    @click.option("--url", envvar="STACKD_URL", default=DEFAULT_URL, show_default=True, help="Or STACKD_URL.")
    @click.option("--key", "api_key", envvar="STACKD_API_KEY", default="", help="Better given as STACKD_API_KEY.")
    @functools.wraps(command)
    def with_client(*args: Any, url: str, api_key: str, **kwargs: Any) -> Any:
        return command(*args, client=Client(url=url, key=api_key), **kwargs)

    return with_client
