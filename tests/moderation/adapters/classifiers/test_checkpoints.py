"""The transformers adapter on a real checkpoint: the tiny ViT, loaded from disk as any other."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from moderation.adapters.classifiers import checkpoints, load
from moderation.errors import ClassifierFault, ModelUnusable
from moderation.frames import Fit
from tests import tiny_vit
from tests.contracts.classifier_contract import ClassifierContract


def load_from(folder, **options):
    return load(f"transformers:{folder}", models_dir=folder.parent, **{"device": "cpu", **options})


@pytest.fixture(scope="module")
def tiny(tiny_vit_folder):
    return load_from(tiny_vit_folder)


@pytest.fixture
def copied(tiny_vit_folder, tmp_path):
    """The checkpoint in a folder that a test may spoil."""
    return shutil.copytree(tiny_vit_folder, tmp_path / "vit")


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def edit_weights(folder, change):
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415

    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


class TestTinyVit(ClassifierContract):
    @pytest.fixture
    def model(self, tiny):
        return tiny

    @pytest.fixture
    def pictures(self):
        return tiny_vit.samples(11, seed=5)[0]

    @pytest.fixture
    def poisoned(self, copied):
        edit_weights(copied, lambda weights: weights["classifier.weight"].fill(np.nan))
        return load_from(copied)


def test_it_finds_the_marker_in_pictures_it_never_saw(tiny):
    pictures, marked = tiny_vit.samples(400, seed=77)
    scores = np.array([answer.scores["test.marker"] for answer in tiny.predict(pictures)])
    assert np.mean((scores > 500_000) == marked) > 0.97


def test_the_checkpoint_stays_under_a_megabyte(tiny_vit_folder):
    assert sum(path.stat().st_size for path in tiny_vit_folder.iterdir()) < 1_000_000


def test_its_spec_comes_from_its_own_configuration(tiny):
    spec = tiny.version.input
    assert (spec.width, spec.height, spec.fit) == (tiny_vit.SIDE, tiny_vit.SIDE, Fit.STRETCH)
    assert "cpu fp32" in tiny.version.runtime


def test_scores_are_those_of_transformers_own_way(tiny, tiny_vit_folder):
    import torch  # noqa: PLC0415  # slow to import
    from transformers import ViTForImageClassification  # noqa: PLC0415
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil  # noqa: PLC0415

    pictures, _ = tiny_vit.samples(12, seed=6)
    model = ViTForImageClassification.from_pretrained(tiny_vit_folder).eval()
    processor = ViTImageProcessorPil.from_pretrained(tiny_vit_folder)
    with torch.inference_mode():
        values = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
        expected = model(**values).logits.softmax(-1)[:, 1].numpy()
    found = np.array([answer.scores["test.marker"] for answer in tiny.predict(pictures)]) / 1e6
    assert np.abs(found - expected).max() < 1e-5


def test_a_multi_label_checkpoint_scores_each_label_by_itself(copied, tiny):
    edit(copied / "config.json", problem_type="multi_label_classification")
    pictures, _ = tiny_vit.samples(4, seed=8)
    logits = tiny.forward(pictures)[:, 1]
    found = [answer.scores["test.marker"] for answer in load_from(copied).predict(pictures)]
    assert np.abs(np.array(found) / 1e6 - 1 / (1 + np.exp(-logits))).max() < 1e-5


def test_every_changed_file_changes_the_digest(copied, tiny):
    assert load_from(copied).version.digest == tiny.version.digest
    edit(copied / "preprocessor_config.json", image_mean=[0.4, 0.5, 0.5])
    changed = load_from(copied).version.digest
    assert changed != tiny.version.digest
    edit_weights(copied, lambda weights: weights["classifier.bias"].fill(0.25))
    assert load_from(copied).version.digest not in {changed, tiny.version.digest}


def test_a_named_mapping_wins_over_the_one_beside_the_weights(copied, tmp_path):
    mapping = tmp_path / "other.yaml"
    mapping.write_text("classifier: other\nlabels: {marker: {category: sexual, weight: 0.5}}\nignored: [plain]\n")
    model = load(f"transformers:{copied}@v7?mapping={mapping}", models_dir=tmp_path, device="cpu")
    assert (model.version.name, model.version.version, model.version.categories) == ("other", "v7", ("sexual",))


def spoil_labels(folder):
    edit(folder / "config.json", id2label={"0": "plain", "1": "nsfw"}, label2id={"plain": 0, "nsfw": 1})


def spoil_head(folder):
    edit_weights(folder, lambda weights: weights.pop("classifier.weight"))


def spoil_shape(folder):
    edit_weights(folder, lambda weights: weights.update({"classifier.weight": np.zeros((2, 3), np.float32)}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: JSONDecodeError"),
        (lambda folder: (folder / "mapping.yaml").unlink(), r"no mapping from its labels"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "holds no safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"not weights"), "Error"),
        (lambda folder: edit(folder / "config.json", auto_map={"AutoConfig": "evil.Config"}), "code of its own, which is never run"),
        (lambda folder: edit(folder / "config.json", model_type="made-up"), "made-up"),
        (lambda folder: edit(folder / "config.json", problem_type="regression"), "regression"),
        (spoil_labels, "neither mapped nor ignored: nsfw"),
        (spoil_head, "weights are missing or do not fit: classifier.weight"),
        (spoil_shape, "classifier.weight|size mismatch|mismatch"),
    ],
)
def test_a_spoilt_checkpoint_is_refused_in_one_line(copied, spoil, message):
    spoil(copied)
    with pytest.raises(ModelUnusable, match=message) as caught:
        load_from(copied)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_through_timm_without_torchvision_is_one_clear_line(copied):
    config = {"architecture": "vit_tiny_patch16_384", "num_classes": 2, "label_names": ["plain", "marker"]}
    cfg = {
        "input_size": [3, 384, 384],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    (copied / "config.json").write_text(json.dumps({**config, "pretrained_cfg": cfg}))
    with pytest.raises(ModelUnusable, match=r"through timm: install timm and a torchvision built for torch 2\.\d+\.\d+$"):
        load_from(copied)


@pytest.mark.parametrize(("pin", "fits"), [("torch (==2.0.1)", False), ("torch==2.0.1", False), ("torch=={own}", True)])
def test_a_torchvision_for_another_torch_is_noticed_before_it_breaks_the_import(copied, tmp_path, monkeypatch, pin, fits):
    own = checkpoints.version("torch").partition("+")[0]
    info = tmp_path / "site" / "torchvision-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\nRequires-Dist: numpy\nRequires-Dist: {pin.format(own=own)}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    if fits:
        assert checkpoints._torchvision_fits() is True
    else:
        with pytest.raises(ModelUnusable, match="torchvision is for another torch"):
            load_from(copied)


def test_bf16_is_refused_where_the_processor_lacks_it_and_close_where_it_has_it(tiny_vit_folder, tiny):
    if not checkpoints._cpu_has_bf16():
        with pytest.raises(ModelUnusable, match="AVX512-BF16"):
            load_from(tiny_vit_folder, precision="bf16")
        return
    pictures, _ = tiny_vit.samples(8, seed=9)
    cheaper = load_from(tiny_vit_folder, precision="bf16").predict(pictures)
    for one, other in zip(cheaper, tiny.predict(pictures), strict=True):
        assert abs(one.scores["test.marker"] - other.scores["test.marker"]) < 50_000


def test_cuda_is_refused_where_there_is_none(tiny_vit_folder):
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        assert "cuda fp32" in load_from(tiny_vit_folder, device="cuda").version.runtime
    else:
        with pytest.raises(ModelUnusable, match="sees no GPU"):
            load_from(tiny_vit_folder, device="cuda")


def test_a_network_that_breaks_is_a_fault(copied):
    model = load_from(copied)
    model._module.classifier = None
    with pytest.raises(ClassifierFault, match="tiny-vit: "):
        model.predict(tiny_vit.samples(2, seed=1)[0])


def save_inputs(path, count, thresholds=(0.2, 0.45)):
    np.savez(path, inputs=tiny_vit.samples(count, seed=11)[0], thresholds=np.array(thresholds))
    return path


def test_int8_is_taken_when_it_decides_alike(tiny_vit_folder, tmp_path):
    inputs = save_inputs(tmp_path / "own.npz", 200)
    model = load(f"transformers:{tiny_vit_folder}?agreement={inputs}", models_dir=tmp_path, device="cpu", precision="int8")
    assert "cpu int8, decides alike on " in model.version.runtime
    assert model.predict(tiny_vit.samples(4, seed=3)[0])


def test_int8_is_refused_when_it_decides_otherwise(tiny_vit_folder, tiny, tmp_path):
    pictures, _ = tiny_vit.samples(64, seed=12)
    exact = sorted({answer.scores["test.marker"] / 1e6 for answer in tiny.predict(pictures)})
    np.savez(tmp_path / "own.npz", inputs=pictures, thresholds=np.array([score for score in exact if score > 0]))
    with pytest.raises(ModelUnusable, match=r"decides alike on \d+ of 64 pictures, 99\.0% are needed"):
        load(f"transformers:{tiny_vit_folder}?agreement={tmp_path / 'own.npz'}", models_dir=tmp_path, device="cpu", precision="int8")


def test_int8_needs_enough_pictures_of_the_operators_own(tiny_vit_folder, tmp_path):
    with pytest.raises(ModelUnusable, match="needs pictures to prove itself"):
        load_from(tiny_vit_folder, precision="int8")
    inputs = save_inputs(tmp_path / "few.npz", 5)
    with pytest.raises(ModelUnusable, match="5 pictures prove nothing"):
        load(f"transformers:{tiny_vit_folder}?agreement={inputs}", models_dir=tmp_path, device="cpu", precision="int8")


@pytest.mark.parametrize("thresholds", [[], [0.0], [1.5], [float("nan")]])
def test_agreement_thresholds_that_are_no_probabilities_are_refused(tiny_vit_folder, tmp_path, thresholds):
    inputs = save_inputs(tmp_path / "own.npz", 32, thresholds)
    with pytest.raises(ModelUnusable, match="thresholds must be probabilities"):
        load(f"transformers:{tiny_vit_folder}?agreement={inputs}", models_dir=tmp_path, device="cpu", precision="int8")


def test_importing_and_listing_specs_imports_no_torch():
    code = (
        "import sys, moderation.adapters.classifiers, moderation.adapters.classifiers.checkpoints, moderation.adapters.classifiers.registry; "
        "print(sorted({'torch', 'transformers', 'onnxruntime', 'huggingface_hub', 'httpx', 'cv2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
