"""`facegate demo`: a few pictures through the service, and what comes back. No sensitive picture is needed: a planted marker is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from rich.console import Console
from rich.table import Table

from deployments.client import Answer, Client
from deployments.trial_service import trial_service
from moderation.adapters.classifiers.correlation import plant_marker

WIDTH: Final = 960
HEIGHT: Final = 640
MARKER_SHARE: Final = 0.06
_COLOUR: Final = {"allow": "green", "review": "yellow", "block": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One thing to try: a file, the policy to judge it under, and what it shows."""

    file: str
    data: bytes
    policy: str
    shows: str


def scenes() -> Iterator[Scene]:
    """A landscape; the same with a marker, in three disguises; a file cut short."""
    plain = landscape()
    marked = plant_marker(plain, share=MARKER_SHARE, left=0.7, top=0.6)
    clean = _jpeg(plain)
    yield Scene(file="landscape.jpg", data=clean, policy="default", shows="an ordinary picture")
    yield Scene(file="landscape.jpg", data=clean, policy="default", shows="the same bytes again: scores reused, a decision of its own")
    yield Scene(file="marked.jpg", data=_jpeg(marked), policy="marker", shows="a planted marker, under a policy that names it")
    yield Scene(file="hidden.png", data=_hidden(marked), policy="marker", shows="the marker in colours under full transparency")
    yield Scene(file="one_frame.gif", data=_animation(plain, marked), policy="marker", shows="the marker in one frame of eight")
    yield Scene(file="sideways.jpg", data=_sideways(marked), policy="marker", shows="the marker in a picture stored on its side")
    yield Scene(
        file="cut.jpg", data=clean[: len(clean) * 2 // 3], policy="default", shows="a file cut short: not judged, and recorded as such"
    )


def landscape() -> NDArray[np.uint8]:
    """A picture of sky, sun, hills and water, HEIGHT x WIDTH x 3, RGB. Drawn, so that it belongs to nobody."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    sky = np.stack([235 - rows / HEIGHT * 120, 190 - rows / HEIGHT * 40, 150 + rows / HEIGHT * 60], axis=2)
    picture = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((180, 120, 280, 220), fill=(255, 240, 200))
    for depth in range(4):
        base = 300 + depth * 70
        ridge = base + 60 * np.sin(columns[0] / (130 - depth * 20) + depth * 2) + 25 * np.sin(columns[0] / 37 + depth)
        shade = (110 - depth * 22, 125 - depth * 20, 135 - depth * 26)
        draw.polygon([(0, HEIGHT), *((int(x), int(y)) for x, y in enumerate(ridge)), (WIDTH, HEIGHT)], fill=shade)
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.2)), np.float32)
    return np.clip(soft + rng.normal(0, 3, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8)


@contextmanager
def service_for_demo(found: tuple[str, str] | None, *, out: Console) -> Iterator[tuple[str, str]]:
    """URL and key of the service that was found, or of one that runs for the time of the demonstration."""
    if found is not None:
        yield found
        return
    out.print("No service is running here: starting one for the demonstration, and stopping it afterwards.")
    with trial_service() as service:
        yield service.url, service.key


def run(client: Client, folder: Path, out: Console) -> None:
    """Send every scene, save its file and the page of answers under `folder`, show the table. Raises ServiceFault."""
    folder.mkdir(parents=True, exist_ok=True)
    table = Table("file", "policy", "verdict", "why", "what it shows", title="facegate demo")
    last: Answer | None = None
    for scene in scenes():
        (folder / scene.file).write_bytes(scene.data)
        last = client.screen(scene.data, policy=scene.policy, reference="demo")
        colour = _COLOUR.get(last.verdict, "magenta")
        table.add_row(scene.file, scene.policy, f"[{colour}]{last.verdict}[/]", last.explanation, scene.shows)
    out.print(table)
    recorded = client.get("/v1/decisions", reference="demo", limit="7")
    out.print(f"The record holds {len(recorded.body['data'])} decisions with reference 'demo'; the newest:")
    if last is not None and last.decision_id is not None:
        out.print_json(data=dict(client.get(f"/v1/decisions/{last.decision_id}").body))
    out.print(f"The pictures are in {folder}.", highlight=False, soft_wrap=True)


def _jpeg(frame: NDArray[np.uint8]) -> bytes:
    return _saved(Image.fromarray(frame), "JPEG", quality=88)


def _hidden(frame: NDArray[np.uint8]) -> bytes:
    """Every viewer that honours transparency shows nothing; one that drops it shows all."""
    image = Image.fromarray(frame).convert("RGBA")
    image.putalpha(0)
    return _saved(image, "PNG")


def _animation(plain: NDArray[np.uint8], marked: NDArray[np.uint8]) -> bytes:
    frames = [Image.fromarray(np.roll(plain, 8 * n, axis=1)) for n in range(8)]
    frames[5] = Image.fromarray(marked)
    small = [frame.resize((480, 320)) for frame in frames]
    return _saved(small[0], "GIF", save_all=True, append_images=small[1:], duration=80)


def _sideways(frame: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(frame).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF orientation: turn a quarter clockwise to see it upright
    return _saved(image, "JPEG", quality=88, exif=exif)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()
