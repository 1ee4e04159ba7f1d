"""The build stage's network: targets, loss, training, quantization. Needs TensorFlow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("tensorflow", reason="TensorFlow is in the newest run only")
with pytest.MonkeyPatch.context() as patch:
    # TensorFlow writes to standard error while it is imported.
    patch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

from shallow import SHALLOW
from test_cli import help_lines
from test_model_build import drawn_bird, example_of, material

from edgebird.camera.demo import DemoFeeder
from edgebird.detector.conv import ConvDetector, decode_maps
from edgebird.interpreter import TfliteInterpreter
from edgebird.model import DEFAULT_DETECTOR, load_model, write_model
from model_build.__main__ import LARGEST_PX, _step, main
from model_build.augment import Material, Scene, camera_effects
from model_build.checkpoint import CHECKPOINT
from model_build.classifier_commands import classifier
from model_build.composing import Composer, Workers
from model_build.equalize import channel_sizes, correct_biases, equalize, streams_of
from model_build.input_pipeline import Part, measure_input, picture_batches
from model_build.losses import detection_loss
from model_build.network import LOG_DISTANCE_RANGE, STRIDE, build_detector, scaled
from model_build.normalization import adopt_plain_weights, copy_without_normalization
from model_build.pruning import prune
from model_build.quantize import card_for, quantize
from model_build.runs import Origin, origin_of, read_hard_negatives, write_hard_negatives
from model_build.start_weights import channels_left, load_start_weights
from model_build.targets import IGNORED, POSITIVE, target_map
from model_build.train import LOG, Recipe, _fingerprint, learning_rate, train
from model_build.trunk import (
    LITE0,
    TRUNKS,
    Trunk,
    freeze_trunk,
    trunk_named,
    trunk_variables,
)
from model_build.trunk_weights import imagenet_state_dict
from model_build.validation import KerasInterpreter, falsely_alarming, float_card
from model_build.work import multiply_accumulates, multiply_accumulates_in

__all__ = ["material"]  # a fixture

pytestmark = pytest.mark.filterwarnings(
    # TensorFlow's own use of what newer numpy and Python versions frown upon
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

TINY = Recipe(size_px=64, steps=4, batch=2, warmup_steps=1, seed=3)


def scene(*boxes: tuple[float, float, float, float], size: int = 64) -> Scene:
    picture = np.zeros((size, size, 3), np.uint8)
    none = np.zeros((0, 4), np.float32)
    return Scene(picture, np.array(boxes, np.float32).reshape(-1, 4), none)


# --- targets and loss


def test_every_bird_has_cells_and_they_know_its_sides() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        x, y = rng.uniform(0, 50, 2)
        w, h = rng.uniform(8, 60, 2)
        box = (x, y, min(64, x + w), min(64, y + h))
        target = target_map(scene(box))
        rows, columns = np.nonzero(target[..., 0] == POSITIVE)
        assert len(rows) > 0
        for row, column in zip(rows, columns, strict=True):
            cx, cy = column * STRIDE + 4, row * STRIDE + 4
            left, top, right, bottom = target[row, column, 1:]
            assert (cx - left, cy - top, cx + right, cy + bottom) == pytest.approx(box, abs=1e-3)


def test_a_small_bird_before_a_large_one_keeps_its_cells() -> None:
    small = (28, 28, 38, 38)
    target = target_map(scene((0, 0, 64, 64), small))
    owners = target[target[..., 0] == POSITIVE]
    widths = owners[:, 1] + owners[:, 3]
    assert 10 in widths.round()


def test_around_a_bird_is_neither_bird_nor_background() -> None:
    states = set(np.unique(target_map(scene((4, 4, 60, 60)))[..., 0]))
    assert states == {POSITIVE, 0.0, IGNORED}


def perfect_answer(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positive = target[..., :1] == POSITIVE
    logits = np.where(positive, 12.0, -12.0).astype(np.float32)
    boxes = np.where(positive, np.log(np.maximum(target[..., 1:], 0.1) / STRIDE), 0.0)
    return logits[None], boxes.astype(np.float32)[None]


def test_the_right_answer_costs_nothing_and_wrong_ones_cost_more() -> None:
    target = target_map(scene((10, 12, 40, 50)))
    logits, boxes = perfect_answer(target)
    batch = tf.constant(target[None])
    perfect = detection_loss(batch, logits, boxes)
    assert float(perfect["loss"]) == pytest.approx(0, abs=1e-4)
    assert float(detection_loss(batch, -logits, boxes)["objectness"]) > 1
    assert float(detection_loss(batch, logits, boxes + 1)["box"]) > 0.5


def test_a_good_box_is_asked_for_a_full_score() -> None:
    """A bird's cell whose box reaches an IoU of about 0.8 owes nothing for not being certain of
    the last pixels: a full score costs no more than a lower one.
    """
    target = target_map(scene((8, 8, 56, 56)))
    logits, boxes = perfect_answer(target)
    batch = tf.constant(target[None])
    nearly = boxes + np.float32(np.log(0.9))  # each side at 0.9 of its distance: IoU 0.81
    assert float(detection_loss(batch, logits, nearly)["objectness"]) == pytest.approx(0, abs=1e-3)
    poor = boxes + np.float32(np.log(0.6))  # IoU 0.36
    assert float(detection_loss(batch, logits, poor)["objectness"]) > 0.1


def test_targets_and_the_runtimes_decoding_agree() -> None:
    box = (10.0, 12.0, 40.0, 50.0)
    logits, boxes = perfect_answer(target_map(scene(box)))
    xyxy, _, _ = decode_maps(logits, boxes, STRIDE, 0.5)
    assert len(xyxy) > 0
    np.testing.assert_allclose(xyxy, [box] * len(xyxy), atol=1e-3)


# --- network and training


def test_the_trunk_learns_slowly_and_its_first_blocks_not() -> None:
    model = build_detector(64)
    freeze_trunk(model, LITE0.last_blocks[4] + 1)
    trainable = {v.path for v in model.trainable_variables}
    assert "stem/kernel" not in trainable
    assert "block2_expand/kernel" not in trainable
    assert "block3_expand/kernel" in trainable
    assert "block10_expand/kernel" in trainable
    assert trunk_variables(model) & trainable
    assert "objectness/bias" not in trunk_variables(model)


@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
def test_all_of_a_trunk_gets_its_imagenet_weights(trunk: Trunk) -> None:
    picture = keras.Input((32, 32, 3))
    model = keras.Model(picture, trunk.top(trunk.blocks(picture)[-1]))
    fresh = {layer.name: layer.get_weights() for layer in model.layers}
    trunk.load_imagenet_weights(model)
    for layer in model.layers:
        for before, after in zip(fresh[layer.name], layer.get_weights(), strict=True):
            assert not np.array_equal(before, after), layer.name
    wanted = sum(1 for name in imagenet_state_dict(trunk.package) if ".weight" in name)
    convolutions = [layer for layer in model.layers if layer.weights]
    # the package has a normalization for each convolution, and a layer for ImageNet's classes
    assert 2 * len(convolutions) + 1 == wanted


@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
def test_a_trunk_says_the_same_with_its_normalizations_and_folded(trunk: Trunk) -> None:
    picture = keras.Input((64, 64, 3))
    trained = keras.Model(
        picture, trunk.top(trunk.blocks(picture, normalized=True)[-1], normalized=True)
    )
    narrow = keras.Model(picture, trunk.top(trunk.blocks(picture)[-1]))
    convolutions = [layer.name for layer in narrow.layers if layer.weights]
    assert sum("_normalized" in layer.name for layer in trained.layers) == len(convolutions)
    for model in (trained, narrow):
        trunk.load_imagenet_weights(model)
    shown = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    wanted = np.asarray(trained(shown))
    assert wanted.std() > 0.1
    np.testing.assert_allclose(narrow(shown), wanted, atol=1e-3)
    loaded = narrow.get_weights()
    narrow.set_weights([np.zeros_like(weights) for weights in loaded])
    copy_without_normalization(trained, narrow)
    for one, other in zip(narrow.get_weights(), loaded, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_normalizations_put_into_a_trained_network_change_nothing_at_first() -> None:
    trunk = trunk_named("lite0", channels_left(DEFAULT_DETECTOR))
    plain = build_detector(64, trunk)
    load_start_weights(plain, DEFAULT_DETECTOR)
    model = build_detector(64, trunk, normalized=True)
    shown = scaled(np.stack([cv2.resize(drawn_bird(n)[0], (64, 64)) for n in range(8)]))
    adopt_plain_weights(model, plain, [shown[:4], shown[4:]])
    wanted = plain(shown)
    for one, other in zip(model(shown, training=False), wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    # While it learns, it normalizes by what it is shown: by the same, here.
    for one, other in zip(model(shown, training=True), wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=0.05)


@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
def test_the_last_block_at_each_resolution_is_the_last_of_its_size(trunk: Trunk) -> None:
    blocks = trunk.blocks(keras.Input((64, 64, 3)))
    sides = [block.shape[1] for block in blocks]
    assert trunk.last_blocks == {
        stride: max(i for i, side in enumerate(sides) if side == 64 // stride)
        for stride in (2, 4, 8, 16, 32)
    }


def test_the_trunk_has_the_imagenet_weights_with_their_normalization() -> None:
    model = build_detector(64)
    LITE0.load_imagenet_weights(model)
    picture = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("f4")
    state = imagenet_state_dict(LITE0.package)
    kernel = state["_conv_stem.weight"].transpose(2, 3, 1, 0)
    y = tf.nn.conv2d(picture, kernel, 2, "SAME")
    y = (y - state["_bn0.running_mean"]) / np.sqrt(state["_bn0.running_var"] + 1e-3)
    y = tf.nn.relu6(y * state["_bn0.weight"] + state["_bn0.bias"])
    stem = keras.Model(model.input, model.get_layer("stem_relu").output)
    np.testing.assert_allclose(stem(picture), y, atol=1e-4)


def test_batches_are_the_same_from_threads_and_from_processes(material: Material) -> None:
    composer = Composer(material, TINY.seed, TINY.size_px, TINY.empty_share)
    with closing(Workers(composer, 0)) as threads, closing(Workers(composer, 2)) as processes:
        [one, *_], [two, *_] = (
            list(picture_batches(workers, TINY.batch, 1, TINY.steps))
            for workers in (threads, processes)
        )
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert float(tf.reduce_max(tf.abs(one[0]))) <= 1


def test_the_pipelines_speed_is_measured(material: Material) -> None:
    with closing(Workers(Composer(material, 1, 64, 0.25), 0)) as workers:
        assert measure_input(workers, 4, seconds=0.2) > 1


def test_machines_share_each_batch_out(material: Material) -> None:
    composer = Composer(material, TINY.seed, 64, TINY.empty_share)
    with closing(Workers(composer, 0)) as workers:
        whole = np.concatenate([x.numpy() for x, _ in picture_batches(workers, 4, 1, 3)])
        shares = [
            [x.numpy() for x, _ in picture_batches(workers, 4, 1, 3, Part(index, 2, 4))]
            for index in range(2)
        ]
        with pytest.raises(ValueError, match="cannot be divided among 3"):
            picture_batches(workers, 4, 1, 3, Part(0, 1, 3))
    # two batches of four; each machine has two of each, for one replica at a time
    assert [len(share) for share in shares] == [4, 4]
    by_step = [pictures for step in (0, 2) for share in shares for pictures in share[step:][:2]]
    np.testing.assert_array_equal(np.concatenate(by_step), whole)


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe(steps=1000, warmup_steps=100, learning_rate=1.0)
    rates = [learning_rate(step, recipe) for step in range(1001)]
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (99, 100)
    assert rates[-1] == pytest.approx(0.01)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """`TINY` with a trunk that TensorFlow takes in quickly."""
    monkeypatch.setitem(TRUNKS, "shallow", SHALLOW)
    return replace(TINY, trunk="shallow")


class PowerCutError(Exception):
    """Ends a training in the middle."""


def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(
    material: Material, shallow: Recipe, tmp_path: Path
) -> None:
    whole = train(material, shallow, tmp_path / "whole", checkpoint_every=2)

    seen: list[int] = []

    def cut_off(model: keras.Model) -> dict[str, float]:
        seen.append(1)
        if len(seen) == 2:
            raise PowerCutError
        return {"ap50": 0.0}

    with pytest.raises(PowerCutError):
        train(material, shallow, tmp_path / "cut", checkpoint_every=2, validate=cut_off)
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    resumed = train(material, shallow, tmp_path / "cut", checkpoint_every=2)
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "cut" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(np.isfinite(line["loss"]) for line in lines)
    curve = [
        (event.step, float(tf.make_ndarray(value.tensor)))
        for path in sorted((tmp_path / "cut" / "tensorboard").iterdir())
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == "loss" and value.metadata.plugin_data.plugin_name == "scalars"
    ]
    assert curve == [(line["step"], pytest.approx(line["loss"])) for line in lines]

    with pytest.raises(ValueError, match="other settings"):
        train(material, replace(shallow, seed=4), tmp_path / "cut")
    with pytest.raises(ValueError, match="other pictures or labels, or by another version"):
        train(replace(material, empties=material.empties[:1]), shallow, tmp_path / "cut")


def test_corrected_boxes_are_other_pictures(material: Material) -> None:
    first, *others = material.birds
    moved = replace(first, fractions=first.fractions * np.float32(0.9))
    same = replace(first, fractions=first.fractions.copy())
    assert _fingerprint(replace(material, birds=[moved, *others])) != _fingerprint(material)
    assert _fingerprint(replace(material, birds=[same, *others])) == _fingerprint(material)


# --- weights to start from


def test_the_shipped_int8_model_gives_its_weights_back() -> None:
    model = build_detector(256, trunk_named("lite0", channels_left(DEFAULT_DETECTOR)))
    load_start_weights(model, DEFAULT_DETECTOR)
    shipped = load_model(DEFAULT_DETECTOR, "detector")
    int8, full = TfliteInterpreter(shipped, 1), KerasInterpreter(model)
    for number in range(3):
        picture = cv2.resize(drawn_bird(number)[0], (256, 256))
        by_name = dict(zip(shipped.card.outputs, int8.run([picture]), strict=True))
        objectness, box = full.run([picture])
        # int8 resolves log-odds to about 0.1, and ln(distance) to about 0.03
        assert np.abs(by_name["objectness"] - objectness).mean() < 0.2
        assert np.abs(by_name["box"] - box).mean() < 0.1
        for name, wanted in (("objectness", objectness), ("box", box)):
            assert np.corrcoef(by_name[name].ravel(), wanted.ravel())[0, 1] > 0.97


def test_a_training_goes_on_without_the_channels_that_were_left_out(
    material: Material, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    where = {
        "packs": tmp_path,
        "birds": [],
        "unlabelled_are_empty": False,
        "trunk": "lite0",
        "size_px": 64,
    }
    origin = origin_of(tmp_path, start_from=DEFAULT_DETECTOR, **where)
    assert len(origin.narrowed) == 15
    recipe = replace(TINY, narrowed=origin.narrowed)
    model = train(material, recipe, run, start_from=DEFAULT_DETECTOR)
    assert 2 * count_weights(model) < count_weights(build_detector(64))
    # once more: it goes on from the checkpoint, where nothing is left to do
    again = train(material, recipe, run, start_from=DEFAULT_DETECTOR)
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])
    with pytest.raises(ValueError, match="began with other weights"):
        train(material, recipe, run, start_from=run / "detector.weights.h5")

    origin.write(run)
    assert Origin.read(run) == origin
    next_origin = origin_of(tmp_path, start_from=run / "detector.weights.h5", **where)
    assert next_origin.narrowed == origin.narrowed
    trunk = trunk_named("lite0", next_origin.narrowed)
    load_start_weights(build_detector(64, trunk), run / "detector.weights.h5")
    with pytest.raises(ValueError, match="its layer block4_expand has a kernel of"):
        load_start_weights(build_detector(64), DEFAULT_DETECTOR)


def test_a_training_with_batch_normalization_ends_without(
    material: Material, shallow: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_build.train._LOOKED_AT", 8)
    narrowed = tuple(width // 2 for width in SHALLOW.full_widths[1:])
    recipe = replace(shallow, narrowed=narrowed, normalized=True)
    plain = build_detector(64, trunk_named("shallow", narrowed))
    start = tmp_path / "start.weights.h5"
    plain.save_weights(start)
    seen = []

    def remember(model: keras.Model) -> dict[str, float]:
        seen.append(model)
        return {}

    model = train(
        material,
        recipe,
        tmp_path,
        start_from=start,
        checkpoint_every=2,
        validate=remember,
    )
    assert any("normalized" in layer.name for layer in seen[-1].layers)
    load_start_weights(plain, tmp_path / "detector.weights.h5")
    shown = scaled(np.stack([cv2.resize(drawn_bird(n)[0], (64, 64)) for n in range(2)]))
    for one, other, learned in zip(model(shown), plain(shown), seen[-1](shown), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, learned, atol=1e-3)
    # once more: it goes on from the checkpoint, where nothing is left to do
    again = train(material, recipe, tmp_path, start_from=start)
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


def count_weights(model: keras.Model) -> int:
    return sum(weights.size for weights in model.get_weights())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    model = build_detector(64)
    narrow = build_detector(64, channels=32)
    narrow.save_weights(tmp_path / "narrow.weights.h5")
    (tmp_path / "noise.tflite").write_bytes(b"noise")
    converter = tf.lite.TFLiteConverter.from_keras_model(
        keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="other")])
    )
    (tmp_path / "other.tflite").write_bytes(converter.convert())
    for name, complaint in (
        ("narrow.weights.h5", "does not hold weights of this network"),
        ("noise.tflite", "is not a TFLite model"),
        ("other.tflite", "is a model of another network"),
    ):
        with pytest.raises(ValueError, match=complaint) as caught:
            load_start_weights(model, tmp_path / name)
        assert "\n" not in str(caught.value)


# --- quantization


@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
def test_the_int8_model_runs_in_the_runtime_and_agrees_with_the_float_one(
    trunk: Trunk, material: Material, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(0)
    model = build_detector(64, trunk)
    trunk.load_imagenet_weights(model)
    for name in ("objectness", "box"):  # untrained heads answer too quietly to compare
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([100 * kernel, bias])
    weights = tmp_path / "detector.weights.h5"
    model.save_weights(weights)
    # what it does without its idle channels is tested below, with more pictures
    content = quantize(weights, material, 64, trunk, tiles=8, tolerance=0)
    path = tmp_path / "bird_detector.tflite"
    write_model(content, card_for(content, 64, 0.5, []), path)

    # with all channels in it is not narrow: quantized after a training, it may become so
    name = next(name for name, known in TRUNKS.items() if known is trunk)
    assert trunk_named(name, channels_left(path)) == trunk
    loaded = load_model(path, "detector")
    int8, full = TfliteInterpreter(loaded, 1), KerasInterpreter(model)
    picture = material.birds[0].picture()[:64, :64]
    by_name = dict(zip(loaded.card.outputs, int8.run([picture]), strict=True))
    objectness, box = full.run([picture])
    for name, wanted in (("objectness", objectness), ("box", box)):
        assert by_name[name].shape == wanted.shape
        assert np.corrcoef(by_name[name].ravel(), wanted.ravel())[0, 1] > 0.95
    assert 0 < multiply_accumulates_in(path) <= multiply_accumulates(model)
    # The input is the pixel minus 128, exactly.
    details = tf.lite.Interpreter(model_content=content).get_input_details()[0]
    assert details["dtype"] is np.int8
    assert details["quantization"] == pytest.approx((1 / 128, -1))
    ConvDetector(full, float_card(model)).detect(material.birds[0].picture(), threshold=0.5)


def test_the_pictures_that_the_shipped_model_takes_for_birds_are_found_and_named(
    tmp_path: Path,
) -> None:
    feeder = DemoFeeder(seed=0, fps=10, seconds=60, pace=False)
    # at 3 s a bird sits there
    bird, grey = feeder.render(3.0), np.full((480, 640, 3), 127, np.uint8)
    empties = [example_of(grey, "grey"), example_of(bird, "bird"), example_of(grey, "grey too")]
    hard = falsely_alarming(DEFAULT_DETECTOR, empties, 0.3)
    assert [example.name for example in hard] == ["bird"]
    write_hard_negatives(tmp_path / "hard.txt", hard)
    assert read_hard_negatives(tmp_path / "hard.txt", empties) == hard
    with pytest.raises(ValueError, match="names none"):
        read_hard_negatives(tmp_path / "hard.txt", empties[:1])


# --- command line


def run_command(*arguments: str) -> Result:
    name = "python -m model_build"
    return CliRunner().invoke(main, arguments, prog_name=name, catch_exceptions=False)


def test_help_teaches_the_order() -> None:
    text = run_command("--help").stdout
    places = [text.index(f"model_build {step}") for step in
              ("gather", "train", "quantize", "evaluate", "export")]  # fmt: skip
    assert places == sorted(places)
    readme = (Path(__file__).parents[1] / "model_build" / "README.md").read_text()
    times = dict(re.findall(r"^\| `python -m model_build (\w+).*\| (\S+ .*min) \|$", readme, re.M))
    for step in ("gather", "quantize", "evaluate"):
        line = next(line for line in text.splitlines() if f". python -m model_build {step}" in line)
        assert times[step] in line


def test_help_fits_on_a_terminal() -> None:
    lines = help_lines(main, "python -m model_build")
    assert [line for line in lines if len(line) > 80] == []


def test_lists_of_commands_cut_no_sentence_short() -> None:
    for name, command in (main.commands | classifier.commands).items():
        assert command.short_help, name
        assert len(command.short_help) <= 45, name


def test_the_next_step_is_told_with_its_run(tmp_path: Path) -> None:
    assert _step("evaluate", Path("runs/detector")) == "python -m model_build evaluate"
    assert _step("export", Path("a b")) == "python -m model_build export --run 'a b'"
    result = run_command("mine", "--run", str(tmp_path))
    assert f"first: python -m model_build quantize --run {tmp_path}\n" in result.stderr
    result = run_command("export", "--run", str(tmp_path), "--to", str(tmp_path / "to"))
    assert f"first: python -m model_build quantize --run {tmp_path}\n" in result.stderr
    result = run_command("quantize", "--run", str(tmp_path))
    assert f"first: python -m model_build train --run {tmp_path} --data FOLDER\n" in result.stderr


def test_pictures_that_are_not_there_are_told(tmp_path: Path) -> None:
    gone = tmp_path / "nope"
    result = run_command("train", "--data", str(gone))
    assert result.stderr.splitlines()[-1] == f"Error: there is no folder {gone}"
    # once as it is called, from another folder
    command = [sys.executable, "-m", "model_build", "train"]
    called = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert called.returncode == 1
    assert "no data/packs; first: python -m model_build gather PACKS" in called.stderr
    assert "fetch cub200" in called.stderr
    assert "Traceback" not in called.stderr


@pytest.mark.parametrize("step", ["train", "quantize"])
@pytest.mark.parametrize(
    ("size", "complaint"),
    [("250", "250 is not a multiple of 32"), ("800", "800 is not in the range 64<=x<=768")],
)
def test_a_size_that_does_not_fit_the_network_is_refused_in_one_line(
    step: str, size: str, complaint: str
) -> None:
    result = run_command(step, "--size", size)
    assert result.exit_code == 2
    [line] = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert complaint in line


def test_the_largest_pictures_can_be_composed_and_a_bird_that_fills_them_framed() -> None:
    for number in range(20):
        camera_effects(np.random.default_rng(number), np.zeros((LARGEST_PX, LARGEST_PX, 3), "u1"))
    assert STRIDE * np.exp(LOG_DISTANCE_RANGE[1]) >= LARGEST_PX / 2


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (("gather", "{folder}"), "must hold the packs"),
        (("quantize", "--data", "{folder}", "--run", "{folder}"), "model_build train"),
        (("export", "--run", "{folder}"), "bird_detector.tflite"),
        (("train", "--data", "{folder}"), "holds no pictures"),
        (("report", "--run", "{folder}"), "model_build train"),
    ],
)
def test_a_step_taken_too_early_says_what_is_missing(
    arguments: tuple[str, ...], cure: str, tmp_path: Path
) -> None:
    filled = [argument.format(folder=tmp_path) for argument in arguments]
    result = run_command(*filled, *(("--data", str(tmp_path / "data")) * (filled[0] == "gather")))
    assert result.exit_code == 1
    assert cure in result.stderr


@pytest.mark.parametrize(("name", "gain"), [("lite0", 1.5), ("lite2", 1.3)])
def test_equalizing_changes_scales_and_not_results(name: str, gain: float) -> None:
    trunk = TRUNKS[name]
    keras.utils.set_random_seed(5)
    model = build_detector(64, trunk)
    trunk.load_imagenet_weights(model)
    pictures = [np.random.default_rng(i).normal(0, 1, (1, 64, 64, 3)).astype("f4") for i in (1, 2)]
    streams = streams_of(model, trunk)
    spread = [size.max() / np.median(size) for size in channel_sizes(model, streams, pictures)]
    before = [np.asarray(output) for output in model(pictures[0])]
    equalize(model, trunk, pictures)
    for old, new in zip(before, model(pictures[0]), strict=True):
        np.testing.assert_allclose(old, new, rtol=1e-3, atol=1e-3)
    equal = [size.max() / np.median(size) for size in channel_sizes(model, streams, pictures)]
    assert all(after < min(1.1, before / gain) for after, before in zip(equal, spread, strict=True))


def rounded_to_int8(model: keras.Model) -> keras.Model:
    """With each output's kernel rounded to 127 steps on both sides of zero."""
    rounded = keras.models.clone_model(model)
    for layer, same in zip(rounded.layers, model.layers, strict=True):
        if not layer.weights:
            continue
        kernel, bias = same.get_weights()
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        by_output = np.moveaxis(kernel, 2 if depthwise else -1, 0)
        largest = np.abs(by_output).reshape(len(by_output), -1).max(axis=1)
        steps = np.where(largest > 0, largest, 1).reshape(-1, *[1] * (kernel.ndim - 1)) / 127
        by_output = np.round(by_output / steps) * steps
        layer.set_weights([np.moveaxis(by_output, 0, 2 if depthwise else -1), bias])
    return rounded


def test_biases_make_up_for_rounded_kernels() -> None:
    keras.utils.set_random_seed(8)
    picture = keras.Input((32, 32, 3))
    x = LITE0.top(LITE0.blocks(picture)[-1])
    model = keras.Model(picture, keras.layers.Dense(3)(x))
    LITE0.load_imagenet_weights(model)
    pictures = np.random.default_rng(4).normal(0, 1, (24, 32, 32, 3)).astype("f4")
    said = np.asarray(model(pictures)).mean(axis=0)
    before = np.abs(np.asarray(rounded_to_int8(model)(pictures)).mean(axis=0) - said).max()
    stem = keras.Model(model.input, model.get_layer("stem").output)
    made = np.asarray(stem(pictures)).mean(axis=(0, 1, 2))
    correct_biases(model, [pictures])
    rounded = rounded_to_int8(model)
    after = np.abs(np.asarray(rounded(pictures)).mean(axis=0) - said).max()
    assert after < 0.3 * before
    # Nothing before the stem shifts what it makes, so that has exactly the mean it had.
    stem = keras.Model(rounded.input, rounded.get_layer("stem").output)
    again = np.asarray(stem(pictures)).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(again, made, atol=1e-4)


# --- idle channels


def detector_with_idle_channels(trunk: Trunk) -> keras.Model:
    """With a silent channel in each block, and one that says what another says."""
    model = build_detector(64, trunk)
    trunk.load_imagenet_weights(model)
    for block in range(1, sum(stage.repeats for stage in trunk.stages)):
        for part, axis in (("expand", 3), ("depthwise", 2)):
            layer = model.get_layer(f"block{block}_{part}")
            kernel, bias = (weights.copy() for weights in layer.get_weights())
            kernel = np.moveaxis(kernel, axis, 0)
            kernel[1::2], bias[1::2] = kernel[::2], bias[::2]
            kernel[:16], bias[:16] = 0, -1
            layer.set_weights([np.moveaxis(kernel, 0, axis), bias])
    return model


@pytest.mark.parametrize("name", TRUNKS)
def test_without_its_idle_channels_a_network_says_the_same(name: str) -> None:
    trunk = TRUNKS[name]
    keras.utils.set_random_seed(6)
    model = detector_with_idle_channels(trunk)
    rng = np.random.default_rng(7)
    pictures = [rng.normal(0, 1, (1, 64, 64, 3)).astype("f4") for _ in range(60)]
    before = [np.asarray(output) for output in model(pictures[0])]
    work = multiply_accumulates(model)
    build = partial(build_detector, 64)
    pruned, narrow = prune(model, trunk, pictures, build, tolerance=1e-6)
    for old, new in zip(before, pruned(pictures[0]), strict=True):
        np.testing.assert_allclose(new, old, atol=0.02 * np.abs(old - old.mean()).max())
    assert multiply_accumulates(pruned) < 0.7 * work
    wide = trunk.blocks(keras.Input((64, 64, 3)))
    assert len(narrow.narrowed) == len(wide) - 1
    assert not any(channels % 16 for channels in narrow.narrowed)
    # once more, as after a training that began with it: it is not narrowed again
    assert prune(pruned, narrow, pictures, build) == (pruned, narrow)
