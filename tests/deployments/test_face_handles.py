"""`HandleDetector` and `HandleSwapper` over handles that answer, hang, die or lie. They are called from threads, as a worker does."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from ray import serve  # noqa: F401  # first, or Ray's modules import each other in a circle
from ray.exceptions import ActorDiedError, RayTaskError, TaskCancelledError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from bench.swap import known
from deployments import face_handles
from deployments.drawn_faces import PEOPLE, draw
from deployments.face_handles import FaceRefs, Faces, Load, connect_faces, split
from deployments.face_replicas import DetectorVersion, OtherFaceService, SwapperVersion
from deployments.handles import MESSAGE_BYTES
from deployments.settings import load_settings
from face_pipeline import pipeline
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.errors import FaceUnusable, Failure, PipelineUnavailable, Role, SwapFault
from face_pipeline.faces import Every, Face
from face_pipeline.swapper import AlignedCrop, Identity, SwapTask

pytestmark = pytest.mark.anyio

SWAPPER = ClassicalSwapper()
DETECTS = DetectorVersion(name="told", version="1", max_side=64, is_frontal_only=True)
SWAPS = SwapperVersion(name="classical", version="1", is_trained=False, limits=SWAPPER.limits, crop_sizes=SWAPPER.crop_sizes)
FACE = Face(left=10, top=10, width=20, height=20, points=((15.0, 18.0), (25.0, 18.0)), score=0.9)
ADA, BO = (draw(PEOPLE[name], side=240, eyes_px=50) for name in ("ada", "bo"))


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Remote:
    """A method of a handle."""

    def __init__(self, do: Callable[..., Awaitable[object]]) -> None:
        self._do = do

    async def remote(self, *arguments: object) -> object:
        return await self._do(*arguments)


class Handle:
    """A deployment. Each message is pickled both ways, as between processes, and answered by the next of `script`, then by `does`."""

    def __init__(self, version: object, *script: object, **does: Callable[[list], object]) -> None:
        self.version = version
        self.script = list(script)
        self.messages: list[tuple[str, int]] = []
        self.bytes: list[int] = []
        self.threads: set[int] = set()
        self.running = 0
        self.most_running = 0
        self.release = asyncio.Event()
        self.release.set()
        self.describe = Remote(self._describe)
        for name, do in does.items():
            setattr(self, name, Remote(self._method(name, do)))

    async def _describe(self) -> object:
        if isinstance(self.version, BaseException):
            raise self.version
        return self.version

    def _method(self, name: str, do: Callable[[list], object]) -> Callable[..., Awaitable[object]]:
        async def called(items: list, wanted: str) -> object:
            self.messages.append((name, len(items)))
            self.threads.add(threading.get_ident())
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            try:
                await asyncio.sleep(0)
                await self.release.wait()
            finally:
                self.running -= 1
            if wanted != self.version.fingerprint:
                raise OtherFaceService("another")
            step = self.script.pop(0) if self.script else do
            if isinstance(step, BaseException):
                raise step
            sent = pickle.dumps(items)
            back = pickle.dumps(step(pickle.loads(sent)))  # noqa: S301  our own
            self.bytes += [len(sent), len(back)]
            return pickle.loads(back)  # noqa: S301

        return called


def detecting(*script: object, version: object = DETECTS) -> Handle:
    return Handle(version, *script, detect=lambda frames: [(FACE,) if frame.any() else () for frame in frames])


def swapping(*script: object, version: object = SWAPS) -> Handle:
    return Handle(version, *script, prepare=SWAPPER.prepare, swap=SWAPPER.swap)


async def connect(*, analyzer: Handle | None = None, swapper: Handle | None = None, timeout_s: float = 5.0) -> Faces:
    settings = load_settings().model_copy(update={"face_timeout_s": timeout_s})
    refs = FaceRefs(analyzer=analyzer or detecting(), swapper=swapper or swapping())
    return await connect_faces(refs, settings, start_timeout_s=timeout_s)


def crop_of(shot) -> AlignedCrop:
    return pipeline.aligned(shot.pixels, known(shot), SWAPPER)[0]


def large_crop(side: int = 768) -> AlignedCrop:
    """As large as the classical swapper wants them, with nothing that pickles small."""
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return dataclasses.replace(
        crop_of(ADA),
        pixels=pixels,
        points=tuple((x * side, y * side) for x, y in ((0.35, 0.46), (0.65, 0.46), (0.5, 0.61), (0.38, 0.78), (0.62, 0.78))),
    )


def frames(count: int, side: int = 64) -> list[np.ndarray]:
    return [np.full((side, side, 3), 1 + n % 255, np.uint8) for n in range(count)]


async def swap(faces: Faces, *targets: AlignedCrop) -> Sequence[object]:
    """Learn and swap, each in a thread."""
    (identity,) = await asyncio.to_thread(faces.swapper.prepare, [crop_of(BO)])
    return await asyncio.to_thread(
        faces.swapper.swap, [SwapTask(target=target, identity=identity) for target in targets or (crop_of(ADA),)]
    )


# --- what it is for -------------------------------------------------------------------------------------


async def test_a_whole_render_through_handles_is_the_render_in_process():
    class Told:
        name, version, max_side, is_frontal_only = "told", "1", 512, False

        def detect(self, pictures):
            return [(known(ADA),) if picture.shape == ADA.pixels.shape else (known(BO),) for picture in pictures]

    bo = BO.pixels[:, :-1]
    version = DetectorVersion(name="told", version="1", max_side=512, is_frontal_only=False)
    analyzer, swapper = Handle(version, detect=Told().detect), swapping()
    faces = await connect(analyzer=analyzer, swapper=swapper)
    far = await asyncio.to_thread(pipeline.swap_face, bo, ADA.pixels, detector=faces.detector, swapper=faces.swapper, choice=Every())
    near = pipeline.swap_face(bo, ADA.pixels, detector=Told(), swapper=SWAPPER, choice=Every())
    assert (far.frame == near.frame).all()
    assert (far.mask == near.mask).all()
    assert [one.confidence for one in far.swapped] == [one.confidence for one in near.swapped]
    assert swapper.messages == [("prepare", 1), ("swap", 1)]


async def test_what_the_deployments_say_of_themselves_is_known_at_connect_and_nobody_is_asked_for_a_crops_size():
    swapper = swapping()
    faces = await connect(swapper=swapper)
    assert (faces.detector.name, faces.detector.version, faces.detector.max_side, faces.detector.is_frontal_only) == ("told", "1", 64, True)
    assert (faces.swapper.name, faces.swapper.version, faces.swapper.is_trained) == ("classical", "1", False)
    assert faces.swapper.limits == SWAPPER.limits
    assert [faces.swapper.crop_px(px) for px in (1.0, 96.1, 300.0, 5000.0)] == [SWAPPER.crop_px(px) for px in (1.0, 96.1, 300.0, 5000.0)]
    assert swapper.messages == []


async def test_messages_travel_on_the_loop_whatever_thread_asks():
    analyzer = detecting()
    faces = await connect(analyzer=analyzer)
    await asyncio.gather(*(asyncio.to_thread(faces.detector.detect, frames(1)) for _ in range(4)))
    assert analyzer.threads == {threading.get_ident()}


async def test_calling_on_the_loop_itself_is_refused_at_once():
    faces = await connect()
    with pytest.raises(RuntimeError, match="another thread"):
        faces.detector.detect(frames(1))


async def test_nothing_asked_is_nothing_sent():
    analyzer, swapper = detecting(), swapping()
    faces = await connect(analyzer=analyzer, swapper=swapper)
    assert await asyncio.to_thread(faces.detector.detect, []) == []
    assert await asyncio.to_thread(faces.swapper.swap, []) == []
    assert analyzer.messages == swapper.messages == []


async def test_frames_travel_as_small_as_the_detector_looks_at_them_and_faces_come_back_in_their_own_pixels():
    analyzer = detecting()
    faces = await connect(analyzer=analyzer)
    small, large = await asyncio.to_thread(faces.detector.detect, [*frames(1, 64), *frames(1, 256)])
    assert small == (FACE,)
    assert large == (FACE.scaled(4.0),)
    assert max(analyzer.bytes) < 3 * 64 * 64 * 3


# --- messages -------------------------------------------------------------------------------------------


async def test_the_largest_crop_and_the_largest_identity_fit_into_a_message_together():
    swapper = swapping()
    faces = await connect(swapper=swapper)
    (identity,) = await asyncio.to_thread(faces.swapper.prepare, [large_crop()])
    crops = await asyncio.to_thread(faces.swapper.swap, [SwapTask(target=large_crop(), identity=identity)] * 3)
    assert [crop.pixels.shape[0] for crop in crops] == [768] * 3
    assert swapper.messages == [("prepare", 1)] + [("swap", 1)] * 3
    assert max(swapper.bytes) < MESSAGE_BYTES


async def test_an_identity_that_many_crops_share_travels_once_in_a_message():
    swapper = swapping()
    faces = await connect(swapper=swapper)
    (identity,) = await asyncio.to_thread(faces.swapper.prepare, [large_crop()])
    await asyncio.to_thread(faces.swapper.swap, [SwapTask(target=large_crop(160), identity=identity)] * 12)
    assert swapper.messages[1:] == [("swap", 12)]
    assert max(swapper.bytes) < MESSAGE_BYTES


async def test_an_answer_is_as_bounded_as_a_question():
    """A crop comes back a third larger than it went, for the mask."""
    made = split([320] * 20, lambda side: Load(sent=3 * side * side, back=4 * side * side))
    assert [len(message) for message in made] == [9, 9, 2]
    assert 10 * 3 * 320 * 320 < MESSAGE_BYTES < 10 * 4 * 320 * 320


async def test_order_and_number_are_kept_over_many_messages_of_which_only_some_are_on_their_way():
    analyzer = Handle(DETECTS, detect=lambda pictures: [(dataclasses.replace(FACE, score=int(one[0, 0, 0]) / 255),) for one in pictures])
    faces = await connect(analyzer=analyzer)
    found = await asyncio.to_thread(faces.detector.detect, frames(600))
    assert [round(one.score * 255) for (one,) in found] == [1 + n % 255 for n in range(600)]
    assert max(count for _, count in analyzer.messages) == 32
    assert 1 < analyzer.most_running <= 8


async def test_what_fits_into_no_message_is_a_fault(monkeypatch):
    faces = await connect()
    monkeypatch.setattr(face_handles, "MESSAGE_BYTES", 20_000)
    with pytest.raises(SwapFault, match="in one piece"):
        await swap(faces)


# --- trouble --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [ActorDiedError(), TaskCancelledError(), asyncio.CancelledError()])
async def test_a_lost_replica_is_tried_once_more(lost):
    analyzer = detecting(lost)
    faces = await connect(analyzer=analyzer)
    assert await asyncio.to_thread(faces.detector.detect, frames(1)) == [(FACE,)]
    assert analyzer.messages == [("detect", 1)] * 2


async def test_a_replica_lost_twice_is_unavailable():
    faces = await connect(analyzer=detecting(ActorDiedError(), ActorDiedError()))
    with pytest.raises(PipelineUnavailable):
        await asyncio.to_thread(faces.detector.detect, frames(1))


@pytest.mark.parametrize(
    ("raised", "ours"),
    [
        (BackPressureError(3, 2, 503, 4.0), PipelineUnavailable),
        (DeploymentUnavailableError(DeploymentID("d")), PipelineUnavailable),
        (PipelineUnavailable("full", 3.0), PipelineUnavailable),
        (RayTaskError("f", "trace", PipelineUnavailable("full", 3.0)), PipelineUnavailable),
        (RayTaskError("f", "trace", SwapFault("s")), SwapFault),
        (RayTaskError("f", "trace", ValueError("v")), SwapFault),
        (RayTaskError("f", "trace", FaceUnusable(Failure.NO_FACE, Role.TARGET)), SwapFault),
        (FaceUnusable(Failure.NO_FACE, Role.TARGET), SwapFault),
        (ValueError("strange"), SwapFault),
        (TimeoutError(), PipelineUnavailable),
    ],
)
async def test_errors_of_ray_and_of_replicas_become_one_of_two(raised, ours):
    faces = await connect(swapper=swapping(raised))
    with pytest.raises((PipelineUnavailable, SwapFault)) as failed:
        await swap(faces)
    assert type(failed.value) is ours


@pytest.mark.parametrize("full", [BackPressureError(3, 2, 503, 4.0), RayTaskError("f", "trace", PipelineUnavailable("full", 4.0))])
async def test_no_room_says_when_to_come_back(full):
    faces = await connect(swapper=swapping(full))
    with pytest.raises(PipelineUnavailable) as failed:
        await swap(faces)
    assert failed.value.retry_after_s == 4.0


async def test_silence_is_unavailable():
    analyzer = detecting()
    faces = await connect(analyzer=analyzer, timeout_s=0.2)
    analyzer.release.clear()
    with pytest.raises(PipelineUnavailable, match=r"no answer within 0\.2 s"):
        await asyncio.to_thread(faces.detector.detect, frames(1))
    assert analyzer.running == 0


async def test_a_failed_message_takes_its_siblings_with_it():
    analyzer = detecting(ValueError("strange"))
    faces = await connect(analyzer=analyzer)
    with pytest.raises(SwapFault):
        await asyncio.to_thread(faces.detector.detect, frames(100))
    await asyncio.sleep(0)
    assert analyzer.running == 0


def test_a_loop_that_has_stopped_is_unavailable_and_nobody_waits_for_it():
    faces = asyncio.run(connect())
    with pytest.raises(PipelineUnavailable, match="stopping"):
        in_thread(lambda: faces.detector.detect(frames(1)))


def test_a_loop_that_stops_with_a_call_in_its_hands_lets_the_caller_go():
    """Nobody is left to time it out: the thread does it itself."""
    loop = asyncio.new_event_loop()

    async def begin() -> tuple[Faces, Handle]:
        analyzer = detecting()
        analyzer.release.clear()
        return await connect(analyzer=analyzer), analyzer

    faces, analyzer = loop.run_until_complete(begin())
    failures: list[Exception] = []

    def call() -> None:
        try:
            faces.detector.detect(frames(1))
        except PipelineUnavailable as error:
            failures.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    while not analyzer.messages:
        loop.run_until_complete(asyncio.sleep(0.01))
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    caller.join(10)
    loop.close()
    assert len(failures) == 1


def in_thread(work: Callable[[], object]) -> object:
    """Do it in a thread, and raise what it raises."""
    outcome: list[object] = []

    def do() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001  # raised again below
            outcome.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    thread.join(10)
    [result] = outcome
    if isinstance(result, Exception):
        raise result
    return result


# --- versions -------------------------------------------------------------------------------------------


async def test_another_version_fails_this_render_and_is_used_by_the_next():
    swapper = swapping()
    faces = await connect(swapper=swapper)
    swapper.version = dataclasses.replace(SWAPS, version="2")
    with pytest.raises(PipelineUnavailable):
        await swap(faces)
    assert faces.swapper.version == "2"
    assert len(await swap(faces)) == 1


async def test_a_source_that_another_version_learnt_is_not_mixed_with_the_new_one():
    swapper = swapping()
    faces = await connect(swapper=swapper)
    (identity,) = await asyncio.to_thread(faces.swapper.prepare, [crop_of(BO)])
    swapper.version = dataclasses.replace(SWAPS, version="2")
    for _ in range(2):  # by the replica, and then by the caller who knows
        with pytest.raises(OtherFaceService):
            await asyncio.to_thread(faces.swapper.swap, [SwapTask(target=crop_of(ADA), identity=identity)])


async def test_an_identity_that_was_not_made_here_is_a_fault():
    faces = await connect()
    with pytest.raises(SwapFault, match="painter"):
        await asyncio.to_thread(faces.swapper.swap, [SwapTask(target=crop_of(ADA), identity=Identity(swapper="painter", value=None))])


@pytest.mark.parametrize("version", ["classical", None, DETECTS])
async def test_a_deployment_that_describes_itself_strangely_is_refused(version):
    with pytest.raises(SwapFault, match="described itself"):
        await connect(swapper=Handle(version))


async def test_a_deployment_that_does_not_answer_is_unavailable():
    with pytest.raises(PipelineUnavailable):
        await connect(swapper=Handle(ActorDiedError()))


# --- lies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lie",
    [
        lambda _: None,
        lambda _: [],
        lambda _: [(), ()],
        lambda _: [None],
        lambda _: [[FACE]],
        lambda _: [("face",)],
        lambda _: [(crooked(FACE, score=float("nan")),)],
        lambda _: [(crooked(FACE, width=-1.0),)],
        lambda _: [SwapFault("poison")],
    ],
)
async def test_an_answer_that_is_no_list_of_faces_is_a_fault(lie):
    faces = await connect(analyzer=detecting(lie))
    with pytest.raises(SwapFault):
        await asyncio.to_thread(faces.detector.detect, frames(1))


def crooked(face: Face, **changes: float) -> Face:
    """A face that could not be made, as an unpickled one can be."""
    made = object.__new__(Face)
    for field in dataclasses.fields(Face):
        object.__setattr__(made, field.name, changes.get(field.name, getattr(face, field.name)))
    return made


def spoilt(**changes: Any) -> Callable[[list], object]:
    return lambda tasks: [dataclasses.replace(crop, **changes) for crop in SWAPPER.swap(tasks)]


@pytest.mark.parametrize(
    "lie",
    [
        lambda _: None,
        lambda _: [],
        lambda _: ["crop"],
        lambda _: [SwapFault("poison")],
        spoilt(confidence=float("nan")),
        spoilt(confidence=1.5),
        spoilt(confidence=None),
        spoilt(pixels=None),
        spoilt(pixels=np.zeros((8, 8, 3), np.uint8)),
        spoilt(mask=np.zeros((8, 8), np.uint8)),
        lambda tasks: [dataclasses.replace(crop, mask=crop.mask.astype(np.float32)) for crop in SWAPPER.swap(tasks)],
        lambda tasks: [dataclasses.replace(crop, pixels=crop.pixels.astype(np.int16)) for crop in SWAPPER.swap(tasks)],
    ],
)
async def test_an_answer_that_is_no_crop_is_a_fault(lie):
    faces = await connect(swapper=swapping(SWAPPER.prepare, lie))
    with pytest.raises(SwapFault):
        await swap(faces)


@pytest.mark.parametrize("lie", [lambda _: None, lambda _: [None], lambda _: [Identity(swapper="painter", value=1)]])
async def test_an_answer_that_is_no_identity_is_a_fault(lie):
    faces = await connect(swapper=swapping(lie))
    with pytest.raises(SwapFault):
        await swap(faces)
