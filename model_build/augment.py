"""Training pictures, composed: each is a pure function of a seed and its number.

Three kinds, since packs show large centred birds and feeders small ones, dark against leaves:

- **photo**: one photo, shifted and scaled;
- **mosaic**: four photos (or parts of them) side by side, so that birds come small and off-centre
  (Bochkovskiy et al., 2020, arXiv:2004.10934);
- **paste**: birds cut out of their photos (`cutouts`) on bird-free backgrounds, each with its own
  light, some backlit, behind twigs and leaves or cut by the border, among things that are no birds
  (objects cut out in the same way, drawn leaves and twigs, patches of photos).

The last third of the work is the camera's: exposure, colour cast, grey pictures, blur, noise and
compression, applied to the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.random import Generator

from model_build.cutouts import decode_cutout
from model_build.datasets import Example

MAX_BOXES = 16
# Of a bird: below this visible share it is not counted, below the other it is not even a bird.
COUNTED_SHARE, NOTICEABLE_SHARE = 0.4, 0.08
# The kinds' shares.
PHOTO, MOSAIC = 0.25, 0.25
# How often a pasted bird comes close beside the one before it.
COMPANY = 0.5
# Photos with a second bird that has no box; beside their birds is not always nothing.
MORE_BIRDS_THAN_BOXES = {"cub_Parakeet_Auklet_0040_795974", "sg_2ddd6b3c0c"}


@dataclass(frozen=True)
class Scene:
    """A composed picture.

    Args:
        picture: uint8 (H, W, 3), RGB.
        boxes: float32 (N, 4), xyxy in pixels, the birds to be found.
        ignored: float32 (M, 4), places where a bird shows too little to ask for it.
        others: float32 (K, 4), things pasted that are no birds; a bird may stand before them.
    """

    picture: np.ndarray
    boxes: np.ndarray
    ignored: np.ndarray
    others: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))


@dataclass
class Material:
    """What scenes are composed of.

    Args:
        birds: photos with boxes.
        empties: bird-free photos.
        cutouts: encoded RGBA pictures of birds.
        objects: encoded RGBA pictures of things that are no birds, cut out in the same way.
        distractors: small pictures of things that are no birds.
        kept_mb: of decoded pictures that may stay in memory.
    """

    birds: Sequence[Example]
    empties: Sequence[Example]
    cutouts: Sequence[bytes]
    objects: Sequence[bytes]
    distractors: Sequence[Example]
    kept_mb: float = 3000.0
    _decoded: dict[str, np.ndarray] = field(default_factory=dict)
    _kept_bytes: int = 0

    def decode(self, example: Example) -> np.ndarray:
        """The example's picture, kept decoded: decoding again would cost as much as the rest."""
        picture = self._decoded.get(example.name)
        if picture is None:
            picture = example.picture()
            if self._kept_bytes < self.kept_mb * 1e6:
                self._decoded[example.name] = picture
                self._kept_bytes += picture.nbytes
        return picture


def training_scene(
    seed: int, number: int, material: Material, size_px: int, empty_share: float = 0.25
) -> Scene:
    """Scene ``number`` of the endless training set ``seed``; the same for the same arguments.

    Args:
        seed: of the training set.
        number: of the scene.
        material: what it is composed of.
        size_px: its side.
        empty_share: how many of the photos that are used as they are have no bird.
    """
    rng = np.random.default_rng([seed, number])
    kind = rng.random()
    if kind < PHOTO:
        scene = _photo_scene(rng, material, size_px, empty_share)
    elif kind < PHOTO + MOSAIC:
        scene = _mosaic_scene(rng, material, size_px, empty_share)
    else:
        scene = _paste_scene(rng, material, size_px)
    if rng.random() < 0.5:
        scene = _mirrored(scene)
    return replace(scene, picture=camera_effects(rng, scene.picture))


# --- the three kinds


def _photo_scene(rng: Generator, material: Material, size: int, empty_share: float) -> Scene:
    pool = material.empties if rng.random() < empty_share else material.birds
    example = pick(rng, pool)
    photo = material.decode(example)
    height, width = photo.shape[:2]
    scale = size / max(height, width) * log_uniform(rng, 0.5, 1.7)
    new_w, new_h = max(8, round(width * scale)), max(8, round(height * scale))
    photo = _resized(photo, new_w, new_h)
    canvas = np.empty((size, size, 3), np.uint8)
    # The detector sees frames with grey borders where they are not square.
    canvas[:] = 127 if rng.random() < 0.6 else rng.integers(0, 256, 3, np.uint8)
    left, top = (round(rng.uniform(min(0, size - n), max(0, size - n))) for n in (new_w, new_h))
    _copy_onto(canvas, photo, left, top)
    boxes = example.boxes(new_w, new_h) + np.array([left, top, left, top], np.float32)
    return _with_counted_boxes(canvas, boxes, (0, 0, size, size))


def _mosaic_scene(rng: Generator, material: Material, size: int, empty_share: float) -> Scene:
    canvas = np.empty((size, size, 3), np.uint8)
    cut_x, cut_y = (round(size * rng.uniform(0.3, 0.7)) for _ in range(2))
    boxes, ignored = [], []
    for left, right in ((0, cut_x), (cut_x, size)):
        for top, bottom in ((0, cut_y), (cut_y, size)):
            choice = rng.random()
            if choice < empty_share:
                pool = material.empties
            else:
                pool = material.distractors if choice > 0.85 else material.birds
            part = _covering(rng, material, pick(rng, pool), right - left, bottom - top, 1.6)
            canvas[top:bottom, left:right] = part.picture
            shift = np.array([left, top, left, top], np.float32)
            boxes.append(part.boxes + shift)
            ignored.append(part.ignored + shift)
    return Scene(canvas, np.concatenate(boxes), np.concatenate(ignored))


def _paste_scene(rng: Generator, material: Material, size: int) -> Scene:
    canvas = background(rng, material, size, size)
    backlit = rng.random() < 0.35
    if backlit:
        canvas = brightened(canvas, rng.uniform(1.1, 1.9), rng.uniform(0, 40))
    others = []
    for _ in range(rng.choice([0, 1, 2, 4, 7], p=[0.22, 0.28, 0.25, 0.17, 0.08])):
        longest = log_uniform(rng, 0.065, 0.5) * size
        pasted = paste(rng, canvas, distractor(rng, material), longest, backlit, [])
        if pasted is not None:
            others.append(pasted.box)
    boxes, ignored = [], []
    for _ in range(rng.choice([0, 1, 2, 3, 5], p=[0.15, 0.35, 0.28, 0.16, 0.06])):
        # Birds come in pairs and flocks: close beside another, often of the same kind.
        beside = boxes[-1] if boxes and rng.random() < COMPANY else None
        if beside is None:
            longest = log_uniform(rng, 0.065, 0.65) * size
        else:
            longest = float((beside[2:] - beside[:2]).max()) * log_uniform(rng, 0.7, 1.4)
        if beside is None or rng.random() < 0.4:
            bird = decode_cutout(pick(rng, material.cutouts))
        pasted = paste(rng, canvas, bird, longest, backlit, boxes + ignored, beside=beside)
        if pasted is not None:
            (boxes if pasted.visible_share >= COUNTED_SHARE else ignored).append(pasted.box)
    return Scene(canvas, _as_boxes(boxes), _as_boxes(ignored), _as_boxes(others))


def distractor(rng: Generator, material: Material) -> np.ndarray:
    """RGBA: something that is no bird but is pasted like one, so that neither a soft outline nor a
    dark shape alone says "bird".
    """
    choice = rng.random()
    if choice < 0.5 and material.objects:
        return decode_cutout(pick(rng, material.objects))
    if choice < 0.75:
        return _leaf(rng)
    return _soft_patch(rng, material.decode(pick(rng, material.distractors)))


def background(rng: Generator, material: Material, width: int, height: int) -> np.ndarray:
    """A bird-free picture: a photo without birds, the part of a bird's photo beside the bird
    (leaves, branches and sky, as at a feeder), or soft blobs of colour.
    """
    choice = rng.random()
    if choice < 0.5:
        picture = background_photo(rng, material, width, height)
    elif choice < 0.88:
        picture = beside_the_bird(rng, material, width, height)
    else:
        picture = _blobs(rng, width, height)
    if rng.random() < 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.8, 5))
    return np.ascontiguousarray(picture)


def background_photo(rng: Generator, material: Material, width: int, height: int) -> np.ndarray:
    """A part of a photo without birds, scaled to the wanted size."""
    example = pick(rng, material.empties)
    picture = _covering(rng, material, example, width, height, 2.2).picture
    return np.ascontiguousarray(picture)


# --- pasting


@dataclass(frozen=True)
class Pasted:
    """Where a paste ended up: its whole box within the canvas, and how much of it shows."""

    box: np.ndarray
    visible_share: float


def paste(
    rng: Generator,
    canvas: np.ndarray,
    rgba: np.ndarray,
    longest_px: float,
    backlit: bool,
    others: Sequence[np.ndarray],
    hidden_share: float = 0.35,
    beside: np.ndarray | None = None,
) -> Pasted | None:
    """Paste a cut-out onto ``canvas`` in place, in light of its own and perhaps half hidden.

    Args:
        canvas: uint8 (H, W, 3), changed.
        rgba: uint8 (h, w, 4).
        longest_px: of the pasted object.
        backlit: whether it stands against the light.
        others: boxes that it must not cover.
        hidden_share: how often twigs or leaves stand before it.
        beside: box that it comes close to, and may cover in part.

    Returns:
        None where no free place was found or nothing of it shows.
    """
    height, width = canvas.shape[:2]
    scale = longest_px / max(rgba.shape[:2])
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    w = max(4, round(rgba.shape[1] * scale * stretch))
    h = max(4, round(rgba.shape[0] * scale / stretch))
    size = np.array([w, h])
    low, high = -0.3 * size, np.array([width, height]) - 0.7 * size  # most of it in the frame
    coverable = 0.2 if beside is None else 0.5
    for _ in range(10):
        if beside is None:
            corner = rng.uniform(low, high)
        else:
            corner = _corner_beside(rng, beside, size).clip(low, high)
        x, y = corner.round().astype(int).tolist()
        box = np.array([x, y, x + w, y + h], np.float32)
        if all(_covered_share(other, box) < coverable for other in others):
            break
    else:
        return None

    rgba = _resized(rgba[:, ::-1] if rng.random() < 0.5 else rgba, w, h)
    colour = _relit(rng, rgba[..., :3], backlit)
    alpha = rgba[..., 3].astype(np.float32) * (rng.uniform(0.9, 1.0) / 255)
    whole = float(alpha.sum())
    if rng.random() < 0.3:
        sigma = rng.uniform(0.4, 0.02 * longest_px + 0.5)
        colour, alpha = (cv2.GaussianBlur(a, (0, 0), sigma) for a in (colour, alpha))
    if rng.random() < hidden_share:
        hidden = _grow_before(rng, canvas, (x, y, x + w, y + h), backlit)
    else:
        hidden = np.zeros((height, width), np.float32)

    left, top, right, bottom = max(0, x), max(0, y), min(width, x + w), min(height, y + h)
    inside = (slice(top - y, bottom - y), slice(left - x, right - x))
    shown = alpha[inside] * (1 - hidden[top:bottom, left:right])
    visible = shown > 0.4
    share = float(shown.sum()) / max(whole, 1e-6)
    if share < NOTICEABLE_SHARE or not visible.any():
        return None
    region = canvas[top:bottom, left:right]
    blended = region + (colour[inside] - region) * shown[..., None]
    canvas[top:bottom, left:right] = blended.clip(0, 255).astype(np.uint8)
    columns, rows = (np.flatnonzero(visible.any(axis=axis)) for axis in (0, 1))
    extent = np.array(
        [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1], np.float32
    )
    return Pasted(extent, share)


def _corner_beside(rng: Generator, box: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Upper left corner of something of this size (width, height) that sits close beside a box."""
    centre, mean_size = (box[:2] + box[2:]) / 2, (box[2:] - box[:2] + size) / 2
    side = 1 if rng.random() < 0.5 else -1
    shift = np.array([side * rng.uniform(0.5, 1.1), rng.normal(0, 0.25)])
    return centre + shift * mean_size - size / 2


def _relit(rng: Generator, colour: np.ndarray, backlit: bool) -> np.ndarray:
    """The colours of a pasted object in another light, float32."""
    colour = colour.astype(np.float32)
    if backlit:
        grey = colour.mean(axis=2, keepdims=True)
        colour = grey + (colour - grey) * rng.uniform(0.2, 1.0)
        return colour * log_uniform(rng, 0.06, 0.6) + rng.uniform(0, 25)
    gain = log_uniform(rng, 0.45, 1.4) * np.exp(rng.normal(0, 0.07, 3)).astype(np.float32)
    mean = colour.mean()
    return (mean + (colour - mean) * rng.uniform(0.6, 1.2)) * gain + rng.uniform(-15, 20)


def _grow_before(
    rng: Generator, canvas: np.ndarray, box: tuple[int, int, int, int], backlit: bool
) -> np.ndarray:
    """Draw twigs and leaves on the canvas, in place, where they will stand before an object.

    They reach beyond the object's box: if they ended there, they would give it away.

    Returns:
        float32 (H, W): 1 where the object is hidden by them.
    """
    left, top, right, bottom = box
    longest = max(right - left, bottom - top)
    mask = np.zeros(canvas.shape[:2], np.float32)
    for _ in range(rng.integers(1, 4)):
        centre = np.array([rng.uniform(left, right), rng.uniform(top, bottom)])
        angle = rng.uniform(0, 2 * np.pi)
        if rng.random() < 0.55:
            reach = np.array([np.cos(angle), np.sin(angle)]) * longest * rng.uniform(0.8, 5)
            bend = centre + rng.normal(0, 0.15 * longest, 2)
            path = np.array([centre - reach, bend, centre + reach * rng.uniform(0.3, 1)])
            width = max(1, int(longest * rng.uniform(0.03, 0.13)))
            cv2.polylines(mask, [path.astype(np.int32)], False, 1.0, width)
        else:
            outline = _leaf_outline(rng, longest * rng.uniform(0.2, 0.8)) @ _rotation(angle)
            cv2.fillPoly(mask, [(outline + centre).astype(np.int32)], 1.0)
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 1.2))
    colour = _relit(rng, _plant_colour(rng), backlit)
    canvas[:] = (canvas + (colour - canvas) * mask[..., None]).clip(0, 255)
    return mask


def _leaf(rng: Generator) -> np.ndarray:
    """RGBA: a drawn leaf or a few on a twig."""
    side = 96
    alpha = np.zeros((side, side), np.uint8)
    if rng.random() < 0.4:
        twig = np.cumsum(rng.normal(0, 22, (5, 2)), axis=0) + side / 2
        cv2.polylines(alpha, [twig.astype(np.int32)], False, 255, int(rng.integers(2, 9)))
    for _ in range(rng.integers(1, 5)):
        outline = _leaf_outline(rng, side * rng.uniform(0.3, 0.95))
        middle = side * (0.5 + rng.normal(0, 0.13, 2))
        turned = outline @ _rotation(rng.uniform(0, 2 * np.pi)) + middle
        cv2.fillPoly(alpha, [turned.astype(np.int32)], 255)
    shade = cv2.resize(rng.normal(1, 0.2, (4, 4)).astype(np.float32), (side, side))
    picture = (_plant_colour(rng) * shade[..., None]).clip(0, 255).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(alpha)
    alpha = cv2.GaussianBlur(alpha, (0, 0), 1.0)
    return np.dstack([picture, alpha])[y : y + h, x : x + w]


def _leaf_outline(rng: Generator, length: float) -> np.ndarray:
    """Points (N, 2) around the origin: pointed at both ends, or lobed."""
    t = np.linspace(-1, 1, 12)
    half_width = length * rng.uniform(0.12, 0.4) * (1 - np.abs(t) ** rng.uniform(1.2, 2.5))
    half_width = half_width * (1 + rng.uniform(0, 0.35) * np.cos(t * rng.uniform(2, 14)))
    upper = np.stack([t * length / 2, half_width], axis=1)
    return np.concatenate([upper, upper[::-1] * [1, -1]])


def _plant_colour(rng: Generator) -> np.ndarray:
    """A green, brown or grey, float32 (1, 1, 3)."""
    base = [(70, 110, 45), (150, 175, 70), (95, 75, 55), (150, 115, 70), (120, 118, 112)]
    colour = np.array(base[int(rng.integers(len(base)))]) * rng.uniform(0.4, 1.3)
    return (colour + rng.normal(0, 10, 3)).clip(0, 255).astype(np.float32)[None, None]


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _soft_patch(rng: Generator, picture: np.ndarray) -> np.ndarray:
    """RGBA: the middle of a picture with a soft outline."""
    height, width = picture.shape[:2]
    alpha = np.zeros((height, width), np.uint8)
    count = int(rng.integers(6, 12))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = rng.uniform(0.5, 1.0, count) * 0.5
    points = np.stack([np.cos(angles) * radii * width, np.sin(angles) * radii * height], axis=1)
    cv2.fillPoly(alpha, [(points + [width / 2, height / 2]).astype(np.int32)], 255)
    return np.dstack([picture, cv2.GaussianBlur(alpha, (0, 0), 1.2)])


# --- parts of photos


def _covering(
    rng: Generator, material: Material, example: Example, width: int, height: int, zoom: float
) -> Scene:
    """A photo scaled to cover ``width`` x ``height`` (times up to ``zoom``) and cropped to it."""
    photo = material.decode(example)
    scale = max(width / photo.shape[1], height / photo.shape[0]) * log_uniform(rng, 1.0, zoom)
    new_w, new_h = (
        max(width, round(photo.shape[1] * scale)),
        max(height, round(photo.shape[0] * scale)),
    )
    photo = _resized(photo, new_w, new_h)
    left, top = rng.integers(0, new_w - width + 1), rng.integers(0, new_h - height + 1)
    boxes = example.boxes(new_w, new_h) - np.array([left, top, left, top], np.float32)
    picture = photo[top : top + height, left : left + width]
    return _with_counted_boxes(picture, boxes, (0, 0, width, height))


def beside_the_bird(rng: Generator, material: Material, width: int, height: int) -> np.ndarray:
    """The largest strip beside the bird of a photo, scaled and cropped to the wanted size."""
    # Where the bird fills its photo there is nothing beside it.
    for _ in range(5):
        example = pick(rng, material.birds)
        strip = _largest_strip(material, example)
        if min(strip.shape[:2]) >= 48 and example.stem not in MORE_BIRDS_THAN_BOXES:
            break
    else:
        return _blobs(rng, width, height)
    if strip.shape[0] > strip.shape[1] and width >= height and rng.random() < 0.5:
        strip = strip.transpose(1, 0, 2)
    scale = max(width / strip.shape[1], height / strip.shape[0])
    new_w = max(width, round(strip.shape[1] * scale))
    new_h = max(height, round(strip.shape[0] * scale))
    # Tiling mirror images instead of enlarging keeps leaves as sharp as the birds will be.
    if scale > 1.5 and rng.random() < 0.7:
        strip = np.hstack([strip, strip[:, ::-1]])
        strip = np.vstack([strip, strip[::-1]])
        scale = max(width / strip.shape[1], height / strip.shape[0], 0.6)
        new_w = max(width, round(strip.shape[1] * scale))
        new_h = max(height, round(strip.shape[0] * scale))
    strip = _resized(np.ascontiguousarray(strip), new_w, new_h)
    left, top = rng.integers(0, new_w - width + 1), rng.integers(0, new_h - height + 1)
    return strip[top : top + height, left : left + width]


def _largest_strip(material: Material, example: Example) -> np.ndarray:
    photo = material.decode(example)
    h, w = photo.shape[:2]
    boxes = example.boxes(w, h)
    margin = 0.04 * max(w, h)
    x0, y0 = (boxes[:, :2].min(axis=0) - margin).clip(0).astype(int)
    x1, y1 = (boxes[:, 2:].max(axis=0) + margin).astype(int)
    strips = (photo[:, :x0], photo[:, x1:], photo[:y0], photo[y1:])
    return max(strips, key=lambda strip: min(strip.shape[:2]))


def _blobs(rng: Generator, width: int, height: int) -> np.ndarray:
    """Soft patches of related colours, like a background out of focus."""
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = rng.uniform(20, 235, 3)
    for cells in (3, 8, 24):
        # Mostly light and dark, a little of one colour: nature is not a disco.
        noise = rng.normal(0, rng.uniform(5, 30), (cells, cells, 1))
        noise = (noise + rng.normal(0, 6, (cells, cells, 3))).astype(np.float32)
        canvas += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return canvas.clip(0, 255).astype(np.uint8)


# --- the camera's part

_NOISE_SIDE_PX = 1024
_NOISE = np.random.default_rng(0).normal(0, 1, (_NOISE_SIDE_PX, _NOISE_SIDE_PX, 3))
_NOISE = _NOISE.astype(np.float32)


def camera_effects(rng: Generator, picture: np.ndarray) -> np.ndarray:
    """What a cheap camera does to a picture: exposure, colours, blur, noise, compression."""
    height, width = picture.shape[:2]
    ramp = np.arange(256, dtype=np.float32) / 255
    tables = []
    contrast, offset = log_uniform(rng, 0.6, 1.35), rng.normal(0, 0.07)
    gamma = log_uniform(rng, 0.6, 1.7)
    for _ in range(3):
        cast = np.exp(rng.normal(0, 0.06))
        tables.append(((ramp**gamma - 0.5) * contrast + 0.5 + offset) * cast * 255)
    table = np.stack(tables, axis=1).clip(0, 255).astype(np.uint8)
    picture = cv2.LUT(picture, table[None])
    choice = rng.random()
    if choice < 0.08:
        picture = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    elif choice < 0.4:
        grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        saturation = rng.uniform(0.2, 1.5)
        picture = cv2.addWeighted(picture, saturation, grey, 1 - saturation, 0)
    if rng.random() < 0.12:
        shrink = rng.uniform(1.2, 2.2)
        small = _resized(picture, round(width / shrink), round(height / shrink))
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    choice = rng.random()
    if choice < 0.12:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.4))
    elif choice < 0.18:
        picture = motion_blurred(rng, picture, int(rng.integers(3, 8)))
    if rng.random() < 0.35:
        y, x = (int(rng.integers(0, _NOISE_SIDE_PX - n + 1)) for n in (height, width))
        noise = _NOISE[y : y + height, x : x + width] * np.float32(log_uniform(rng, 1.5, 16))
        picture = (picture + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        picture = jpeg_compressed(picture, int(rng.integers(20, 85)))
    return picture


def jpeg_compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    """A picture after JPEG compression at a quality of 1 to 100."""
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


def motion_blurred(rng: Generator, picture: np.ndarray, length: int) -> np.ndarray:
    """Smear a picture by ``length`` pixels in some direction."""
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), rng.uniform(0, 180), 1)
    kernel = cv2.warpAffine(kernel, turn, (length, length))
    return cv2.filter2D(picture, -1, kernel / max(kernel.sum(), 1e-6))


def brightened(picture: np.ndarray, gain: float, offset: float) -> np.ndarray:
    """A picture exposed more, its lights cut off."""
    return cv2.convertScaleAbs(picture, alpha=gain, beta=offset)


# --- small tools


def pick(rng: Generator, pool: Sequence):
    """One of them, each as likely."""
    return pool[int(rng.integers(len(pool)))]


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """A random number whose logarithm is evenly distributed."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    shrinks = width * height < picture.shape[0] * picture.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, (width, height), interpolation=method)


def _copy_onto(canvas: np.ndarray, photo: np.ndarray, left: int, top: int) -> None:
    height, width = canvas.shape[:2]
    right, bottom = min(width, left + photo.shape[1]), min(height, top + photo.shape[0])
    x, y = max(0, left), max(0, top)
    canvas[y:bottom, x:right] = photo[y - top : bottom - top, x - left : right - left]


def _covered_share(box: np.ndarray, other: np.ndarray) -> float:
    """How much of the smaller of two boxes lies in the other."""
    overlap = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    smaller = min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2]))
    return float(np.prod(overlap.clip(0)) / max(smaller, 1e-6))


def _as_boxes(boxes: list[np.ndarray]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 4)


def _with_counted_boxes(
    picture: np.ndarray, boxes: np.ndarray, inside: tuple[int, int, int, int]
) -> Scene:
    """Clip boxes to a rectangle and sort them by how much of each is left."""
    low, high = np.array(inside[:2] * 2), np.array(inside[2:] * 2)
    clipped = np.clip(boxes, low, high).astype(np.float32)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    left = np.prod((clipped[:, 2:] - clipped[:, :2]).clip(0), axis=1) / np.maximum(area, 1e-6)
    big_enough = (clipped[:, 2:] - clipped[:, :2]).min(axis=1, initial=np.inf) >= 6
    counted = (left >= COUNTED_SHARE) & big_enough
    return Scene(picture, clipped[counted], clipped[~counted & (left > NOTICEABLE_SHARE)])


def _mirrored(scene: Scene) -> Scene:
    width = scene.picture.shape[1]

    def mirror(boxes: np.ndarray) -> np.ndarray:
        return np.stack(
            [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1
        )

    picture = np.ascontiguousarray(scene.picture[:, ::-1])
    boxes = (mirror(boxes) for boxes in (scene.boxes, scene.ignored, scene.others))
    return Scene(picture, *boxes)
