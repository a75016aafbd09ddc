"""Faces that belong to nobody: drawn heads under any pose and light, for tests, benchmarks and the contact sheet.

A head is a height field over the face plane with a painted albedo; it is turned in space, lit, and put before a
background. A photograph (the NASA portrait that ships with scikit-image) can be laid over the same height field and
turned and relit as well. Units: the distance between the eyes is 1; x to the right of the picture, y down, z to the viewer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]

# Right eye of the person (left in the picture), left eye, nose tip, right and left mouth corner.
POINTS: Final = np.array([(-0.5, 0.0), (0.5, 0.0), (0.0, 0.56), (-0.4, 1.0), (0.4, 1.0)], np.float32)
_FIELD: Final = 4.4  # side of the square that a field covers, in eye distances
_ABOVE: Final = 1.9  # how much of it lies above the eyes
_ITERATIONS: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What one drawn person looks like. Colours are RGB in 0..255, lengths in eye distances."""

    skin: tuple[int, int, int] = (214, 168, 140)
    hair: tuple[int, int, int] = (60, 42, 30)
    iris: tuple[int, int, int] = (70, 95, 120)
    lips: tuple[int, int, int] = (176, 94, 92)
    width: float = 1.08
    chin: float = 1.74
    nose: float = 0.17
    lip: float = 0.1
    brow: float = 0.07
    arch: float = 0.0
    eye: float = 1.0
    freckles: float = 0.0
    mouth_open: float = 0.0
    fringe: float = 0.0
    beard: float = 0.0
    glasses: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How the head is held, in degrees: yaw turns the nose to the picture's right, pitch down, roll clockwise."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """Where the light comes from (x right, y down, z from the viewer), its colour, and how hard it is."""

    direction: tuple[float, float, float] = (-0.25, -0.45, 0.85)
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ambient: float = 0.45
    exposure: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A picture and where the face in it really is: five points in pixels, in the order of `POINTS`."""

    pixels: Pixels
    points: NDArray[np.float32]


PEOPLE: Final = {
    "ada": Person(freckles=0.8, arch=0.1, eye=1.1),
    "bo": Person(
        skin=(120, 78, 56), hair=(22, 18, 16), iris=(52, 34, 24), lips=(112, 58, 56), width=1.14, nose=0.23, lip=0.14, brow=0.085, seed=2
    ),
    "chi": Person(
        skin=(228, 190, 158),
        hair=(18, 16, 18),
        iris=(48, 34, 26),
        lips=(190, 104, 104),
        width=1.1,
        chin=1.66,
        nose=0.16,
        eye=0.75,
        arch=-0.15,
        fringe=0.5,
        seed=3,
    ),
    "dag": Person(
        skin=(226, 178, 158),
        hair=(150, 104, 54),
        iris=(86, 124, 100),
        width=1.05,
        chin=1.86,
        nose=0.19,
        lip=0.08,
        brow=0.11,
        arch=0.2,
        eye=0.85,
        beard=0.7,
        seed=4,
    ),
    "eve": Person(
        skin=(168, 116, 84),
        hair=(40, 26, 20),
        iris=(60, 40, 26),
        lips=(150, 70, 74),
        mouth_open=0.2,
        nose=0.18,
        eye=1.2,
        brow=0.05,
        arch=-0.1,
        seed=5,
    ),
    "fox": Person(skin=(205, 160, 130), hair=(92, 60, 36), iris=(70, 80, 60), glasses=True, brow=0.085, nose=0.18, seed=6),
}


def _grid(side: int) -> tuple[Plane, Plane]:
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    return (x + 0.5) / side * _FIELD - _FIELD / 2, (y + 0.5) / side * _FIELD - _ABOVE


def _bump(x: Plane, y: Plane, cx: float, cy: float, sx: float, sy: float) -> Plane:
    """A Gaussian hill of height 1."""
    return np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2)).astype(np.float32)


def _ramp(value: Plane, low: float, high: float) -> Plane:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _noise(side: int, seed: int, cells: int) -> Plane:
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)


def _outline(x: Plane, y: Plane, person: Person) -> Plane:
    """Below 1 inside the face, 1 at its edge: an egg, narrower at the chin."""
    middle = 0.32
    half_height = np.where(y > middle, person.chin - middle, middle + 1.35)
    narrowing = 1 - 0.2 * _ramp(y, 0.6, person.chin)
    return np.sqrt((x / (person.width * narrowing)) ** 2 + ((y - middle) / half_height) ** 2).astype(np.float32)


def height(side: int, person: Person) -> Plane:
    """The face's relief, in eye distances; 0 at the eyes' depth."""
    x, y = _grid(side)
    dome = np.sqrt(np.clip(1.02 - np.minimum(_outline(x, y, person), 1.25) ** 2 * 0.62, 0.02, 1))
    z = 1.05 * (dome - 0.98)
    z += 0.1 * _bump(x, y, 0, -0.25, 0.55, 0.12)  # brows' ridge
    for side_of in (-1, 1):
        z -= 0.1 * _bump(x, y, side_of * 0.5, 0.0, 0.24, 0.13)  # sockets
        z += 0.05 * _bump(x, y, side_of * 0.5, 0.02, 0.14, 0.09)  # eyeballs
        z += 0.06 * _bump(x, y, side_of * 0.55, 0.5, 0.25, 0.22)  # cheeks
        z += 0.06 * _bump(x, y, side_of * person.nose, 0.6, 0.085, 0.085)  # nostrils' wings
    bridge = 0.75 * _ramp(y, -0.35, 0.75) * (1 - _ramp(y, 0.46, 0.9))
    z += (0.36 * bridge * np.exp(-0.5 * (x / (0.07 + 0.45 * person.nose * np.clip(y + 0.2, 0.1, 0.8))) ** 2)).astype(np.float32)
    z += 0.09 * _bump(x, y, 0, 1.0, 0.3, 0.16) - 0.05 * _bump(x, y, 0, 1.22, 0.25, 0.06) + 0.09 * _bump(x, y, 0, 1.5, 0.25, 0.16)
    return np.asarray(cv2.GaussianBlur(z.astype(np.float32), (0, 0), side * 0.004), np.float32)


def _paint(canvas: Plane, colour: tuple[float, ...], alpha: Plane) -> None:
    canvas += (np.asarray(colour, np.float32) - canvas) * alpha[..., None]


def _paint_eye(canvas: Plane, x: Plane, y: Plane, cx: float, person: Person) -> None:
    dx, dy = x - cx, y
    lid = np.abs(dy) - 0.105 * person.eye * np.clip(1 - (dx / 0.235) ** 2, 0, 1)
    opening = 1 - _ramp(lid.astype(np.float32), -0.018, 0.004)
    _paint(canvas, tuple(0.72 * c for c in person.skin), 0.5 * _bump(x, y, cx, 0.0, 0.26, 0.15))
    _paint(canvas, (232, 226, 220), opening)
    radius = np.sqrt(dx**2 + (dy + 0.01) ** 2)
    _paint(canvas, person.iris, opening * (1 - _ramp(radius, 0.1, 0.118)))
    _paint(canvas, tuple(0.45 * c for c in person.iris), opening * (1 - _ramp(np.abs(radius - 0.108), 0.005, 0.02)))
    _paint(canvas, (10, 8, 8), opening * (1 - _ramp(radius, 0.042, 0.052)))
    _paint(canvas, (250, 250, 250), opening * _bump(x, y, cx - 0.035, -0.045, 0.016, 0.016))
    upper = np.abs(dy + 0.1 * person.eye * np.clip(1 - (dx / 0.235) ** 2, 0, 1)) + np.where(np.abs(dx) > 0.235, 1, 0)
    _paint(canvas, (34, 24, 22), 0.9 * (1 - _ramp(upper.astype(np.float32), 0.012, 0.035)))
    _paint(
        canvas,
        tuple(0.6 * c for c in person.skin),
        0.5 * (1 - _ramp(np.abs(dy + 0.15 - 0.3 * dx**2), 0.008, 0.03)) * _bump(x, y, cx, -0.15, 0.14, 0.08),
    )


def _paint_mouth(canvas: Plane, x: Plane, y: Plane, person: Person) -> None:
    taper = np.clip(1 - (x / 0.42) ** 2, 0, 1)
    dy = y - 1.0
    gap = person.mouth_open * np.sqrt(taper)
    bow = person.lip * taper * (1 - 0.35 * _bump(x, y * 0, 0, 0, 0.05, 1))
    lips = (1 - _ramp((-dy - gap * 0.4 - bow).astype(np.float32), -0.02, 0.02)) * (
        1 - _ramp((dy - gap - 1.25 * person.lip * taper).astype(np.float32), -0.02, 0.02)
    )
    _paint(canvas, person.lips, 0.85 * lips * _ramp(taper, 0.0, 0.12))
    seam = np.abs(dy - 0.02 * np.cos(x * 9)) if not person.mouth_open else np.ones_like(dy)
    _paint(canvas, tuple(0.4 * c for c in person.lips), 0.9 * (1 - _ramp(seam.astype(np.float32), 0.006, 0.022)) * _ramp(taper, 0.0, 0.1))
    if person.mouth_open:
        inside = (
            (1 - _ramp((-dy - gap * 0.4).astype(np.float32), -0.01, 0.012))
            * (1 - _ramp((dy - gap).astype(np.float32), -0.01, 0.012))
            * _ramp(taper, 0.02, 0.1)
        )
        _paint(canvas, (58, 22, 24), inside)
        teeth = inside * (1 - _ramp((dy - 0.45 * gap).astype(np.float32), -0.02, 0.015))
        _paint(canvas, (228, 222, 208), 0.95 * teeth * (1 - 0.25 * (1 - _ramp(np.abs(np.mod(x + 0.04, 0.09) - 0.045), 0.0, 0.008))))


def albedo(side: int, person: Person) -> Plane:
    """The face's own colours without light: side x side x 3, RGB in 0..255."""
    x, y = _grid(side)
    skin = np.ones((side, side, 3), np.float32) * np.asarray(person.skin, np.float32)
    skin *= (
        1
        + (
            0.035 * _noise(side, person.seed, 14)
            + 0.03 * _noise(side, person.seed + 50, 60)
            + 0.025 * _noise(side, person.seed + 90, side // 3)
        )[..., None]
    )
    if person.freckles:
        spots = _ramp(_noise(side, person.seed + 70, 90), 1.1, 1.9) * (
            _bump(x, y, -0.5, 0.45, 0.3, 0.2) + _bump(x, y, 0.5, 0.45, 0.3, 0.2) + _bump(x, y, 0, 0.35, 0.2, 0.2)
        )
        _paint(skin, tuple(0.66 * c for c in person.skin), np.clip(person.freckles * spots, 0, 1))
    for cx in (-0.62, 0.62):
        _paint(skin, (person.skin[0], person.skin[1] * 0.74, person.skin[2] * 0.72), 0.3 * _bump(x, y, cx, 0.62, 0.28, 0.24))
    _paint(skin, (person.skin[0] * 0.97, person.skin[1] * 0.78, person.skin[2] * 0.76), 0.3 * _bump(x, y, 0, 0.58, 0.2, 0.14))
    for cx in (-0.5, 0.5):
        _paint_eye(skin, x, y, cx, person)
        arch = np.abs(y + 0.33 + person.arch * (np.abs(x) - 0.5) - 0.7 * (np.abs(x) - 0.48) ** 2)
        hairs = 0.75 + 0.25 * np.clip(_noise(side, person.seed + 7, side // 4), -1, 1)
        _paint(
            skin,
            person.hair,
            0.85
            * hairs
            * (1 - _ramp(arch.astype(np.float32), person.brow * 0.35, person.brow))
            * (1 - _ramp(np.abs(x - cx * 1.02), 0.24, 0.33)),
        )
        _paint(skin, tuple(0.35 * c for c in person.skin), 0.75 * _bump(x, y, cx * 0.19 / 0.5 * (person.nose / 0.17), 0.685, 0.05, 0.022))
    _paint_mouth(skin, x, y, person)
    if person.beard:
        area = _ramp(_outline(x, y, person), 0.42, 0.72) * _ramp(y, 0.45, 0.95) + _bump(x, y, 0, 0.83, 0.3, 0.04)
        strands = 0.8 + 0.2 * np.clip(_noise(side, person.seed + 11, side // 3), -1, 1)
        lips = _bump(x, y, 0, 1.02, 0.3, 0.1)
        _paint(skin, person.hair, np.clip(person.beard * area * strands * (1 - lips), 0, 1))
    return np.clip(skin, 0, 255)


def _hair(side: int, person: Person) -> tuple[Plane, Plane]:
    """Hair in front of the face: colour and alpha."""
    x, y = _grid(side)
    line = -0.98 + 0.5 * person.fringe - 0.12 * np.cos(3 * x) + 0.05 * _noise(side, person.seed + 23, 20)
    alpha = np.maximum(
        1 - _ramp((y - line).astype(np.float32), -0.12, 0.06),
        _ramp(np.abs(x), person.width - 0.12, person.width + 0.02) * (1 - _ramp(y, 0.15, 0.6)),
    )
    strands = (
        1
        + 0.22 * cv2.resize(_noise(side, person.seed + 31, side // 3), (side, side))
        + 0.2 * np.sin(28 * x + 3 * _noise(side, person.seed + 37, 9))
    )
    return (np.asarray(person.hair, np.float32) * strands[..., None]).astype(np.float32), alpha.astype(np.float32)


def _glasses(x: Plane, y: Plane) -> Plane:
    """Alpha of a dark frame before the eyes."""
    rims = [np.abs(np.sqrt(((x - cx) / 1.15) ** 2 + ((y - 0.03) / 0.95) ** 2) - 0.3) for cx in (-0.5, 0.5)]
    bridge = np.where(np.abs(x) < 0.18, np.abs(y + 0.05), 1)
    return 1 - _ramp(np.minimum.reduce([*rims, bridge]).astype(np.float32), 0.02, 0.035)


def _shading(z: Plane, light: Light, step: float, turn: NDArray[np.float64]) -> Plane:
    """Side x side x 3: how much light every point of the relief sends back."""
    slope_x, slope_y = (cv2.Sobel(z, cv2.CV_32F, *axis, ksize=3) / (8 * step) for axis in ((1, 0), (0, 1)))
    # Light is scattered under skin: steep slopes are lit softer than they are.
    slope_x, slope_y = (np.tanh(0.8 * slope) / 0.8 for slope in (slope_x, slope_y))
    normals = np.stack([-slope_x, -slope_y, np.ones_like(z)], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    towards = np.asarray(light.direction, np.float64) / np.linalg.norm(light.direction)
    local = (turn.T @ towards).astype(np.float32)
    diffuse = np.clip(normals @ local, 0, None)
    halfway = turn.T @ np.add(towards, (0, 0, 1))
    gloss = np.clip(normals @ (halfway / np.linalg.norm(halfway)).astype(np.float32), 0, None) ** 30
    sky = 0.75 + 0.25 * np.clip(-normals[..., 1:2] + normals[..., 2:3], 0, 1.2)
    lit = light.ambient * sky + (1.05 - light.ambient) * diffuse[..., None]
    return np.asarray(light.exposure * np.asarray(light.colour, np.float32) * (lit + 0.1 * gloss[..., None]), np.float32)


def rotation(pose: Pose) -> NDArray[np.float64]:
    """3 x 3: from the head's own axes to the picture's."""
    yaw, pitch, roll = np.radians([pose.yaw, pose.pitch, pose.roll])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y, np.float64)


def _turned(
    z: Plane, turn: NDArray[np.float64], pivot: float, side: int, eyes_px: float, centre: tuple[float, float]
) -> tuple[Plane, Plane]:
    """For every pixel of the picture the place on the field that is seen there, as remap coordinates.

    Solved by iteration (the relief is gentle, so it converges for turns up to about 45 degrees).
    """
    v, u = np.mgrid[0:side, 0:side].astype(np.float32)
    u, v = (u - centre[0]) / eyes_px, (v - centre[1]) / eyes_px
    flat = np.linalg.inv(turn[:2, :2]).astype(np.float32)
    scale, offset = z.shape[0] / _FIELD, (_FIELD / 2, _ABOVE)
    depth = np.zeros_like(u)
    for _ in range(_ITERATIONS):
        du, dv = u - np.float32(turn[0, 2]) * (depth - pivot), v - np.float32(turn[1, 2]) * (depth - pivot)
        x, y = flat[0, 0] * du + flat[0, 1] * dv, flat[1, 0] * du + flat[1, 1] * dv
        map_x, map_y = (x + offset[0]) * scale - 0.5, (y + offset[1]) * scale - 0.5
        depth += 0.7 * (cv2.remap(z, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) - depth)
    return map_x.astype(np.float32), map_y.astype(np.float32)


def _projected(
    z: Plane, turn: NDArray[np.float64], pivot: float, eyes_px: float, centre: tuple[float, float], points: NDArray[np.float32] = POINTS
) -> NDArray[np.float32]:
    scale = z.shape[0] / _FIELD
    rows, cols = ((points[:, 1] + _ABOVE) * scale).astype(int), ((points[:, 0] + _FIELD / 2) * scale).astype(int)
    space = np.column_stack([points, z[rows, cols] - pivot])
    return ((space @ turn.T)[:, :2] * eyes_px + centre).astype(np.float32)


def _background(side: int, seed: int) -> Plane:
    rng = np.random.default_rng(seed + 1000)
    colour = rng.uniform(60, 190, (3, 3, 3)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(cv2.resize(colour, (side, side), interpolation=cv2.INTER_CUBIC), (0, 0), side / 30), np.float32)


def _finish(picture: Plane, seed: int, grain: float) -> Pixels:
    noise = np.random.default_rng(seed + 2000).normal(0, grain, picture.shape[:2])[..., None]
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.6) + noise, 0, 255).astype(np.uint8)


def draw(person: Person, *, pose: Pose = Pose(), light: Light = Light(), side: int = 512, eyes_px: float = 110, grain: float = 2.0) -> Shot:
    """A picture of the person: side x side, the eyes `eyes_px` apart when frontal."""
    texture_side = max(256, int(_FIELD * eyes_px))
    z, turn, pivot = height(texture_side, person), rotation(pose), -0.6
    centre = (side * 0.5, side * 0.5 - 0.35 * eyes_px)
    x, y = _grid(texture_side)
    shade = _shading(z, light, _FIELD / texture_side, turn)
    colour = albedo(texture_side, person) * shade
    hair, hair_alpha = _hair(texture_side, person)
    colour += (hair * np.clip(shade, 0.25, 1.2) - colour) * hair_alpha[..., None]
    if person.glasses:
        _paint(colour, (28, 26, 30), 0.95 * _glasses(x, y))
    reach = np.sqrt((x / (person.width + 0.24)) ** 2 + ((y + 0.25) / 1.55) ** 2)
    skull = np.where(y < 0.2, 1 - _ramp(reach.astype(np.float32), 0.97, 1.0), 0)
    inside = np.maximum(1 - _ramp(_outline(x, y, person), 0.985, 1.01), skull).astype(np.float32)
    outer = skull * _ramp(_outline(x, y, person), 0.97, 1.0)
    colour += (hair * np.clip(shade, 0.25, 1.2) - colour) * outer[..., None]
    map_x, map_y = _turned(z, turn, pivot, side, eyes_px, centre)
    picture = _background(side, person.seed) * np.mean(light.exposure) * np.asarray(light.colour, np.float32)
    picture = _with_neck(picture, person, light, centre, eyes_px)
    alpha = cv2.remap(inside, map_x, map_y, cv2.INTER_LINEAR)[..., None]
    head = cv2.remap(colour.astype(np.float32), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return Shot(pixels=_finish(picture + (head - picture) * alpha, person.seed, grain), points=_projected(z, turn, pivot, eyes_px, centre))


def _with_neck(picture: Plane, person: Person, light: Light, centre: tuple[float, float], eyes_px: float) -> Plane:
    v, u = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]].astype(np.float32)
    u, v = (u - centre[0]) / eyes_px, (v - centre[1]) / eyes_px
    neck = (1 - _ramp(np.abs(u), 0.62, 0.68)) * _ramp(v, 0.6, 0.8)
    coat = _ramp((v - 2.25 - 0.25 * np.clip(np.abs(u) - 0.5, 0, 3)).astype(np.float32), 0, 0.05)
    light_at = light.exposure * np.asarray(light.colour, np.float32) * (light.ambient + 0.35) * 0.72
    _paint(picture, tuple(np.asarray(person.skin, np.float32) * light_at), neck)
    _paint(picture, tuple(np.asarray((48, 58, 84), np.float32) * light_at), coat)
    return picture


def rephotographed(shot: Shot, *, pose: Pose = Pose(), light: Light | None = None, eyes_px: float | None = None, side: int = 512) -> Shot:
    """A frontal photograph laid over the relief of a drawn head, turned, and lit anew on top of the light it was taken in."""
    plain = Person()
    first, second = shot.points[0], shot.points[1]
    across = second - first
    apart = float(np.linalg.norm(across))
    eyes_px = eyes_px or apart
    texture_side = int(_FIELD * max(apart, 60))
    z, turn, pivot = height(texture_side, plain), rotation(pose), -0.6
    z = np.maximum(z, -0.85)
    unit = np.array([across, (-across[1], across[0])]).T
    middle = (first + second) / 2
    x, y = _grid(texture_side)
    where = np.stack([x, y], -1) @ unit.T.astype(np.float32) + middle
    texture = cv2.remap(
        shot.pixels, where[..., 0].astype(np.float32), where[..., 1].astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    ).astype(np.float32)
    if light is not None:
        ratio = _shading(z, light, _FIELD / texture_side, turn) / _shading(z, Light(), _FIELD / texture_side, np.eye(3)).clip(0.3)
        face = (1 - _ramp(_outline(x, y, plain), 0.85, 1.15))[..., None]
        around = np.mean(ratio[_outline(x, y, plain) < 1], axis=0)
        texture *= cv2.GaussianBlur(around + (ratio - around) * face, (0, 0), texture_side * 0.012)
    centre = (side * 0.5, side * 0.5 - 0.35 * eyes_px)
    map_x, map_y = _turned(z, turn, pivot, side, eyes_px, centre)
    picture = cv2.remap(texture, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    own = (shot.points - middle) @ np.linalg.inv(unit).T
    return Shot(
        pixels=np.clip(picture, 0, 255).astype(np.uint8), points=_projected(z, turn, pivot, eyes_px, centre, own.astype(np.float32))
    )


def portrait(eyes_px: float = 110) -> Shot:
    """The official portrait of Eileen Collins (NASA, public domain) that ships with scikit-image; points set by hand."""
    from skimage import data  # noqa: PLC0415  an extra that only tests and benchmarks need

    points = np.array([(200.5, 101.5), (247.0, 102.5), (220.5, 124.5), (199.0, 142.5), (239.5, 143.5)], np.float32)
    factor = eyes_px / 46.5
    photograph = data.astronaut()[:300, 60:400]  # type: ignore[no-untyped-call]
    pixels = cv2.resize(photograph, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return Shot(pixels=np.asarray(pixels, np.uint8), points=(points - (60, 0)) * factor)


def variant(person: Person, **changes: object) -> Person:
    """The same person with some features changed."""
    return dataclasses.replace(person, **changes)  # type: ignore[arg-type]
