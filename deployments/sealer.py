"""`facegate seal`: the one process that seals the log, outside Ray, with its own database role and the only signing key.

It reads no more than the entries, writes no more than the log, and answers nobody; what it signs is read from the database by others.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from deployments.settings import SettingsRefused, load_settings
from moderation.adapters.checkpoint_copies import CheckpointPlace, CopyFailed, checkpoint_places
from moderation.adapters.sealer_folder import SealerFolder, SealingRefused
from moderation.adapters.seals import Sealer
from moderation.errors import RecordUnavailable

if TYPE_CHECKING:
    from deployments.settings import Settings
    from moderation.log import Seal

EVERY_S: Final = 1.0
"""At most one checkpoint in this time."""
COPY_EVERY_S: Final = 60.0
ROTATED_WITHIN_S: Final = 30.0
_LOG: Final = logging.getLogger("facegate.sealer")


def seal(settings: Settings) -> None:
    """Seal until a signal says stop. Raises SealingRefused, in one line, where it must not; SettingsRefused."""
    stop, said = threading.Event(), ""
    with _stopped_by_signals(stop), _url(settings) as url, SealerFolder(settings.sealer) as folder, _copies(settings) as copies:
        while not stop.is_set():
            try:
                with Sealer(url, folder, name=settings.log_name) as sealer:
                    sealer.begin()
                    copies.offer(sealer.newest())
                    _keep_sealing(sealer, copies, stop)
            except RecordUnavailable as fault:
                if said != str(fault):
                    said = str(fault)
                    _LOG.warning("not sealed: %s; trying again", said)
                stop.wait(EVERY_S)


def _keep_sealing(sealer: Sealer, copies: Copies, stop: threading.Event) -> None:
    """One round each second; what is there at the end is sealed as well."""
    while True:
        ended, began = stop.is_set(), time.monotonic()
        copies.offer(sealer.seal())
        if ended:
            return
        stop.wait(max(0.0, EVERY_S - (time.monotonic() - began)))


def rotate(settings: Settings) -> str:
    """Have another key take over; the new public key, once a checkpoint is signed by both.

    By the sealer that runs, or by ourselves where none does. Raises SealingRefused, RecordUnavailable, SettingsRefused.
    """
    folder = SealerFolder(settings.sealer)
    key = folder.key()
    if key is None:
        raise SealingRefused(f"there is no key in {settings.sealer}: nothing was sealed from there yet")
    wanted = folder.make_next_key(key.verifier.name).verifier
    deadline = time.monotonic() + ROTATED_WITHIN_S
    while True:
        with contextlib.suppress(SealingRefused), _url(settings) as url, SealerFolder(settings.sealer) as own, Sealer(url, own) as sealer:
            sealer.begin()
            sealer.seal()
        signing = folder.key()
        if signing is not None and signing.verifier == wanted:
            return wanted.text
        if time.monotonic() > deadline:
            raise SealingRefused("the new key waits, and is not taken over: does the sealer refuse to sign?")
        time.sleep(0.1)


def restart(settings: Settings, reason: str) -> str:
    """Open the log again under another origin, which is returned. Raises SealingRefused, RecordUnavailable, SettingsRefused."""
    with _url(settings) as url, SealerFolder(settings.sealer) as folder, Sealer(url, folder, name=settings.log_name) as sealer:
        origin = sealer.reopen(reason)
        sealer.seal()
        return origin


@contextmanager
def _url(settings: Settings) -> Iterator[str]:
    if settings.sealer_database_url is not None:
        yield settings.sealer_database_url.get_secret_value()
        return
    from deployments.databases import databases  # noqa: PLC0415  # brings all of alembic, which a sealer with a URL has no use for

    with databases(settings) as urls:
        if not urls.sealer:
            raise SettingsRefused("set FACEGATE_SEALER_DATABASE_URL: the log is sealed by a database role of its own")
        yield urls.sealer


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    def handle(_sign: int, _frame: object) -> None:
        stop.set()

    before: dict[signal.Signals, Any] = {sign: signal.signal(sign, handle) for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


# --- copies -----------------------------------------------------------------------------------------


class Copies:
    """Takes the newest seal to every place once a minute, beside the sealing, and a last time at the end.

    A place that fails is asked again a minute later, whether or not anything was sealed meanwhile.
    """

    def __init__(self, places: list[CheckpointPlace], *, every_s: float = COPY_EVERY_S) -> None:
        self._places = places
        self._every_s = every_s
        self._newest: Seal | None = None
        self._copied: list[Seal | None] = [None] * len(places)
        self._offered = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="copies", daemon=True)
        if places:
            self._thread.start()

    def offer(self, seal: Seal | None) -> None:
        """This is the newest one; None: it is as it was."""
        if seal is not None:
            self._newest = seal
            self._offered.set()

    def close(self) -> None:
        """Copy what is left."""
        self._ended.set()
        self._offered.set()
        if self._places:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._offered.wait(self._every_s)
            self._offered.clear()
            self._copy()
            self._ended.wait(self._every_s)
        self._copy()

    def _copy(self) -> None:
        newest = self._newest
        if newest is None:
            return
        for number, place in enumerate(self._places):
            if self._copied[number] == newest:
                continue
            try:
                place.keep(newest)
            except CopyFailed as fault:
                _LOG.error("a checkpoint was not copied: %s", fault)
            except Exception:  # noqa: BLE001  # a fault of one place is no reason to copy nowhere any more
                _LOG.exception("a checkpoint was not copied to place %d", number + 1)
            else:
                self._copied[number] = newest


@contextmanager
def _copies(settings: Settings) -> Iterator[Copies]:
    try:
        places = checkpoint_places(settings.checkpoint_copies)
    except ValueError as fault:
        raise SettingsRefused(f"FACEGATE_CHECKPOINT_COPIES: {fault}") from None
    copies = Copies(places)
    try:
        yield copies
    finally:
        copies.close()


def main() -> int:
    """The process that `facegate serve` starts; what it has to say goes to the service's log."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        seal(load_settings())
    except (SealingRefused, SettingsRefused) as refused:
        _LOG.error("nothing is sealed: %s", refused)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
