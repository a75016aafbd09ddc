"""`FaceAnalyzer` and `FaceSwapper` made by hand, as Ray Serve would make them, with the real fallback detector and the real swapper."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.swap import known
from deployments import face_replicas, telemetry
from deployments.drawn_faces import PEOPLE, draw
from deployments.face_replicas import FaceAnalyzer, FaceSwapper, OtherFaceService, detector_here, load_detector, load_swapper, yunet_file
from face_pipeline import pipeline
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.detector import YUNET_FILE
from face_pipeline.errors import DetectorUnavailable, ModelRefused, PipelineUnavailable, SwapFault
from face_pipeline.swapper import AlignedCrop, Identity, SwappedCrop, SwapTask
from moderation.errors import ModelUnusable

pytestmark = pytest.mark.anyio

_YUNET = Path(__file__).parents[2].parent / "shared" / "models" / YUNET_FILE
SHOTS = {name: draw(PEOPLE[name], side=240, eyes_px=50) for name in ("ada", "bo")}
CROPS = {name: pipeline.aligned(shot.pixels, known(shot), ClassicalSwapper())[0] for name, shot in SHOTS.items()}


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("FACEGATE_HOME", str(tmp_path))


class Held(ClassicalSwapper):
    """Waits before it swaps, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []
        self.go = threading.Event()
        self.go.set()

    def prepare(self, sources: Sequence[AlignedCrop]) -> list[Identity]:
        self.batches.append(("prepare", len(sources)))
        return super().prepare(sources)

    def swap(self, tasks: Sequence[SwapTask]) -> list[SwappedCrop]:
        assert self.go.wait(20)
        self.batches.append(("swap", len(tasks)))
        return super().swap(tasks)


@pytest.fixture
def held(monkeypatch) -> Held:
    swapper = Held()
    monkeypatch.setattr(face_replicas, "SWAPPERS", {"held": lambda: swapper})
    return swapper


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # a state of the batcher, which has no event for it
            await asyncio.sleep(0.005)


async def fingerprint_of(replica: FaceAnalyzer | FaceSwapper) -> str:
    return (await replica.describe()).fingerprint


async def learnt(replica: FaceSwapper, wanted: str) -> Identity:
    (identity,) = await replica.prepare([CROPS["bo"]], wanted)
    assert isinstance(identity, Identity)
    return identity


async def test_an_analyzer_finds_the_faces_of_each_frame():
    pytest.importorskip("skimage", reason="scikit-image (extra local) is not installed")
    analyzer = FaceAnalyzer()
    version = await analyzer.describe()
    assert (version.name, version.is_frontal_only) == ("lbp-cascade", True)
    empty = np.full((100, 100, 3), 90, np.uint8)
    faces, none = await analyzer.detect([SHOTS["ada"].pixels, empty], version.fingerprint)
    assert isinstance(faces, tuple)
    assert len(faces) == 1
    assert none == ()
    await analyzer.check_health()


async def test_a_swapper_does_what_it_does_in_process():
    replica, plain = FaceSwapper("classical"), ClassicalSwapper()
    wanted = await fingerprint_of(replica)
    identity = await learnt(replica, wanted)
    (crop,) = await replica.swap([SwapTask(target=CROPS["ada"], identity=identity)], wanted)
    (expected,) = plain.swap([SwapTask(target=CROPS["ada"], identity=plain.prepare([CROPS["bo"]])[0])])
    assert (crop.pixels == expected.pixels).all()
    assert (crop.mask == expected.mask).all()
    version = await replica.describe()
    assert (version.name, version.is_trained, version.limits) == ("classical", False, plain.limits)
    assert [version.crop_sizes.side(px) for px in (10.0, 200.3, 9000.0)] == [plain.crop_px(px) for px in (10.0, 200.3, 9000.0)]


async def test_crops_of_several_requests_share_a_batch_and_each_gets_its_own(held):
    replica = FaceSwapper("held")
    wanted = await fingerprint_of(replica)
    identity = await learnt(replica, wanted)
    held.batches.clear()
    held.go.clear()

    def request(name: str) -> asyncio.Task:
        return asyncio.create_task(replica.swap([SwapTask(target=CROPS[name], identity=identity)], wanted))

    first = request("ada")
    await until(lambda: replica._batcher.running_for_s > 0)
    others = [request(name) for name in ("bo", "ada", "bo")]
    await until(lambda: replica._batcher.waiting == 3)
    held.go.set()
    (ada,), (bo,), (ada_again,), (bo_again,) = await asyncio.gather(first, *others)
    assert held.batches == [("swap", 1), ("swap", 3)]
    assert (ada.pixels == ada_again.pixels).all()
    assert (bo.pixels == bo_again.pixels).all()
    assert ada.pixels.shape != bo.pixels.shape or (ada.pixels != bo.pixels).any()


async def test_learning_and_swapping_take_turns_on_one_thread_and_never_share_a_batch(held):
    replica = FaceSwapper("held")
    wanted = await fingerprint_of(replica)
    identity = await learnt(replica, wanted)
    held.batches.clear()
    held.go.clear()
    task = SwapTask(target=CROPS["ada"], identity=identity)
    calls = [
        asyncio.create_task(call)
        for call in (
            replica.swap([task], wanted),
            replica.prepare([CROPS["ada"]], wanted),
            replica.prepare([CROPS["bo"]], wanted),
            replica.swap([task], wanted),
        )
    ]
    await until(lambda: replica._batcher.waiting == 3)
    held.go.set()
    await asyncio.gather(*calls)
    assert held.batches == [("swap", 1), ("prepare", 2), ("swap", 1)]


async def test_another_swappers_identity_fails_alone():
    replica = FaceSwapper("classical")
    wanted = await fingerprint_of(replica)
    identity = await learnt(replica, wanted)
    strange = Identity(swapper="painter", value=None)
    good, bad = await replica.swap([SwapTask(target=CROPS["ada"], identity=one) for one in (identity, strange)], wanted)
    assert isinstance(good, SwappedCrop)
    assert isinstance(bad, SwapFault)


async def test_a_wedged_batch_times_its_callers_out_and_makes_the_replica_unhealthy(held, monkeypatch):
    monkeypatch.setenv("FACEGATE_FACE_TIMEOUT_S", "0.2")
    monkeypatch.setenv("FACEGATE_WEDGED_AFTER_S", "0.1")
    replica = FaceSwapper("held")
    wanted = await fingerprint_of(replica)
    identity = await learnt(replica, wanted)
    await replica.check_health()
    held.go.clear()
    with pytest.raises(PipelineUnavailable, match=r"no answer within 0\.2 s"):
        await replica.swap([SwapTask(target=CROPS["ada"], identity=identity)], wanted)
    with pytest.raises(PipelineUnavailable, match="a batch runs for"):
        await replica.check_health()
    held.go.set()
    await until(lambda: replica._batcher.running_for_s == 0.0)
    await replica.check_health()


async def test_a_full_queue_says_when_to_come_back(held, monkeypatch):
    monkeypatch.setattr(face_replicas, "MAX_WAITING", 2)
    replica = FaceSwapper("held")
    wanted = await fingerprint_of(replica)
    identity = await learnt(replica, wanted)
    held.go.clear()
    task = SwapTask(target=CROPS["ada"], identity=identity)
    running = asyncio.create_task(replica.swap([task], wanted))
    await until(lambda: replica._batcher.running_for_s > 0)
    waiting = asyncio.create_task(replica.swap([task, task], wanted))
    await until(lambda: replica._batcher.waiting == 2)
    with pytest.raises(PipelineUnavailable, match="full") as full:
        await replica.swap([task], wanted)
    assert full.value.retry_after_s > 0
    held.go.set()
    await asyncio.gather(running, waiting)


async def test_a_caller_who_believes_in_another_version_is_told():
    replica = FaceSwapper("classical")
    for call in (replica.prepare([CROPS["bo"]], "classical 0"), replica.swap([], "classical 0")):
        with pytest.raises(OtherFaceService, match="classical 1"):
            await call


async def test_batches_are_counted_by_kind_of_work():
    def rows(work: str) -> float:
        return telemetry.FACE_ROWS.labels(work)._sum.get()

    before = rows("prepare"), rows("swap")
    replica = FaceSwapper("classical")
    wanted = await fingerprint_of(replica)
    identity = await learnt(replica, wanted)
    await replica.swap([SwapTask(target=CROPS["ada"], identity=identity)] * 3, wanted)
    assert (rows("prepare"), rows("swap")) == (before[0] + 1, before[1] + 3)


# --- which detector, which swapper --------------------------------------------------------------------


def test_an_unknown_swapper_is_refused_by_name():
    with pytest.raises(ModelUnusable, match=r"'nerual' is no swapper; known: classical"):
        load_swapper("nerual")


def test_yunet_that_is_wanted_and_not_there_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DetectorUnavailable, match="facegate models pull yunet"):
        load_detector("yunet", tmp_path)
    assert detector_here("yunet", tmp_path) is None


def test_without_a_model_the_fallback_is_taken(tmp_path):
    pytest.importorskip("skimage", reason="scikit-image (extra local) is not installed")
    assert [load_detector(choice, tmp_path).name for choice in ("auto", "fallback")] == ["lbp-cascade"] * 2
    assert [detector_here(choice, tmp_path) for choice in ("auto", "fallback")] == ["lbp-cascade"] * 2


@pytest.mark.parametrize("choice", ["auto", "yunet"])
def test_a_model_file_that_is_not_the_pinned_one_is_never_passed_over(tmp_path, choice):
    file = yunet_file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"another network")
    with pytest.raises(ModelRefused):
        load_detector(choice, tmp_path)


@pytest.mark.skipif(not _YUNET.exists(), reason=f"no YuNet model: {YUNET_FILE} is not in ../shared/models")
def test_yunet_is_taken_where_its_model_is(tmp_path):
    file = yunet_file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_bytes(_YUNET.read_bytes())
    assert [load_detector(choice, tmp_path).name for choice in ("auto", "yunet")] == ["yunet"] * 2
    assert [detector_here(choice, tmp_path) for choice in ("auto", "yunet")] == ["yunet"] * 2
    if detector_here("fallback", tmp_path):
        assert load_detector("fallback", tmp_path).name == "lbp-cascade"
