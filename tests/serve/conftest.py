"""One service for the session, with two classifiers and short time-outs."""

import pytest

from tests.builders import jpeg_bytes
from tests.serve_kit import Service


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """In HAProxy mode, ready. Tests leave it working."""
    started = Service(
        home=tmp_path_factory.mktemp("serve") / "home",
        settings={
            "classifiers": "correlation,nudenet",
            "classifier_replicas": "2",
            "api_replicas": "1",
            "header_timeout_s": "2",
            "max_requests": "24",
            "classify_timeout_s": "15",
            "lease_s": "8",
        },
    )
    started.start()
    try:
        started.wait_ready()
        yield started
        if started.process.poll() is None:
            assert_nothing_was_released_unchecked(started)
    finally:
        if started.process.poll() is None:
            status = started.stop()
            assert status == 0


def assert_nothing_was_released_unchecked(service):
    """Whatever the tests did there."""
    with service.client() as client:
        answer = client.get("/v1/reports/released_without_checks", params={"from": "2000-01-01T00:00:00Z"})
        assert (answer.status_code, answer.json()["data"]) == (200, [])
        assert answer.json()["totals"]["missing"] == 0


@pytest.fixture(scope="session")
def client(service):
    """With the local key."""
    with service.client() as made:
        yield made


_NUMBER = iter(range(1_000_000))


@pytest.fixture
def fresh_jpeg():
    """A function that makes a picture nobody has sent before."""
    return lambda width=320, height=240: jpeg_bytes(width, height, seed=next(_NUMBER))
