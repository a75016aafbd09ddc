from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from sqlalchemy import select, text, update

from deployments.policy_file import read_policy, shipped_policy
from moderation.adapters.database import Context
from moderation.adapters.keys import PostgresKeys, tenant_id
from moderation.adapters.policies import PostgresPolicies, policy_from_content
from moderation.adapters.tables import entry, policy, policy_event
from moderation.errors import PolicyRefused, RecordUnavailable
from moderation.policy import Consent
from tests.pg import as_role

pytestmark = pytest.mark.postgres


@pytest.fixture
def tenant(pool):
    return asyncio.run(PostgresKeys(pool).make_tenant("local"))


@pytest.fixture
def shelf(pool):
    return PostgresPolicies(pool)


def strict(review_at="0.1"):
    return read_policy(f"name: p\nrules:\n  - {{category: sexual, review_at: {review_at}}}\n")


def test_a_published_policy_is_the_one_in_force(shelf, tenant):
    published = asyncio.run(shelf.publish(tenant, "default", shipped_policy("default"), "cli"))
    assert published.content() == shipped_policy("default").content()
    assert asyncio.run(shelf.latest(tenant, "default")) == published
    assert asyncio.run(shelf.version(tenant, "default", 1)) == published


def test_what_is_not_there_is_none(shelf, tenant):
    assert asyncio.run(shelf.latest(tenant, "default")) is None
    assert asyncio.run(shelf.version(tenant, "default", 1)) is None
    assert asyncio.run(shelf.list(tenant)) == []


def test_the_same_content_gives_the_version_that_says_it(shelf, tenant):
    first = asyncio.run(shelf.publish(tenant, "default", strict(), "cli"))
    assert asyncio.run(shelf.publish(tenant, "default", replace(strict(), version=9), "cli")) == first
    assert first.version == 1


def test_a_policy_is_published_under_the_name_it_is_given(shelf, tenant):
    published = asyncio.run(shelf.publish(tenant, "strict", strict(), "cli"))
    assert (published.name, published.digest) == ("strict", strict().digest)


def test_going_back_to_an_older_content_puts_it_in_force_again(shelf, tenant):
    for number, content in enumerate([strict("0.1"), strict("0.2"), strict("0.1")], start=1):
        assert asyncio.run(shelf.publish(tenant, "p", content, "cli")).version == number
    assert asyncio.run(shelf.latest(tenant, "p")).rules == strict("0.1").rules
    assert asyncio.run(shelf.version(tenant, "p", 2)).rules == strict("0.2").rules


def test_versions_are_read_newest_first_in_one_transaction(shelf, pool, tenant, monkeypatch):
    made = [asyncio.run(shelf.publish(tenant, "p", strict(f"0.{number}"), "cli")) for number in range(1, 7)]
    asyncio.run(shelf.publish(tenant, "other", strict(), "cli"))
    contexts, run = [], pool.run

    def counting(context, work):
        contexts.append(context)
        return run(context, work)

    monkeypatch.setattr(pool, "run", counting)
    assert asyncio.run(shelf.versions(tenant, "p", newest=5, limit=3)) == made[4:1:-1]
    assert contexts == [Context(tenant=tenant)]
    assert asyncio.run(shelf.versions(tenant, "p", newest=0, limit=3)) == []
    assert asyncio.run(shelf.versions(tenant, "absent", newest=5, limit=3)) == []


def test_many_publishers_at_once_get_consecutive_versions(shelf, tenant):
    async def story():
        return await asyncio.gather(*(shelf.publish(tenant, "p", strict(f"0.{100 + n}"), "cli") for n in range(30)))

    published = asyncio.run(story())
    assert sorted(one.version for one in published) == list(range(1, 31))
    assert {one.digest for one in published} == {strict(f"0.{100 + n}").digest for n in range(30)}


def test_many_publishers_of_one_content_get_one_version(shelf, tenant):
    async def story():
        return await asyncio.gather(*(shelf.publish(tenant, "p", strict(), "cli") for _ in range(20)))

    assert {one.version for one in asyncio.run(story())} == {1}


def test_the_newest_of_each_is_listed_by_name(shelf, tenant):
    for name, content in (("b", strict("0.1")), ("a", strict("0.2")), ("b", strict("0.3"))):
        asyncio.run(shelf.publish(tenant, name, content, "cli"))
    assert [(one.name, one.version) for one in asyncio.run(shelf.list(tenant))] == [("a", 1), ("b", 2)]


def test_another_tenant_sees_none_of_it(shelf, tenant, pool):
    asyncio.run(shelf.publish(tenant, "p", strict(), "cli"))
    other = asyncio.run(PostgresKeys(pool).make_tenant("other"))
    assert asyncio.run(shelf.latest(other, "p")) is None
    assert asyncio.run(shelf.version(other, "p", 1)) is None
    assert asyncio.run(shelf.list(other)) == []
    assert asyncio.run(shelf.publish(other, "p", strict("0.5"), "cli")).version == 1


def test_a_tenant_that_does_not_exist_publishes_nothing(shelf):
    with pytest.raises(ValueError, match="tenant"):
        asyncio.run(shelf.publish(tenant_id("nobody"), "p", strict(), "cli"))


def test_publishing_is_an_event_and_an_entry_with_the_whole_content(shelf, tenant, pool):
    published = asyncio.run(shelf.publish(tenant, "p", strict(), "key:abc"))
    asyncio.run(shelf.publish(tenant, "p", strict(), "key:abc"))
    event, row = pool.run_here(
        Context(tenant=tenant),
        lambda connection: (connection.execute(select(policy_event)).one(), connection.execute(select(entry)).one()),
    )
    assert (event.name, event.version, event.event, event.actor) == ("p", 1, "published", "key:abc")
    document = json.loads(row.canonical)
    assert (row.id, row.kind, document["kind"], document["event"], document["actor"]) == (
        event.id,
        "policy",
        "policy",
        "published",
        "key:abc",
    )
    assert document["policy"] == {"name": "p", "version": 1, "digest": published.digest, "content": published.content()}


CATALOGUE = "name: p\ntarget_consent: required\nsources: catalogue\nrequires: [sexual]\nrules:\n  - {category: sexual, review_at: 0.1}\n"
"""As `strict()`, with more to ask for."""


def test_what_a_policy_asks_for_beside_verdicts_is_kept_and_makes_a_version(shelf, tenant):
    asyncio.run(shelf.publish(tenant, "p", strict(), "cli"))
    asking = read_policy(CATALOGUE)
    assert asyncio.run(shelf.publish(tenant, "p", asking, "cli")).version == 2
    fresh = asyncio.run(shelf.version(tenant, "p", 2))
    assert (fresh.target_consent, fresh.sources, fresh.requires) == (Consent.REQUIRED, "catalogue", ("sexual",))
    assert fresh.digest == asking.digest
    assert asyncio.run(shelf.version(tenant, "p", 1)).sources == "any"


@pytest.mark.parametrize("key", ["target_consent", "sources", "requires"])
def test_what_a_policy_asks_for_cannot_be_taken_out_behind_our_back(shelf, tenant, database, key):
    """Left out it would mean the default, which asks for less."""
    asyncio.run(shelf.publish(tenant, "p", read_policy(CATALOGUE), "cli"))
    with as_role(database.owner, tenant=tenant) as cursor:
        cursor.execute("ALTER TABLE facegate.policy DISABLE TRIGGER append_only")
        cursor.execute("UPDATE facegate.policy SET content = content - %s", (key,))
    with pytest.raises(RecordUnavailable, match="not the one that was published"):
        asyncio.run(shelf.latest(tenant, "p"))


def test_content_from_before_these_were_known_reads_as_asking_for_none():
    content = json.loads(json.dumps(strict().content()))
    read = policy_from_content("p", 1, content)
    assert (read.target_consent, read.sources, read.requires, read.digest) == (Consent.OPTIONAL, "any", (), strict().digest)
    for spoilt in (
        {"target_consent": None},
        {"target_consent": "no"},
        {"sources": None},
        {"sources": ["any"]},
        {"requires": None},
        {"requires": "sexual"},
        {"requires": [1]},
    ):
        with pytest.raises(PolicyRefused):
            policy_from_content("p", 1, {**content, **spoilt})


def test_a_version_is_never_changed(shelf, tenant, pool):
    asyncio.run(shelf.publish(tenant, "p", strict(), "cli"))
    with pytest.raises(RecordUnavailable):
        asyncio.run(pool.run(Context(tenant=tenant), lambda connection: connection.execute(update(policy).values(version=2))))


def test_a_policy_that_was_altered_behind_our_back_decides_nothing(shelf, tenant, database):
    asyncio.run(shelf.publish(tenant, "p", strict(), "cli"))
    with as_role(database.owner, tenant=tenant) as cursor:
        cursor.execute("ALTER TABLE facegate.policy DISABLE TRIGGER append_only")
        cursor.execute("UPDATE facegate.policy SET content = jsonb_set(content, '{rules,0,review_at}', '999999')")
    for question in (shelf.latest(tenant, "p"), shelf.version(tenant, "p", 1), shelf.list(tenant)):
        with pytest.raises(RecordUnavailable, match="not the one that was published"):
            asyncio.run(question)


@pytest.mark.parametrize("name", ["default", "marker"])
def test_stored_content_reads_back_to_the_same_policy(name):
    shipped = shipped_policy(name)
    stored = json.loads(json.dumps(shipped.content()))
    read = policy_from_content(name, 1, stored)
    assert (read.name, read.content(), read.digest) == (name, shipped.content(), shipped.digest)
    assert policy_from_content(name, 1, read.content()) == read


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.pop("rules"),
        lambda content: content.update(rules=[]),
        lambda content: content.update(rules=[{"category": "sexual"}]),
        lambda content: content.update(combine="min"),
        lambda content: content.update(unscreened={"audio": "maybe"}),
        lambda content: content["limits"].update(pages=1),
        lambda content: content.update(video=None),
    ],
)
def test_content_that_is_no_policy_is_refused(spoil):
    content = json.loads(json.dumps(shipped_policy("default").content()))
    spoil(content)
    with pytest.raises(PolicyRefused):
        policy_from_content("p", 1, content)


def test_a_lost_database_is_said_and_not_taken_for_absence(shelf, tenant, pool):
    def break_connection(connection):
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(RecordUnavailable):
        asyncio.run(pool.run(Context(tenant=tenant), break_connection))
    assert asyncio.run(shelf.latest(tenant, "p")) is None
