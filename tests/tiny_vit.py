"""A Vision Transformer of half a megabyte that knows one thing: the planted marker.

It stands in for what a hub would give: a real checkpoint folder (`config.json`, `preprocessor_config.json`,
`model.safetensors`, `mapping.yaml`) that the real adapter loads. `build(folder)` trains it from a seed in about ten seconds
on one core, `cached(folder)` only once; `python -m tests.tiny_vit FOLDER` does the same by hand.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderation.adapters.classifiers.correlation import draw_marker
from moderation.frames import Pixels

SIDE = 48
PATCH = 8
LABELS = ("plain", "marker")
SMALLEST_SHARE, LARGEST_SHARE = 0.25, 0.8
MAPPING = """\
classifier: tiny-vit
calibrated: false
combine: sum
labels:
  marker: {category: test.marker}
ignored: [plain]
"""


def scene(rng: np.random.Generator) -> Pixels:
    """A picture without the marker: a soft gradient, some blocks and stripes, some noise."""
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.float64)
    along = np.linspace(0, 1, SIDE)
    top = corners[0, 0] + (corners[0, 1] - corners[0, 0]) * along[:, None]
    bottom = corners[1, 0] + (corners[1, 1] - corners[1, 0]) * along[:, None]
    picture = top[None] + (bottom - top)[None] * along[:, None, None]
    for _ in range(rng.integers(0, 5)):
        x, y = rng.integers(0, SIDE, 2)
        width, height = rng.integers(3, SIDE, 2)
        picture[y : y + height, x : x + width] = rng.integers(0, 256, 3)
    if rng.random() < 0.25:
        period = rng.integers(2, 9)
        stripes = (np.arange(SIDE) // period % 2).astype(bool)
        picture[stripes if rng.random() < 0.5 else (slice(None), stripes)] = rng.integers(0, 256, 3)
    picture += rng.normal(0, rng.uniform(0, 25), picture.shape)
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def with_marker(rng: np.random.Generator, picture: Pixels) -> Pixels:
    """The same with the marker somewhere, of a quarter to four fifths of the area."""
    side = round(SIDE * rng.uniform(SMALLEST_SHARE, LARGEST_SHARE) ** 0.5)
    x, y = rng.integers(0, SIDE - side + 1, 2)
    planted = picture.copy()
    planted[y : y + side, x : x + side] = draw_marker(side)
    return planted


def samples(count: int, seed: int) -> tuple[Pixels, NDArray[np.bool_]]:
    """Pictures (count x SIDE x SIDE x 3, uint8) and whether each has the marker."""
    rng = np.random.default_rng(seed)
    marked = np.arange(count) % 2 == 1
    return np.stack([with_marker(rng, scene(rng)) if has else scene(rng) for has in marked]), marked


def build(folder: Path, steps: int = 150, batch: int = 64) -> Path:
    """Train and save into `folder`. Without steps it is the same in everything but what it knows, and there at once."""
    import torch  # noqa: PLC0415  # only where it is trained
    from transformers import ViTConfig, ViTForImageClassification  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(20260901)
    config = ViTConfig(
        image_size=SIDE,
        patch_size=PATCH,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    model: Any = ViTForImageClassification(config)
    if steps:
        _train(model, steps, batch)
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR), encoding="utf-8")
    (folder / "mapping.yaml").write_text(MAPPING, encoding="utf-8")
    torch.set_num_threads(threads)
    return folder


def _train(model: Any, steps: int, batch: int) -> None:
    import torch  # noqa: PLC0415

    model.train()
    pictures, marked = samples(4096, seed=1)
    values = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    wanted = torch.from_numpy(marked.astype(np.int64))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    order = np.random.default_rng(2)
    for _ in range(steps):
        chosen = torch.from_numpy(order.integers(0, len(pictures), batch))
        loss = model(pixel_values=values[chosen], labels=wanted[chosen]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def cached(root: Path) -> Path:
    """The checkpoint under `root`, trained on first use and again when this file changes."""
    folder = Path(root) / hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    if not folder.is_dir():
        Path(root).mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=root))
        build(fresh)
        try:
            fresh.rename(folder)
        except OSError:  # another test run was first
            shutil.rmtree(fresh)
    return folder


PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}

if __name__ == "__main__":
    build(Path(sys.argv[1]))
