"""One decoder for a module, on one event loop that lives as long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from moderation.adapters.decode import ChildDecoder

T = TypeVar("T")
Run = Callable[[Awaitable[T]], T]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture(scope="module")
def decoder(loop) -> Iterator[ChildDecoder]:
    made = ChildDecoder(2)
    loop.run_until_complete(made.start())
    yield made
    loop.run_until_complete(made.close())
