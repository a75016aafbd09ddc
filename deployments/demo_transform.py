"""The second half of `facegate demo`: a gated face swap, and two that are denied because of a planted marker.

The faces are drawn, so that they belong to nobody; the target is the NASA portrait that ships with scikit-image where that is
installed, otherwise another drawn face.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from deployments.client import Answer, Client, ServiceFault
from deployments.drawn_faces import PEOPLE, draw
from deployments.transform_command import fetch, reason_line, watch
from face_pipeline.encoding import encode_picture
from moderation.adapters.classifiers.correlation import plant_marker

SIDE: Final = 512
EYES_PX: Final = 110
MARKER_SHARE: Final = 0.05
QUALITY: Final = 92
_COLOUR: Final = {"released": "green", "held": "yellow", "denied": "red"}
_CONSENT: Final = {"basis": "self", "statement": "a drawn face belongs to nobody"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """One transform to ask for, and what it shows."""

    name: str
    source: bytes
    target: bytes
    becomes: str
    """The state in which it must end."""
    shows: str


def swaps() -> Iterator[Swap]:
    """One that is released, one with a marked source, one with a marked target."""
    source, target = draw(PEOPLE["ada"], side=SIDE, eyes_px=EYES_PX).pixels, portrait()
    plain = {"source": encode_picture(source, "jpeg", QUALITY), "target": encode_picture(target, "jpeg", QUALITY)}
    yield Swap(name="swap", **plain, becomes="released", shows="two ordinary pictures: screened, swapped, screened again, signed, released")
    marked = encode_picture(plant_marker(source, share=MARKER_SHARE, left=0.02, top=0.98), "jpeg", QUALITY)
    yield Swap(
        name="marked source", **{**plain, "source": marked}, becomes="denied", shows="a marker in the source: nothing looks for a face"
    )
    marked = encode_picture(plant_marker(target, share=MARKER_SHARE, left=0.98, top=0.98), "jpeg", QUALITY)
    yield Swap(name="marked target", **{**plain, "target": marked}, becomes="denied", shows="a marker in the target")


def portrait() -> NDArray[np.uint8]:
    """The picture that receives the face, RGB uint8, SIDE x SIDE x 3."""
    try:
        from skimage import data  # noqa: PLC0415  # an extra that may be absent
    except ImportError:
        return draw(PEOPLE["eve"], side=SIDE, eyes_px=EYES_PX).pixels
    return np.asarray(data.astronaut(), np.uint8)  # type: ignore[no-untyped-call]  # scikit-image says no types


def run(client: Client, folder: Path, out: Console) -> None:
    """Ask for every swap, follow it to its end, save the pictures under `folder`, show what happened.

    Raises ServiceFault, also where one of them ends otherwise than it must, and where the credentials of the released file do not hold.
    """
    table = Table("transform", "state", "why", "what it shows", title="gated face swaps")
    released: tuple[Swap, Answer, bytes] | None = None
    otherwise: list[str] = []
    for swap in swaps():
        options = {"consent": _CONSENT, "policy": "marker", "reference": "demo", "label": {"language": "both"}}
        ended = watch(client, client.transform(swap.source, swap.target, options), out)
        state = str(ended.body.get("state", "refused"))
        table.add_row(swap.name, f"[{_COLOUR.get(state, 'magenta')}]{state}[/]", _why(ended.body), swap.shows)
        if state != swap.becomes:
            otherwise.append(swap.name)
        elif state == "released":
            released = swap, ended, fetch(client, ended.body["release"])
    out.print(table)
    if released is None or otherwise:
        raise ServiceFault(f"not as it must be: {', '.join(otherwise)}; the table says how")
    swap, ended, data = released
    media_type = str(ended.body["release"]["type"])
    _save(folder, swap, data, media_type)
    out.print(_order(client, ended.body))
    out.print(_credentials(data, media_type))
    out.print(f"Source, target and result lie side by side in {folder / 'swap.png'}.", highlight=False, soft_wrap=True)


def _why(body: Mapping[str, Any]) -> str:
    if denial := body.get("denial"):
        return f"{denial['stage']}: {reason_line(denial['reasons'])}"
    fault = body.get("failure") or body.get("error")
    return str(fault["code"]) if fault else "all three decisions allow"


def _order(client: Client, body: Mapping[str, Any]) -> Table:
    """The proof of order, from the record: what was asked, decided and released when, about which bytes."""
    rows = [(str(body["created_at"]), "accepted, with a statement of consent")]
    for stage, decision in body["decisions"].items():
        found = client.get(f"/v1/decisions/{decision}").body
        rows.append((str(found["created_at"]), f"{stage} {found['media']['sha256'][:12]}…: {found['verdict']} ({decision})"))
    rows.append((str(body["finished_at"]), f"signed file {body['release']['sha256'][:12]}… released"))
    table = Table("when", "what", title="in this order")
    for at, what in sorted(rows):
        table.add_row(at, what)
    return table


def _credentials(data: bytes, media_type: str) -> Table:
    """What the released file says of itself, read by two libraries that share no code."""
    from moderation.adapters.provenance import read_credentials  # noqa: PLC0415  # loads a large library

    ours = read_credentials(data, media_type, anchors=None)
    if ours.state not in ("Valid", "Trusted"):
        raise ServiceFault(f"the content credentials are {ours.state}")
    table = Table("read by", "says", title="content credentials of the released file")
    table.add_row("c2pa", f"{ours.state}; {', '.join(ours.actions)}; {ours.source_type.rpartition('/')[2]}; by {ours.generator}")
    try:
        import encypher_c2pa  # noqa: PLC0415  # an extra
    except ImportError:
        table.add_row("encypher-c2pa", "not installed (extra local)")
        return table
    theirs = encypher_c2pa.verify(data, media_type, no_default_trust=True, telemetry=False, online=False)
    if (theirs["integrity"], theirs["signature"]) != ("valid", "valid"):
        raise ServiceFault("the content credentials do not hold for the second reader")
    table.add_row("encypher-c2pa", f"{theirs['validation_state']}; integrity {theirs['integrity']}; signature {theirs['signature']}")
    return table


def _save(folder: Path, swap: Swap, data: bytes, media_type: str) -> None:
    (folder / f"released.{media_type.rpartition('/')[2]}").write_bytes(data)
    pictures = [Image.open(io.BytesIO(one)).convert("RGB").resize((SIDE, SIDE)) for one in (swap.source, swap.target, data)]
    sheet = Image.new("RGB", (SIDE * 3 + 40, SIDE + 50), "white")
    writer = ImageDraw.Draw(sheet)
    for place, (picture, words) in enumerate(zip(pictures, ("source", "target", "released result"), strict=True)):
        left = 10 + place * (SIDE + 10)
        sheet.paste(picture, (left, 40))
        writer.text((left, 10), words, fill="black", font_size=20)
    sheet.save(folder / "swap.png")
