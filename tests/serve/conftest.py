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
        },
    )
    started.start()
    try:
        started.wait_ready()
        yield started
    finally:
        if started.process.poll() is None:
            status = started.stop()
            assert status == 0


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
