"""Detector and swapper behind Ray Serve handles, for the face pipeline, which runs in a worker's thread and knows no asyncio.

`HandleDetector` and `HandleSwapper` implement the pipeline's ports. Each call is cut into messages of bounded size, which are sent
side by side on the event loop of the replica that made them (`connect_faces`), while the calling thread waits. What
comes out is an answer that was checked, or one of two errors: SwapFault (the work went wrong) or PipelineUnavailable (try again).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import numpy as np

from deployments import telemetry
from deployments.face_replicas import DetectorVersion, OtherFaceService, SwapperVersion
from deployments.faults import FACES
from deployments.handles import MESSAGE_BYTES, Lost, answered
from face_pipeline.detector import shrink
from face_pipeline.errors import PipelineUnavailable, SwapFault
from face_pipeline.faces import Face
from face_pipeline.swapper import AlignedCrop, Identity, Limits, SwappedCrop, SwapTask

if TYPE_CHECKING:
    from deployments.settings import Settings
    from face_pipeline.faces import Frame

Item = TypeVar("Item")
Version = TypeVar("Version", DetectorVersion, SwapperVersion)

START_S: Final = 300.0
"""For the replicas to load what they need, when all start together."""
_PATIENCE_S: Final = 5.0
"""How much longer than a call's own time-out its thread waits: the loop may have stopped with the call in its hands."""
_TRIES: Final = 2
_AT_ONCE: Final = 8
"""Messages of one call on their way."""
_MOST_ITEMS: Final = 32
"""Of one message, so that several replicas share a large call."""


class FaceRefs(NamedTuple):
    """The two deployments as `TransformWorker` is given them: `DeploymentHandle`s; applications until Ray Serve has made handles of them."""

    analyzer: Any
    swapper: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Faces:
    """What the face pipeline needs."""

    detector: HandleDetector
    swapper: HandleSwapper


async def connect_faces(refs: FaceRefs, settings: Settings, *, start_timeout_s: float = START_S) -> Faces:
    """Ask both deployments who they are. To be called on the loop that is to carry their messages.

    Raises PipelineUnavailable when one does not answer in time, SwapFault when one describes itself strangely.
    """
    loop = asyncio.get_running_loop()
    detector = _Line(refs.analyzer, DetectorVersion, loop=loop, name="face detector", timeout_s=settings.face_timeout_s)
    swapper = _Line(refs.swapper, SwapperVersion, loop=loop, name="swapper", timeout_s=settings.face_timeout_s)
    await asyncio.gather(detector.ask(start_timeout_s), swapper.ask(start_timeout_s))
    return Faces(detector=HandleDetector(detector), swapper=HandleSwapper(swapper))


class HandleDetector:
    """Implements `face_pipeline.detector.Detector`. Made by `connect_faces`; its methods block, and are for threads beside the loop."""

    def __init__(self, line: _Line[DetectorVersion]) -> None:
        self._line = line

    @property
    def name(self) -> str:
        """See `Detector`."""
        return self._line.version.name

    @property
    def version(self) -> str:
        """See `Detector`."""
        return self._line.version.version

    @property
    def max_side(self) -> int:
        """See `Detector`."""
        return self._line.version.max_side

    @property
    def is_frontal_only(self) -> bool:
        """See `Detector`."""
        return self._line.version.is_frontal_only

    def detect(self, frames: Sequence[Frame]) -> list[tuple[Face, ...]]:
        """See `Detector`. Larger frames are made as small as the detector looks at them before they travel."""
        version = self._line.version
        small = [shrink(frame, version.max_side) for frame in frames]
        messages = split([frame for frame, _ in small], lambda frame: Load(sent=_bytes(frame)))
        found = self._line.send("detect", messages, version, _are_faces)
        return [tuple(face.scaled(back) for face in faces) for faces, (_, back) in zip(found, small, strict=True)]


class HandleSwapper:
    """Implements `face_pipeline.swapper.Swapper`. Made by `connect_faces`; its methods block, and are for threads beside the loop."""

    def __init__(self, line: _Line[SwapperVersion]) -> None:
        self._line = line

    @property
    def name(self) -> str:
        """See `Swapper`."""
        return self._line.version.name

    @property
    def version(self) -> str:
        """See `Swapper`."""
        return self._line.version.version

    @property
    def is_trained(self) -> bool:
        """See `Swapper`."""
        return self._line.version.is_trained

    @property
    def limits(self) -> Limits:
        """See `Swapper`."""
        return self._line.version.limits

    def crop_px(self, natural_px: float) -> int:
        """See `Swapper`. Asks nobody."""
        return self._line.version.crop_sizes.side(natural_px)

    def prepare(self, sources: Sequence[AlignedCrop]) -> list[Identity]:
        """See `Swapper`. The identities remember which version made them."""
        version = self._line.version
        messages = split(sources, lambda source: Load(sent=_bytes(source), back=_bytes(source)))
        made = self._line.send("prepare", messages, version, lambda _, answer: _is_identity(answer, version.name))
        return [Identity(swapper=identity.swapper, value=_Made(version.fingerprint, identity)) for identity in made]

    def swap(self, tasks: Sequence[SwapTask]) -> list[SwappedCrop]:
        """See `Swapper`. An identity that another version made is refused, as PipelineUnavailable: the whole render has to begin again."""
        version = self._line.version
        sent = [_sendable(task, version.fingerprint) for task in tasks]
        identities = {id(task.identity): _bytes(task.identity) for task in sent}
        messages = split(sent, lambda task: _load(task, identities[id(task.identity)]))
        return self._line.send("swap", messages, version, _is_crop)


class _Made(NamedTuple):
    """What a `HandleSwapper` puts into its identities."""

    fingerprint: str
    identity: Identity


def _sendable(task: SwapTask, fingerprint: str) -> SwapTask:
    """The task with the replica's own identity."""
    made = task.identity.value
    if not isinstance(made, _Made):
        raise SwapFault(f"an identity made by {task.identity.swapper}")
    if made.fingerprint != fingerprint:
        raise OtherFaceService(f"the source was learnt by {made.fingerprint}, and {fingerprint} runs now")
    return SwapTask(target=task.target, identity=made.identity, window=task.window, audio=task.audio)


# --- messages -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one item adds to a message and to its answer, in bytes."""

    sent: int
    back: int = 0
    shared: int | None = None
    """What it needs besides, which is sent once for all items of the message that need the same: an id."""
    shared_bytes: int = 0


def split(items: Sequence[Item], load_of: Callable[[Item], Load]) -> list[list[Item]]:
    """The items, in order, in as few messages as fit into `MESSAGE_BYTES`, there and back. Raises SwapFault for an item that fits into none."""
    messages: list[list[Item]] = []
    sent, back, shared = 0, 0, set[int]()
    for item in items:
        load = load_of(item)
        more = load.sent + (0 if load.shared is None or load.shared in shared else load.shared_bytes)
        is_full = not messages or len(messages[-1]) == _MOST_ITEMS
        if is_full or sent + more > MESSAGE_BYTES or back + load.back > MESSAGE_BYTES:
            messages.append([])
            sent, back, more = 0, 0, load.sent + load.shared_bytes
            shared.clear()
        if max(more, load.back) > MESSAGE_BYTES:
            raise SwapFault(f"{max(more, load.back)} bytes in one piece; a message has {MESSAGE_BYTES}")
        messages[-1].append(item)
        sent, back = sent + more, back + load.back
        if load.shared is not None:
            shared.add(load.shared)
    return messages


def _load(task: SwapTask, identity_bytes: int) -> Load:
    side = task.target.pixels.shape[0]
    return Load(
        sent=_bytes((task.target, task.window, task.audio)),
        back=4 * side * side,  # three colours and the mask
        shared=id(task.identity),
        shared_bytes=identity_bytes,
    )


def _bytes(thing: object) -> int:
    """As it travels."""
    return len(pickle.dumps(thing, protocol=pickle.HIGHEST_PROTOCOL))


# --- answers ------------------------------------------------------------------------------------------


def _are_faces(_: object, answer: object) -> bool:
    return isinstance(answer, tuple) and all(isinstance(face, Face) and _is_finite(face) for face in answer)


def _is_finite(face: Face) -> bool:
    """What `Face` refuses when it is made is not asked again when it is unpickled."""
    try:
        face.scaled(1.0)
    except ValueError:
        return False
    return True


def _is_identity(answer: object, swapper: str) -> bool:
    return isinstance(answer, Identity) and answer.swapper == swapper


def _is_crop(task: SwapTask, answer: object) -> bool:
    shape = task.target.pixels.shape
    return (
        isinstance(answer, SwappedCrop)
        and _is_bytes(answer.pixels, shape)
        and _is_bytes(answer.mask, shape[:2])
        and isinstance(answer.confidence, float | int)
        and 0 <= answer.confidence <= 1
    )


def _is_bytes(array: object, shape: tuple[int, ...]) -> bool:
    return isinstance(array, np.ndarray) and array.shape == shape and array.dtype == np.uint8


# --- one deployment -----------------------------------------------------------------------------------


class _Line(Generic[Version]):
    """The handle of one deployment, and which version of it was last heard of."""

    def __init__(self, handle: Any, kind: type[Version], *, loop: asyncio.AbstractEventLoop, name: str, timeout_s: float) -> None:
        self._handle = handle
        self._kind: type[Version] = kind
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._name = name
        self._timeout_s = timeout_s
        self._version: Version | None = None

    @property
    def version(self) -> Version:
        """Known once `ask` has returned; asked again when a replica says that it runs another."""
        if self._version is None:
            raise PipelineUnavailable(f"{self._name}: not connected")
        return self._version

    async def ask(self, timeout_s: float) -> None:
        """Ask the deployment which version it runs. Raises PipelineUnavailable, SwapFault."""
        try:
            async with asyncio.timeout(timeout_s):
                version = await answered(self._handle.describe.remote(), self._name, FACES)
        except TimeoutError:
            raise PipelineUnavailable(f"no {self._name} answered within {timeout_s:g} s") from None
        except Lost as lost:
            raise PipelineUnavailable(str(lost)) from lost
        if not isinstance(version, self._kind):
            raise SwapFault(f"a {self._name} described itself as {type(version).__name__}")
        self._version = version

    def send(self, method: str, messages: Sequence[Sequence[Item]], version: Version, is_answer: Callable[[Item, Any], bool]) -> list[Any]:
        """Send the messages from the calling thread and wait for all answers, in order. Raises SwapFault, PipelineUnavailable."""
        if threading.get_ident() == self._loop_thread:
            raise RuntimeError("this would wait for the very loop that has to carry it: call from another thread")
        sending = self._send(method, messages, version, is_answer)
        try:
            future = asyncio.run_coroutine_threadsafe(sending, self._loop)
        except RuntimeError:  # the loop is closed
            sending.close()
            raise PipelineUnavailable(f"{self._name}: stopping") from None
        try:
            return future.result(-(-len(messages) // _AT_ONCE) * _TRIES * self._timeout_s + _PATIENCE_S)
        except concurrent.futures.CancelledError:
            raise PipelineUnavailable(f"{self._name}: stopping") from None
        except TimeoutError:
            future.cancel()
            raise PipelineUnavailable(f"{self._name}: no answer") from None

    async def _send(
        self, method: str, messages: Sequence[Sequence[Item]], version: Version, is_answer: Callable[[Item, Any], bool]
    ) -> list[Any]:
        places = asyncio.Semaphore(_AT_ONCE)

        async def placed(items: Sequence[Item]) -> object:
            async with places:
                return await self._message(method, list(items), version.fingerprint)

        calls = [asyncio.ensure_future(placed(items)) for items in messages]
        try:
            answers = await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
        return [
            outcome for items, answer in zip(messages, answers, strict=True) for outcome in self._checked(method, items, answer, is_answer)
        ]

    async def _message(self, method: str, items: list[Item], fingerprint: str) -> object:
        """Send one message, and once more if its replica is lost."""
        for tries_left in reversed(range(_TRIES)):
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await answered(getattr(self._handle, method).remote(items, fingerprint), self._name, FACES)
            except TimeoutError:
                raise PipelineUnavailable(f"{self._name}: no answer within {self._timeout_s:g} s") from None
            except Lost as lost:
                telemetry.fault("face_replica_lost")
                if not tries_left:
                    raise PipelineUnavailable(str(lost)) from lost
            except OtherFaceService:
                # A new version is being rolled out. This render may not mix the two; the next one uses the new.
                await self.ask(self._timeout_s)
                raise
        raise AssertionError  # not reached: the last try returns or raises

    def _checked(self, method: str, items: Sequence[Item], answer: object, is_answer: Callable[[Item, Any], bool]) -> list[Any]:
        """The outcomes, if there is a proper one for each item. Raises SwapFault."""
        if not isinstance(answer, list) or len(answer) != len(items):
            raise SwapFault(f"{self._name}: not {len(items)} answers to {method}")
        for item, outcome in zip(items, answer, strict=True):
            if isinstance(outcome, SwapFault):
                raise outcome
            if not is_answer(item, outcome):
                raise SwapFault(f"{self._name}: an answer to {method} that is none")
        return answer
