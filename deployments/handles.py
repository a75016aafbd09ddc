"""Classifiers behind a Ray Serve handle: messages of bounded size, time-outs, one table of errors, checked answers."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException, ReplicaUnavailableError

from deployments import telemetry
from deployments.faults import CLASSIFIER
from moderation.errors import ClassifierFault, ClassifierUnavailable
from moderation.scores import ClassifierVersion, InputScores, is_score

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from numpy.typing import NDArray

    from deployments.faults import Faults
    from moderation.frames import Input

    Message: TypeAlias = NDArray[np.uint8]
    """N x H x W x 3, RGB."""

MESSAGE_BYTES: Final = 4_000_000
"""Most bytes of one message; gRPC between replicas refuses 4 MiB, its own frame included."""
SLOT_PATIENCE_S: Final = 2.0


class ClassifierHandle(Protocol):
    """What is used of a `ray.serve.handle.DeploymentHandle` to `NsfwClassifier`."""

    @property
    def describe(self) -> Any:
        """`.remote()` gives the version."""

    @property
    def classify(self) -> Any:
        """`.remote(pixels, fingerprint)` gives the scores of each row."""


def fingerprint(version: ClassifierVersion) -> str:
    """What a caller and a replica must agree on, so that scores are never recorded under another classifier's name."""
    return version.identity


@dataclass(slots=True, eq=False)
class _Row:
    """One input on its way, to the version that was there when it was given to us."""

    pixels: NDArray[np.uint8]
    version: ClassifierVersion
    answer: asyncio.Future[InputScores] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class HandleClassifier:
    """Implements `moderation.ports.Classifier` over a handle. Made by `connect`.

    A message costs a few CPU-ms wherever it passes, however much is in it. So at most `in_flight` are on their way, and
    inputs that find none free wait for the next one and travel together, at most `rows` at once; with one free, an
    input leaves alone and at once.
    """

    def __init__(self, handle: ClassifierHandle, version: ClassifierVersion, *, timeout_s: float, in_flight: int, rows: int) -> None:
        self._handle = handle
        self._version = version
        self._timeout_s = timeout_s
        self._in_flight = in_flight
        self._rows = max(1, min(rows, MESSAGE_BYTES // (version.input.width * version.input.height * 3)))
        self._waiting: deque[_Row] = deque()
        self._slots_taken = 0
        self._deliveries: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(
        cls, handle: ClassifierHandle, *, timeout_s: float, start_timeout_s: float, in_flight: int, rows: int
    ) -> HandleClassifier:
        """Ask the deployment which classifier it runs. Raises ClassifierUnavailable when none answers in time."""
        return cls(handle, await _version(handle, start_timeout_s), timeout_s=timeout_s, in_flight=in_flight, rows=rows)

    @property
    def version(self) -> ClassifierVersion:
        """Exactly which classifier this is; asked again when a replica says that it runs another."""
        return self._version

    async def ping(self) -> None:
        """Return when a replica answers. Raises ClassifierUnavailable."""
        await _version(self._handle, self._timeout_s)

    async def classify(self, inputs: Sequence[Input]) -> Sequence[InputScores]:
        """One answer per input, in order.

        Raises ClassifierUnavailable, ClassifierFault, Overloaded. A message whose replica is lost is sent once more.
        """
        rows = [_Row(item.pixels, self._version) for item in inputs]
        with telemetry.step("classify"):
            self._waiting.extend(rows)
            self._send_waiting()
            try:
                async with asyncio.timeout(self._timeout_s):
                    return [await row.answer for row in rows]
            except TimeoutError:
                raise ClassifierUnavailable(f"{self._version.name}: no answer within {self._timeout_s:g} s") from None
            finally:
                for row in rows:
                    row.answer.cancel()  # whoever has not been sent yet need not be
                    if not row.answer.cancelled():
                        row.answer.exception()  # seen, also where an earlier row failed first

    def _send_waiting(self) -> None:
        while self._slots_taken < self._in_flight and (rows := self._take()):
            delivery = asyncio.get_running_loop().create_task(self._deliver(rows, self._take_slot()))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._deliveries.discard)

    def _take(self) -> list[_Row]:
        """What goes into the next message: a fair share of what waits for each free slot, all for one version."""
        share = -(-len(self._waiting) // (self._in_flight - self._slots_taken))
        rows: list[_Row] = []
        while self._waiting and len(rows) < min(share, self._rows):
            if rows and self._waiting[0].version is not rows[0].version:
                break
            row = self._waiting.popleft()
            if not row.answer.done():
                rows.append(row)
        return rows

    async def _deliver(self, rows: list[_Row], give_slot_back: Callable[[], None]) -> None:
        # A replica that hangs must not hold the slots of those that work.
        patience = asyncio.get_running_loop().call_later(SLOT_PATIENCE_S, give_slot_back)
        failure: Exception = ClassifierUnavailable(f"{self._version.name}: stopping")
        try:
            for row, outcome in zip(rows, await self._call(rows), strict=True):
                _settle(row, outcome)
        except Exception as error:  # noqa: BLE001  # it belongs to those who wait
            failure = error
        finally:
            for row in rows:
                _settle(row, failure)
            patience.cancel()
            give_slot_back()

    def _take_slot(self) -> Callable[[], None]:
        """Take a slot; the function gives it back, once."""
        self._slots_taken += 1
        taken = True

        def give_back() -> None:
            nonlocal taken
            if taken:
                taken = False
                self._slots_taken -= 1
                self._send_waiting()

        return give_back

    async def _call(self, rows: list[_Row]) -> list[InputScores | ClassifierFault]:
        """Send one message, and once more if its replica is lost."""
        version, message = rows[0].version, stacked([row.pixels for row in rows])
        for last_try in (False, True):
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await answered(self._handle.classify.remote(message, fingerprint(version)), version.name)
            except TimeoutError:
                raise ClassifierUnavailable(f"{version.name}: no answer within {self._timeout_s:g} s") from None
            except Lost as lost:
                telemetry.fault("classifier_replica_lost")
                if last_try:
                    raise ClassifierUnavailable(str(lost)) from lost
            except OtherVersion:
                # A new version is being rolled out. These screenings may not mix the two; the next ones use the new.
                self._version = await _version(self._handle, self._timeout_s)
                raise
            else:
                return _checked(answer, len(rows), version)
        raise AssertionError  # not reached: the second try returns or raises


def _settle(row: _Row, outcome: InputScores | Exception) -> None:
    if row.answer.done():
        return
    if isinstance(outcome, Exception):
        row.answer.set_exception(outcome)
    else:
        row.answer.set_result(outcome)


class OtherVersion(ClassifierUnavailable):
    """The replica runs another version of the classifier than the caller believes."""


class Lost(Exception):
    """The replica went away. Not an error yet: the message is sent once more."""


async def _version(handle: ClassifierHandle, timeout_s: float) -> ClassifierVersion:
    try:
        async with asyncio.timeout(timeout_s):
            version = await answered(handle.describe.remote(), "classifier")
    except TimeoutError:
        raise ClassifierUnavailable(f"no classifier answered within {timeout_s:g} s") from None
    except Lost as lost:
        raise ClassifierUnavailable(str(lost)) from lost
    if not isinstance(version, ClassifierVersion):
        raise ClassifierFault(f"a classifier described itself as {type(version).__name__}")
    return version


async def answered(response: Awaitable[object], name: str, faults: Faults = CLASSIFIER) -> object:
    """The answer, or one of our errors, or Lost."""
    try:
        return await response
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # it is we who are cancelled
        raise Lost(f"{name}: the replica dropped the call") from None
    except Exception as error:
        raise translated(error, name, faults) from error


def translated(error: Exception, name: str, faults: Faults = CLASSIFIER) -> Exception:
    """The table from what a handle raises to our errors. What is of ours passes; what nobody foresaw is a fault."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, faults.own):
        return cause
    if isinstance(error, BackPressureError):
        return faults.overloaded(name, error.retry_after_s or 1.0)
    text = f"{name}: {type(cause).__name__}"
    for kinds, kind_of in _TABLE:
        if isinstance(error, kinds):
            return kind_of(faults)(text)
    return faults.fault(text)


_TABLE: Final[tuple[tuple[tuple[type[Exception], ...], Callable[[Faults], Callable[[str], Exception]]], ...]] = (
    # The replica went away with the work in its hands; whether it was done does not matter, for the work has no effects.
    ((RayActorError, ReplicaUnavailableError, TaskCancelledError), lambda _: Lost),
    ((DeploymentUnavailableError, TimeoutError), lambda faults: faults.unavailable),
    ((RayTaskError,), lambda faults: faults.fault),  # raised by the replica's own code
    ((RayError, RayServeException), lambda faults: faults.unavailable),
)


def stacked(rows: Sequence[NDArray[np.uint8]]) -> Message:
    """One contiguous array; a single input is not copied."""
    return rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)


def _checked(answer: object, rows: int, version: ClassifierVersion) -> list[InputScores | ClassifierFault]:
    """The answer, if it is for each row one score for each category, or its fault. Raises ClassifierFault."""
    if not isinstance(answer, list) or len(answer) != rows:
        raise ClassifierFault(f"{version.name}: not {rows} score sheets")
    expected = set(version.categories)
    return [outcome if isinstance(outcome, ClassifierFault) else _sheet(outcome, expected, version.name) for outcome in answer]


def _sheet(outcome: object, expected: set[str], name: str) -> InputScores | ClassifierFault:
    if isinstance(outcome, InputScores) and set(outcome.scores) == expected and all(map(is_score, outcome.scores.values())):
        return outcome
    return ClassifierFault(f"{name}: scores missing, strange or out of range")
