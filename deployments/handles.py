"""Classifiers behind a Ray Serve handle: messages of bounded size, time-outs, one table of errors, checked answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException, ReplicaUnavailableError

from deployments import telemetry
from moderation.errors import ClassifierFault, ClassifierUnavailable, ModerationError, Overloaded
from moderation.scores import ClassifierVersion, InputScores, is_score

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from numpy.typing import NDArray

    from moderation.frames import Input

    Message: TypeAlias = NDArray[np.uint8]
    """N x H x W x 3, RGB."""

MESSAGE_BYTES: Final = 4_000_000
"""Most bytes of one message; gRPC between replicas refuses 4 MiB, its own frame included."""


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
    return f"{version.name} {version.version} {version.digest} {version.mapping_digest}"


class HandleClassifier:
    """Implements `moderation.ports.Classifier` over a handle. Made by `connect`."""

    def __init__(self, handle: ClassifierHandle, version: ClassifierVersion, *, timeout_s: float) -> None:
        self._handle = handle
        self._version = version
        self._timeout_s = timeout_s

    @classmethod
    async def connect(cls, handle: ClassifierHandle, *, timeout_s: float, start_timeout_s: float) -> HandleClassifier:
        """Ask the deployment which classifier it runs. Raises ClassifierUnavailable when none answers in time."""
        return cls(handle, await _version(handle, start_timeout_s), timeout_s=timeout_s)

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
        version = self._version
        rows = max(1, MESSAGE_BYTES // (version.input.width * version.input.height * 3))
        with telemetry.step("classify"):
            try:
                async with asyncio.timeout(self._timeout_s):
                    messages = [_stack(inputs[at : at + rows]) for at in range(0, len(inputs), rows)]
                    answers = [await self._send(message, version) for message in messages]
            except TimeoutError:
                raise ClassifierUnavailable(f"{version.name}: no answer within {self._timeout_s:g} s") from None
        return [scores for answer in answers for scores in answer]

    async def _send(self, message: Message, version: ClassifierVersion) -> list[InputScores]:
        for last_try in (False, True):
            try:
                answer = await _translated(self._handle.classify.remote(message, fingerprint(version)), version.name)
            except _Lost as lost:
                telemetry.fault("classifier_replica_lost")
                if last_try:
                    raise ClassifierUnavailable(str(lost)) from lost
            except OtherVersion:
                # A new version is being rolled out. This screening may not mix the two; the next one uses the new.
                self._version = await _version(self._handle, self._timeout_s)
                raise
            else:
                return _checked(answer, len(message), version)
        raise AssertionError  # not reached: the second try returns or raises


class OtherVersion(ClassifierUnavailable):
    """The replica runs another version of the classifier than the caller believes."""


class _Lost(Exception):
    """The replica went away. Not an error yet: the message is sent once more."""


async def _version(handle: ClassifierHandle, timeout_s: float) -> ClassifierVersion:
    try:
        async with asyncio.timeout(timeout_s):
            version = await _translated(handle.describe.remote(), "classifier")
    except TimeoutError:
        raise ClassifierUnavailable(f"no classifier answered within {timeout_s:g} s") from None
    except _Lost as lost:
        raise ClassifierUnavailable(str(lost)) from lost
    if not isinstance(version, ClassifierVersion):
        raise ClassifierFault(f"a classifier described itself as {type(version).__name__}")
    return version


async def _translated(response: Awaitable[object], name: str) -> object:
    """The answer, or one of our errors."""
    try:
        return await response
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # it is we who are cancelled
        raise _Lost(f"{name}: the replica dropped the call") from None
    except Exception as error:
        raise translated(error, name) from error


def translated(error: Exception, name: str) -> Exception:
    """The table from what a handle raises to our errors. What is of ours passes; what nobody foresaw is a fault."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ModerationError):
        return cause
    if isinstance(error, BackPressureError):
        return Overloaded(name, error.retry_after_s or 1.0)
    text = f"{name}: {type(cause).__name__}"
    for kinds, make in _TABLE:
        if isinstance(error, kinds):
            return make(text)
    return ClassifierFault(text)


_TABLE: Final[tuple[tuple[tuple[type[Exception], ...], Callable[[str], Exception]], ...]] = (
    # The replica went away with the work in its hands; whether it was done does not matter, for scoring has no effects.
    ((RayActorError, ReplicaUnavailableError, TaskCancelledError), _Lost),
    ((DeploymentUnavailableError, TimeoutError), ClassifierUnavailable),
    ((RayTaskError,), ClassifierFault),  # raised by the replica's own code
    ((RayError, RayServeException), ClassifierUnavailable),
)


def _stack(inputs: Sequence[Input]) -> Message:
    """One contiguous array; a single input is not copied."""
    return inputs[0].pixels[np.newaxis] if len(inputs) == 1 else np.stack([item.pixels for item in inputs])


def _checked(answer: object, rows: int, version: ClassifierVersion) -> list[InputScores]:
    """The answer, if it is one score for each category of each row. Raises ClassifierFault."""
    if not isinstance(answer, list) or len(answer) != rows or not all(isinstance(scores, InputScores) for scores in answer):
        raise ClassifierFault(f"{version.name}: not {rows} score sheets")
    expected = set(version.categories)
    for sheet in answer:
        if set(sheet.scores) != expected or not all(map(is_score, sheet.scores.values())):
            raise ClassifierFault(f"{version.name}: scores missing, strange or out of range")
    return answer
