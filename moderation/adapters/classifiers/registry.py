"""The models that the project knows: where each comes from, under which licence, and the bytes it must be.

Nothing gets its final name before its SHA-256 matched a pin. A pin comes from this file or, where none is known here
(or another revision is wanted), from the operator. A pulled model lies in `<models>/<name>/<revision>/` beside a
`manifest.json` that says what was pulled, from where, under which licence and who vouched for the bytes.

    list_models(models_dir)   what there is, and what is here
    pull(name, ...)           fetch, check, put in place
    verify(models_dir)        hash everything again
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from moderation.adapters.classifiers import nudenet
from moderation.adapters.classifiers.model import one_line
from moderation.errors import ModelUnusable

HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
MANIFEST: Final = "manifest.json"
BESIDE: Final = frozenset({MANIFEST, "mapping.yaml"})
"""Files that may lie beside the pulled ones."""
CONFIG: Final = "config.json"
PREPROCESSOR: Final = "preprocessor_config.json"
WEIGHTS: Final = "model.safetensors"
MAX_BYTES: Final = 20_000_000_000
TIMEOUT_S: Final = 60.0
_CHUNK: Final = 1 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.(json|safetensors|onnx)")
"""No folders, no pickles, no code."""


class Origin(StrEnum):
    """How a model is had."""

    HUB = "hub"
    """Files of a commit on the Hugging Face hub."""
    URL = "url"
    """One file at one address."""
    WHEEL = "wheel"
    """Comes with a Python package; nothing to pull."""


class State(StrEnum):
    """Where a model or a file of it stands."""

    ABSENT = "absent"
    HERE = "here"
    ALTERED = "altered"
    """Other bytes than the pinned ones."""
    UNEXPECTED = "unexpected"
    """A file that nobody pulled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """`sha256` in hex and `size` in bytes where they are known."""

    name: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """One model. `source` is a page for people, `url` the file's address for Origin.URL, `mapping` a shipped mapping."""

    name: str
    origin: Origin
    purpose: str
    source: str
    licence: str
    revision: str
    files: tuple[ModelFile, ...]
    url: str = ""
    mapping: str | None = None
    note: str = ""

    @property
    def pinned(self) -> bool:
        """Whether every file's SHA-256 is known here."""
        return all(file.sha256 for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A model and whether it is here; `folder` is where it is or would be."""

    model: KnownModel
    state: State
    folder: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome for one file. `model` is name@revision."""

    model: str
    file: str
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What `pull` put in place, or found there unaltered (`fresh` is False)."""

    name: str
    revision: str
    licence: str
    source: str
    folder: Path
    files: tuple[ModelFile, ...]
    fresh: bool


# Where each pin was published is said beside it. A wrong pin refuses the model; it can never let another one in.
KNOWN: Final = (
    KnownModel(
        name="nudenet",
        origin=Origin.WHEEL,
        purpose="NSFW detector with boxes (evaluation)",
        source="https://github.com/notAI-tech/NudeNet",
        licence="AGPL-3.0 (repository and weights; the wheel's metadata says MIT)",
        revision="3.4.2",
        files=(ModelFile(name=nudenet.FILE, sha256=nudenet.SHA256, size=12_150_158),),
        note="published recall about 61 % at 0.2 and 38 % at 0.5; explains well, gates poorly alone",
    ),
    KnownModel(
        name="Falconsai/nsfw_image_detection",
        origin=Origin.HUB,
        purpose="NSFW classifier, ViT-B/16 at 224, normal or nsfw",
        source="https://huggingface.co/Falconsai/nsfw_image_detection",
        licence="Apache-2.0",
        # Commit and digests as two independent projects publish them for an audited copy.
        revision="96cb0d0342c7afb80cab76ecc58b265fa44da256",
        files=(
            ModelFile(name=CONFIG, sha256="cd8c0a19566f199b5c64da402f1d6a9daf80d094fe6536befb060a2cc59449c2", size=724),
            ModelFile(name=PREPROCESSOR, sha256="a34861a24e781942424ad790b82bc99348404a2e64ea882de88c40905851698d", size=325),
            ModelFile(name=WEIGHTS, sha256="97b2ce64ec146884b37f98ee7944ca4891aa72f6827dc0cb10684a1cbecd5830", size=343_223_968),
        ),
        mapping="falconsai",
    ),
    KnownModel(
        name="AdamCodd/vit-base-nsfw-detector",
        origin=Origin.HUB,
        purpose="NSFW classifier, ViT-B/16 at 384, strict",
        source="https://huggingface.co/AdamCodd/vit-base-nsfw-detector",
        licence="Apache-2.0",
        # The commit as several projects pin it, the weights as SwarmUI pins them; no digest of the two JSON files is known here.
        revision="8587de998f441aac03fdd57a85d2e4cb808c7d64",
        files=(
            ModelFile(name=CONFIG),
            ModelFile(name=PREPROCESSOR),
            ModelFile(name=WEIGHTS, sha256="266efb8bf67c1e865a577222fbbd6ddb149b9e00ba0d2b50466a034837f026a4"),
        ),
        mapping="adamcodd",
        note="says of itself that it is markedly worse on generated pictures",
    ),
    KnownModel(
        name="Marqo/nsfw-image-detection-384",
        origin=Origin.HUB,
        purpose="NSFW classifier, ViT-tiny at 384, through timm",
        source="https://huggingface.co/Marqo/nsfw-image-detection-384",
        licence="Apache-2.0",
        # Commit, weights and configuration as several projects pin them.
        revision="0c26ec22111b83f106d72a55f611ec35962bcb65",
        files=(
            ModelFile(name=CONFIG, sha256="ae848d1dca0aeccd38f2ebb4b1bb47219cdc7f34e3ddc50c8d6430abe74d79b4"),
            ModelFile(name=WEIGHTS, sha256="6bf2e0f64a1d20169736c2836e3a787b12379fdc08ba87f7d94a7a3d58eeefce", size=22_404_720),
        ),
        mapping="marqo",
        note="needs timm and a torchvision that fits torch",
    ),
    KnownModel(
        name="Freepik/nsfw_image_detector",
        origin=Origin.HUB,
        purpose="NSFW classifier, EVA-02 base at 448, four levels, through timm",
        source="https://huggingface.co/Freepik/nsfw_image_detector",
        licence="MIT",
        # Commit and digests as several projects pin them.
        revision="15b85477e4fd2000db76ae9aae0f89a72f95e2e3",
        files=(
            ModelFile(name=CONFIG, sha256="39f53e86cc4868e0e11396b523c906f376621f54c1025ffc9ee2ee840542a41b"),
            ModelFile(name=WEIGHTS, sha256="024a9d4818fae2656403bf626c9f8c9e7789c2da274749fbebb1060d8fdaa7ab", size=172_725_672),
        ),
        mapping="freepik",
        note="needs timm and a torchvision that fits torch",
    ),
    KnownModel(
        name="yunet",
        origin=Origin.URL,
        purpose="face detector: box and five landmarks",
        source="https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet",
        licence="MIT",
        revision="2023mar",
        url=(
            "https://github.com/opencv/opencv_zoo/raw/47534e27c9851bb1128ccc0102f1145e27f23f98/"
            "models/face_detection_yunet/face_detection_yunet_2023mar.onnx"
        ),
        files=(
            ModelFile(
                name="face_detection_yunet_2023mar.onnx",
                sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
                size=232_589,
            ),
        ),
    ),
)


def find_known(name: str) -> KnownModel | None:
    """The model of this name, or None."""
    return next((model for model in KNOWN if model.name == name), None)


def model_folder(models_dir: Path, name: str, revision: str) -> Path:
    """Where a pulled model lies."""
    return models_dir / name.replace("/", "--") / revision


def list_models(models_dir: Path) -> tuple[ModelStatus, ...]:
    """Every known model and whether it is here; nothing is hashed (see `verify`)."""
    return tuple(_status(model, models_dir) for model in KNOWN)


def pull(
    name: str,
    *,
    models_dir: Path,
    revision: str | None = None,
    sha256: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
    endpoint: str | None = None,
) -> Pulled:
    """Fetch a model and put it in place, or find it there.

    `name` is one of `list_models`, or any hub id with a `revision` (a commit) and `sha256`, file names to hex digests, for
    every file. `tell` gets a line for people before each step, the licence first. `endpoint` is another hub.
    Raises ModelUnusable, in one line, and leaves nothing behind.
    """
    known = find_known(name)
    if known is None:
        if HUB_ID.fullmatch(name) is None:
            raise ModelUnusable(f"{name!r} is no known model and no hub id; known are {', '.join(model.name for model in KNOWN)}")
        known = _unlisted(name, revision, sha256 or {})
    return pull_model(known, models_dir=models_dir, revision=revision, sha256=sha256, tell=tell, endpoint=endpoint)


def pull_model(
    model: KnownModel,
    *,
    models_dir: Path,
    revision: str | None = None,
    sha256: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
    endpoint: str | None = None,
) -> Pulled:
    """Like `pull`, for a model that need not be in the registry."""
    if model.origin is Origin.WHEEL:
        raise ModelUnusable(f"{model.name} comes with its wheel: pip install 'facegate[local]' ({model.licence}); there is nothing to pull")
    wanted = revision or model.revision
    if model.origin is Origin.HUB and _COMMIT.fullmatch(wanted) is None:
        raise ModelUnusable(f"{model.name}: revision {wanted!r} can move; name a commit of 40 hex digits")
    if model.origin is Origin.URL and wanted != model.revision:
        raise ModelUnusable(f"{model.name}: only revision {model.revision} is known")
    files = _pins(model, wanted, sha256 or {})
    folder = model_folder(models_dir, model.name, wanted)
    tell(f"{model.name}@{wanted}: licence {model.licence}, from {model.source}")
    fresh = any(check.state is not State.HERE for check in _check(folder, model.name, wanted, files))
    if fresh:
        with _staging(models_dir) as staging:
            for file in files:
                tell(f"fetching {file.name}")
                _fetch(model, wanted, file, staging, endpoint)
                _require(staging / file.name, file, model.name)
            _write_manifest(staging, model, wanted, files)
            _put_in_place(staging, folder)
    return Pulled(name=model.name, revision=wanted, licence=model.licence, source=model.source, folder=folder, files=files, fresh=fresh)


def verify(models_dir: Path) -> tuple[Check, ...]:
    """Hash every file of every model that is here, and name what was never pulled."""
    checks = []
    wheel = nudenet.wheel_file()
    if wheel is not None:
        (file,) = KNOWN[0].files
        checks.append(Check(model=f"{KNOWN[0].name}@{KNOWN[0].revision}", file=file.name, state=_file_state(wheel, file)))
    for manifest in sorted(models_dir.glob(f"*/*/{MANIFEST}")):
        checks.extend(_check_manifest(manifest.parent))
    return tuple(checks)


def checked_folder(models_dir: Path, name: str, revision: str) -> Path:
    """The folder of a pulled model, every file of it hashed. Raises ModelUnusable when it is not here or altered."""
    folder = model_folder(models_dir, name, revision)
    if not (folder / MANIFEST).is_file():
        raise ModelUnusable(f"{name}@{revision} is not in {models_dir}; facegate models pull {name}")
    for check in _check_manifest(folder):
        if check.state is not State.HERE:
            raise ModelUnusable(f"{name}@{revision}: {check.file} is {check.state}; facegate models verify")
    return folder


def hash_file(path: Path) -> str:
    """SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _status(model: KnownModel, models_dir: Path) -> ModelStatus:
    if model.origin is Origin.WHEEL:
        wheel = nudenet.wheel_file()
        return ModelStatus(model=model, state=State.HERE if wheel else State.ABSENT, folder=wheel.parent if wheel else None)
    folder = model_folder(models_dir, model.name, model.revision)
    there = (folder / MANIFEST).is_file() and all((folder / file.name).is_file() for file in model.files)
    return ModelStatus(model=model, state=State.HERE if there else State.ABSENT, folder=folder)


def _unlisted(name: str, revision: str | None, sha256: Mapping[str, str]) -> KnownModel:
    if revision is None or not any(file.endswith(".safetensors") for file in sha256) or CONFIG not in sha256:
        raise ModelUnusable(
            f"{name} is not in the registry: name its --revision and a --sha256 FILE=HEX for each of {CONFIG}, {PREPROCESSOR}, {WEIGHTS}"
        )
    return KnownModel(
        name=name,
        origin=Origin.HUB,
        purpose="image classifier",
        source=f"https://huggingface.co/{name}",
        licence="not known here; read it at the source",
        revision=revision,
        files=tuple(ModelFile(name=file) for file in sorted(sha256)),
    )


def _pins(model: KnownModel, revision: str, given: Mapping[str, str]) -> tuple[ModelFile, ...]:
    """The files, each with the digest it must have. The registry's pins hold for its own revision only."""
    if unknown := sorted(given.keys() - {file.name for file in model.files}):
        raise ModelUnusable(f"{model.name}: {', '.join(unknown)} is not one of its files")
    if bad := sorted(file for file, digest in given.items() if _SHA256.fullmatch(digest.lower()) is None):
        raise ModelUnusable(f"{model.name}: not a SHA-256 in hex: {', '.join(bad)}")
    own = revision == model.revision
    files = []
    for file in model.files:
        if _FILE.fullmatch(file.name) is None:
            raise ModelUnusable(f"{model.name}: {file.name!r} is not a file that is ever pulled")
        known, said = file.sha256 if own else None, given.get(file.name, "").lower() or None
        if known and said and known != said:
            raise ModelUnusable(f"{model.name}: {file.name} is pinned to another SHA-256, {known}")
        files.append(ModelFile(name=file.name, sha256=known or said, size=file.size if own else None))
    if open_ := [file.name for file in files if not file.sha256]:
        flags = " ".join(f"--sha256 {name}=HEX" for name in open_)
        raise ModelUnusable(
            f"{model.name}@{revision}: no SHA-256 is known for {', '.join(open_)}; read them at {model.source} and add {flags}"
        )
    return tuple(files)


@contextmanager
def _staging(models_dir: Path) -> Iterator[Path]:
    """A folder on the same file system that is gone afterwards, unless it was renamed."""
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".pull-", dir=models_dir))
    except OSError as error:
        raise ModelUnusable(f"{models_dir}: {error.strerror or error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(model: KnownModel, revision: str, file: ModelFile, staging: Path, endpoint: str | None) -> None:
    try:
        if model.origin is Origin.HUB:
            _from_hub(model.name, revision, file.name, staging, endpoint)
        else:
            _from_url(model.url, staging / file.name, file.size or MAX_BYTES)
    except ModelUnusable:
        raise
    except Exception as error:  # two HTTP clients with exceptions of their own
        raise ModelUnusable(f"{model.name}: {file.name} cannot be fetched: {one_line(error)}") from error


def _from_hub(name: str, revision: str, file: str, staging: Path, endpoint: str | None) -> None:
    """The only place that speaks to the hub; without any token."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  # only when pulling

    hf_hub_download(name, file, revision=revision, local_dir=staging, endpoint=endpoint, token=False, force_download=True)


def _from_url(url: str, target: Path, limit: int) -> None:
    import httpx  # noqa: PLC0415  # only when pulling

    with httpx.stream("GET", url, follow_redirects=True, timeout=TIMEOUT_S) as answer, target.open("wb") as file:
        if answer.status_code != httpx.codes.OK:
            raise ModelUnusable(f"{urlsplit(url).hostname} answered {answer.status_code} for {target.name}")
        length = 0
        for chunk in answer.iter_bytes(_CHUNK):
            length += len(chunk)
            if length > limit:
                raise ModelUnusable(f"{target.name} is larger than {limit} bytes")
            file.write(chunk)


def _require(path: Path, file: ModelFile, model: str) -> None:
    found = hash_file(path)
    if found != file.sha256:
        raise ModelUnusable(f"{model}: {file.name} has SHA-256 {found}, pinned is {file.sha256}; nothing was kept")


def _write_manifest(folder: Path, model: KnownModel, revision: str, files: tuple[ModelFile, ...]) -> None:
    registry = {file.name: file.sha256 for file in model.files} if revision == model.revision else {}
    content = {
        "name": model.name,
        "revision": revision,
        "origin": str(model.origin),
        "source": model.url or model.source,
        "licence": model.licence,
        "pulled_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": [
            {
                "name": file.name,
                "sha256": file.sha256,
                "bytes": (folder / file.name).stat().st_size,
                "pinned_by": "registry" if registry.get(file.name) else "operator",
            }
            for file in files
        ],
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _put_in_place(staging: Path, folder: Path) -> None:
    """One rename, so that a model is there whole or not at all. What lay there before (incomplete or altered) goes."""
    shutil.rmtree(staging / ".cache", ignore_errors=True)  # what the hub's client leaves
    for path in staging.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    staging.chmod(0o755)
    folder.parent.mkdir(parents=True, exist_ok=True)
    replaced = staging.with_name(f"{staging.name}.old")
    try:
        if folder.exists():
            folder.rename(replaced)
        staging.rename(folder)
    except OSError as error:
        raise ModelUnusable(f"{folder}: {error.strerror or error}") from None
    shutil.rmtree(replaced, ignore_errors=True)


def _check_manifest(folder: Path) -> list[Check]:
    """The checks of one pulled model, against its manifest and, for a known revision, against the registry."""
    name, revision, files = _read_manifest(folder)
    known = find_known(name)
    pins = {file.name: file.sha256 for file in known.files if file.sha256} if known and known.revision == revision else {}
    held = tuple(ModelFile(name=file.name, sha256=pins.get(file.name, file.sha256)) for file in files)
    return _check(folder, name, revision, held)


def _read_manifest(folder: Path) -> tuple[str, str, tuple[ModelFile, ...]]:
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = tuple(ModelFile(name=str(file["name"]), sha256=str(file["sha256"])) for file in content["files"])
        return str(content["name"]), str(content["revision"]), files
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnusable(f"{folder / MANIFEST}: {one_line(error)}") from None


def _check(folder: Path, name: str, revision: str, files: tuple[ModelFile, ...]) -> list[Check]:
    label = f"{name}@{revision}"
    checks = [Check(model=label, file=file.name, state=_file_state(folder / file.name, file)) for file in files]
    if not (folder / MANIFEST).is_file():
        checks.append(Check(model=label, file=MANIFEST, state=State.ABSENT))
    expected = {file.name for file in files} | BESIDE
    others = sorted(path.name for path in folder.iterdir() if path.name not in expected) if folder.is_dir() else []
    return checks + [Check(model=label, file=other, state=State.UNEXPECTED) for other in others]


def _file_state(path: Path, file: ModelFile) -> State:
    if not path.is_file():
        return State.ABSENT
    return State.HERE if hash_file(path) == file.sha256 else State.ALTERED
