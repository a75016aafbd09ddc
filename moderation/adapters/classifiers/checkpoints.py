"""`transformers` image classification as a `Model`: a local folder, or a hub id with its revision that was pulled before.

Specs (after `transformers:`): `<folder or hub id>[@<revision>][?mapping=<file>][&agreement=<file>]`. A folder is an
absolute path. A hub id needs a revision unless the registry pins one; it is looked for in the models folder only,
nothing is ever downloaded here. The mapping is the named file, else `mapping.yaml` in the folder, else the one that ships
for a model of the registry. `agreement` names the pictures that int8 has to prove itself on.

Never code from a checkpoint, never a pickle: safetensors only, the classes of the installed transformers only. A
checkpoint that leaves a weight uninitialised is refused, since transformers would fill it with noise and go on.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from moderation.adapters.classifiers.agreement import read_inputs, require_agreement
from moderation.adapters.classifiers.mapping import LabelMapping, read_mapping, shipped_mapping
from moderation.adapters.classifiers.model import Device, Precision, check_output, check_pixels, member, one_line, sha256_digest
from moderation.adapters.classifiers.preprocessing import CONFIG, PREPROCESSOR, Preprocessing, is_timm, read_json, read_preprocessing
from moderation.adapters.classifiers.registry import HUB_ID, checked_folder, find_known, hash_file
from moderation.errors import ClassifierFault, ModelUnusable
from moderation.frames import Pixels
from moderation.scores import ClassifierVersion, InputScores

MAPPING: Final = "mapping.yaml"
CPU_GROUP: Final = 8
CUDA_GROUP: Final = 64
MULTI_LABEL: Final = "multi_label_classification"
SINGLE_LABEL: Final = "single_label_classification"
_SPEC: Final = re.compile(r"(?P<source>[^@?]+)(@(?P<revision>[A-Za-z0-9._-]{1,64}))?(\?(?P<options>.*))?")
_BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a checkpoint lies and what belongs to it."""

    folder: Path
    revision: str
    mapping: LabelMapping
    agreement: Path | None


class Checkpoint:
    """An image-classification checkpoint. Built by `load_checkpoint`."""

    def __init__(
        self, *, module: Any, labels: tuple[str, ...], version: ClassifierVersion, mapping: LabelMapping, numbers: Preprocessing
    ) -> None:
        self.version = version
        self._module = module
        self._labels = labels
        self._mapping = mapping
        self._numbers = numbers
        self._softmax = _is_single_label(module.config)
        self._group = CUDA_GROUP if module.device.type == "cuda" else CPU_GROUP

    def predict(self, pixels: Pixels) -> list[InputScores]:
        """See `Model.predict`. Whole-picture classifiers give no detections."""
        check_pixels(pixels, self.version.input)
        answers: list[InputScores] = []
        for start in range(0, len(pixels), self._group):
            logits = self.forward(pixels[start : start + self._group])
            probabilities = _softmax(logits) if self._softmax else _sigmoid(logits)
            answers.extend(InputScores(scores=scores) for scores in self._mapping.scores(self._labels, probabilities))
        return answers

    def forward(self, pixels: Pixels) -> NDArray[np.float64]:
        """Logits, N x labels."""
        import torch  # noqa: PLC0415  # only where such a checkpoint runs

        device, kind = self._module.device, self._module.dtype
        try:
            with torch.inference_mode():
                values = torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2).to(torch.float32)
                factors = torch.tensor(self._numbers.factors, device=device).view(1, -1, 1, 1)
                terms = torch.tensor(self._numbers.terms, device=device).view(1, -1, 1, 1)
                output = self._module(pixel_values=(values * factors + terms).to(kind)).logits
                logits: NDArray[np.float64] = output.to(torch.float32).cpu().numpy().astype(np.float64)
        except Exception as error:  # torch and the model's own code raise whatever they like
            raise ClassifierFault(f"{self.version.name}: {one_line(error)}") from error
        check_output(logits, (len(pixels), len(self._labels)), self.version.name)
        return logits

    def in_int8(self, agreement: Path | None) -> Checkpoint:
        """The same with linear layers in int8, if it decides alike on the operator's pictures. Raises ModelUnusable."""
        if agreement is None:
            raise ModelUnusable("int8 needs pictures to prove itself on: add agreement=<file.npz> to the spec")
        inputs, thresholds = read_inputs(agreement)
        check_pixels(inputs, self.version.input)
        runtime = self.version.runtime.replace(Precision.FP32, Precision.INT8)
        cheaper = Checkpoint(
            module=_quantised(self._module),
            labels=self._labels,
            version=replace(self.version, runtime=runtime),
            mapping=self._mapping,
            numbers=self._numbers,
        )
        found = require_agreement(self, cheaper, inputs, thresholds)
        cheaper.version = replace(cheaper.version, runtime=f"{runtime}, decides alike on {found.agreed}/{found.pictures}")
        return cheaper


def load_checkpoint(
    spec: str, *, models_dir: Path, device: str = Device.AUTO, threads: int = 1, precision: str = Precision.FP32
) -> Checkpoint:
    """Load what `spec` names, from disk only; `threads` becomes torch's setting for the whole process on a CPU.

    Raises ModelUnusable in one line: not there, altered, without safetensors, with code of its own, with labels that
    the mapping does not know, needing a torchvision that does not fit, or a precision that the processor lacks.
    """
    source = _find(spec, models_dir)
    config = read_json(source.folder / CONFIG)
    _check_config(config, source.folder)
    digest = _digest(source.folder)
    numbers = read_preprocessing(source.folder, config)
    _check_libraries(timm=is_timm(config))
    module, runtime = _load(source.folder, device, threads, precision)
    labels = _labels(module.config, source.folder)
    source.mapping.check_labels(labels)
    checkpoint = Checkpoint(
        module=module,
        labels=labels,
        mapping=source.mapping,
        numbers=numbers,
        version=ClassifierVersion(
            name=source.mapping.classifier,
            version=source.revision,
            digest=digest,
            mapping_digest=source.mapping.digest,
            categories=source.mapping.categories,
            input=numbers.input,
            calibrated=source.mapping.calibrated,
            runtime=runtime,
        ),
    )
    return checkpoint.in_int8(source.agreement) if precision == Precision.INT8 else checkpoint


def _find(spec: str, models_dir: Path) -> Source:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ModelUnusable(f"classifier transformers:{spec}: write <folder or hub id>@<revision>[?mapping=<file>]")
    name, revision = match["source"], match["revision"]
    options = _options(match["options"] or "", spec)
    agreement = Path(options["agreement"]) if "agreement" in options else None
    if Path(name).is_absolute():
        folder = Path(name)
        if not folder.is_dir():
            raise ModelUnusable(f"{folder} is not a folder")
        return Source(folder=folder, revision=revision or "local", mapping=_mapping(options, folder, None), agreement=agreement)
    if HUB_ID.fullmatch(name) is None:
        raise ModelUnusable(f"{name!r} is neither an absolute path nor a hub id like owner/name")
    known = find_known(name)
    revision = revision or (known.revision if known else None)
    if revision is None:
        raise ModelUnusable(f"{name}: name a revision, {name}@<commit>")
    folder = checked_folder(models_dir, name, revision)
    return Source(
        folder=folder, revision=revision, mapping=_mapping(options, folder, known.mapping if known else None), agreement=agreement
    )


def _options(text: str, spec: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, strict_parsing=True) if text else []
    except ValueError:
        raise ModelUnusable(f"classifier transformers:{spec}: options are name=value&name=value") from None
    options = dict(pairs)
    if len(options) != len(pairs) or not options.keys() <= {"mapping", "agreement"}:
        raise ModelUnusable(f"classifier transformers:{spec}: options are mapping and agreement, each once")
    return options


def _mapping(options: Mapping[str, str], folder: Path, shipped: str | None) -> LabelMapping:
    if "mapping" in options:
        return read_mapping(Path(options["mapping"]))
    if (folder / MAPPING).is_file():
        return read_mapping(folder / MAPPING)
    if shipped is not None:
        return shipped_mapping(shipped)
    raise ModelUnusable(f"{folder}: no mapping from its labels to categories; add ?mapping=<file> or put {MAPPING} beside the weights")


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    if "auto_map" in config:
        raise ModelUnusable(f"{folder}: brings code of its own, which is never run")
    if config.get("problem_type") == "regression":
        raise ModelUnusable(f"{folder}: a regression, not a classification")


def _digest(folder: Path) -> str:
    """Over everything that scores depend on: the weights, the configuration, the preprocessing."""
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not weights:
        raise ModelUnusable(f"{folder}: holds no safetensors")
    names = [CONFIG, PREPROCESSOR, *weights, *sorted(path.name for path in folder.glob("*.safetensors.index.json"))]
    lines = [f"{hash_file(folder / name)}  {name}\n" for name in names if (folder / name).is_file()]
    return sha256_digest("".join(lines).encode())


def _check_libraries(*, timm: bool) -> None:
    """A torchvision that does not fit torch breaks the import of every model; none at all breaks timm's only."""
    wanted = f"a torchvision built for torch {version('torch').partition('+')[0]}"
    if _torchvision_fits() is False:
        raise ModelUnusable(f"the installed torchvision is for another torch: remove it or install {wanted}")
    if timm and (find_spec("timm") is None or _torchvision_fits() is None):
        raise ModelUnusable(f"this checkpoint comes through timm: install timm and {wanted}")


def _torchvision_fits() -> bool | None:
    """Whether the installed torchvision names the installed torch; None when there is none."""
    with suppress(PackageNotFoundError):
        pins = [line.partition(";")[0].replace(" ", "") for line in requires("torchvision") or [] if re.match(r"torch\b", line)]
        installed = version("torch").partition("+")[0]
        return any(re.fullmatch(rf"torch\(?=={re.escape(installed)}(\+.*)?\)?", pin) for pin in pins)
    return None


def _load(folder: Path, device: str, threads: int, precision: str) -> tuple[Any, str]:
    """The module in evaluation, on its device, and a word on how it runs."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    where = _device(device, cuda=torch.cuda.is_available())
    _check_precision(precision, where, cuda_bf16=where == Device.CUDA and torch.cuda.is_bf16_supported())
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        module, report = transformers.AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers raises whatever its parts raise
        raise ModelUnusable(f"{folder}: {one_line(error)}") from error
    if lacking := sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])}):
        raise ModelUnusable(f"{folder}: weights are missing or do not fit: {', '.join(lacking[:3])}")
    if where == Device.CPU:
        torch.set_num_threads(threads)
    module = module.to(device=where, dtype=torch.bfloat16 if precision == Precision.BF16 else torch.float32).eval()
    used = Precision.BF16 if precision == Precision.BF16 else Precision.FP32
    return module, f"torch {torch.__version__}, transformers {transformers.__version__}, {where} {used}"


def _device(device: str, *, cuda: bool) -> str:
    if member(Device, device) == Device.CUDA and not cuda:
        raise ModelUnusable("device cuda: torch sees no GPU")
    return Device.CUDA if device != Device.CPU and cuda else Device.CPU


def _check_precision(precision: str, where: str, *, cuda_bf16: bool) -> None:
    member(Precision, precision)
    if precision == Precision.INT8 and where != Device.CPU:
        raise ModelUnusable("int8 runs on the CPU only")
    if precision == Precision.BF16 and not (cuda_bf16 if where == Device.CUDA else _cpu_has_bf16()):
        raise ModelUnusable("bf16: this processor has neither AVX512-BF16 nor AMX; use fp32")


def _cpu_has_bf16() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    return any(_BF16_FLAGS & set(line.split()) for line in lines if line.startswith("flags"))


def _labels(config: Any, folder: Path) -> tuple[str, ...]:
    labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    if not labels or len(set(labels)) != len(labels):
        raise ModelUnusable(f"{folder}: labels are missing or not unique")
    if len(labels) == 1 and config.problem_type != MULTI_LABEL:
        raise ModelUnusable(f"{folder}: one label only, and not said to be a probability of its own")
    return labels


def _is_single_label(config: Any) -> bool:
    return config.problem_type in {None, SINGLE_LABEL}


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0)))
    return probabilities


def _quantised(module: Any) -> Any:
    """A copy whose linear layers hold int8 weights and quantise their input as it comes."""
    import torch  # noqa: PLC0415
    from torch.ao.quantization import quantize_dynamic  # noqa: PLC0415

    with warnings.catch_warnings():
        # Said to move to another package; torch is pinned below the version that lacks it.
        warnings.filterwarnings("ignore", message=r"torch\.(ao\.)?quantiz")
        return quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
