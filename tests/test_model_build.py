"""The build stage without its network: pictures, boxes, targets' material and figures."""

from __future__ import annotations

import errno
import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tqdm", reason="the build stage's libraries are in the newest run only")

from edgebird.errors import OutputError
from edgebird.structures import Detections
from model_build import cutouts as cutting
from model_build.augment import Material, paste, training_scene
from model_build.cutouts import (
    cut_out,
    decode_cutout,
    read_cutouts,
    write_cutouts,
    write_cutouts_in_parts,
)
from model_build.datasets import (
    Example,
    is_validation,
    load_boxed,
    load_packs,
    load_unboxed,
    species_in,
    species_of,
    split_key,
    yolo_boxes,
)
from model_build.hard_pictures import KINDS, empty_picture, small_birds_picture
from model_build.metrics import (
    Truth,
    at_threshold,
    average_precision,
    best_threshold,
    judge,
    quietest_threshold,
    size_names,
)
from model_build.places import (
    Rule,
    compare_places,
    composed_place,
    composed_places,
    nestbox_pictures,
)
from model_build.places import table as places_table
from model_build.trunk import folded
from model_build.trunk_weights import load_state_dict


def drawn_bird(seed: int, size: tuple[int, int] = (160, 120)) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a blob on a plain background, and the blob's box as fractions."""
    rng = np.random.default_rng(seed)
    width, height = size
    picture = np.full((height, width, 3), (90, 140, 80), np.uint8)
    picture = (picture + rng.normal(0, 6, picture.shape)).clip(0, 255).astype(np.uint8)
    x, y = int(rng.integers(50, width - 50)), int(rng.integers(40, height - 40))
    cv2.ellipse(picture, (x, y), (34, 22), 0, 0, 360, (200, 60, 40), -1)
    cv2.circle(picture, (x + 30, y - 16), 12, (180, 50, 40), -1)
    box = np.array([x - 34, y - 28, x + 42, y + 22]) / [width, height, width, height]
    return picture, box.astype(np.float32)


def jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def example_of(picture: np.ndarray, name: str = "picture") -> Example:
    """A picture without boxes."""
    return Example(name, jpeg(picture), np.zeros((0, 4), "f4"))


def example(seed: int, *, bird: bool = True) -> Example:
    picture, box = drawn_bird(seed)
    if not bird:
        picture = np.full_like(picture, (120, 120, 60))
    return Example(f"drawn/{seed}", jpeg(picture), box[None] if bird else np.zeros((0, 4), "f4"))


@pytest.fixture(scope="module")
def material() -> Material:
    birds = [example(i) for i in range(6)]
    cutouts = []
    for bird in birds:
        picture = bird.picture()
        rgba = cut_out(picture, bird.boxes(picture.shape[1], picture.shape[0])[0])
        assert rgba is not None
        cutouts.append(cv2.imencode(".png", rgba[..., [2, 1, 0, 3]])[1].tobytes())
    empties = [example(i, bird=False) for i in range(100, 103)]
    return Material(birds, empties, cutouts, cutouts[:2], empties)


# --- data sets


def test_a_zip_and_its_folder_hold_the_same(tmp_path: Path) -> None:
    picture, box = drawn_bird(1)
    centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    label = "0 " + " ".join(f"{v:.6f}" for v in (*centre, *size)) + "\n1 0.5 0.5 0.1 0.1\n"
    folder = tmp_path / "pack"
    for name, content in (
        ("images/one.jpg", jpeg(picture)),
        ("labels/one.txt", label.encode()),
        ("images/empty.jpg", jpeg(picture)),
        ("labels/empty.txt", b""),
        ("images/without_label.jpg", jpeg(picture)),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder))
    for pack in (folder, tmp_path / "pack.zip"):
        empty, one = load_boxed(pack)
        assert (empty.name, one.name) == ("pack/empty", "pack/one")
        assert empty.fractions.shape == (0, 4)
        np.testing.assert_allclose(one.fractions, [box], atol=1e-5)
        assert one.picture().shape == picture.shape
        assert len(load_unboxed(pack)) == 3


def test_packs_that_are_missing_or_empty_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="bird_boxes"):
        load_packs(tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no picture with a label"):
        load_boxed(tmp_path / "nothing")


def test_boxes_outside_the_picture_are_clipped() -> None:
    np.testing.assert_allclose(yolo_boxes("0 0.05 0.5 0.2 1.2"), [[0, 0, 0.15, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("stem", "key"),
    [
        ("cub_Acadian_Flycatcher_0025_42032", "Acadian_Flycatcher"),
        ("sg_013b24b227", "sg_013b24b227"),
        ("neg_voc_000256", "neg_voc_000256"),
    ],
)
def test_a_whole_species_is_on_one_side_of_the_split(stem: str, key: str) -> None:
    assert split_key(stem) == key


def test_the_split_is_the_agreed_one() -> None:
    assert is_validation("Olive_Sided_Flycatcher")
    assert not is_validation("Acadian_Flycatcher")


# Olive_Sided_Flycatcher's photos are for validation. Of the cuckoos' names the crops' is one that
# the classifier holds out, the photos' is not.
SPELLINGS = [
    ("Olive_Sided_Flycatcher", "Olive_sided_Flycatcher"),
    ("Black_Billed_Cuckoo", "Black_billed_Cuckoo"),
    ("Acadian_Flycatcher", "Acadian_Flycatcher"),
]


def two_editions(folder: Path) -> Path:
    """Packs in which photos and crops write some species differently."""
    boxes, crops = folder / "bird_boxes", folder / "cub200_2010_crops"
    files = {
        "nestbox_pi_camera/images/1.jpg": b"",
        "nestbox_pi_camera/labels/1.txt": b"",
        "coco_train128/images/1.jpg": b"",
        "coco_train128/labels/1.txt": b"",
        "imagenet_samples/other/1.jpg": b"",
        "imagenet_samples/birds/2.jpg": b"",
        "tiny_imagenet_subset/classes.tsv": b"n1\tcat\t0\n",
        **{f"tiny_imagenet_subset/n1/{number}.jpg": b"" for number in range(200)},
    }
    for photo, crop in SPELLINGS:
        for number in range(4):
            files[f"{boxes.name}/images/cub_{photo}_000{number}_7.jpg"] = b""
            files[f"{boxes.name}/labels/cub_{photo}_000{number}_7.txt"] = b"0 0.5 0.5 0.2 0.2"
            files[f"{crops.name}/{crop}/{crop}_000{number}_9.jpg"] = b""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_species_is_on_one_side_however_it_is_written(tmp_path: Path) -> None:
    packs = load_packs(two_editions(tmp_path))
    learned = species_in(packs.boxed_train) | {
        species_of(e.stem).lower() for e in packs.crops_train
    }
    assert learned == {"black_billed_cuckoo", "acadian_flycatcher"}
    assert species_in(packs.boxed_validation) == {"olive_sided_flycatcher"}


# --- cut-outs and composed pictures


def test_a_bird_is_cut_along_its_outline() -> None:
    picture, box = drawn_bird(3)
    rgba = cut_out(picture, box * [160, 120, 160, 120])
    assert rgba is not None
    alpha = rgba[..., 3]
    assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 3] > 250
    assert alpha[-1, -1] < 20  # the corner beside the ellipse is background
    reds = rgba[alpha > 250][:, 0]
    assert reds.mean() > 150


def test_what_cannot_be_cut_is_left_out() -> None:
    plain = np.full((100, 100, 3), 128, np.uint8)
    assert cut_out(plain, np.array([20, 20, 80, 80])) is None
    assert cut_out(plain, np.array([20, 20, 30, 30])) is None
    assert cut_out(plain, np.array([0, 0, 100, 100])) is None


def test_cutouts_are_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "cutouts.zip"
    count = write_cutouts([example(1), example(2, bird=False)], [], path)
    cutouts = read_cutouts(path)
    assert count == len(cutouts) == 1
    assert decode_cutout(cutouts[0]).shape[2] == 4
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("end", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_cutting_that_ends_early_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    def stop(*_: object) -> None:
        raise end

    monkeypatch.setattr(zipfile.ZipFile, "writestr", stop)
    path = tmp_path / "cutouts.zip"
    with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
        write_cutouts([example(1)], [], path)
    if isinstance(end, OSError):
        assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_cutting_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "_PART", 2)
    cut = cutting._cut_all
    asked: list[str] = []

    def cut_until_stopped(one: Example) -> list[tuple[str, bytes]]:
        asked.append(one.name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return cut(one)

    monkeypatch.setattr(cutting, "_cut_all", cut_until_stopped)
    pictures, path = [example(number) for number in range(5)], tmp_path / "cutouts.zip"
    with pytest.raises(KeyboardInterrupt):
        write_cutouts_in_parts(pictures, [], path)
    assert not path.exists()
    count = write_cutouts_in_parts(pictures, [], path)
    assert asked == [e.name for e in [*pictures[:3], *pictures[2:]]]

    whole = tmp_path / "whole.zip"
    assert write_cutouts(pictures, [], whole) == count > 0
    assert read_cutouts(path) == read_cutouts(whole)
    assert sorted(tmp_path.iterdir()) == [path, whole]


def test_a_scene_depends_on_its_seed_and_number_only(material: Material) -> None:
    fresh = Material(
        material.birds,
        material.empties,
        material.cutouts,
        material.objects,
        material.distractors,
    )
    training_scene(1, 99, fresh, 96)
    for number in range(12):
        one, two = training_scene(1, number, material, 96), training_scene(1, number, fresh, 96)
        np.testing.assert_array_equal(one.picture, two.picture)
        np.testing.assert_array_equal(one.boxes, two.boxes)
    other = training_scene(2, 0, material, 96)
    assert not np.array_equal(other.picture, training_scene(1, 0, material, 96).picture)


def test_scenes_are_pictures_with_boxes_inside(material: Material) -> None:
    counts = []
    for number in range(150):
        scene = training_scene(5, number, material, 96)
        assert scene.picture.shape == (96, 96, 3)
        assert scene.picture.dtype == np.uint8
        for boxes in (scene.boxes, scene.ignored):
            assert boxes.shape[1] == 4
            assert (boxes >= 0).all()
            assert (boxes <= 96).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
        counts.append(len(scene.boxes))
    # Empty scenes teach silence, crowded ones to tell birds apart.
    assert 0.1 < np.mean([count == 0 for count in counts]) < 0.6
    assert max(counts) >= 3


def test_a_bird_in_company_comes_close_beside_the_other_and_shows(material: Material) -> None:
    bird = decode_cutout(material.cutouts[0])
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        canvas = np.full((80, 100, 3), 255, np.uint8)
        # also at the borders, and beyond them
        x, y = rng.uniform(-10, 90), rng.uniform(-10, 70)
        other = np.array([x, y, x + 30, y + 25], np.float32).clip(0, [100, 80, 100, 80])
        pasted = paste(rng, canvas, bird, 30, False, [other], 0.0, beside=other)
        if pasted is None:
            continue
        found += 1
        apart = np.maximum(pasted.box[:2] - other[2:], other[:2] - pasted.box[2:]).max()
        assert apart < 15
        assert (pasted.box[2:] > pasted.box[:2]).all()
    assert found > 40


def test_a_paste_with_nothing_before_it_changes_its_box_only(material: Material) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        canvas = np.full((80, 100, 3), 255, np.uint8)
        pasted = paste(rng, canvas, decode_cutout(material.cutouts[0]), 30, False, [], 0.0)
        changed = (canvas != 255).any(axis=2)
        if pasted is None:
            continue
        left, top, right, bottom = pasted.box.astype(int)
        outside = changed.copy()
        # the soft edge reaches a little beyond
        outside[max(0, top - 6) : bottom + 6, max(0, left - 6) : right + 6] = False
        assert changed.any()
        assert not outside.any()


# --- figures


def detections(*rows: tuple[float, float, float, float, float]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4])


def truth(*boxes: list[float], kind: str = "plain") -> Truth:
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), (100, 80), kind)


def test_average_precision_of_a_known_case() -> None:
    bird, other = [0, 0, 10, 10], [50, 50, 60, 60]
    found = [
        detections((0, 0, 10, 10, 0.9), (0, 0, 10, 9, 0.8)),  # the second finds it once more
        detections((50, 50, 60, 60, 0.7)),
        detections((5, 5, 9, 9, 0.6)),
    ]
    truths = [truth(bird), truth(other, bird, kind="backlit"), truth()]
    judged = judge(found, truths)
    assert judged.correct.tolist() == [True, False, True, False]
    # precision 1 up to a recall of 1/3, then 2/3 up to 2/3
    assert average_precision(judged) == pytest.approx(1 / 3 + 2 / 9)
    figures = at_threshold(judged, 0.65)
    assert (figures.precision, figures.recall) == (0.6667, 0.6667)
    assert (figures.empty_pictures, figures.empty_flagged) == (1, 0)
    assert at_threshold(judged, 0.5).empty_flagged == 1
    assert figures.recall_by_kind == {"backlit": 0.5, "plain": 1.0}
    assert figures.recall_by_size == {"small": 0.667}


def test_without_birds_there_is_no_average_precision() -> None:
    judged = judge([Detections.none()], [truth()])
    assert average_precision(judged) is None
    assert at_threshold(judged, 0.5).recall is None


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 40))
def test_average_precision_is_that_of_its_definition(hits: list[bool], extra: int) -> None:
    birds = sum(hits) + extra
    boxes = np.array([[20.0 * i, 0, 20 * i + 10, 10] for i in range(birds)], np.float32)
    rows, taken = [], 0
    for rank, hit in enumerate(hits):
        left = 20.0 * taken if hit else -1000.0 - 20 * rank
        taken += hit
        rows.append((left, 0, left + 10, 10, 0.99 - rank / 100))
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    wanted = sum(max(precisions[i:]) / birds for i, hit in enumerate(hits) if hit)
    assert average_precision(
        judge([detections(*rows)], [Truth(boxes, (2000, 10))])
    ) == pytest.approx(wanted, abs=1e-6)


def test_birds_are_named_by_their_size() -> None:
    shares = np.array([0.04, 0.06, 0.2, 0.25, 0.9])
    assert size_names(shares).tolist() == ["tiny", "small", "medium", "large", "large"]


def test_hard_pictures_are_the_same_each_time_and_of_every_kind(material: Material) -> None:
    for number, kind in enumerate(KINDS):
        picture, bird = small_birds_picture(number, material)
        again, _ = small_birds_picture(number, material)
        np.testing.assert_array_equal(picture, again)
        assert bird.kind == kind
        assert picture.shape == (bird.size[1], bird.size[0], 3)
        assert (bird.boxes[:, 2:] > bird.boxes[:, :2]).all()
        assert (bird.boxes >= 0).all()
        assert (bird.boxes <= [*bird.size, *bird.size]).all()
        nothing, none = empty_picture(number, material)
        assert nothing.shape == picture.shape
        assert not len(none.boxes)


def test_hard_pictures_come_in_a_camera_s_size_too(material: Material) -> None:
    size = (640, 480)
    for number in range(len(KINDS)):
        picture, birds = small_birds_picture(number, material, size)
        nothing, _ = empty_picture(number, material, size)
        assert picture.shape == nothing.shape == (480, 640, 3)
        assert birds.size == size
        assert (birds.boxes <= [*size, *size]).all()
    for picture, truth in composed_place(2, material, size):
        assert picture.shape == (480, 640, 3)
        assert truth.size == size


def test_a_place_is_composed_with_birds_other_things_and_nothing(material: Material) -> None:
    pictures = list(composed_place(1, material))
    assert [truth.kind for _, truth in pictures[:5]] == ["bird", "bird", "empty", "bird", "thing"]
    for picture, truth in pictures:
        assert picture.shape == (truth.size[1], truth.size[0], 3)
        assert len(truth.boxes) == (truth.kind == "bird")
    again = next(composed_place(1, material))
    np.testing.assert_array_equal(pictures[0][0], again[0])


def test_what_is_new_in_a_place_counts_for_more(material: Material, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    leaves = cv2.resize(rng.integers(0, 255, (30, 40, 3), np.uint8), (160, 120))
    leafy = replace(
        material,
        empties=[example_of(leaves)],
        birds=[Example("drawn/leafy", jpeg(leaves), np.array([[0, 0, 0.3, 0.3]], np.float32))],
    )
    pictures = list(composed_places(3, leafy))

    class Unsure:
        """Finds each bird, and a corner that always looks like one."""

        def __init__(self) -> None:
            self.truths = (truth for _, truth in pictures)

        def detect(self, image: object, regions: object = None, *, threshold: float) -> Detections:
            birds = [(*box, 0.6) for box in next(self.truths).boxes.tolist()]
            return detections((0, 0, 60, 60, 0.65), *birds)

    rules = [Rule(0, 0), Rule(1.0, 0.5)]
    alone, compared = compare_places(Unsure(), 0.68, pictures, rules, tmp_path)
    assert (alone.recall, alone.empty_flagged, alone.things_flagged) == (0, 0, 0)
    assert compared.recall > 0.5
    assert compared.ap50 > alone.ap50
    assert compared.empty_flagged == 0
    assert len(places_table([alone, compared]).splitlines()) == 4


def test_where_birds_score_low_a_place_is_lifted(material: Material, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    leaves = cv2.resize(rng.integers(0, 255, (15, 20, 3), np.uint8), (160, 120))
    leaves[54:66, 72:88] = 200
    bird = np.array([[0.45, 0.45, 0.55, 0.55]], np.float32)
    visited = leaves.copy()
    visited[54:66, 72:88] = 20
    frames = [example_of(leaves)] * 6 + [Example("drawn/visited", jpeg(visited), bird)] * 3

    class Faint:
        def detect(self, image: np.ndarray, *_: object, **__: object) -> Detections:
            return detections((72, 54, 88, 66, 0.3 if image[60, 80].max() < 60 else 0.04))

    rules = [Rule(1.0, 0.5), Rule(1.0, 0.5, lifts=True)]
    rows = compare_places(Faint(), 0.68, nestbox_pictures(frames), rules, tmp_path)
    assert [(row.recall, row.empty_flagged) for row in rows] == [(0, 0), (1, 0)]
    assert [row.things_flagged for row in rows] == [None, None]
    assert "| no | 1.000 | 0.000 | 0.0% |  |" in places_table(rows)


def test_the_threshold_keeps_the_empty_pictures_quiet() -> None:
    scores = [0.1, 0.25, 0.405, 0.645]
    found = [detections((0, 0, 5, 5, score)) for score in scores]
    judged = judge(found, [truth()] * 4)
    assert quietest_threshold([judged], 0.25) == pytest.approx(0.41)
    assert quietest_threshold([judged], 0.0) == pytest.approx(0.65)
    assert quietest_threshold([judge([Detections.none()], [truth([0, 0, 9, 9])])], 0.01) == 0.2


def test_the_best_threshold_weighs_birds_against_false_alarms() -> None:
    bird = [0.0, 0, 10, 10]
    found = [detections((0, 0, 10, 10, score)) for score in (0.9, 0.555, 0.5, 0.3)]
    truths = [truth(bird), truth(bird), truth(), truth()]
    assert best_threshold(judge(found, truths)) == pytest.approx(0.55)
    assert best_threshold(judge([Detections.none()], [truth(bird)])) == 1.0


# --- trunk weights


class Storage:
    """Pickled as PyTorch's old format does: by a persistent id."""

    def __init__(self, key: str, values: np.ndarray) -> None:
        self.key, self.values = key, values


def legacy_file(tensors: dict[str, np.ndarray], *, foreign: object = None) -> io.BytesIO:
    """A state dict as PyTorch wrote it before version 1.6, made without PyTorch."""
    file = io.BytesIO()
    for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(header, file, protocol=2)
    # Opcodes by hand: OrderedDict of name -> _rebuild_tensor_v2(storage, offset, shape, strides)
    out = [b"\x80\x02ccollections\nOrderedDict\n)R"]
    for i, (name, array) in enumerate(tensors.items()):
        shape = b"".join(b"K" + bytes([n]) for n in array.shape)
        strides = b"".join(b"K" + bytes([s // array.itemsize]) for s in array.strides)
        persistent = (
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00"
            + str(i).encode()
            + b"X\x03\x00\x00\x00cpuK\x00NtQ"
        )
        key = name.encode()
        out.append(
            b"X" + len(key).to_bytes(4, "little") + key
            + b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + b"K\x00("
            + shape + b"t(" + strides + b"t\x89ccollections\nOrderedDict\n)RtRs"
        )  # fmt: skip
    out.append(b".")
    if foreign is not None:
        pickle.dump(foreign, file, protocol=2)
        return io.BytesIO(file.getvalue())
    file.write(b"".join(out))
    pickle.dump([str(i) for i in range(len(tensors))], file, protocol=2)
    for array in tensors.values():
        flat = np.asarray(array.base if array.base is not None else array, "<f4").ravel()
        file.write(len(flat).to_bytes(8, "little") + flat.tobytes())
    file.seek(0)
    return file


def test_a_state_dict_is_read_with_its_strides() -> None:
    straight = np.arange(6, dtype="<f4").reshape(2, 3)
    turned = np.arange(12, dtype="<f4").reshape(3, 4).T
    read = load_state_dict(legacy_file({"a": straight, "b": turned}))
    np.testing.assert_array_equal(read["a"], straight)
    np.testing.assert_array_equal(read["b"], turned)


def test_foreign_classes_and_other_formats_are_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="does not belong"):
        load_state_dict(legacy_file({}, foreign=Path("x")))
    with pytest.raises(pickle.UnpicklingError, match="not a legacy"):
        load_state_dict(io.BytesIO(pickle.dumps(7)))


def test_folding_a_batch_normalization_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(1, 1, 2, 3)), rng.normal(size=3)
    gain, offset, mean = rng.normal(size=(3, 3))
    variance = rng.uniform(0.5, 2, 3)
    x = rng.normal(size=(5, 2))
    scaled = (x @ kernel[0, 0] + bias - mean) / np.sqrt(variance + 1e-3)
    kernel, bias = folded([kernel, bias], [gain, offset, mean, variance], 1e-3)
    np.testing.assert_allclose(x @ kernel[0, 0] + bias, scaled * gain + offset)
