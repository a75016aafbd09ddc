"""The sound of a video, decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, Final

import av.audio.resampler

from moderation.adapters.decode.task import Refused, Task
from moderation.errors import Refusal

MAX_RATE_HZ: Final = 48_000
_GAP_S: Final = Fraction(1, 50)
"""Of silence, from which on it is kept."""


class Hearing:
    """Puts the decoded pieces of one stream into one line of samples: interleaved int16 of one or two channels.

    Silence between pieces is kept where it is longer than the pieces' own times could err by.
    """

    def __init__(self, codec: Any, task: Task, begin: Callable[[dict[str, object]], None], take: Callable[[bytes], None]) -> None:
        codec.thread_count = 1
        self._begin = begin
        self._take = take
        self._rate = min(codec.sample_rate or MAX_RATE_HZ, MAX_RATE_HZ)
        self._channels = 1 if codec.channels == 1 else 2
        self._resampler = av.audio.resampler.AudioResampler("s16", "mono" if self._channels == 1 else "stereo", self._rate)
        self._most = (task.video_seconds + 1) * self._rate
        self._heard = 0
        self._start: Fraction | None = None

    def hear(self, packets: Iterable[Any]) -> None:
        """Begin, and take all there is. Raises Refused where it is too long."""
        for packet in packets:
            for decoded in packet.decode():
                self._pieces(decoded)
        if self._start is not None:
            self._pieces(None)

    def _pieces(self, decoded: Any) -> None:
        for piece in self._resampler.resample(decoded):
            at = None if piece.pts is None else piece.pts * Fraction(1, self._rate)
            if self._start is None:
                self._start = at or Fraction(0)
                about: dict[str, object] = {"rate_hz": self._rate, "channels": self._channels}
                self._begin({**about, "starts_at": [self._start.numerator, self._start.denominator]})
            gap = Fraction(0) if at is None else at - self._start - Fraction(self._heard, self._rate)
            if gap > _GAP_S:
                self._add(bytes(min(round(gap * self._rate), self._most + 1) * 2 * self._channels))
            self._add(bytes(piece.planes[0])[: piece.samples * self._channels * 2])

    def _add(self, samples: bytes) -> None:
        self._heard += len(samples) // (2 * self._channels)
        if self._heard > self._most:
            raise Refused(Refusal.TOO_LONG, "sound")
        self._take(samples)
