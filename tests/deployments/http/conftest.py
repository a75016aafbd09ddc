from __future__ import annotations

import pytest

from tests.http_kit import Service, make_service


@pytest.fixture
def service() -> Service:
    return make_service()
