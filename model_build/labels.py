"""Boxes in someone's own folder of pictures: CUB-200-2011, COCO, Pascal VOC or YOLO.

Which of them it is shows in the files that are there:

- ``images.txt`` and ``bounding_boxes.txt``: CUB-200-2011;
- a ``.json`` with ``images`` and ``annotations``: COCO, with the pictures anywhere below;
- ``.xml`` files with an ``<annotation>``: Pascal VOC, beside the pictures or in another folder;
- ``.txt`` files beside the pictures, or in ``labels/`` where those are in ``images/``: YOLO. The
  classes' names are taken from ``classes.txt``, a ``.names`` or a ``.yaml`` file.

A label that makes no sense costs its picture, not the folder: a box that is silently wrong would be
learned. Each is named with its file and line or field.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml

from edgebird.camera.files import PICTURE_SUFFIXES

AS_FRACTIONS = (1.0, 1.0)


@dataclass
class Label:
    """What a label says about a picture.

    Args:
        xyxy: a row for each box.
        names: what is in each box.
        size: width and height that the boxes refer to: in pixels, `AS_FRACTIONS`, or None for
            those of the picture.
    """

    size: tuple[float, float] | None
    xyxy: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, name: str, left: float, top: float, right: float, bottom: float) -> None:
        """Add a box.

        Raises:
            ValueError: it has no area or is not made of finite numbers.
        """
        if not (np.isfinite([left, top, right, bottom]).all() and right > left and bottom > top):
            raise ValueError(f"a box from ({left:g}, {top:g}) to ({right:g}, {bottom:g})")
        self.xyxy.append([left, top, right, bottom])
        self.names.append(name)


@dataclass
class Labels:
    """The labels of a folder.

    Args:
        format: in which they are.
        by_picture: what is known about each picture that has a label that makes sense.
        unlabelled: pictures that have none.
        problems: what could not be used, a line each.
    """

    format: str
    by_picture: dict[Path, Label]
    unlabelled: list[Path]
    problems: list[str]


def read_labels(folder: Path) -> Labels:
    """Find out which format a folder is in and read its labels.

    Raises:
        ValueError: it holds no pictures, or no labels in a known format, or a file that all
            depends on is damaged.
    """
    files = sorted(
        (
            path
            for path in folder.rglob("*")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ),
        key=natural_key,
    )
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise ValueError(f"{folder} holds no pictures")
    search = _Search(folder, files, pictures)
    for name, reader in (
        ("CUB-200-2011", _read_cub),
        ("COCO", _read_coco),
        ("Pascal VOC", _read_voc),
        ("YOLO", _read_yolo),
    ):
        by_picture = reader(search)
        if by_picture is not None:
            labelled = by_picture.keys() | search.badly_labelled
            unlabelled = [path for path in pictures if path not in labelled]
            return Labels(name, by_picture, unlabelled, search.problems)
    raise ValueError(
        f"{folder} holds {len(pictures)} pictures but no labels in YOLO, Pascal VOC or COCO format"
    )


def bird_names(names: Sequence[str], wanted: Sequence[str]) -> set[str]:
    """Which of the names in a folder's labels mean a bird.

    Args:
        names: all that occur.
        wanted: those that the user named.

    Raises:
        ValueError: a wanted one does not occur, or none was named and it is not clear.
    """
    present = {name.lower(): name for name in names}
    listed = ", ".join(sorted(present.values())) or "none"
    if wanted:
        for name in wanted:
            if name.lower() not in present:
                raise ValueError(f"no box is labelled {name!r}; the labels are: {listed}")
        return {present[name.lower()] for name in wanted}
    if len(present) <= 1:
        return set(present.values())
    clear = {present[name] for name in ("bird", "birds") if name in present}
    if not clear:
        raise ValueError(f"which labels are birds? Name each with --bird; the labels are: {listed}")
    return clear


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts "frame2" before "frame10"."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


class _Search:
    """The files of a folder, and what was wrong with them."""

    def __init__(self, folder: Path, files: list[Path], pictures: list[Path]) -> None:
        self.folder = folder
        self.files = files
        self.pictures = pictures
        self.problems: list[str] = []
        self.badly_labelled: set[Path] = set()
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        for path in pictures:
            self._by_name[path.name.lower()].append(path)
            self._by_name[path.stem.lower()].append(path)
        self._known = set(pictures)

    def picture(self, name: str, beside: Path) -> Path | None:
        """The picture of this name (with or without ending): where it says, or the only one."""
        name = name.replace("\\", "/")  # some tools write Windows paths
        for base in (beside, self.folder, self.folder / "images"):
            if (base / name) in self._known:
                return base / name
        found = self._by_name[Path(name).name.lower()]
        near = [path for path in found if path.parent == beside]
        candidates = near or found
        return candidates[0] if len(candidates) == 1 else None

    def with_suffix(self, *suffixes: str) -> list[Path]:
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def problem(self, where: str, what: object, picture: Path | None = None) -> None:
        """Note what is wrong and where, and which picture has to be left out for it."""
        self.problems.append(f"{where}: {what}")
        if picture is not None:
            self.badly_labelled.add(picture)


Reader = Callable[[_Search], dict[Path, Label] | None]


# --- CUB-200-2011


def _read_cub(search: _Search) -> dict[Path, Label] | None:
    names, boxes = search.folder / "images.txt", search.folder / "bounding_boxes.txt"
    if not (names.is_file() and boxes.is_file()):
        return None
    paths = dict(_numbered_lines(names, 1))
    labels = {}
    for key, values in _numbered_lines(boxes, 4):
        where = f"{boxes}, picture {key}"
        if key not in paths:
            search.problem(where, f"it is not in {names.name}")
            continue
        picture = search.picture(paths[key][0], search.folder / "images")
        if picture is None:
            search.problem(where, f"there is no {paths[key][0]}")
            continue
        try:
            left, top, width, height = map(float, values)
            label = Label(size=None)
            label.add("bird", left, top, left + width, top + height)
        except ValueError as error:
            search.problem(where, error, picture)
            continue
        labels[picture] = label
    return labels


def _numbered_lines(path: Path, values: int) -> list[tuple[str, list[str]]]:
    """Lines of a number and so many values."""
    lines = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        words = line.split()
        if words and len(words) != values + 1:
            raise ValueError(f"{path}, line {number}: expected {values + 1} words, got {line!r}")
        if words:
            lines.append((words[0], words[1:]))
    return lines


# --- COCO


def _read_coco(search: _Search) -> dict[Path, Label] | None:
    labels: dict[Path, Label] | None = None
    for path in search.with_suffix(".json"):
        try:
            content = json.loads(_text(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
        if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
            labels = (labels or {}) | _coco_labels(search, path, content)
    return labels


def _coco_labels(search: _Search, path: Path, content: dict[str, Any]) -> dict[Path, Label]:
    categories = {}
    for number, category in enumerate(content.get("categories", [])):
        where = f"{path}, categories[{number}]"
        categories[_field(category, "id", where)] = str(_field(category, "name", where))
    pictures: dict[Any, Path] = {}
    labels: dict[Path, Label] = {}
    for number, image in enumerate(content["images"]):
        where = f"{path}, images[{number}]"
        name, key = str(_field(image, "file_name", where)), _field(image, "id", where)
        picture = search.picture(name, path.parent)
        if picture is None:
            search.problem(where, f"there is no picture {name}, or more than one")
            continue
        size = image.get("width"), image.get("height")
        pictures[key] = picture
        labels[picture] = Label(size=size if all(size) else None)
    known = {_field(image, "id", path) for image in content["images"]}
    for number, annotation in enumerate(content["annotations"]):
        where = f"{path}, annotations[{number}]"
        key = _field(annotation, "image_id", where)
        if key not in pictures:
            if key not in known:
                search.problem(where, f"there is no image with the id {key}")
            continue
        picture = pictures[key]
        try:
            category = _field(annotation, "category_id", where)
            if category not in categories:
                raise ValueError(f"there is no category {category}")
            if annotation.get("iscrowd"):
                raise ValueError("it is a crowd, which has no box for each bird")
            box = _field(annotation, "bbox", where)
            try:
                left, top, width, height = map(float, box)
            except (TypeError, ValueError):
                raise ValueError(f"bbox: expected [x, y, width, height], got {box}") from None
            if picture in labels:
                labels[picture].add(categories[category], left, top, left + width, top + height)
        except ValueError as error:
            search.problem(where, error, picture)
            labels.pop(picture, None)
    return labels


def _field(record: Any, name: str, where: object) -> Any:
    if not isinstance(record, dict) or name not in record:
        raise ValueError(f"{where}: {name!r} is missing")
    return record[name]


# --- Pascal VOC


def _read_voc(search: _Search) -> dict[Path, Label] | None:
    labels = {}
    found = False
    for path in search.with_suffix(".xml"):
        try:
            root = ElementTree.fromstring(_text(path))
        except ElementTree.ParseError as error:
            picture = search.picture(path.stem, path.parent)
            search.problem(str(path), f"damaged: {error}", picture)
            continue
        if root.tag != "annotation":
            continue
        found = True
        named = root.findtext("filename", "")
        picture = search.picture(path.stem, path.parent) or search.picture(named, path.parent)
        if picture is None:
            search.problem(str(path), f"there is no picture {named or path.stem}, or more than one")
            continue
        try:
            labels[picture] = _voc_label(root)
        except ValueError as error:
            search.problem(str(path), error, picture)
    return labels if found else None


def _voc_label(root: ElementTree.Element) -> Label:
    size = root.find("size")
    label = Label(None)
    if size is not None and all(_number(size, side) > 0 for side in ("width", "height")):
        label.size = _number(size, "width"), _number(size, "height")
    for number, thing in enumerate(root.findall("object"), start=1):
        box = thing.find("bndbox")
        if box is None:
            raise ValueError(f"object {number}: <bndbox> is missing")
        try:
            left, top, right, bottom = (
                _number(box, side) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            # VOC counts pixels from 1, and the last one belongs to the box.
            label.add(thing.findtext("name", "").strip(), left - 1, top - 1, right, bottom)
        except ValueError as error:
            raise ValueError(f"object {number}: {error}") from None
    return label


def _number(element: ElementTree.Element, name: str) -> float:
    text = element.findtext(name)
    try:
        return float(text or "")
    except ValueError:
        raise ValueError(f"<{name}>: expected a number, got {text!r}") from None


# --- YOLO


def _read_yolo(search: _Search) -> dict[Path, Label] | None:
    names = _yolo_names(search)
    labels = {}
    found = False
    for picture in search.pictures:
        path = next((p for p in _yolo_candidates(search, picture) if p.is_file()), None)
        if path is None:
            continue
        found = True
        label = Label(AS_FRACTIONS)
        for number, line in enumerate(_text(path).splitlines(), start=1):
            try:
                if line.strip():
                    label.add(*_yolo_box(line, names))
            except ValueError as error:
                search.problem(f"{path}, line {number}", error, picture)
                break
        else:
            labels[picture] = label
    return labels if found else None


def _yolo_candidates(search: _Search, picture: Path) -> list[Path]:
    relative = picture.relative_to(search.folder).with_suffix(".txt")
    parts = list(relative.parts)
    places = [picture.with_suffix(".txt"), search.folder / "labels" / relative.name]
    if "images" in parts:
        parts[parts.index("images")] = "labels"
        places.insert(1, search.folder.joinpath(*parts))
    return [place for place in places if place.name != "classes.txt"]


def _yolo_box(line: str, names: dict[int, str]) -> tuple[str, float, float, float, float]:
    """The box of a line: class, centre, width and height; or class and a polygon's points."""
    words = line.split()
    try:
        kind, values = int(words[0]), np.array(words[1:], float)
    except ValueError:
        values = np.zeros(0)
    # A sixth word is the score of a prediction.
    if len(values) in (4, 5):
        (x, y), (width, height) = values[:2], values[2:4]
        xyxy = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    elif len(values) >= 6 and len(values) % 2 == 0:
        points = values.reshape(-1, 2)
        xyxy = np.concatenate([points.min(axis=0), points.max(axis=0)])
    else:
        raise ValueError(f"expected 'class x y width height', got {line.strip()!r}")
    if (values > 1.001).any() or (values < -0.001).any():
        raise ValueError(f"expected fractions of the picture from 0 to 1, got {line.strip()!r}")
    left, top, right, bottom = xyxy.tolist()
    return names.get(kind, str(kind)), left, top, right, bottom


def _yolo_names(search: _Search) -> dict[int, str]:
    """Names of the classes by number; none where no file tells them."""
    for path in search.files:
        if path.name == "classes.txt" or path.suffix == ".names":
            lines = (line.strip() for line in _text(path).splitlines())
            return dict(enumerate(line for line in lines if line))
    for path in search.with_suffix(".yaml", ".yml"):
        try:
            content = yaml.safe_load(_text(path))
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is damaged: {reason}") from error
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            return dict(enumerate(map(str, names)))
        if isinstance(names, dict):
            return {int(number): str(name) for number, name in names.items()}
    return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
