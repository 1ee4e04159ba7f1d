"""Someone's own folder of pictures: formats, what is wrong with labels, the split, the material."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click import ClickException

pytest.importorskip("tqdm", reason="the build stage's libraries are in the newest run only")

from test_model_build import drawn_bird, example, jpeg, material, two_editions

from edgebird.model import DEFAULT_DETECTOR, TrainingData, load_model, write_model
from model_build.__main__ import _sources_of
from model_build.augment import training_scene
from model_build.cutouts import number_of, read_cutouts
from model_build.datasets import is_validation, load_packs, species_of
from model_build.labels import bird_names, read_labels
from model_build.own_pictures import load_own_pictures, mixed, own_material, split
from model_build.runs import (
    Origin,
    load_sources,
    load_unseen,
    origin_of,
    read_hard_negatives,
    write_hard_negatives,
)

__all__ = ["material"]  # a fixture

WIDTH, HEIGHT = 160, 120
BOX = (40.0, 30.0, 80.0, 60.0)


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def picture(seed: int = 0) -> bytes:
    return jpeg(drawn_bird(seed)[0])


def yolo_line(kind: int = 0) -> str:
    left, top, right, bottom = BOX
    x, y = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT
    return f"{kind} {x} {y} {(right - left) / WIDTH} {(bottom - top) / HEIGHT}\n"


def voc(*names: str, size: str = f"<width>{WIDTH}</width><height>{HEIGHT}</height>") -> str:
    left, top, right, bottom = BOX
    things = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name in names
    )
    return f"<annotation><size>{size}</size>{things}</annotation>"


def coco(names: list[str], birds: list[str]) -> str:
    left, top, right, bottom = BOX
    return json.dumps(
        {
            "images": [
                {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT}
                for i, name in enumerate(names)
            ],
            "annotations": [
                {
                    "id": i,
                    "image_id": names.index(name),
                    "category_id": 7,
                    "bbox": [left, top, right - left, bottom - top],
                }
                for i, name in enumerate(birds)
            ],
            "categories": [{"id": 7, "name": "bird"}],
        }
    )


def yolo_beside(folder: Path, number: int) -> None:
    put(folder, f"{number}.jpg", picture(number))
    put(folder, f"{number}.txt", yolo_line() if number % 2 else "")


def yolo_apart(folder: Path, number: int) -> None:
    put(folder, f"images/{number}.jpg", picture(number))
    put(folder, f"labels/{number}.txt", yolo_line(3) if number % 2 else yolo_line(1))
    put(folder, "data.yaml", "names: [cat, dog, cow, Bird]\n")


def yolo_polygons(folder: Path, number: int) -> None:
    yolo_beside(folder, number)
    left, top, right, bottom = np.array(BOX) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    points = f"0 {left} {top} {right} {top} {right} {bottom} {left} {bottom}"
    put(folder, f"{number}.txt", points if number % 2 else "")


def voc_beside(folder: Path, number: int) -> None:
    put(folder, f"{number}.jpg", picture(number))
    put(folder, f"{number}.xml", voc("bird", "cat") if number % 2 else voc())


def voc_apart(folder: Path, number: int) -> None:
    put(folder, f"JPEGImages/{number}.jpg", picture(number))
    put(folder, f"Annotations/{number}.xml", voc("bird") if number % 2 else voc("squirrel"))


def one_coco(folder: Path, number: int) -> None:
    put(folder, f"images/{number}.jpg", picture(number))
    names = [f"{i}.jpg" for i in range(number + 1)]
    put(folder, "annotations.json", coco(names, names[1::2]))


def coco_a_clip(folder: Path, number: int) -> None:
    clip = f"clip{number // 8}"
    put(folder, f"{clip}/{number}.jpg", picture(number))
    names = sorted(path.name for path in (folder / clip).glob("*.jpg"))
    birds = [name for name in names if int(Path(name).stem) % 2]
    put(folder, f"{clip}/_annotations.coco.json", coco(names, birds))


def cub(folder: Path, number: int) -> None:
    """Every picture has a bird there."""
    name = f"00{number % 7}.Bird/Bird_{number % 7}_000{number}_1.jpg"
    put(folder, f"images/{name}", picture(number))
    with (folder / "images.txt").open("a") as file:
        file.write(f"{number + 1} {name}\n")
    left, top, right, bottom = BOX
    with (folder / "bounding_boxes.txt").open("a") as file:
        file.write(f"{number + 1} {left} {top} {right - left} {bottom - top}\n")


FORMATS = [
    (yolo_beside, "YOLO"),
    (yolo_apart, "YOLO"),
    (yolo_polygons, "YOLO"),
    (voc_beside, "Pascal VOC"),
    (voc_apart, "Pascal VOC"),
    (one_coco, "COCO"),
    (coco_a_clip, "COCO"),
    (cub, "CUB-200-2011"),
]


@pytest.mark.parametrize(("write", "name"), FORMATS, ids=[w.__name__ for w, _ in FORMATS])
def test_every_format_says_the_same(
    tmp_path: Path, write: Callable[[Path, int], None], name: str
) -> None:
    folder = tmp_path / "feeder"
    folder.mkdir()
    for number in range(24):
        write(folder, number)
    own = load_own_pictures(folder)
    assert own.format == name
    assert (own.problems, own.unlabelled) == ([], 0)
    examples = own.train + own.validation
    assert len({e.name for e in examples}) == 24
    with_birds = [e for e in examples if len(e.fractions)]
    assert len(with_birds) == (24 if name == "CUB-200-2011" else 12)
    for one in with_birds:
        np.testing.assert_allclose(one.boxes(WIDTH, HEIGHT), [BOX], atol=0.01)
        assert one.picture().shape == (HEIGHT, WIDTH, 3)


def test_large_pictures_are_learnt_from_smaller_and_measured_on_as_they_are(tmp_path: Path) -> None:
    for number in range(24):
        yolo_beside(tmp_path, number)
        large = jpeg(cv2.resize(drawn_bird(number)[0], (1600, 1200)))
        put(tmp_path, f"{number}.jpg", large)
    own = load_own_pictures(tmp_path)
    assert {e.picture().shape for e in own.train} == {(600, 800, 3)}
    assert {e.picture().shape for e in own.validation} == {(1200, 1600, 3)}
    for one in own.validation:
        # read when asked for: a few thousand of them do not fit into memory
        assert (one.encoded, one.path) == (b"", tmp_path / one.stem)
    for one in own.train + own.validation:
        if len(one.fractions):
            np.testing.assert_allclose(one.boxes(WIDTH, HEIGHT), [BOX], atol=0.01)


# --- which labels are birds


def three_labels(folder: Path) -> None:
    for number in range(24):
        put(folder, f"{number}.jpg", picture(number))
        put(folder, f"{number}.xml", voc(("robin", "Great tit", "squirrel")[number % 3]))


def test_species_have_to_be_named_as_birds(tmp_path: Path) -> None:
    three_labels(tmp_path)
    with pytest.raises(ValueError, match=r"--bird; the labels are: Great tit, robin, squirrel"):
        load_own_pictures(tmp_path)
    own = load_own_pictures(tmp_path, ["robin", "great tit"])
    assert sum(len(e.fractions) for e in own.train + own.validation) == 16
    with pytest.raises(ValueError, match=r"labelled 'crow'; the labels are"):
        load_own_pictures(tmp_path, ["crow"])


@pytest.mark.parametrize(
    ("present", "wanted", "usual", "birds"),
    [
        (["cat", "robin"], [], ["robin", "great tit"], ["robin"]),
        ([], [], ["robin"], []),
        (["Bird", "cat"], [], ["robin"], ["Bird"]),
        (["cat", "crow"], ["crow", "robin"], ["robin"], ["crow"]),
        (["squirrel"], ["bird"], [], []),
        (["crow"], [], [], ["crow"]),
    ],
)
def test_pictures_to_measure_on_need_not_show_every_kind_of_bird(
    present: list[str], wanted: list[str], usual: list[str], birds: list[str]
) -> None:
    assert bird_names(present, wanted, usual) == set(birds)


def test_a_name_that_is_misspelt_does_not_make_all_pictures_empty() -> None:
    with pytest.raises(ValueError, match="no box is labelled 'robn'; the labels are: cat, robin"):
        bird_names(["robin", "cat"], ["robn"], ["robin"])


def test_labels_that_name_birds_in_another_way_are_not_taken_for_empty_pictures(
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    three_labels(other)
    of_crows = Origin(data=str(tmp_path / "learnt"), birds=["crow"])
    with pytest.raises(ValueError, match=r"--bird; the labels are: Great tit, robin, squirrel"):
        load_unseen(of_crows, other, print)
    pictures, _ = load_unseen(of_crows, other, print, ["robin", "wren"])
    assert sum(len(e.fractions) for e in pictures) == 8


# --- what is wrong

BAD_YOLO = [
    ("0 0.5 0.5 0.1", "line 1: expected 'class x y width height'"),
    (f"{yolo_line()}bird 0.5 0.5 0.1 0.1", "line 2: expected 'class x y width height'"),
    ("0 345 120 40 30", "expected fractions of the picture from 0 to 1"),
    ("0 0.5 0.5 0 0.1", "a box from"),
    ("0 nan 0.5 0.1 0.1", "a box from"),
    ("-1 0.5 0.5 0.1 0.1", "line 1: expected a class from 0 on"),
]


@pytest.mark.parametrize(("text", "complaint"), BAD_YOLO)
def test_a_label_that_makes_no_sense_costs_its_picture_only(
    tmp_path: Path, text: str, complaint: str
) -> None:
    for number in range(24):
        yolo_beside(tmp_path, number)
    bad = put(tmp_path, "5.txt", text)
    own = load_own_pictures(tmp_path, unlabelled_are_empty=True)
    [problem] = own.problems
    assert problem.startswith(f"{bad}, line")
    assert complaint in problem
    assert len(own.train + own.validation) == 23
    assert "1 labels or pictures could not be used" in str(own)


def test_a_class_without_a_name_costs_its_picture_only(tmp_path: Path) -> None:
    for number in range(24):
        yolo_beside(tmp_path, number)
    assert load_own_pictures(tmp_path).problems == []
    put(tmp_path, "classes.txt", "bird\n")
    # of a model that knows more classes: neither a bird nor nothing
    put(tmp_path, "5.txt", f"{yolo_line()}{yolo_line(14)}")
    put(tmp_path, "6.txt", yolo_line(14))
    own = load_own_pictures(tmp_path, unlabelled_are_empty=True)
    assert [problem.partition(": ") for problem in own.problems] == [
        (f"{tmp_path}/{where}", ": ", "class 14 is none of the 1 that have a name")
        for where in ("5.txt, line 2", "6.txt, line 1")
    ]
    assert len(own.train + own.validation) == 22


BAD_VOC = [
    ("<annotation><object>", "damaged"),
    (voc("bird").replace("<ymin>31.0</ymin>", "<ymin>high</ymin>"), "object 1: <ymin>: expected a"),
    (voc("bird").replace("bndbox", "box"), "object 1: <bndbox> is missing"),
    (voc("bird", size="<width>120</width><height>160</height>"), "label is for 120 x 160 pixels"),
    (voc("bird", size="<width>160</width><height>1e999</height>"), "label is for 160 x inf pixels"),
    (
        "<annotation><object><name>bird</name><bndbox><xmin>0.2</xmin><ymin>0.2</ymin>"
        "<xmax>0.5</xmax><ymax>0.5</ymax></bndbox></object></annotation>",
        "expected pixels, these look like fractions",
    ),
    ("<?xml version='1.0' encoding='klingon'?><annotation/>", "damaged"),
]


@pytest.mark.parametrize(("text", "complaint"), BAD_VOC)
def test_a_bad_xml_file_costs_its_picture_only(tmp_path: Path, text: str, complaint: str) -> None:
    for number in range(24):
        voc_beside(tmp_path, number)
    put(tmp_path, "5.xml", text)
    own = load_own_pictures(tmp_path, unlabelled_are_empty=True)
    [problem] = own.problems
    assert str(tmp_path / "5.") in problem
    assert complaint in problem
    assert len(own.train + own.validation) == 23


def coco_with(**changes: object) -> str:
    content = json.loads(coco([f"{i}.jpg" for i in range(24)], [f"{i}.jpg" for i in range(12)]))
    content["annotations"][3] |= changes
    return json.dumps(content)


BAD_COCO = [
    (coco_with(bbox=[1, 2, 3]), "annotations[3]: bbox: expected [x, y, width, height]"),
    (coco_with(bbox=[1, 10**400, 3, 4]), "annotations[3]: bbox: expected [x, y, width, height]"),
    (coco_with(category_id=1), "annotations[3]: there is no category 1"),
    (coco_with(iscrowd=1), "3.jpg: its label has a crowd of birds"),
    (coco_with(bbox=[0.2, 0.2, 0.3, 0.4]), "annotations[3]: a box from (0.2, 0.2) to (0.5, 0.6)"),
    (coco_with(bbox=[500, 500, 10, 10]), "lies outside of the picture"),
]


@pytest.mark.parametrize(("text", "complaint"), BAD_COCO)
def test_a_bad_annotation_costs_its_picture_only(tmp_path: Path, text: str, complaint: str) -> None:
    for number in range(24):
        put(tmp_path, f"{number}.jpg", picture(number))
    put(tmp_path, "labels.json", text)
    own = load_own_pictures(tmp_path, unlabelled_are_empty=True)
    [problem] = own.problems
    assert complaint in problem
    assert len(own.train + own.validation) == 23


def birds_in(folder: Path) -> dict[str, int]:
    """How many birds each picture that can be used has, by its path in the folder."""
    labels = read_labels(folder)
    return {
        path.relative_to(folder).as_posix(): label.names.count("bird")
        for path, label in sorted(labels.by_picture.items())
    }


def test_each_folder_has_its_own_names_of_classes(tmp_path: Path) -> None:
    for day, names, bird in ((1, "bird\nsquirrel\n", 0), (2, "squirrel\nbird\n", 1)):
        put(tmp_path, f"day{day}/1.jpg", picture(day))
        put(tmp_path, f"day{day}/1.txt", yolo_line(bird))
        put(tmp_path, f"day{day}/classes.txt", names)
    put(tmp_path, "day3/1.jpg", picture(3))
    put(tmp_path, "day3/1.txt", yolo_line())
    assert birds_in(tmp_path) == {"day1/1.jpg": 1, "day2/1.jpg": 1}
    [problem] = read_labels(tmp_path).problems
    assert "day3/1.txt" in problem
    assert "differ: which hold here?" in problem


def test_a_label_without_its_picture_is_none_of_another_days(tmp_path: Path) -> None:
    put(tmp_path, "day1/0001.jpg", picture(1))
    put(tmp_path, "day1/0001.xml", voc())
    put(tmp_path, "day2/0002.jpg", picture(2))
    put(tmp_path, "day2/0001.xml", voc("bird"))
    put(tmp_path, "day2/0002.xml", voc())
    assert birds_in(tmp_path) == {"day1/0001.jpg": 0, "day2/0002.jpg": 0}
    assert "there is no picture 0001" in read_labels(tmp_path).problems[0]


def test_a_coco_record_without_its_picture_is_none_of_another_days(tmp_path: Path) -> None:
    put(tmp_path, "day2/0001.jpg", picture(2))
    put(tmp_path, "labels.json", coco(["day1/0001.jpg", "day2/0001.jpg"], ["day1/0001.jpg"]))
    assert birds_in(tmp_path) == {"day2/0001.jpg": 0}
    assert "there is no picture day1/0001.jpg" in read_labels(tmp_path).problems[0]


def test_labels_in_folders_of_their_own_know_the_day(tmp_path: Path) -> None:
    for day in (1, 2):
        put(tmp_path, f"JPEGImages/day{day}/4.jpg", picture(day))
        put(tmp_path, f"Annotations/day{day}/4.xml", voc("bird") if day == 1 else voc())
    assert birds_in(tmp_path) == {"JPEGImages/day1/4.jpg": 1, "JPEGImages/day2/4.jpg": 0}


def test_pictures_that_a_label_may_mean_are_not_taken_for_empty(tmp_path: Path) -> None:
    for day in (1, 2):
        put(tmp_path, f"day{day}/4.jpg", picture(day))
    put(tmp_path, "Annotations/4.xml", voc("bird"))
    labels = read_labels(tmp_path)
    assert (labels.by_picture, labels.unlabelled) == ({}, [])
    assert "there are several pictures 4" in labels.problems[0]


def test_a_flat_folder_of_labels_speaks_of_names_that_occur_once(tmp_path: Path) -> None:
    for name in ("images/f1.jpg", "empty/f1.jpg", "more/f2.jpg", "day1/f3.jpg", "day2/f3.jpg"):
        put(tmp_path, name, picture())
    for number in (1, 2, 3):
        put(tmp_path, f"labels/f{number}.txt", yolo_line())
    put(tmp_path, "labels/classes.txt", "bird\n")
    labels = read_labels(tmp_path)
    assert birds_in(tmp_path) == {"images/f1.jpg": 1, "more/f2.jpg": 1}
    assert labels.unlabelled == [tmp_path / "empty/f1.jpg"]
    assert ["there are several pictures" in problem for problem in labels.problems] == [True, True]


def test_two_labels_that_contradict_each_other_cost_the_picture(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", picture())
    put(tmp_path, "1.xml", voc("bird"))
    put(tmp_path, "Annotations/1.xml", voc("bird"))
    assert birds_in(tmp_path) == {"1.jpg": 1}
    put(tmp_path, "Annotations/1.xml", voc())
    assert birds_in(tmp_path) == {}


def test_several_coco_files_add_to_each_other(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", picture())
    put(tmp_path, "instances.json", coco(["1.jpg"], ["1.jpg"]))
    put(tmp_path, "person_keypoints.json", coco(["1.jpg"], []))
    put(tmp_path, "predictions.json", '{"a": 1}\n{"a": 2}\n')
    put(tmp_path, "older.json", '{"a": "für"}'.encode("latin-1"))
    put(tmp_path, "all.json", coco(["1.jpg"], ["1.jpg"]))
    captions = json.loads(coco(["1.jpg"], []))
    captions["annotations"] = [{"id": 1, "image_id": 0, "caption": "a bird"}]
    del captions["images"][0]["width"]
    put(tmp_path, "captions.json", json.dumps(captions))
    assert birds_in(tmp_path) == {"1.jpg": 1}
    assert read_labels(tmp_path).problems == []


def captions(names: list[str]) -> str:
    content = json.loads(coco(names, []))
    content["annotations"] = [
        {"id": i, "image_id": i, "caption": "a bird"} for i in range(len(names))
    ]
    return json.dumps(content)


def test_a_picture_with_a_caption_only_is_not_taken_for_empty(tmp_path: Path) -> None:
    for number in (1, 2):
        put(tmp_path, f"{number}.jpg", picture(number))
    put(tmp_path, "captions.json", captions(["1.jpg", "2.jpg"]))
    with pytest.raises(ValueError, match="2 pictures but no labels"):
        read_labels(tmp_path)
    put(tmp_path, "instances.json", coco(["1.jpg"], ["1.jpg"]))
    assert birds_in(tmp_path) == {"1.jpg": 1}
    assert read_labels(tmp_path).unlabelled == [tmp_path / "2.jpg"]


def test_a_yaml_file_of_another_program_costs_nothing(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", picture())
    put(tmp_path, "1.txt", yolo_line())
    put(tmp_path, "classes.txt", "bird\n")
    put(tmp_path, "compose.yaml", "services: {}\n")
    put(tmp_path, "configuration.yaml", "automation: !include automations.yaml\n")
    assert birds_in(tmp_path) == {"1.jpg": 1}
    [problem] = read_labels(tmp_path).problems
    assert "configuration.yaml: not read, as no names of classes are seen in it: " in problem
    put(tmp_path, "data.yaml", "names: [bird]\npath: !include path.yaml\n")
    with pytest.raises(ValueError, match=r"data\.yaml is damaged"):
        read_labels(tmp_path)


def test_folders_that_are_links_are_read_once(tmp_path: Path) -> None:
    feeder, elsewhere = tmp_path / "feeder", tmp_path / "elsewhere"
    for number in range(4):
        put(elsewhere, f"{number}.jpg", picture(number))
        put(feeder, f"labels/val/{number}.txt", yolo_line() if number else "")
    put(feeder, "images/train/a/9.jpg", picture(9))
    put(feeder, "labels/train/a/9.txt", yolo_line())
    put(feeder, "classes.txt", "bird\n")
    (feeder / "images/val").symlink_to(elsewhere, target_is_directory=True)
    # further ways to what is there, and one that leads round and round
    (feeder / "images/also").symlink_to(feeder / "images/train", target_is_directory=True)
    (feeder / "images/train/up").symlink_to(feeder, target_is_directory=True)
    assert birds_in(feeder) == {
        "images/train/a/9.jpg": 1,
        **{f"images/val/{number}.jpg": int(number > 0) for number in range(4)},
    }
    assert read_labels(feeder).unlabelled == []


def test_numbers_written_as_text_are_understood(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", picture())
    content = json.loads(coco(["1.jpg"], ["1.jpg"]))
    content["images"][0] |= {"id": "0", "width": str(WIDTH)}
    for no_crowd in ("0", 0, 0.0, None, "", False, "false"):
        content["annotations"][0]["iscrowd"] = no_crowd
        put(tmp_path, "labels.json", json.dumps(content))
        assert birds_in(tmp_path) == {"1.jpg": 1}, no_crowd
    for other in ("maybe", 2):
        content["annotations"][0]["iscrowd"] = other
        put(tmp_path, "labels.json", json.dumps(content))
        assert birds_in(tmp_path) == {}


def test_a_crowd_of_people_costs_nothing(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", picture())
    content = json.loads(coco(["1.jpg"], ["1.jpg"]))
    content["categories"].append({"id": 1, "name": "person"})
    content["annotations"].append({"image_id": 0, "category_id": 1, "iscrowd": 1})
    put(tmp_path, "labels.json", json.dumps(content))
    assert birds_in(tmp_path) == {"1.jpg": 1}


def test_labels_in_an_older_encoding_are_read(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", picture())
    text = f"<?xml version='1.0' encoding='latin-1'?>{voc('bird', 'Grünfink')}"
    put(tmp_path, "1.xml", text.encode("latin-1"))
    assert birds_in(tmp_path) == {"1.jpg": 1}


@pytest.mark.parametrize("written", ["bird", "Bird", "BIRDS"])
def test_birds_are_birds_however_they_are_written(written: str) -> None:
    assert bird_names(["cat", written, "birds"], []) == {written, "birds"}
    assert bird_names(["Robin", "robin", "cat"], ["ROBIN"]) == {"Robin", "robin"}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("labels.json", '{"images": [],\n "annotations": [}', r"labels\.json, line 2"),
        ("labels.json", '{"images": [{"id": 1}], "annotations": []}', r"images\[0\]: 'file_name'"),
        ("labels.json", '{"images": null, "annotations": []}', r"json: images: expected a list"),
        ("labels.json", '{"images": [], "annotations": 5}', r"json: annotations: expected a list"),
        (
            "labels.json",
            '{"images": [], "annotations": [], "categories": null}',
            r"json: categories: expected a list",
        ),
        (
            "labels.json",
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "1.jpg", "width": 10**400, "height": 5}],
                    "annotations": [],
                }
            ),
            r"images\[0\]: width and height: expected numbers",
        ),
        ("labels.json", '{"images": [], "annotations": ' + "9" * 5000, r"json is damaged"),
        ("labels.json", '{"images": [], "annotations": ' + "[" * 100_000, r"json is damaged"),
        ("data.yaml", "names: [a", r"data\.yaml is damaged"),
        ("data.yaml", "names: {.inf: bird}", r"data\.yaml is damaged"),
        ("data.yaml", "names: {!!bool q: bird}", r"data\.yaml is damaged"),
        ("data.yaml", "names: {!!int '': bird}", r"data\.yaml is damaged"),
        ("data.yaml", "names: {!!timestamp q: bird}", r"data\.yaml is damaged"),
        ("data.yaml", "names: " + "[" * 600, r"data\.yaml is damaged"),
        ("notes.md", "", "holds 1 pictures but no labels in YOLO, Pascal VOC or COCO"),
    ],
)
def test_what_all_labels_depend_on_must_be_right(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    put(tmp_path, "1.jpg", picture())
    put(tmp_path, name, content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_labels(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_pictures_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no pictures"):
        load_own_pictures(tmp_path)


def test_unreadable_and_unlabelled_pictures_are_counted(tmp_path: Path) -> None:
    for number in range(24):
        yolo_beside(tmp_path, number)
    put(tmp_path, "6.jpg", picture()[:200])
    (tmp_path / "7.txt").unlink()
    (tmp_path / ".8.jpg").write_bytes(b"what a file manager leaves behind")
    own = load_own_pictures(tmp_path)
    assert len(own.train + own.validation) == 22
    assert own.unlabelled == 1
    [problem] = own.problems
    assert "6.jpg" in problem
    assert "cut short" in problem
    assert "--unlabelled-are-empty" in str(own)
    assert load_own_pictures(tmp_path, unlabelled_are_empty=True).unlabelled == 0


# --- the split


def test_a_clip_is_on_one_side_of_the_split() -> None:
    clips = [f"clip{i // 10}" for i in range(100)]
    chosen = split(clips, [i % 3 == 0 for i in range(100)])
    assert chosen is not None
    assert 100 / 7 <= len(chosen) <= 40
    assert {clips[i] for i in chosen}.isdisjoint(clips[i] for i in range(100) if i not in chosen)
    assert split(clips, [i % 3 == 0 for i in range(100)]) == chosen


def test_someones_own_split_is_kept() -> None:
    clips = ["train/images"] * 80 + ["valid/images"] * 20
    assert split(clips, [True] * 100) == set(range(80, 100))


def test_frames_of_one_folder_are_split_in_runs_of_neighbours() -> None:
    chosen = split([""] * 210, [True] * 210)
    assert chosen is not None
    borders = sum((i in chosen) != (i + 1 in chosen) for i in range(209))
    assert 30 <= len(chosen) <= 84
    assert borders <= 2 * len(chosen) / 10


def frames(folder: Path, name: Callable[[int], str]) -> tuple[list[int], str]:
    """The numbers of those that are measured on, in order, and what is said of it."""
    for number in range(42):
        put(folder, f"{name(number)}frame{number}.jpg", picture())
        put(folder, f"{name(number)}frame{number}.txt", yolo_line())
    own = load_own_pictures(folder)
    numbers = [int(re.findall(r"frame(\d+)", e.name)[0]) for e in own.validation]
    return numbers, str(own)


def test_random_numbers_before_all_names_do_not_mix_a_clips_frames(tmp_path: Path) -> None:
    def random(number: int) -> str:
        return f"{zlib.crc32(bytes([number])):08x}-"

    plain, said = frames(tmp_path / "plain", lambda _: "")
    assert "measure on: 6 birds, 0 empty (runs of neighbours)" in said
    assert frames(tmp_path / "exported", random)[0] == plain
    deep = frames(tmp_path / "deep", lambda n: f"images/{random(n)}")
    assert deep == frames(tmp_path / "deeper", lambda _: "images/")
    assert frames(tmp_path / "partly", lambda n: random(n) if n else "")[0] != plain
    # a day's frames stay beside each other
    days, _ = frames(tmp_path / "days", lambda n: f"2024050{n % 3}-")
    assert days == sorted(days, key=lambda n: (n % 3, n))


def test_it_is_told_which_folders_are_measured_on(tmp_path: Path) -> None:
    measured, said = frames(tmp_path / "few", lambda n: f"2024-05-0{n % 6}/")
    [day] = {number % 6 for number in measured}
    assert f"7 pictures to measure on: 7 birds, 0 empty (2024-05-0{day})\n" in f"{said}\n"
    _, said = frames(tmp_path / "many", lambda n: f"{'val' if n % 2 else 'train'}/{n % 14}/")
    assert "0 empty (val/1, val/3, val/5, val/7, val/9 and 2 more)" in said


def test_both_sides_have_birds_or_there_is_no_split(tmp_path: Path) -> None:
    for where in range(10):
        has_bird = [i // 10 == where or i % 50 == 7 for i in range(100)]
        chosen = split([f"clip{i // 10}" for i in range(100)], has_bird)
        assert chosen is not None
        assert any(has_bird[i] for i in chosen)
        assert any(has_bird[i] for i in range(100) if i not in chosen)
    assert split(["a"] * 50 + ["b"] * 50, [i == 3 for i in range(100)]) is None
    for number in range(5):
        put(tmp_path, f"{number}.jpg", picture(number))
        put(tmp_path, f"{number}.txt", yolo_line() if number == 3 else "")
    with pytest.raises(ValueError, match="1 usable pictures with birds are too few"):
        load_own_pictures(tmp_path)


def test_a_folder_that_was_not_trained_with_is_measured_on_as_a_whole(tmp_path: Path) -> None:
    learnt, other = tmp_path / "learnt", tmp_path / "other"
    for number in range(3):
        # a single bird would be too few for a split
        put(other, f"day1/{number}.jpg", picture(number))
        put(other, f"day1/{number}.txt", yolo_line() if number == 1 else "")
    said: list[str] = []
    pictures, gathered = load_unseen(Origin(data=str(learnt)), other, said.append)
    assert [e.name for e in pictures] == [f"other/day1/{number}.jpg" for number in range(3)]
    assert gathered is None
    assert "3 pictures to measure on: 1 birds, 2 empty" in said[0]
    assert "to learn from" not in said[0]
    for where in (other / "day1", tmp_path):
        with pytest.raises(ValueError, match="have pictures in common"):
            load_unseen(Origin(data=str(where)), other, said.append)
    for number in range(3):
        put(other, f"day1/{number}.jpg", b"")
    with pytest.raises(ValueError, match=r"no picture to measure on; the first problem: .*0\.jpg"):
        load_unseen(Origin(data=str(learnt)), other, said.append)


def test_of_cub_only_species_that_the_packs_do_not_teach_are_measured_on(tmp_path: Path) -> None:
    names = ("Acadian_Flycatcher_0001_1", "Olive_Sided_Flycatcher_0002_2")
    left, top, right, bottom = BOX
    for number, name in enumerate(names, 1):
        put(tmp_path, f"images/{name}.jpg", picture(number))
    put(tmp_path, "images.txt", "".join(f"{i} {name}.jpg\n" for i, name in enumerate(names, 1)))
    box = f"{left} {top} {right - left} {bottom - top}\n"
    put(tmp_path, "bounding_boxes.txt", f"1 {box}2 {box}")
    [one] = load_own_pictures(tmp_path, unseen=True).validation
    assert one.stem == "Olive_Sided_Flycatcher_0002_2.jpg"


@pytest.mark.parametrize("unseen", [True, False])
def test_of_cub_no_species_is_measured_on_that_the_packs_crops_show(
    tmp_path: Path, unseen: bool
) -> None:
    """The crops write it with a small letter, which puts them on the other side of the split."""
    packs = two_editions(tmp_path / "packs")
    put(packs, "cub200_2010_crops/Blue_winged_Warbler/Blue_winged_Warbler_0001_9.jpg", b"")
    learnt = {species_of(e.stem).lower() for e in load_packs(packs).crops_train}
    assert is_validation("Blue_Winged_Warbler")
    assert "blue_winged_warbler" in learnt

    folder = tmp_path / "cub"
    species = ("Acadian_Flycatcher", "Blue_Winged_Warbler", "Olive_Sided_Flycatcher")
    names = [f"{name}_0001_1.jpg" for name in species]
    for number, name in enumerate(names):
        put(folder, f"images/{name}", picture(number))
    put(folder, "images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names)))
    left, top, right, bottom = BOX
    box = f"{left} {top} {right - left} {bottom - top}\n"
    put(folder, "bounding_boxes.txt", "".join(f"{i} {box}" for i in range(3)))
    own = load_own_pictures(folder, unseen=unseen)
    assert [e.stem for e in own.validation] == [names[2]]
    assert [e.stem for e in own.train] == ([] if unseen else names[:2])


# --- a run


def drawn_feeder(folder: Path) -> Path:
    """Every other picture has a bird, in the box that its label says."""
    for number in range(24):
        drawn, box = drawn_bird(number)
        put(folder, f"{number}.jpg", jpeg(drawn))
        centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        numbers = " ".join(f"{value:.6f}" for value in (*centre, *size))
        put(folder, f"{number}.txt", f"0 {numbers}\n" if number % 2 else "")
    return folder


def test_birds_are_cut_out_again_where_their_boxes_were_corrected(tmp_path: Path) -> None:
    folder, run = drawn_feeder(tmp_path / "feeder"), tmp_path / "run"
    learnt = next(e.stem for e in load_own_pictures(folder).train if len(e.fractions))
    label = (folder / learnt).with_suffix(".txt")
    right = label.read_text()
    # as many boxes, but nothing that could be cut out
    label.write_text("0 0.05 0.05 0.02 0.02\n")
    origin = Origin(data=str(folder))
    before = load_sources(origin, run, lambda _: None).material.cutouts
    label.write_text(right)
    after = load_sources(origin, run, lambda _: None).material.cutouts
    assert len(after) == len(before) + 1
    written = (run / "cutouts.zip").stat().st_mtime_ns
    again = load_sources(origin, run, lambda _: None).material.cutouts
    assert (run / "cutouts.zip").stat().st_mtime_ns == written
    assert again == after == read_cutouts(run / "cutouts.zip")
    (run / "cutouts.zip").write_bytes(b"cut short")
    assert load_sources(origin, run, lambda _: None).material.cutouts == after


def test_a_name_of_bytes_that_are_no_text_is_as_good_as_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = drawn_feeder(tmp_path / "feeder"), tmp_path / "run"
    for one in sorted(folder.iterdir()):
        one.rename(folder / os.fsdecode(b"day\xe9-" + one.name.encode()))
    put(folder, os.fsdecode(b"\xe9.txt"), "no box")
    put(folder, os.fsdecode(b"\xe9.jpg"), picture())
    sources = load_sources(Origin(data=str(folder)), run, print)
    assert len(sources.material.cutouts) > 3
    assert "\\udce9.txt, line 1" in capsys.readouterr().out
    hard = sources.material.empties[:2]
    write_hard_negatives(run / "hard.txt", hard)
    assert read_hard_negatives(run / "hard.txt", sources.material.empties) == hard
    # and what all others are called by is what it was
    ordinary = example(1)
    number = zlib.crc32(f"{ordinary.name} {len(ordinary.encoded)}\n".encode())
    assert number_of([ordinary]) == zlib.crc32(ordinary.fractions.tobytes(), number)


def started_from(weights: Path | None, data: Path, hard_negatives: Path | None = None) -> Origin:
    return origin_of(
        data,
        packs=data / "none",
        birds=[],
        unlabelled_are_empty=False,
        trunk="lite0",
        size_px=None,
        hard_negatives=hard_negatives,
        start_from=weights,
    )


def test_hard_ones_among_own_pictures_are_shown_more_often(tmp_path: Path) -> None:
    folder = drawn_feeder(tmp_path / "feeder")
    hard = next(e.name for e in load_own_pictures(folder).train if not len(e.fractions))
    path = put(tmp_path, "hard_negatives.txt", f"{hard}\n")
    origin = started_from(None, folder, hard_negatives=path)
    empties = [e.name for e in load_sources(origin, tmp_path / "run", print).material.empties]
    assert empties.count(hard) == 4
    assert {empties.count(name) for name in empties if name != hard} == {1}
    # of another folder's pictures, as 'quantize --data' takes them, none is one of these
    origin.write(tmp_path / "run")
    other = drawn_feeder(tmp_path / "other")
    assert _sources_of(tmp_path / "run", other)[1].material.empties


def test_a_run_that_learnt_from_other_pictures_of_its_folder_is_not_measured(
    tmp_path: Path,
) -> None:
    folder, run = drawn_feeder(tmp_path / "feeder"), tmp_path / "run"
    own = load_own_pictures(folder)
    earlier = Origin(data=str(folder))
    msgspec.structs.replace(earlier, learnt=own.learnt).write(run)
    # a corrected label changes nothing in what is measured on
    (folder / own.train[0].stem).with_suffix(".txt").write_text(yolo_line())
    assert _sources_of(run, None)[1].own.learnt == own.learnt
    put(folder, "new.jpg", picture())
    put(folder, "new.txt", "")
    for data in (None, folder):
        with pytest.raises(ClickException, match=r"run\.json was made with other pictures or"):
            _sources_of(run, data)
    # all of another folder's pictures are new to it
    assert _sources_of(run, drawn_feeder(tmp_path / "other"))
    earlier.write(run)
    assert _sources_of(run, None)


def test_a_run_knows_what_the_weights_it_started_from_were_made_of(tmp_path: Path) -> None:
    data, before = tmp_path / "feeder", tmp_path / "before"
    weights = put(before, "detector.weights.h5", b"")
    unknown = started_from(weights, data)
    assert (unknown.size_px, unknown.threshold) == (256, None)

    garden = TrainingData("own pictures: garden", "their owner's")
    Origin(
        data="garden", size_px=320, narrowed=(16, 32), threshold=0.6, training_data=[garden]
    ).write(before)
    known = started_from(weights, data)
    assert (known.size_px, known.narrowed, known.threshold) == (320, (16, 32), 0.6)
    assert [d.name for d in known.training_data] == [garden.name, "own pictures: feeder"]

    # the threshold that was chosen for it counts for more than that of what it began with
    shipped = load_model(DEFAULT_DETECTOR, "detector")
    write_model(shipped.content, shipped.card, before / "bird_detector.tflite")
    assert started_from(weights, data).threshold == shipped.card.threshold

    (data / "packs").mkdir(parents=True)
    assert garden in started_from(weights, data).training_data


# --- the material


@pytest.mark.parametrize("empties", [0, 3])
@pytest.mark.parametrize("cut_out", [True, False])
def test_scenes_can_be_composed_of_own_pictures_alone(
    material, empties: int, cut_out: bool
) -> None:
    examples = [example(i) for i in range(6)]
    examples += [example(100 + i, bird=False) for i in range(empties)]
    own = own_material(examples, material.cutouts if cut_out else [])
    birds = 0
    for number in range(60):
        scene = training_scene(1, number, own, 96)
        assert scene.picture.shape == (96, 96, 3)
        birds += len(scene.boxes)
    assert birds > 30
    again = own_material(examples, material.cutouts if cut_out else [])
    assert [e.encoded for e in again.distractors] == [e.encoded for e in own.distractors]


def test_birds_that_fill_their_pictures_cannot_be_learnt_alone() -> None:
    examples = [example(i) for i in range(3)]
    for one in examples:
        one.fractions[:] = [0, 0, 1, 1]
    with pytest.raises(ValueError, match="add some empty ones"):
        own_material(examples, [])


def test_own_pictures_are_not_drowned_by_those_of_the_packs(material) -> None:
    few = own_material([example(50), example(51, bird=False)], material.cutouts[:1])
    both = mixed(few, material)
    own = sum(e.name == "drawn/50" for e in both.birds)
    assert own / len(both.birds) == pytest.approx(0.5, abs=0.1)
    assert len(both.objects) == len(material.objects)


def test_those_of_the_packs_are_not_drowned_by_many_own_ones(material) -> None:
    many = [example(number) for number in range(50, 80)]
    own = own_material([*many, example(90, bird=False)], material.cutouts * 5)
    both = mixed(own, material)
    packs = {e.name for e in material.birds}
    assert sum(e.name in packs for e in both.birds) / len(both.birds) == pytest.approx(0.5, abs=0.1)
    assert len(both.cutouts) == 2 * len(own.cutouts)
