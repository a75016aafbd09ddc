"""What parent and child share: the map's layout and the messages on the control socket.

Messages are JSON, never pickle, because a child that met the wrong file may be somebody else's by now.

    parent -> child   {"do", "size", "format", "plan"}              the bytes lie at the start of the map
    child  -> parent  {"t": "hello", "version", "confined"}         once, before any upload is seen
        to "screen"   {"t": "inputs", "inputs": [...]}              one half of the output area is full
                      {"t": "picture", ...}, {"t": "rows", ...}     as to "picture", where a still picture is wanted in full as well
                      {"t": "done", "facts": {...}, "inputs": [...]}    of a video, "of" says how many frames it has
        to "picture"  {"t": "picture", "width", "height"}           once, before its rows
                      {"t": "rows", "first", "count", "at"}         in one half of the output area; from top to bottom
                      {"t": "done", "facts": {...}, "inputs": []}
        to "film"     {"t": "film", "facts", "time_base", "frame_rate", "start", "duration", "has_sound"}    once
                      {"t": "frame", "index", "pts", "duration"}    before the rows of each frame
                      {"t": "rows", "first", "count", "at"}         as above
                      {"t": "done", "facts": {...}, "inputs": []}
        to "digests"  {"t": "digests", "digests": [...]}              of some frames that a player shows, in order; at last of all of them; of a picture just one
                      {"t": "done", "facts": {...}, "inputs": []}
        to "sound"    {"t": "sound", "rate_hz", "channels", "starts_at"}    once, where there is any
                      {"t": "samples", "bytes", "at"}               in one half of the output area, in order
                      {"t": "done", "facts": {"has_sound"}, "inputs": []}
        to "probe"    {"t": "done", "facts": {"width", "height", "frames"}, "inputs": []}
        to any        {"t": "refused", "refusal", "detail"}
    parent -> child   b"+"                                          an "inputs", "rows" or "samples" message was copied out

A child for videos gets no bytes by the map but, with each request, the descriptor of a sealed memory file that holds them.
The output area has two halves, so that a child decodes on while the parent copies. Screening one picture of ordinary
size is one message in each direction.
"""

from __future__ import annotations

from typing import Final

SOCKET_FD: Final = 3
MAP_FD: Final = 4

HALF_BYTES: Final = 4 << 20
"""One half of the output area; no input and no row of a picture is larger."""

MESSAGE_BYTES: Final = 64 << 10
INPUTS_PER_MESSAGE: Final = 256
"""Entries have at most some 200 bytes, so a message of this many always fits; and as many digests."""

ACKNOWLEDGED: Final = b"+"
PAGE: Final = 4096


def output_at(input_bytes: int) -> int:
    """Where the output area begins in a map that takes media of up to `input_bytes`."""
    return -(-input_bytes // PAGE) * PAGE


def map_bytes(input_bytes: int) -> int:
    """Size of the whole map."""
    return output_at(input_bytes) + 2 * HALF_BYTES
