"""`facegate keys` against a real record."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from rich.console import Console

from deployments import keys_command
from deployments.embedded_postgres import DatabaseUrls
from deployments.settings import Settings, SettingsRefused
from moderation.access import parse_key

pytestmark = pytest.mark.postgres


@pytest.fixture
def settings(database: DatabaseUrls, tmp_path: Path) -> Settings:
    return Settings(database_url=SecretStr(database.runtime), home=tmp_path)


def create(settings: Settings, **wanted: Any) -> keys_command.Created:
    usual: dict[str, Any] = {
        "tenant": "local",
        "scopes": ["screen"],
        "policies": ["default"],
        "subject": None,
        "days": None,
        "sigv4": False,
    }
    return keys_command.create(settings, **{**usual, **wanted})


def said(show: Callable[[Console], None]) -> str:
    out = io.StringIO()
    show(Console(file=out, width=200))
    return out.getvalue()


def test_a_key_is_made_listed_and_revoked_once(settings: Settings) -> None:
    made = create(settings).made
    assert parse_key(made.text) is not None
    assert [(one.key.id, one.key.revoked_at) for one in keys_command.list_keys(settings, tenant="local")] == [(made.key.id, None)]
    assert keys_command.revoke(settings, tenant="local", key_id=made.key.id)
    assert not keys_command.revoke(settings, tenant="local", key_id=made.key.id)
    assert not keys_command.revoke(settings, tenant="other", key_id=made.key.id)
    assert "revoked" in said(lambda out: keys_command.show_list(keys_command.list_keys(settings, tenant="local"), out, as_json=False))


def test_the_pair_for_aws_clients_is_in_the_json(settings: Settings) -> None:
    created = create(settings, sigv4=True)
    document = json.loads(said(lambda out: keys_command.show_made(created, out, as_json=True)))
    assert set(document) == {"id", "key", "access_key_id", "secret_access_key"}
    assert created.made.sigv4 is not None
    assert document["secret_access_key"] == created.made.sigv4.secret_access_key


def test_a_tenant_without_the_policies_is_told_what_to_do(settings: Settings) -> None:
    created = create(settings, tenant="new", policies=["default", "strict"])
    assert created.missing == ("default", "strict")
    text = said(lambda out: keys_command.show_made(created, out, as_json=False))
    assert "Tenant new has no policy strict yet" in text
    assert "facegate policy apply" in text


@pytest.mark.parametrize(
    "wanted",
    [
        {"days": -1},
        {"days": 99_999_999},
        {"days": 10**18},
        {"scopes": ["everything"]},
        {"scopes": []},
        {"policies": []},
        {"policies": ["a", "a"]},
        {"tenant": ""},
    ],
)
def test_what_cannot_be_is_said_in_one_line(settings: Settings, wanted: dict[str, Any]) -> None:
    with pytest.raises(SettingsRefused) as refused:
        create(settings, **wanted)
    assert "\n" not in str(refused.value)
