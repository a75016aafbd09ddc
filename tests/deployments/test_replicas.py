"""`NsfwClassifier` made by hand, as Ray Serve would make it, with the real finder of planted markers."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from ray import serve  # noqa: F401  # first, or Ray's modules import each other in a circle

from deployments import replicas
from deployments.handles import OtherVersion, fingerprint
from deployments.replicas import NsfwClassifier
from moderation.adapters.classifiers.correlation import INPUT, CorrelationClassifier, plant_marker
from moderation.errors import ClassifierFault, ClassifierUnavailable

pytestmark = pytest.mark.anyio

QUIET = np.random.default_rng(3).integers(40, 216, (INPUT.height, INPUT.width, 3), dtype=np.uint8)
MARKED = plant_marker(QUIET, share=0.25)


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Held(CorrelationClassifier):
    """Waits before it judges, once told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def predict(self, pixels):
        assert self.go.wait(20)
        return super().predict(pixels)


@pytest.fixture
def model(monkeypatch, tmp_path) -> Held:
    made = Held()
    monkeypatch.setattr(replicas, "load", lambda *_, **__: made)
    monkeypatch.setenv("FACEGATE_HOME", str(tmp_path))
    return made


async def test_each_row_gets_its_own_scores(model):
    replica = NsfwClassifier("correlation")
    version = await replica.describe()
    answers = await replica.classify(np.stack([QUIET, MARKED, QUIET]), fingerprint(version))
    assert [answer.scores["test.marker"] > 500_000 for answer in answers] == [False, True, False]
    assert version == model.version


async def test_a_caller_who_believes_in_another_version_is_told(model):
    with pytest.raises(OtherVersion, match=model.version.name):
        await NsfwClassifier("correlation").classify(QUIET[np.newaxis], "another")


async def test_a_wedged_forward_pass_times_its_callers_out_and_makes_the_replica_unhealthy(model, monkeypatch):
    monkeypatch.setenv("FACEGATE_CLASSIFY_TIMEOUT_S", "0.2")
    monkeypatch.setenv("FACEGATE_WEDGED_AFTER_S", "0.1")
    replica = NsfwClassifier("correlation")
    await replica.check_health()
    model.go.clear()
    with pytest.raises(ClassifierUnavailable, match=r"no answer within 0\.2 s"):
        await replica.classify(QUIET[np.newaxis], fingerprint(model.version))
    with pytest.raises(ClassifierUnavailable, match="a forward pass runs for"):
        await replica.check_health()
    model.go.set()
    async with asyncio.timeout(10):
        while replica._batcher.running_for_s:  # noqa: ASYNC110  # a state of the batcher, which has no event for it
            await asyncio.sleep(0.005)
    await replica.check_health()


async def test_a_model_that_cannot_do_a_single_pass_starts_no_replica(model, monkeypatch):
    def broken(_):
        raise ClassifierFault("no memory")

    monkeypatch.setattr(model, "predict", broken)
    with pytest.raises(ClassifierFault, match="no memory"):
        NsfwClassifier("correlation")
