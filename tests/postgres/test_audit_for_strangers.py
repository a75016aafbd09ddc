"""What a stranger does to check the log, as `docs/log-format.md` says it, and what `facegate audit` does: against the service over Postgres.

The lines of the page are run by a shell as they stand there, with the verifier copied to where nothing else of ours is.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from deployments.cli import app
from deployments.client import ServiceFault
from deployments.embedded_postgres import DatabaseUrls
from moderation import audit
from moderation.adapters import verify_log
from tests.builders import jpeg_bytes
from tests.http_kit import Live, live
from tests.pg import as_role
from tests.real_http import RealParts
from tests.sealed_log import SealedLog

pytestmark = pytest.mark.postgres

PAGE = Path(__file__).parents[2] / "docs" / "log-format.md"
STEPS = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
CHECKPOINT, KEEP, CHECK, NEWS, PROOF, REPORT = range(6)


@dataclass(kw_only=True)
class Stranger:
    """Somebody with a key for the service, the public key of its log, and a folder."""

    server: Live
    parts: RealParts
    log: SealedLog
    folder: Path
    knows: dict[str, str] = field(default_factory=dict)

    def screen(self, seed: int) -> str:
        """Have a picture screened; the decision's id."""
        answer = httpx.post(
            f"{self.server.url}/v1/screenings",
            files={"media": ("x", jpeg_bytes(seed=seed))},
            headers={"authorization": f"Bearer {self.api_key}"},
            timeout=60,
            trust_env=False,
        )
        assert answer.status_code == 200
        return str(answer.json()["id"])

    @property
    def api_key(self) -> str:
        assert self.parts.made is not None
        return self.parts.made.text

    def run(self, step: int) -> subprocess.CompletedProcess[str]:
        """One block of the page."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {
            "PATH": path,
            "FACEGATE": self.server.url,
            "API_KEY": self.api_key,
            "VKEY": self.log.key,
            "no_proxy": "*",
            **self.knows,
        }
        return subprocess.run(
            ["bash", "-ec", STEPS[step]], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def facegate(self, *words: str) -> tuple[int, str]:
        """The command line, asking this service."""
        words = ("audit", *words, "--url", self.server.url, "--api-key", self.api_key)
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        return result.exit_code, result.output


@pytest.fixture
def stranger(database: DatabaseUrls, tmp_path: Path) -> Iterator[Stranger]:
    folder = tmp_path / "stranger"
    folder.mkdir()
    shutil.copy(verify_log.__file__, folder)
    parts = RealParts(urls=database, folder=tmp_path)
    with live(parts.make) as server:
        yield Stranger(server=server, parts=parts, log=SealedLog(urls=database, folder=tmp_path / "sealer"), folder=folder)


def test_the_page_leads_a_stranger_from_the_first_checkpoint_to_a_report(stranger: Stranger):
    began = datetime.now(UTC) - timedelta(minutes=1)
    stranger.screen(1)
    stranger.log.seal()
    assert stranger.run(CHECKPOINT).returncode == 0
    stranger.knows["DECISION"] = stranger.screen(2)
    assert stranger.run(KEEP).returncode == 0
    assert "not_sealed_yet" in proof_of(stranger).text
    stranger.log.seal()
    checked = stranger.run(CHECK)
    assert checked.stdout.splitlines()[-2:] == ["1 of 1 receipts are in the log", "holds"], checked
    assert stranger.run(NEWS).stdout.endswith("holds\n")
    proved = stranger.run(PROOF)
    assert "the entry is leaf" in proved.stdout
    assert proved.stdout.endswith("holds\n")
    stranger.knows |= {"FROM": stamp(began), "TO": stamp(datetime.now(UTC))}
    report = stranger.run(REPORT)
    assert report.stdout.endswith("holds\n"), report
    with as_role(stranger.log.urls.owner) as cursor:  # where the entries stay as they are, and what is asked for is changed
        cursor.execute("ALTER TABLE facegate.decision DISABLE TRIGGER append_only")
        cursor.execute("SET LOCAL row_security = off")
        cursor.execute("ALTER TABLE facegate.decision NO FORCE ROW LEVEL SECURITY")
        cursor.execute("UPDATE facegate.decision SET verdict = 'block'")
    report = stranger.run(REPORT)
    assert report.returncode == 1
    assert "FAULT the report has 0 for" in report.stdout


def test_the_page_shows_what_was_changed(stranger: Stranger):
    stranger.knows["DECISION"] = stranger.screen(1)
    stranger.log.seal()
    for step in (CHECKPOINT, KEEP):
        assert stranger.run(step).returncode == 0
    with as_role(stranger.log.urls.owner) as cursor:  # whoever may migrate can do this much
        cursor.execute("ALTER TABLE facegate.leaf DISABLE TRIGGER append_only")
        cursor.execute("UPDATE facegate.leaf SET hash = sha256('') WHERE index = 1")
    checked = stranger.run(CHECK)
    assert checked.returncode == 1
    assert "FAULT line 3: the entry of leaf 1 was changed" in checked.stdout
    assert checked.stdout.endswith("DOES NOT HOLD\n")


def proof_of(stranger: Stranger) -> httpx.Response:
    headers = {"authorization": f"Bearer {stranger.api_key}"}
    return httpx.get(f"{stranger.server.url}/v1/decisions/{stranger.knows['DECISION']}/proof", headers=headers, trust_env=False)


def stamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def test_the_command_line_fetches_and_checks_the_log_and_shows_a_decision_in_it(stranger: Stranger):
    decision = stranger.screen(1)
    with pytest.raises(ServiceFault, match="not_sealed_yet: "):
        stranger.facegate("verify", "--key", "any")
    stranger.log.seal()
    status, out = stranger.facegate("verify", "--key", stranger.log.key)
    assert (status, out.splitlines()[-1]) == (0, "holds")
    status, out = stranger.facegate("verify")
    assert status == 0
    assert "the service's own word" in out
    status, out = stranger.facegate("show", decision, "--key", stranger.log.key)
    assert status == 0
    assert "proved" in out
    assert '"kind": "decision"' in out
    unsealed = stranger.screen(2)
    status, out = stranger.facegate("show", unsealed, "--key", stranger.log.key)
    assert status == 3
    assert "not yet" in out
    file = stranger.folder / "part.ndjson"
    status, out = stranger.facegate("export", "-o", str(file), "--from", "1")
    assert status == 0
    assert f"saved {file.stat().st_size:,} bytes" in " ".join(out.split())
    assert verify_log.main([str(file), "--key", stranger.log.key]) == 0
    with as_role(stranger.log.urls.owner) as cursor:  # whoever may migrate can do this much
        cursor.execute("ALTER TABLE facegate.entry DISABLE TRIGGER append_only")
        cursor.execute("ALTER TABLE facegate.entry NO FORCE ROW LEVEL SECURITY")
        cursor.execute(
            "UPDATE facegate.entry SET canonical = convert_to(replace(convert_from(canonical, 'UTF8'), 'allow', 'block'), 'UTF8')"
            " WHERE kind = 'decision'"
        )
    status, out = stranger.facegate("show", decision, "--key", stranger.log.key)
    assert status == 1
    assert "the entry was changed" in " ".join(out.split())


def test_the_page_names_every_kind_of_entry_that_there_is():
    written = set(re.findall(r'_event_entry\(\s*"([a-z_]+)"', Path(audit.__file__).read_text())) | {"decision"}
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith("| `kind` |"))
    assert set(re.findall(r"`([a-z_]+)`", row)) - {"kind"} == written


def test_the_verifier_imports_the_standard_library_and_cryptography_and_nothing_else():
    tree = ast.parse(Path(verify_log.__file__).read_text())
    found = {alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found - sys.stdlib_module_names == {"cryptography"}
