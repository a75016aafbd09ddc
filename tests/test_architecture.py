"""What holds for the whole house: directions of import, errors that travel, modules that do nothing when imported."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from moderation import errors
from moderation.decision import ReasonCode
from moderation.errors import CannotJudge, MediaRefused, ModerationError, Overloaded, Refusal

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("moderation", "face_pipeline", "deployments", "migrations")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
DOMAIN = sorted(f"moderation.{path.stem}" for path in (ROOT / "moderation").glob("*.py") if path.stem != "__init__")
HEAVY = {"torch", "transformers", "ray", "PIL", "av", "onnxruntime", "cv2", "nudenet", "psycopg2"}


def named(path):
    return path.relative_to(ROOT).as_posix()


def test_the_directions_of_import_hold():
    lint = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


# --- errors -------------------------------------------------------------------------------------------

EXAMPLES = {MediaRefused: (Refusal.TRUNCATED, "after 7 bytes"), Overloaded: ("decoder", 2.5)}


def _tree(error):
    return [error, *(below for child in error.__subclasses__() if child.__module__ == errors.__name__ for below in _tree(child))]


@pytest.mark.parametrize("error", _tree(ModerationError), ids=lambda error: error.__name__)
def test_every_error_travels_between_processes_with_all_it_says(error):
    sent = error(*EXAMPLES.get(error, ("what happened",)))
    came = pickle.loads(pickle.dumps(sent))  # noqa: S301 -- our own bytes
    assert type(came) is error
    assert (str(came), came.args, vars(came)) == (str(sent), sent.args, vars(sent))


@pytest.mark.parametrize("error", _tree(ModerationError), ids=lambda error: error.__name__)
def test_every_error_is_drawn_in_the_tree_and_explained(error):
    assert error.__name__ in errors.__doc__
    assert error.__doc__


@pytest.mark.parametrize("error", _tree(CannotJudge), ids=lambda error: error.__name__)
def test_every_fault_of_ours_has_a_reason_code_of_its_own(error):
    assert ReasonCode(error.code)
    assert [other for other in _tree(CannotJudge) if other.code == error.code] == [error]


# --- modules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_module_says_what_it_is_for(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body


IMPORT_AND_REPORT = """
import sys
deeds = []

def watch(event, args):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.mkdir", "os.remove", "os.rename"):
        deeds.append(f"{event} {args}")
    elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        deeds.append(f"{event} {args}")

sys.addaudithook(watch)
for name in sys.argv[1:]:
    __import__(name)
import json, threading
json.dump({"deeds": deeds, "threads": threading.active_count(), "modules": sorted({name.partition(".")[0] for name in sys.modules})}, sys.stdout)
"""


def imported(*modules):
    """What happens when a fresh Python imports these modules and nothing else."""
    run = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", IMPORT_AND_REPORT, *modules], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_the_domain_imports_the_standard_library_numpy_and_rfc8785_and_does_nothing():
    program = imported(*DOMAIN)
    assert (program["deeds"], program["threads"]) == ([], 1)
    ours = {"moderation", "numpy", "rfc8785"}
    assert {name for name in program["modules"] if not name.startswith("_")} - set(sys.stdlib_module_names) - ours <= {"sitecustomize"}


@pytest.mark.parametrize("module", ["deployments.http_api", "deployments.settings", "deployments.cli"])
def test_what_answers_requests_and_commands_starts_without_models_and_without_ray(module):
    program = imported(module)
    assert (program["deeds"], program["threads"]) == ([], 1)
    assert HEAVY & set(program["modules"]) == set()


# --- no place is special ------------------------------------------------------------------------------

PERSONAL = tuple(f"/{folder}/" for folder in ("home", "root", "Users", "work", "mnt"))


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))], ids=named)
def test_no_code_knows_a_folder_of_somebodys_machine(path):
    texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert [text for text in texts if text.startswith(PERSONAL)] == []
