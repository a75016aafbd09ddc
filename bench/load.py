"""A lean HTTP/1.1 client for closed-loop load: one connection per client, requests built beforehand.

It shares the cores with what it measures, so it does as little as it can.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Result:
    """What came back; latencies in seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def per_second(self) -> float:
        """Answers with status 200 per second."""
        return self.statuses[200] / self.seconds

    def quantile(self, share: float) -> float:
        """A latency quantile in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def _one_client(
    host: str, port: int, head: bytes, bodies: Iterator[bytes], until: float, result: Result, *, stop_at_end: bool
) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        while time.perf_counter() < until:
            body = next(bodies, None)
            if body is None:
                if stop_at_end:
                    return
                raise LookupError("the pictures ran out")
            start = time.perf_counter()
            writer.write(head + b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
            await writer.drain()
            header = await reader.readuntil(b"\r\n\r\n")
            lines = header.lower().split(b"\r\n")
            length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            result.latencies.append(time.perf_counter() - start)
            result.statuses[int(header[9:12])] += 1
            if b"connection: close" in lines:
                writer.close()
                reader, writer = await asyncio.open_connection(host, port)
    finally:
        writer.close()


async def closed_loop(
    *, host: str, port: int, path: str, key: str, bodies: Iterator[bytes], clients: int, seconds: float, stop_at_end: bool = False
) -> Result:
    """`clients` connections, each sending its next picture when the last was answered."""
    head = (f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {key}\r\ncontent-type: image/jpeg\r\n").encode()
    result, start = Result(), time.perf_counter()
    await asyncio.gather(*(_one_client(host, port, head, bodies, start + seconds, result, stop_at_end=stop_at_end) for _ in range(clients)))
    result.seconds = time.perf_counter() - start
    return result
