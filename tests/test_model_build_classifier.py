"""The classifier's build: its pictures and split, training, calibration, report and dense form."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is in the newest run only")
with pytest.MonkeyPatch.context() as patch:
    # TensorFlow writes to standard error while it is imported.
    patch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

from test_model_build import SPELLINGS, drawn_bird, jpeg, material, two_editions

from edgebird.classify import Classifier
from edgebird.detector.merge import pairwise_overlap
from edgebird.interpreter import TfliteInterpreter
from edgebird.model import OperatingPoint, load_model, write_model
from model_build.augment import Material
from model_build.checkpoint import CHECKPOINT
from model_build.classifier import (
    LOG,
    RECIPES,
    build_classifier,
    picture_batches,
    recipe_of,
    train_classifier,
)
from model_build.classifier_data import (
    CIFAR_CLASSES,
    Labelled,
    TrainingPictures,
    choose_in_proportion,
    is_for_calibration,
    is_held_out,
    load_classifier_data,
    read_cifar10,
    without_padding,
)
from model_build.classifier_export import (
    KerasClassifier,
    average_with,
    classifier_card,
    dense_article,
    fit_calibration,
    load_verdict,
    raw_log_odds,
    verdict_model,
)
from model_build.classifier_pictures import BIRD, OTHER, ArticleMix, FeederMix, window_of
from model_build.classifier_report import (
    Answers,
    average_precision,
    calibration_error,
    choose_threshold,
    figures,
    measure,
    precision_recall,
    reliability,
    table,
    taken_for_birds,
    threshold_for,
)
from model_build.datasets import Example, is_validation, species_of
from model_build.equalize import channel_sizes, equalize, streams_of
from model_build.quantize import to_int8
from model_build.trunk import LITE2

__all__ = ["material"]  # a fixture

pytestmark = pytest.mark.filterwarnings(
    # TensorFlow's own use of what newer numpy and Python versions frown upon
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

ARTICLE = replace(RECIPES["article"], steps=4, batch=4, warmup_steps=1, seed=3)
NONE = np.zeros((0, 4), np.float32)


def labelled(seed: int, *, bird: bool, kind: str = "CUB") -> Labelled:
    picture, _ = drawn_bird(seed)
    if not bird:
        picture = np.roll(picture, 90, axis=1)[:, :, ::-1]
    return Labelled(Example(f"drawn/{kind}-{seed}-{bird}", jpeg(picture), NONE), bird, kind)


@pytest.fixture(scope="module")
def pictures(material: Material) -> TrainingPictures:
    birds = [labelled(i, bird=True) for i in range(4)]
    others = [labelled(i, bird=False) for i in range(4)]
    return TrainingPictures(birds, others, birds, others, material.birds, material)


def test_no_picture_and_no_species_is_in_two_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = two_editions(tmp_path / "packs")
    for part in ("train", "test"):
        for kind in CIFAR_CLASSES:
            folder = packs / "cifar10_jpg" / part / kind
            folder.mkdir(parents=True)
            (folder / "1.jpg").write_bytes(b"")
    cut = [f"bird_boxes/cub_{photo}_0000_7" for photo, _ in SPELLINGS]
    cut += [f"cub200_2010_crops/{crop}_0000_9" for _, crop in SPELLINGS]
    objects = [f"tiny_imagenet_subset/{number}" for number in range(200)]
    for name, stems in (("cutouts", cut), ("objects", objects)):
        with zipfile.ZipFile(tmp_path / f"{name}_train.zip", "w") as archive:
            for stem in stems:
                archive.writestr(f"{stem}_0.png", stem)
    monkeypatch.setattr(
        "model_build.classifier_data.choose_in_proportion",
        lambda birds, others, total: [*birds, *others],
    )
    data = load_classifier_data(tmp_path)
    training, material = data.training, data.training.material
    learned = {
        *(p.example.name for p in (*training.birds, *training.others)),
        *(e.name for e in (*training.photos, *material.distractors)),
        *(encoded.decode() for encoded in (*material.cutouts, *material.objects)),
    }
    set_aside = {p.example.name for p in data.calibration}
    held_out = {p.example.name for p in data.holdout}
    assert learned
    assert len(set_aside) > 10
    assert len(held_out) > 10
    assert not learned & set_aside
    assert not learned & held_out
    assert not set_aside & held_out

    def species(names: set[str]) -> set[str]:
        stems = (name.rpartition("/")[2].removeprefix("cub_") for name in names)
        return {species_of(stem).lower() for stem in stems if stem.count("_") > 2}

    assert species(learned) == {"black_billed_cuckoo", "acadian_flycatcher"}
    assert not species(learned) & species(held_out)


class Says:
    """An interpreter that says these of the pictures in turn, whatever they show, the same in all
    four looks.
    """

    input_size = (32, 32)

    def __init__(self, log_odds: list[float]) -> None:
        self._rest = log_odds

    def run_batch(self, pictures: np.ndarray) -> list[np.ndarray]:
        count = len(pictures) // 4
        said, self._rest = self._rest[:count], self._rest[count:]
        return [np.tile(np.float32(said), 4)[:, None]]


# --- the split


def test_no_validation_picture_is_trained_on() -> None:
    keys = [f"Species_{i}" for i in range(2000)]
    assert all(is_held_out(key) for key in keys if is_validation(key))
    assert 0.24 < np.mean([is_held_out(key) for key in keys]) < 0.34
    assert 0.07 < np.mean([is_for_calibration(key) for key in keys]) < 0.13


def test_the_choice_keeps_the_articles_proportion_and_is_always_the_same() -> None:
    birds = [labelled(i % 3, bird=True, kind=f"b{i}") for i in range(40)]
    others = [labelled(i % 3, bird=False, kind=f"o{i}") for i in range(90)]
    chosen = choose_in_proportion(birds, others, 100)
    assert sum(p.bird for p in chosen) == 26
    again = choose_in_proportion(birds[::-1], others[::-1], 100)
    assert {p.example.name for p in chosen} == {p.example.name for p in again}
    with pytest.raises(ValueError, match="10 birds set aside, 26"):
        choose_in_proportion(birds[:10], others, 100)


def cifar_files() -> dict[str, bytes]:
    return {
        f"{part}/{kind}/{i:04d}.jpg": jpeg(np.full((32, 32, 3), 40 * i, np.uint8))
        for part in ("train", "test")
        for kind in CIFAR_CLASSES
        for i in range(2)
    }


def test_cifar_is_read_from_an_archive_or_a_folder(tmp_path: Path) -> None:
    archive, folder = tmp_path / "cifar.tar.xz", tmp_path / "cifar"
    with tarfile.open(archive, "w:xz") as tar:
        for name, content in cifar_files().items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    for pack in (archive, folder):
        parts = read_cifar10(pack)
        assert {part: len(found) for part, found in parts.items()} == {"train": 20, "test": 20}
        assert sum(p.bird for p in parts["test"]) == 2
        assert len({p.example.name for p in parts["train"]}) == 20
    for path in (folder / "test" / "bird").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="no test pictures of bird"):
        read_cifar10(folder)


def test_black_padding_is_cut_off_and_a_black_picture_left_alone() -> None:
    picture = np.zeros((40, 50, 3), np.uint8)
    assert without_padding(picture).shape == (40, 50, 3)
    picture[5:30, 10:45] = 90
    assert without_padding(picture).shape == (25, 35, 3)


# --- training pictures


@pytest.mark.parametrize(("mix", "side"), [(ArticleMix, 32), (FeederMix, 128)])
def test_a_training_picture_is_a_function_of_its_number(
    mix: type[ArticleMix] | type[FeederMix], side: int, pictures: TrainingPictures
) -> None:
    one, two = mix(pictures, side, 5), mix(pictures, side, 5)
    labels = []
    for number in range(60):
        picture, label, concept = one(number)
        assert picture.shape == (side, side, 3)
        assert picture.dtype == np.uint8
        assert concept in ("", *pictures.concepts)
        labels.append(label)
        if number % 10 == 0:
            np.testing.assert_array_equal(picture, two(number)[0])
    assert {BIRD, OTHER} == set(labels)


def test_a_first_stage_needs_neither_photos_nor_scenes(pictures: TrainingPictures) -> None:
    single = replace(pictures, photos=[], material=Material([], [], [], [], []))
    mix = FeederMix(single, 96, 5, windows=False)
    assert {mix(number).label for number in range(60)} == {BIRD, OTHER}


def test_windows_show_the_bird_or_almost_nothing_of_it() -> None:
    box = np.array([[60, 40, 100, 70]], np.float32)
    # The picture's pixels say where they are.
    y, x = np.mgrid[:120, :160]
    photo = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        part, label = window_of(rng, photo, box, box)
        left, top = part[0, 0, :2]
        window = np.array([[left, top, left + part.shape[1], top + part.shape[0]]], np.float32)
        _, shown = pairwise_overlap(window, box)
        assert shown[0, 0] > 0.4 if label == BIRD else shown[0, 0] < 0.2
        seen.add(label)
    assert seen == {BIRD, OTHER}


# --- training


class PowerCutError(Exception):
    """Ends a training in the middle."""


def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(
    pictures: TrainingPictures, tmp_path: Path
) -> None:
    whole = train_classifier(pictures, ARTICLE, tmp_path / "whole", checkpoint_every=2)

    def cut_off(model: keras.Model) -> dict[str, float]:
        if (tmp_path / "cut" / CHECKPOINT).exists():
            raise PowerCutError
        return {"watched": 0.5}

    with pytest.raises(PowerCutError):
        train_classifier(pictures, ARTICLE, tmp_path / "cut", checkpoint_every=2, validate=cut_off)
    resumed = train_classifier(pictures, ARTICLE, tmp_path / "cut", checkpoint_every=2)
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "cut" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert recipe_of(tmp_path / "cut") == ARTICLE
    with pytest.raises(ValueError, match="other settings"):
        train_classifier(pictures, replace(ARTICLE, seed=4), tmp_path / "cut")


def test_the_articles_network_learns_what_is_easy(
    pictures: TrainingPictures, tmp_path: Path
) -> None:
    recipe = replace(ARTICLE, steps=50, batch=12, ema=0.9)
    model = train_classifier(pictures, recipe, tmp_path)
    asked = [*pictures.birds, *pictures.others]
    odds = raw_log_odds(model, asked)
    assert ((odds > 0) == np.array([p.bird for p in asked])).mean() >= 0.75


def test_both_recipes_answer_for_pictures_of_their_size(pictures: TrainingPictures) -> None:
    recipe = RECIPES["edgebird"]
    model = build_classifier(recipe)
    assert model.input_shape == (None, 128, 128, 3)
    assert model.output_shape == (None, 2)
    batch, labels, concepts = next(iter(picture_batches(pictures, replace(recipe, batch=2), 0)))
    assert batch.shape == (2, 128, 128, 3)
    assert labels.shape == concepts.shape == (2,)
    assert np.isfinite(np.asarray(model(batch))).all()


# --- calibration and export


def test_the_calibration_finds_the_temperature_and_the_offset() -> None:
    rng = np.random.default_rng(0)
    right = rng.normal(0, 3, 20_000)
    birds = rng.random(20_000) < 1 / (1 + np.exp(-right))
    slope, offset = fit_calibration((right - 1) / 0.4, birds)
    assert slope == pytest.approx(0.4, rel=0.05)
    assert offset == pytest.approx(1, abs=0.08)


def test_the_calibration_of_a_faultless_network_is_finite() -> None:
    odds = np.array([-9.0, -8, 8, 9] * 50)
    slope, offset = fit_calibration(odds, odds > 0)
    assert 0 < slope < 20
    assert abs(offset) < 20


@pytest.fixture(scope="module")
def article() -> tuple[keras.Model, keras.Model]:
    """The article's network with lively random weights, and its form with one output."""
    keras.utils.set_random_seed(1)
    model = build_classifier(ARTICLE)
    rng = np.random.default_rng(3)
    normalizations = [layer for layer in model.layers if layer.name.endswith("_normalized")]
    assert len(normalizations) == 4
    for layer in normalizations:
        gain, offset, mean, variance = layer.get_weights()
        lively = [rng.uniform(0.5, 1.5, w.shape) for w in (gain, offset, mean, variance)]
        layer.set_weights([lively[0], lively[1] - 1, 0.3 * (lively[2] - 1), lively[3]])
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([20 * kernel, bias + [0.3, 0]])
    return model, verdict_model(model, ARTICLE, (0.7, -0.2))


def random_pictures(count: int, height: int, width: int) -> np.ndarray:
    """Smooth enough not to look all the same to a network."""
    rng = np.random.default_rng(2)
    small = rng.integers(0, 256, (count, height // 4, width // 4, 3))
    return small.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


def test_one_output_says_what_two_said_calibrated(
    article: tuple[keras.Model, keras.Model], tmp_path: Path
) -> None:
    model, verdict = article
    batch = random_pictures(5, 32, 32).astype(np.float32) / 128 - 1
    logits = np.asarray(model(batch))
    wanted = 0.7 * (logits[:, 1] - logits[:, 0]) - 0.2
    np.testing.assert_allclose(np.asarray(verdict(batch))[:, 0], wanted, atol=1e-4)
    verdict.save_weights(tmp_path / "v.weights.h5")
    again = load_verdict(tmp_path / "v.weights.h5", ARTICLE)
    np.testing.assert_allclose(np.asarray(again(batch)), np.asarray(verdict(batch)), atol=1e-6)


def test_a_larger_network_loses_its_normalizations_and_says_the_same() -> None:
    recipe = replace(RECIPES["edgebird"], size_px=64, normalized=True)
    model = build_classifier(recipe)
    verdict = verdict_model(model, recipe, (0.7, -0.2))
    assert not [layer.name for layer in verdict.layers if "normalized" in layer.name]
    batch = random_pictures(2, 64, 64).astype(np.float32) / 128 - 1
    logits = np.asarray(model(batch))
    wanted = 0.7 * (logits[:, 1] - logits[:, 0]) - 0.2
    np.testing.assert_allclose(np.asarray(verdict(batch))[:, 0], wanted, atol=1e-3)


def test_the_channels_of_a_classifier_are_equalized_and_it_says_the_same() -> None:
    recipe = replace(RECIPES["edgebird"], size_px=64, normalized=False)
    verdict = verdict_model(build_classifier(recipe), recipe, (0.7, -0.2))
    batch = random_pictures(2, 64, 64).astype(np.float32) / 128 - 1
    said = np.asarray(verdict(batch))
    streams = streams_of(verdict, LITE2)
    assert streams[-1].readers[-1] == "top"
    before = [size.max() / np.median(size) for size in channel_sizes(verdict, streams, [batch])]
    equalize(verdict, LITE2, [batch])
    after = [size.max() / np.median(size) for size in channel_sizes(verdict, streams, [batch])]
    assert all(now < was for now, was in zip(after, before, strict=True))
    np.testing.assert_allclose(np.asarray(verdict(batch)), said, atol=1e-3)


def test_the_mean_of_stages_is_the_mean_of_their_weights(tmp_path: Path) -> None:
    stages, files = [build_classifier(ARTICLE) for _ in range(3)], []
    for number, stage in enumerate(stages):
        stage.set_weights([np.full_like(w, 3.0**number) for w in stage.get_weights()])
        stage.save_weights(tmp_path / f"{number}.weights.h5")
        files.append(tmp_path / f"{number}.weights.h5")
    average_with(stages[0], files[1:])
    assert all(np.allclose(w, 13 / 3) for w in stages[0].get_weights())
    average_with(stages[1], [])
    assert all(np.allclose(w, 3) for w in stages[1].get_weights())
    other = build_classifier(replace(RECIPES["edgebird"], size_px=64))
    with pytest.raises(ValueError, match=r"0\.weights\.h5"):
        average_with(other, files[:1])


def windows_of(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.stack(
        [
            picture[4 * y : 4 * y + 32, 4 * x : 4 * x + 32]
            for y in range(rows)
            for x in range(columns)
        ]
    )


def test_convolution_is_a_sliding_window(article: tuple[keras.Model, keras.Model]) -> None:
    _, verdict = article
    dense = dense_article(verdict, width=76, height=60)
    [picture] = random_pictures(1, 60, 76)
    [grid] = KerasClassifier(dense).run_batch(picture[None])
    _, rows, columns, _ = grid.shape
    assert (rows, columns) == ((60 - 32) // 4 + 1, (76 - 32) // 4 + 1)
    [one_by_one] = KerasClassifier(verdict).run_batch(windows_of(picture, rows, columns))
    assert one_by_one.std() > 0.1
    np.testing.assert_allclose(grid[0, ..., 0].ravel(), one_by_one[:, 0], atol=1e-4)


def test_convolution_is_a_sliding_window_in_int8_too(
    article: tuple[keras.Model, keras.Model], tmp_path: Path
) -> None:
    _, verdict = article
    [picture] = random_pictures(1, 60, 76)
    windows = windows_of(picture, 8, 12)
    content = to_int8(verdict, list(windows))
    write_model(content, classifier_card(content, ARTICLE), tmp_path / "small.tflite")
    small = load_model(tmp_path / "small.tflite", "classifier")
    [one_by_one] = TfliteInterpreter(small, 1).run_batch(windows)

    interpreter = tf.lite.Interpreter(
        model_content=to_int8(dense_article(verdict, 76, 60), [picture])
    )
    interpreter.allocate_tensors()
    [source], [result] = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], (picture[None].astype("i2") - 128).astype("i1"))
    interpreter.invoke()
    scale, zero = result["quantization"]
    grid = (interpreter.get_tensor(result["index"]).astype(np.float32) - zero) * scale
    # Two quantizations of the same network: apart by a few steps of their outputs.
    spread = one_by_one.max() - one_by_one.min()
    assert np.abs(grid.ravel() - one_by_one[:, 0]).max() < 0.06 * spread
    # And both near the float network.
    [exact] = KerasClassifier(verdict).run_batch(windows)
    assert np.abs(one_by_one - exact).max() < 0.06 * spread


# --- the report


def answers(log_odds: list[float], birds: list[bool]) -> Answers:
    kinds = np.array(["bird" if b else "plane" for b in birds])
    return Answers(np.array(log_odds, np.float32), np.array(birds), kinds)


def test_the_four_kinds_of_answers_are_counted() -> None:
    m = figures(answers([3, 2, 1, -1, -2], [True, True, False, True, False]), 0.5)
    counts = (m.true_positives, m.false_positives, m.false_negatives, m.true_negatives)
    assert counts == (2, 1, 1, 1)
    assert (m.accuracy, m.precision, m.recall) == (0.6, 0.6667, 0.6667)
    nothing = figures(answers([-5], [False]), 0.5)
    assert (nothing.precision, nothing.recall, nothing.average_precision) == (None, None, None)


def test_equal_scores_are_called_together() -> None:
    tied = answers([1, 1, 1, 0], [True, False, True, True])
    precision, recall = precision_recall(tied)
    assert precision.tolist() == pytest.approx([2 / 3, 3 / 4])
    assert recall.tolist() == pytest.approx([2 / 3, 1])
    assert average_precision(tied) == pytest.approx(2 / 3 * 2 / 3 + 3 / 4 / 3)


def test_honest_probabilities_have_no_calibration_error_and_boasting_ones_do() -> None:
    rng = np.random.default_rng(1)
    odds = rng.normal(0, 2, 50_000)
    birds = rng.random(50_000) < 1 / (1 + np.exp(-odds))
    kinds = np.full(50_000, "x")
    honest = Answers(odds.astype(np.float32), birds, kinds)
    assert calibration_error(honest) < 0.01
    assert sum(count for count, _, _ in reliability(honest)) == 50_000
    assert calibration_error(Answers(5 * honest.log_odds, birds, kinds)) > 0.1


def test_what_is_most_often_taken_for_a_bird_comes_first() -> None:
    a = answers([2, -2, 2, -1], [False, False, True, True])
    assert taken_for_birds(a, 0.5) == {"bird": (1, 2), "plane": (1, 2)}
    a = answers([-2, -2, 2, 1], [False, False, True, True])
    assert list(taken_for_birds(a, 0.5)) == ["bird", "plane"]


def test_the_threshold_is_the_lowest_with_the_wanted_precision() -> None:
    # 400 with a probability of 0.62, a tenth of them no birds, and 400 of 0.73, all birds
    odds = [0.5] * 400 + [1] * 400
    a = answers(odds, [*([True] * 360), *([False] * 40), *([True] * 400)])
    assert threshold_for(a, 0) == threshold_for(a, 0.9) == 0.5
    # 0.95 of all are birds: enough by chance, but not by more than two standard errors
    assert threshold_for(a, 0.95) == threshold_for(a, 0.99) == 0.63
    assert threshold_for(answers([-3, -4], [True, False]), 0) == 0.5  # calls nothing a bird
    with pytest.raises(ValueError, match=r"no threshold .* 0\.9"):
        threshold_for(answers([3, 9], [True, False]), 0.9)


def test_the_card_tells_where_its_threshold_was_chosen(
    article: tuple[keras.Model, keras.Model], tmp_path: Path
) -> None:
    content = to_int8(article[1], list(random_pictures(4, 32, 32)))
    write_model(content, classifier_card(content, ARTICLE), tmp_path / "c.tflite")
    model = load_model(tmp_path / "c.tflite", "classifier")
    aside = [labelled(i, bird=i < 10, kind="bird" if i < 10 else "ship") for i in range(12)]
    # from 0.5 on 9 of 10 are birds, beyond the 0.818 of the first other thing 6 of 6
    says = Says([2, 2, 2, 2, 2, 2, 1, 1, 1, -1, 1.5, -2])
    assert choose_threshold(model, says, aside, 0.59) == 0.82
    card = load_model(tmp_path / "c.tflite", "classifier").card
    assert card.threshold == 0.82
    assert card.threshold_chosen_at == OperatingPoint("calibration", 1.0, 0.6)


def test_the_evaluation_writes_figures_curves_and_contact_sheets(
    article: tuple[keras.Model, keras.Model], pictures: TrainingPictures, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    _, verdict = article
    content = to_int8(verdict, list(random_pictures(4, 32, 32)))
    write_model(content, classifier_card(content, ARTICLE), tmp_path / "c.tflite")
    model = load_model(tmp_path / "c.tflite", "classifier")
    holdout = [labelled(i, bird=i < 3, kind="bird" if i < 3 else "ship") for i in range(8)]
    holdout += pictures.birds
    int8 = TfliteInterpreter(model, 1)
    rows = measure(
        model, {"float": KerasClassifier(verdict), "int8": int8}, holdout, tmp_path / "report"
    )
    assert rows["hold-out"]["int8"].pictures == 12
    assert rows["cifar-10"]["float"].pictures == 8
    assert "hold-out" in table({"article": rows})
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"hold-out.json", "hold-out_curves.png", "cifar-10_false_positives.png"} <= written
    card = load_model(tmp_path / "c.tflite", "classifier").card
    assert card.classifier_metrics == rows
    assert Classifier(int8, card).threshold == 0.5


# --- command line


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (("train", "--data", "{folder}"), "first gather"),
        (("quantize", "--data", "{folder}", "--runs", "{folder}"), "classifier train"),
        (("evaluate", "--data", "{folder}", "--runs", "{folder}"), "classifier quantize"),
        (("export", "--runs", "{folder}"), "bird_classifier.tflite"),
    ],
)
def test_a_step_taken_too_early_says_what_is_missing(
    arguments: tuple[str, ...], cure: str, tmp_path: Path
) -> None:
    filled = [argument.format(folder=tmp_path) for argument in arguments]
    command = [sys.executable, "-m", "model_build", "classifier", *filled]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert result.returncode == 1
    assert cure in result.stderr
    assert "Traceback" not in result.stderr
