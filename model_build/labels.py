"""Boxes in someone's own folder of pictures: CUB-200-2011, COCO, Pascal VOC or YOLO.

Which of them it is shows in the files that are there:

- ``images.txt`` and ``bounding_boxes.txt``: CUB-200-2011;
- a ``.json`` with ``images`` and ``annotations``: COCO, with the pictures anywhere below;
- ``.xml`` files with an ``<annotation>``: Pascal VOC, beside the pictures or in another folder;
- ``.txt`` files beside the pictures, or in ``labels/`` where those are in ``images/``: YOLO. The
  classes' names are taken from ``classes.txt``, a ``.names`` or a ``.yaml`` file, the nearest one
  above a label.

A label that makes no sense, or of which it is not clear what picture it means, costs its picture,
not the folder: a box that is silently wrong would be learned, and a bird that is taken for nothing
as well. Each is named with its file and line or field.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
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
        size: width and height that the boxes refer to: in pixels, `AS_FRACTIONS`, or None for
            those of the picture.
        xyxy: a row for each box.
        names: what is in each box.
        crowds: what there are many of, with no box for each.
    """

    size: tuple[float, float] | None
    xyxy: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    crowds: list[str] = field(default_factory=list)

    def add(self, name: str, left: float, top: float, right: float, bottom: float) -> None:
        """Add a box, unless it is there already.

        Raises:
            ValueError: it has no area, is not made of finite numbers, or of fractions where it
                should be of pixels.
        """
        box = f"a box from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"
        if not (np.isfinite([left, top, right, bottom]).all() and right > left and bottom > top):
            raise ValueError(box)
        if self.size != AS_FRACTIONS and right <= 1 and bottom <= 1:
            raise ValueError(f"{box}: expected pixels, these look like fractions")
        if (name, [left, top, right, bottom]) in zip(self.names, self.xyxy, strict=True):
            return  # said twice, as by two files that overlap
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
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    files = sorted(_files(folder), key=natural_key)
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
            good = {p: label for p, label in by_picture.items() if p not in search.badly_labelled}
            return Labels(name, good, unlabelled, search.problems)
    raise ValueError(
        f"{folder} holds {len(pictures)} pictures but no labels in YOLO, Pascal VOC or COCO format"
    )


def bird_names(
    names: Sequence[str], wanted: Sequence[str], usual: Sequence[str] | None = None
) -> set[str]:
    """Which of the names in a folder's labels mean a bird.

    Args:
        names: all that occur.
        wanted: those that the user named.
        usual: for pictures to measure on alone, which need not show every kind: those of the
            pictures that were learnt from, which hold unless the user named others.

    Raises:
        ValueError: a wanted one does not occur (without ``usual``), or it is not clear.
    """
    present = {name.lower() for name in names}
    listed = ", ".join(sorted(set(names))) or "none"
    known = {"bird", "birds", *(name.lower() for name in usual or ())}
    birds = {name.lower() for name in wanted} or present & known
    for name in wanted:
        if usual is None and name.lower() not in present:
            raise ValueError(f"no box is labelled {name!r}; the labels are: {listed}")
    if not birds and not usual and len(present) <= 1:
        birds = present
    if wanted and usual is not None and present & known and not present & birds:
        named = ", ".join(map(repr, wanted))
        raise ValueError(f"no box is labelled {named}; the labels are: {listed}")
    if present and not birds:
        raise ValueError(f"which labels are birds? Name each with --bird; the labels are: {listed}")
    return {name for name in names if name.lower() in birds}


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts "frame2" before "frame10"."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden, also where a folder there is a link.

    Each folder counts once, and where it really is rather than where a link leads to it.
    """
    seen: set[Path] = set()
    tops = [folder]
    for top in tops:  # links that are found are added on the way
        for name, folders, files in os.walk(top):
            here = Path(name)
            if (real := here.resolve()) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            tops += [here / f for f in folders if (here / f).is_symlink()]
            yield from (p for f in files if not f.startswith(".") and (p := here / f).is_file())


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
        self._folders = {name for path in pictures for name in self._above(path)}

    def named(self, name: str, beside: Path) -> list[Path]:
        """The pictures that a label may mean.

        Args:
            name: with or without the file's ending, perhaps with folders.
            beside: the folder that the label lies in.
        """
        name = name.replace("\\", "/")  # some tools write Windows paths
        for base in (beside, self.folder, self.folder / "images"):
            if (base / name) in self._known:
                return [base / name]
        found = self._by_name[Path(name).name.lower()]
        if near := [path for path in found if path.parent == beside]:
            return near
        # A label of one day is none of another day's picture, though cameras count anew each day.
        wanted = self._folders.intersection(self._above(beside / "label"))
        above = Path(name.lower()).parent
        if not above.is_absolute() and ".." not in above.parts and ":" not in name:
            wanted |= set(above.parts)
        return [path for path in found if wanted <= set(self._above(path))]

    def picture(self, names: Sequence[str], beside: Path, where: str) -> Path | None:
        """The picture that a label means, by the first name that tells it; None where none does,
        which is noted.
        """
        possible: list[Path] = []
        for name in names:
            found = self.named(name, beside)
            if len(found) == 1:
                return found[0]
            possible += found
        what = "there are several pictures" if possible else "there is no picture"
        self.problem(where, f"{what} {names[-1]}", *possible)
        return None

    def pictures_like(self, picture: Path) -> list[Path]:
        """All pictures with the same name, but for its ending."""
        return self._by_name[picture.stem.lower()]

    def with_suffix(self, *suffixes: str) -> list[Path]:
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def problem(self, where: str, what: object, *pictures: Path) -> None:
        """Note what is wrong and where, and which pictures have to be left out for it."""
        self.problems.append(f"{where}: {what}")
        self.badly_labelled.update(pictures)

    def _above(self, path: Path) -> list[str]:
        """Names of the folders that a file lies in."""
        return [name.lower() for name in path.relative_to(self.folder).parts[:-1]]


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
        picture = search.picture([paths[key][0]], search.folder / "images", where)
        if picture is None:
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

# Fields of an annotation that is no caption or suchlike.
_OF_BOXES = {"bbox", "category_id"}


def _read_coco(search: _Search) -> dict[Path, Label] | None:
    labels: dict[Path, Label] | None = None
    for path in search.with_suffix(".json"):
        data = _bytes(path)
        if b'"annotations"' not in data:
            continue  # whatever else it is
        text = _decoded(data, path)
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
        except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
            raise ValueError(f"{path} is damaged: {error}") from error
        if not (isinstance(content, dict) and {"images", "annotations"} <= content.keys()):
            continue
        for name in ("images", "annotations", "categories"):
            if not isinstance(content.get(name, []), list):
                raise ValueError(f"{path}: {name}: expected a list")
        if _is_of_boxes(content["annotations"]):
            labels = {} if labels is None else labels
            _add_coco_labels(labels, search, path, content)
    return labels


def _is_of_boxes(annotations: list[Any]) -> bool:
    """Whether they are to say where things are. In a file of captions alone no picture has a box,
    and none is empty for that.
    """
    return not annotations or any(
        not isinstance(annotation, dict) or _OF_BOXES & annotation.keys()
        for annotation in annotations
    )


def _add_coco_labels(
    labels: dict[Path, Label], search: _Search, path: Path, content: dict[str, Any]
) -> None:
    """Add what one file says; each may speak of other things in the same pictures."""
    categories = {}
    for number, category in enumerate(content.get("categories", [])):
        where = f"{path}, categories[{number}]"
        categories[str(_field(category, "id", where))] = str(_field(category, "name", where))
    pictures: dict[str, Path | None] = {}
    for number, image in enumerate(content["images"]):
        where = f"{path}, images[{number}]"
        name, key = str(_field(image, "file_name", where)), str(_field(image, "id", where))
        pictures[key] = picture = search.picture([name], path.parent, where)
        if picture is None:
            continue
        size = _coco_size(image, where)
        label = labels.setdefault(picture, Label(size))
        label.size = label.size or size
        if size not in (None, label.size):
            search.problem(where, f"another size than another file has for {name}", picture)
    for number, annotation in enumerate(content["annotations"]):
        where = f"{path}, annotations[{number}]"
        if isinstance(annotation, dict) and not _OF_BOXES & annotation.keys():
            continue  # a caption or suchlike
        key = str(_field(annotation, "image_id", where))
        if key not in pictures:
            search.problem(where, f"there is no image with the id {key}")
        picture = pictures.get(key)
        if picture is None:
            continue
        try:
            category = str(_field(annotation, "category_id", where))
            if category not in categories:
                raise ValueError(f"there is no category {category}")
            if _is_crowd(annotation.get("iscrowd")):
                labels[picture].crowds.append(categories[category])
                continue
            box = _field(annotation, "bbox", where)
            try:
                left, top, width, height = map(float, box)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(f"bbox: expected [x, y, width, height], got {box}") from None
            labels[picture].add(categories[category], left, top, left + width, top + height)
        except ValueError as error:
            search.problem(where, error, picture)


def _is_crowd(flag: object) -> bool:
    """Whether an annotation says so: 1, and what tools make of it.

    Raises:
        ValueError: it says something else.
    """
    text = str(flag or 0).lower()
    if text not in ("0", "0.0", "false", "1", "1.0", "true"):
        raise ValueError(f"iscrowd: expected 0 or 1, got {flag!r}")
    return text in ("1", "1.0", "true")


def _coco_size(image: dict[str, Any], where: str) -> tuple[float, float] | None:
    """Width and height of an image record; None where it does not tell."""
    width, height = image.get("width"), image.get("height")
    if not width or not height:
        return None
    try:
        return float(width), float(height)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{where}: width and height: expected numbers, got {width!r} and {height!r}"
        ) from None


def _field(record: Any, name: str, where: object) -> Any:
    if not isinstance(record, dict) or name not in record:
        raise ValueError(f"{where}: {name!r} is missing")
    return record[name]


# --- Pascal VOC


def _read_voc(search: _Search) -> dict[Path, Label] | None:
    labels: dict[Path, Label] = {}
    found = False
    for path in search.with_suffix(".xml"):
        try:
            # bytes, since such a file says itself how it is encoded
            root = ElementTree.fromstring(path.read_bytes())
        except (ElementTree.ParseError, LookupError, ValueError, OSError) as error:
            search.problem(str(path), f"damaged: {error}", *search.named(path.stem, path.parent))
            continue
        if root.tag != "annotation":
            continue
        found = True
        named = root.findtext("filename", "").strip()
        names = [name for name in (path.stem, named) if name]
        picture = search.picture(names, path.parent, str(path))
        if picture is None:
            continue
        try:
            label = _voc_label(root)
            if labels.setdefault(picture, label) != label:
                raise ValueError(f"another file says something else of {picture}")
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

# PyYAML raises its own error for what is no YAML only: not where `!!bool q` is none.
_YAML_ERRORS = (
    yaml.YAMLError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
)
_NAMES_LINE = re.compile(rb"^(?:\xef\xbb\xbf)?[\"']?names[\"']?[ \t]*:", re.MULTILINE)


def _read_yolo(search: _Search) -> dict[Path, Label] | None:
    names = _yolo_names(search)
    labels = {}
    found = False
    for picture in search.pictures:
        path = _yolo_file(search, picture)
        if path is None:
            continue
        found = True
        label = Label(AS_FRACTIONS)
        where = str(path)
        try:
            here = _nearest_names(search, names, path)
            for number, line in enumerate(_text(path).splitlines(), start=1):
                where = f"{path}, line {number}"
                if line.strip():
                    label.add(*_yolo_box(line, here))
        except ValueError as error:
            search.problem(where, error, picture)
        labels[picture] = label
    return labels if found else None


def _yolo_file(search: _Search, picture: Path) -> Path | None:
    """The file with a picture's boxes."""
    relative = picture.relative_to(search.folder).with_suffix(".txt")
    parts = list(relative.parts)
    places = [picture.with_suffix(".txt")]
    if "images" in parts:
        parts[parts.index("images")] = "labels"
        places.append(search.folder.joinpath(*parts))
    # all in one folder, which says nothing where several pictures have the name
    flat = search.folder / "labels" / relative.name
    alike = [p for p in search.pictures_like(picture) if p != picture]
    if not alike:
        places.append(flat)
    for place in places:
        if place.is_file() and place.name != "classes.txt":
            return place
    if flat.is_file() and search.folder / "images" not in [p.parent for p in alike]:
        search.problem(str(flat), "there are several pictures of that name", picture)
    return None


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
    if kind < 0:
        raise ValueError(f"expected a class from 0 on, got {line.strip()!r}")
    if names and kind not in names:
        raise ValueError(f"class {kind} is none of the {len(names)} that have a name")
    left, top, right, bottom = xyxy.tolist()
    return names.get(kind, str(kind)), left, top, right, bottom


def _yolo_names(search: _Search) -> dict[Path, dict[int, str]]:
    """Names of the classes by number, for each folder with a file that tells them."""
    by_folder: dict[Path, dict[int, str]] = {}
    for path in search.with_suffix(".txt", ".names"):
        if path.name == "classes.txt" or path.suffix == ".names":
            lines = (line.strip() for line in _text(path).splitlines())
            by_folder.setdefault(path.parent, dict(enumerate(line for line in lines if line)))
    for path in search.with_suffix(".yaml", ".yml"):
        data = _bytes(path)
        try:
            content = yaml.safe_load(_decoded(data, path))
            names = content.get("names") if isinstance(content, dict) else None
            if isinstance(names, list):
                names = dict(enumerate(names))
            if isinstance(names, dict):
                numbered = {int(number): str(name) for number, name in names.items()}
                by_folder.setdefault(path.parent, numbered)
        except _YAML_ERRORS as error:
            reason = " ".join(str(error).split())
            if _NAMES_LINE.search(data):
                raise ValueError(f"{path} is damaged: {reason}") from error
            # whatever else it is, as the settings of another program
            search.problem(str(path), f"not read, as no names of classes are seen in it: {reason}")
    return by_folder


def _nearest_names(
    search: _Search, names: dict[Path, dict[int, str]], path: Path
) -> dict[int, str]:
    """The classes' names for a label: those told in its folder or the nearest one above, else the
    only ones there are.

    Raises:
        ValueError: files in other folders tell different ones.
    """
    for folder in path.parents:
        if folder in names:
            return names[folder]
        if folder == search.folder:
            break
    told = list(names.values())
    if any(other != told[0] for other in told):
        where = " and ".join(str(folder) for folder in list(names)[:2])
        raise ValueError(f"the classes' names in {where} differ: which hold here?")
    return told[0] if told else {}


def _text(path: Path) -> str:
    return _decoded(_bytes(path), path)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error
