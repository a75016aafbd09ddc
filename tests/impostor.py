"""A decode child that is somebody else's by now."""

from __future__ import annotations

import asyncio
import json
import socket

from moderation.adapters.decode import wire

INPUT_BYTES = 20_000_000
OUTPUT = wire.output_at(INPUT_BYTES)
"""Where the output area begins."""


class Impostor:
    """Sits where a child sits and says these things, whatever it hears; `b""` is the end of the conversation."""

    def __init__(self, *messages: object) -> None:
        self.socket, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.map = bytearray(wire.map_bytes(INPUT_BYTES))
        self.exit = asyncio.get_running_loop().create_future()
        self.exit.set_result(None)
        for message in messages:
            raw = message if isinstance(message, bytes) else json.dumps(message).encode()
            if raw:
                self.theirs.send(raw)
            else:
                self.theirs.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()
        self.theirs.close()
