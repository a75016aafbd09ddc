"""`HandleClassifier` over handles that answer, hang, die or lie."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np
import pytest
from ray import serve  # noqa: F401  # first, or Ray's modules import each other in a circle
from ray.exceptions import ActorDiedError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError

from deployments import handles
from deployments.handles import HandleClassifier, OtherVersion, fingerprint
from moderation.errors import ClassifierFault, ClassifierUnavailable, Overloaded
from moderation.frames import Fit, InputSpec
from moderation.scores import InputScores
from tests.builders import make_classifier_version, make_input

pytestmark = pytest.mark.anyio
SPEC = InputSpec(width=8, height=8, fit=Fit.LETTERBOX)
VERSION = make_classifier_version(categories=("test.marker",), input=SPEC)


@pytest.fixture
def anyio_backend():
    return "asyncio"


def answer_of(pixels: np.ndarray) -> list[InputScores]:
    return [InputScores(scores={"test.marker": int(row[0, 0, 0])}) for row in pixels]


class Remote:
    """A method of a handle."""

    def __init__(self, do: Callable[..., Awaitable[object]]) -> None:
        self._do = do

    async def remote(self, *arguments: object) -> object:
        return await self._do(*arguments)


class Handle:
    """Each message is answered by the next of `script`, then by `answer_of`."""

    def __init__(self, *script: object, version: Any = VERSION) -> None:
        self.messages: list[int] = []
        self.script = list(script)
        self.version = version
        self.release = asyncio.Event()
        self.release.set()
        self.describe = Remote(self._describe)
        self.classify = Remote(self._classify)

    async def _describe(self) -> object:
        return self.version

    async def _classify(self, pixels: np.ndarray, wanted: str) -> object:
        self.messages.append(len(pixels))
        await self.release.wait()
        assert pixels.dtype == np.uint8
        if wanted != fingerprint(self.version):
            raise OtherVersion("another")
        step = self.script.pop(0) if self.script else answer_of
        if isinstance(step, BaseException):
            raise step
        return step(pixels)


def inputs(*values: int):
    return [make_input(frame=n, spec=SPEC, pixels=np.full((8, 8, 3), value, np.uint8)) for n, value in enumerate(values)]


async def connect(handle: Handle, *, in_flight: int = 2, rows: int = 4, timeout_s: float = 5.0) -> HandleClassifier:
    return await HandleClassifier.connect(handle, timeout_s=timeout_s, start_timeout_s=5, in_flight=in_flight, rows=rows)


def values(scores) -> list[int]:
    return [one.scores["test.marker"] for one in scores]


async def test_a_single_input_leaves_alone_and_at_once():
    handle = Handle()
    classifier = await connect(handle)
    assert values(await classifier.classify(inputs(7))) == [7]
    assert handle.messages == [1]
    assert classifier.version == VERSION


async def test_inputs_that_find_no_slot_travel_together_and_each_caller_gets_its_own():
    handle = Handle()
    handle.release.clear()
    classifier = await connect(handle, in_flight=2, rows=4)
    calls = [asyncio.create_task(classifier.classify(inputs(n))) for n in range(12)]
    await asyncio.sleep(0.01)
    assert handle.messages == [1, 1]
    handle.release.set()
    assert [values(answer) for answer in await asyncio.gather(*calls)] == [[n] for n in range(12)]
    assert sum(handle.messages) == 12
    assert max(handle.messages) == 4


async def test_many_inputs_of_one_caller_are_shared_among_the_slots():
    handle = Handle()
    classifier = await connect(handle, in_flight=4, rows=4)
    assert values(await classifier.classify(inputs(*range(10)))) == list(range(10))
    assert handle.messages[:4] == [3, 3, 2, 2]


async def test_messages_stay_below_what_grpc_takes(monkeypatch):
    monkeypatch.setattr(handles, "MESSAGE_BYTES", 3 * 8 * 8 * 3)
    handle = Handle()
    classifier = await connect(handle, in_flight=1, rows=100)
    await classifier.classify(inputs(*range(10)))
    assert max(handle.messages) == 3


@pytest.mark.parametrize("lost", [ActorDiedError(), TaskCancelledError(), asyncio.CancelledError()])
async def test_a_lost_replica_is_tried_once_more(lost):
    handle = Handle(lost)
    assert values(await (await connect(handle)).classify(inputs(5))) == [5]
    assert handle.messages == [1, 1]


async def test_a_replica_lost_twice_is_unavailable():
    with pytest.raises(ClassifierUnavailable):
        await (await connect(Handle(ActorDiedError(), ActorDiedError()))).classify(inputs(5))


@pytest.mark.parametrize(
    ("raised", "ours"),
    [
        (BackPressureError(3, 2, 503, 4.0), Overloaded),
        (Overloaded("m"), Overloaded),
        (ClassifierUnavailable("m"), ClassifierUnavailable),
        (RayTaskError("f", "trace", ValueError("v")), ClassifierFault),
        (RayTaskError("f", "trace", Overloaded("m", 3.0)), Overloaded),
        (ValueError("strange"), ClassifierFault),
        (TimeoutError(), ClassifierUnavailable),
    ],
)
async def test_errors_of_ray_become_ours(raised, ours):
    with pytest.raises(ours):
        await (await connect(Handle(raised))).classify(inputs(5))


async def test_back_pressure_says_when_to_come_back():
    with pytest.raises(Overloaded) as full:
        await (await connect(Handle(BackPressureError(3, 2, 503, 4.0)))).classify(inputs(5))
    assert full.value.retry_after_s == 4.0


@pytest.mark.parametrize(
    "lie",
    [
        lambda _: None,
        lambda _: [],
        lambda _: ["scores"],
        lambda _: [InputScores(scores={})],
        lambda _: [InputScores(scores={"test.marker": 1, "sexual": 2})],
        lambda _: [InputScores(scores={"test.marker": 1_000_001})],
        lambda _: [InputScores(scores={"test.marker": cast("int", float("nan"))})],
        lambda _: [InputScores(scores={"test.marker": True})],
        lambda _: [ClassifierFault("poison")],
    ],
)
async def test_an_answer_that_is_no_score_sheet_is_a_fault(lie):
    with pytest.raises(ClassifierFault):
        await (await connect(Handle(lie))).classify(inputs(5))


async def test_a_faulty_input_fails_only_its_own_caller():
    handle = Handle(answer_of, lambda pixels: [ClassifierFault("poison"), *answer_of(pixels[1:])])
    handle.release.clear()
    classifier = await connect(handle, in_flight=1)
    calls = [asyncio.create_task(classifier.classify(inputs(n))) for n in range(4)]
    await asyncio.sleep(0.01)
    handle.release.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert handle.messages == [1, 3]
    assert isinstance(answers[1], ClassifierFault)
    assert [values(answers[n]) for n in (0, 2, 3)] == [[0], [2], [3]]


async def test_silence_is_unavailable_and_does_not_hold_the_slot_for_ever(monkeypatch):
    monkeypatch.setattr(handles, "SLOT_PATIENCE_S", 0.05)
    handle = Handle()
    handle.release.clear()
    classifier = await connect(handle, in_flight=1, timeout_s=0.2)
    first = asyncio.create_task(classifier.classify(inputs(1)))
    await asyncio.sleep(0.1)
    second = asyncio.create_task(classifier.classify(inputs(2)))
    await asyncio.sleep(0.01)
    assert handle.messages == [1, 1], "the second did not wait for the first to time out"
    for call in (first, second):
        with pytest.raises(ClassifierUnavailable):
            await call


async def test_a_cancelled_caller_harms_nobody():
    handle = Handle()
    handle.release.clear()
    classifier = await connect(handle, in_flight=1)
    calls = [asyncio.create_task(classifier.classify(inputs(n))) for n in range(3)]
    await asyncio.sleep(0.01)
    calls[1].cancel()
    handle.release.set()
    assert values(await calls[0]) == [0]
    assert values(await calls[2]) == [2]
    assert handle.messages == [1, 1]


async def test_another_version_fails_this_screening_and_is_used_by_the_next():
    handle = Handle()
    classifier = await connect(handle)
    handle.version = make_classifier_version(categories=("test.marker",), input=SPEC, version="2")
    with pytest.raises(ClassifierUnavailable):
        await classifier.classify(inputs(1))
    assert classifier.version.version == "2"
    assert values(await classifier.classify(inputs(1))) == [1]


async def test_what_waited_for_one_version_is_not_judged_by_the_next():
    handle = Handle()
    handle.release.clear()
    classifier = await connect(handle, in_flight=1)
    calls = [asyncio.create_task(classifier.classify(inputs(n))) for n in range(2)]
    await asyncio.sleep(0.01)
    handle.version = make_classifier_version(categories=("test.marker",), input=SPEC, version="2")
    handle.release.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [OtherVersion, OtherVersion]
    old, new = VERSION, handle.version
    classifier._version = old
    calls = [asyncio.create_task(classifier.classify(inputs(0)))]
    await asyncio.sleep(0)
    classifier._version = new
    calls.append(asyncio.create_task(classifier.classify(inputs(1))))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert (type(answers[0]), values(answers[1])) == (OtherVersion, [1])


async def test_a_deployment_that_describes_itself_strangely_is_refused():
    with pytest.raises(ClassifierFault):
        await connect(Handle(version="nudenet"))
