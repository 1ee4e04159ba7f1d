"""The build stage's command line: ``python -m model_build``."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import tempfile
from contextlib import closing
from pathlib import Path

import click

from edgebird.errors import EdgebirdError
from model_build.classifier_commands import DATA as GATHERED
from model_build.classifier_commands import classifier
from model_build.digits_commands import digits

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# A box reaches 395 px from its cell at most (`network.LOG_DISTANCE_RANGE`), so that in larger
# pictures the network could not frame a bird that fills them.
LARGEST_PX = 768

NEW_RUN = click.option(
    "--run",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the training run.  [default: runs/detector, or runs/ and the name of --data]",
)
RUN = click.option(
    "--run",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/detector"),
    show_default=True,
    help="Folder of the training run.",
)
MEASURED = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Another folder of pictures than the run was trained with: all of them are measured on, "
    "and the model's threshold and card stay as they are. (Of CUB-200-2011, and of what 'gather' "
    "made, only the validation pictures.)  [default: of the run's own those that it did not learn "
    "from]",
)

MEASURED_BIRDS = click.option(
    "--bird",
    "birds",
    multiple=True,
    help="A name in the labels of --data that means a bird.  [default: those of the training]",
)


def _whole_cells(_: click.Context, __: click.Parameter, size_px: int | None) -> int | None:
    """A side that the network's coarsest map divides."""
    if size_px is not None and size_px % 32:
        raise click.BadParameter(f"{size_px} is not a multiple of 32.")
    return size_px


class _Commands(click.Group):
    """Tells a full disk, a missing file or a model that does not fit in a line."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read our output has gone, which click knows how to end
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            what = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
            raise click.ClickException(f"{where}{what}") from None
        except EdgebirdError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands, context_settings={"max_content_width": 100})
def main() -> None:
    """Train the bird detector and turn it into what the runtime ships.

    \b
    In this order:
      1. python -m model_build gather PACKS  gather pictures (once, 12 to 19 min)
      2. python -m model_build train         train the network (1 h on 2 cores)
      3. python -m model_build quantize      make the int8 .tflite (2 min)
      4. python -m model_build evaluate      measure float and int8 (17 min)
      5. python -m model_build export        ship it in edgebird/models

    \b
    On pictures of your own feeder, in YOLO, Pascal VOC or COCO format:
      1. python -m model_build train --data my-feeder
      2. python -m model_build quantize --run runs/my-feeder
      3. python -m model_build evaluate --run runs/my-feeder
      4. python -m model_build export --run runs/my-feeder --to my-model
      5. edgebird detect --model my-model/bird_detector.tflite --camera 0

    \b
    Besides:
      python -m model_build fetch NAME  download CIFAR-10, CUB-200-2011 or MNIST
      python -m model_build mine        find empty pictures it still sees birds in
      python -m model_build tile-time   time a tile beside a well-known network
      python -m model_build places      what comparing pictures of one place does
      python -m model_build report      curves, the worst mistakes as pictures

    Each step tells more with --help. A training that was stopped goes on where it was.
    The classifier, bird or not, has the same steps: python -m model_build classifier --help.
    The idea behind it all, on handwritten digits: python -m model_build digits.
    """


main.add_command(classifier)
main.add_command(digits)


@main.command(short_help="Download public data sets.")
@click.argument("names", nargs=-1, required=True, type=click.Choice(["cifar10", "cub200", "mnist"]))
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Folder to write to.",
)
@click.option("--from", "url", metavar="URL", help="Another server's folder with the same files.")
def fetch(names: tuple[str, ...], data: Path, url: str | None) -> None:
    """Download and unpack the official archives of public data sets.

    What was broken off goes on where it was. Archives are checked against their published
    checksums. cifar10 becomes a PNG for each picture in train/<class>/ and test/<class>/.
    """
    from model_build.downloads import DATASETS, DownloadError, fetch_dataset

    for name in names:
        try:
            folder = fetch_dataset(DATASETS[name], data, url=url)
        except DownloadError as error:
            raise click.ClickException(str(error)) from None
        click.echo(f"{folder}; terms of use: {DATASETS[name].terms}")
        if name == "cub200":
            click.echo(f"to train with it: python -m model_build train --data {folder}")


@main.command(short_help="Gather picture packs, cut out their birds.")
@click.argument("packs", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Folder to write to.",
)
def gather(packs: Path, data: Path) -> None:
    """Gather the picture packs from the folder PACKS and cut the birds out of their photos.

    PACKS holds bird_boxes, coco_train128, imagenet_samples, cub200_2010_crops,
    tiny_imagenet_subset and nestbox_pi_camera, as zip files or folders. They are linked and not
    copied. What is there already is not made again; stopped, it goes on where it was.
    """
    from model_build.cutouts import write_cutouts_in_parts
    from model_build.datasets import load_packs, objects_of

    data.mkdir(parents=True, exist_ok=True)
    link = data / "packs"
    if link.resolve() != packs.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(packs.resolve(), target_is_directory=True)
    try:
        gathered = load_packs(link)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(
            f"{error}; PACKS must hold the packs that --help names"
        ) from None
    for name, examples in (
        ("training photos", gathered.boxed_train),
        ("validation photos", gathered.boxed_validation),
        ("cropped birds", gathered.crops_train),
        ("distractors", gathered.distractors_train),
        ("nest box frames", gathered.nestbox),
    ):
        click.echo(f"{len(examples):6d} {name}")
    objects = {
        "validation": objects_of(gathered.boxed_validation, gathered.distractors_validation),
        "train": objects_of(gathered.boxed_train, gathered.distractors_train),
    }
    for name, boxed, crops in (
        ("cutouts_validation", gathered.boxed_validation, []),
        ("cutouts_train", gathered.boxed_train, gathered.crops_train),
        ("objects_validation", [], objects["validation"]),
        ("objects_train", [], objects["train"]),
    ):
        path = data / f"{name}.zip"
        if not path.exists():
            click.echo(f"{write_cutouts_in_parts(boxed, crops, path):6d} {name} cut out")


@main.command(short_help="Train the network, or go on training it.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Folder made by 'gather', or of your own pictures with their labels.",
)
@NEW_RUN
@click.option("--steps", type=click.IntRange(1), help="Batches to train for.")
@click.option("--batch", type=click.IntRange(1), help="Pictures a batch, on all machines together.")
@click.option(
    "--size",
    "size_px",
    type=click.IntRange(64, LARGEST_PX),
    callback=_whole_cells,
    help="Side of the pictures, px, a multiple of 32.  [default: 256, or that of what --start-from "
    "was trained with]",
)
@click.option(
    "--trunk",
    type=click.Choice(["lite0", "lite2"]),
    default="lite0",
    show_default=True,
    help="Which EfficientNet the network is built on; lite2 sees more and takes 1.5 times as long.",
)
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Its peak.")
@click.option(
    "--empty-share",
    type=click.FloatRange(0, 0.8),
    help="Of the photos used as they are, those without a bird: more for fewer false alarms.",
)
@click.option(
    "--hard-negatives",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="hard_negatives.txt of 'mine': bird-free pictures to be shown more often.",
)
@click.option(
    "--normalized/--no-normalized",
    default=None,
    help="With batch normalization, which makes a step take longer and is folded into the weights "
    "afterwards.  [default: without]",
)
@click.option("--seed", type=int, help="Another seed, another run.")
@click.option(
    "--start-from",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Weights to start from: detector.weights.h5 of a run, or an int8 .tflite. For own "
    "pictures the shipped model, else ImageNet's for the trunk.",
)
@click.option("--from-scratch", is_flag=True, help="Start from ImageNet's trunk in any case.")
@click.option(
    "--packs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Folder made by 'gather' whose pictures are mixed with your own, where it is there.",
)
@click.option("--bird", "birds", multiple=True, help="A name in your labels that means a bird.")
@click.option("--unlabelled-are-empty", is_flag=True, help="Pictures without a label show no bird.")
@click.option(
    "--input-processes",
    type=click.IntRange(0),
    help="Processes that compose pictures, 0 for threads.  [default: 0; with a GPU one a core]",
)
@click.option("--measure-input", is_flag=True, help="Only measure how fast pictures are composed.")
def train(
    data: Path,
    run: Path | None,
    start_from: Path | None,
    from_scratch: bool,
    packs: Path,
    birds: tuple[str, ...],
    unlabelled_are_empty: bool,
    size_px: int | None,
    trunk: str,
    hard_negatives: Path | None,
    input_processes: int | None,
    measure_input: bool,
    **changes: float | None,
) -> None:
    """Train the network, or go on with a training that was stopped.

    Writes checkpoint.npz, metrics.jsonl (a line each 500 steps, in a short training each sixth of
    it), tensorboard/ and at the end detector.weights.h5 to the run's folder. Uses all GPUs of this
    machine in mixed precision, or the machines of TF_CONFIG; the pictures are the same and the loss
    falls in the same way.

    Own pictures: their folders (clips) are divided into some to learn from and some to measure on.
    By default the shipped model learns on from where it is, in a few hundred steps.
    """
    if start_from is not None and from_scratch:
        raise click.UsageError("give --start-from or --from-scratch, not both")

    import msgspec

    from edgebird.errors import ModelError
    from edgebird.model import DEFAULT_DETECTOR
    from model_build.runs import is_gathered, load_sources, origin_of

    own = not is_gathered(data)
    if own and data == Path("data"):
        raise click.ClickException(
            "no data/packs; first: python -m model_build gather PACKS. The packs are not "
            "published: without them give --data with your own pictures, or fetch cub200 and "
            "train --data data/CUB_200_2011"
        )
    if own and start_from is None and not from_scratch:
        start_from = DEFAULT_DETECTOR
    run = run or Path("runs") / (data.resolve().name if own else "detector")
    try:
        origin = origin_of(
            data,
            packs=packs,
            birds=birds,
            unlabelled_are_empty=unlabelled_are_empty,
            trunk=trunk,
            size_px=size_px,
            hard_negatives=hard_negatives,
            start_from=start_from,
        )
        sources = load_sources(origin, run, click.echo)
        if sources.own is not None:
            origin = msgspec.structs.replace(origin, learnt=sources.own.learnt)
    except (ModelError, FileNotFoundError, ValueError) as error:
        raise click.ClickException(_with_cure(error)) from None

    import tensorflow as tf

    from model_build.train import FINE_TUNING, Recipe, choose_device, is_machine_gone, reason_of
    from model_build.train import train as run_training
    from model_build.validation import training_figures

    recipe = dataclasses.replace(
        FINE_TUNING if own and start_from is not None else Recipe(),
        trunk=origin.trunk,
        narrowed=origin.narrowed,
        size_px=origin.size_px,
        **{name: value for name, value in changes.items() if value is not None},
    )
    if os.environ.get("TF_CONFIG"):
        click.echo("waiting for the other machines of TF_CONFIG")
    try:
        device = choose_device(input_processes)
        if measure_input:
            _measure_input(sources.material, recipe, device)
            return
        sets = _validation_sets(sources)
        run_training(
            sources.material,
            recipe,
            run,
            start_from=start_from,
            checkpoint_every=max(1, min(500, recipe.steps // 6)),
            validate=lambda model: training_figures(model, sets),
            record=origin.write,
            device=device,
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    except tf.errors.OpError as error:
        what = f"{reason_of(error)} ({type(error).__name__})"
        if os.environ.get("TF_CONFIG") and is_machine_gone(error):
            what = (
                "another machine of the training is gone; start the same command on all again, "
                f"they go on from the last checkpoint ({type(error).__name__})"
            )
        click.echo(f"Error: {what}", err=True)
        # Threads of TensorFlow still wait for pictures or for the other machine: an ordinary exit
        # would wait for them, or crash.
        os._exit(1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would leave by another way
        click.echo("\nstopped", err=True)
        os._exit(130)  # as above
    if device.part.index == 0:
        click.echo(f"trained: {run / 'detector.weights.h5'}")
        click.echo(f"next: {_step('quantize', run)}")


@main.command(short_help="Make the int8 model and its card.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Another folder of pictures than the run was trained with, to choose the int8 scales by.",
)
@RUN
@click.option(
    "--size",
    "size_px",
    type=click.IntRange(64, LARGEST_PX),
    callback=_whole_cells,
    help="Side of the input, px, a multiple of 32.  [default: that of the training]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    help="By how much of its variance what a block says may change; 0 leaves all channels in.  "
    "[default: 0.005, or 0 where the training began with channels left out]",
)
def quantize(data: Path | None, run: Path, size_px: int | None, tolerance: float | None) -> None:
    """Make the int8 bird_detector.tflite and its card in the run's folder.

    Channels that do next to nothing are left out on the way: a tile takes less time, and the
    network says the same.
    """
    weights = _weights(run)
    origin, sources = _sources_of(run, data)

    from edgebird.model import write_model
    from model_build.quantize import card_for
    from model_build.quantize import quantize as to_int8
    from model_build.trunk import trunk_named

    size_px = size_px or origin.size_px
    content = to_int8(
        weights,
        sources.material,
        size_px,
        trunk_named(origin.trunk, origin.narrowed),
        tolerance=tolerance,
    )
    path = run / "bird_detector.tflite"
    card = card_for(content, size_px, origin.threshold or 0.5, origin.training_data)
    write_model(content, card, path)
    click.echo(f"{path}: {len(content) / 1e6:.2f} MB; next: {_step('evaluate', run)}")


@main.command(short_help="Find empty pictures it still sees birds in.")
@RUN
@click.option(
    "--score",
    default=0.3,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Lowest score of a false alarm that makes a picture a hard one.",
)
def mine(run: Path, score: float) -> None:
    """Find the bird-free training pictures in which the int8 model still sees birds.

    Writes hard_negatives.txt to the run's folder. A next training that starts from this run's
    weights sees those pictures more often: train --start-from ... --hard-negatives ...
    """
    tflite = _tflite(run)
    _, sources = _sources_of(run, None)

    from model_build.runs import write_hard_negatives
    from model_build.validation import falsely_alarming

    empties = list({example.name: example for example in sources.material.empties}.values())
    hard = falsely_alarming(tflite, empties, score)
    path = run / "hard_negatives.txt"
    write_hard_negatives(path, hard)
    click.echo(f"{path}: {len(hard)} of {len(empties)} bird-free pictures")


@main.command(short_help="Measure the float and the int8 model.")
@MEASURED
@MEASURED_BIRDS
@RUN
@click.option(
    "--flagged-share",
    default=0.01,
    show_default=True,
    help="Share of empty validation pictures that the default threshold may flag.",
)
def evaluate(data: Path | None, birds: tuple[str, ...], run: Path, flagged_share: float) -> None:
    """Measure the float and the int8 model on val, val-small, nestbox and empty-hard, or on own.

    Uses the runtime's own detector code. Chooses the default threshold on the empty pictures of
    val, empty-hard and own (never on nestbox; without any it stays) and writes the figures into the
    card in the run's folder.
    """
    weights, tflite = _weights(run), _tflite(run)
    origin = _origin(run)
    foreign = _is_foreign(data, origin)
    origin, sets = _measured_on(run, data, birds)

    from model_build.trunk import trunk_named
    from model_build.validation import evaluate_models, measured_detectors, table

    trunk = trunk_named(origin.trunk, origin.narrowed)
    model, detectors = measured_detectors(weights, tflite, trunk)
    card = evaluate_models(model, detectors, sets, flagged_share, origin.threshold, foreign=foreign)
    click.echo(table(card))
    if foreign:
        click.echo(f"{model.path.with_suffix('.json')} stays as it is")
    elif origin.is_own:
        click.echo(f"next: edgebird detect --model {tflite} --camera 0")
    else:
        click.echo(f"next: {_step('export', run)}")


@main.command(short_help="Draw curves and the worst mistakes.")
@MEASURED
@MEASURED_BIRDS
@RUN
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to.  [default: report/ in the run's folder]",
)
def report(data: Path | None, birds: tuple[str, ...], run: Path, to: Path | None) -> None:
    """Draw curves, recall by size and kind, and the worst mistakes of the float and int8 model.

    The contact sheets show pictures of the data sets: do not publish them.
    """
    weights, tflite = _weights(run), _tflite(run)
    origin, sets = _measured_on(run, data, birds)

    from model_build.report import write_report
    from model_build.trunk import trunk_named

    trunk = trunk_named(origin.trunk, origin.narrowed)
    page = write_report(weights, tflite, trunk, sets, to or run / "report")
    click.echo(f"open {page}")


@main.command("tile-time", short_help="Time a tile beside a well-known network.")
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--rounds", default=300, show_default=True, type=click.IntRange(1), help="Tiles.")
def tile_time(model: Path, rounds: int) -> None:
    """Time a tile of an int8 MODEL (.tflite) beside EfficientNet-Lite0 at 224 px, one thread."""
    from edgebird.errors import ModelError
    from model_build.tile_time import tile_times

    try:
        click.echo(tile_times(model, rounds))
    except ModelError as error:
        raise click.ClickException(str(error)) from None


@main.command(short_help="Measure what comparing pictures does.")
@GATHERED
@click.option("--places", default=30, show_default=True, type=click.IntRange(1), help="How many.")
@click.option(
    "--try",
    "weights",
    multiple=True,
    type=(float, float),
    metavar="NEW USUAL",
    help="Log-odds for what is new, and those off for what is not, again and again; default: none, "
    "and those of the runtime. The last are tried with places lifted where birds score low, too.",
)
def places(data: Path, places: int, weights: tuple[tuple[float, float], ...]) -> None:
    """Measure what comparing pictures of one place does for the shipped detector.

    Composes places from validation pictures, as small as a poor camera's are and as large as most
    cameras', and looks through them as 'edgebird detect --source FOLDER' does, and then through the
    frames of the nest box's camera.
    """
    from edgebird.config import DetectorSection
    from edgebird.detector import open_detector
    from edgebird.errors import ModelError
    from edgebird.places import NEW_BONUS, USUAL_PENALTY
    from model_build.hard_pictures import CAMERA_CANVAS_PX, CANVAS_PX
    from model_build.places import Rule, compare_places, composed_places, nestbox_pictures, table
    from model_build.runs import load_gathered
    from model_build.validation import validation_material

    try:
        gathered = load_gathered(data)
        model, detector = open_detector(DetectorSection(), for_stills=True)
    except (FileNotFoundError, ValueError, ModelError) as error:
        raise click.ClickException(_with_cure(error)) from None
    material = validation_material(
        gathered.packs, gathered.cutouts_validation, gathered.objects_validation
    )
    tried = weights or ((0, 0), (NEW_BONUS, USUAL_PENALTY))
    rules = [Rule(*pair) for pair in tried] + [Rule(*tried[-1], lifts=True)]
    measured = {
        f"{places} composed places, {canvas[0]} x {canvas[1]}": composed_places(
            places, material, canvas
        )
        for canvas in (CANVAS_PX, CAMERA_CANVAS_PX)
    }
    measured["the nest box"] = nestbox_pictures(gathered.packs.nestbox)
    for name, pictures in measured.items():
        with tempfile.TemporaryDirectory() as folder:
            rows = compare_places(detector, model.card.threshold, pictures, rules, Path(folder))
        click.echo(f"{name}:\n{table(rows)}")


@main.command(short_help="Copy model and card to the runtime.")
@RUN
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to.  [default: edgebird/models, for a model of the packs]",
)
def export(run: Path, to: Path | None) -> None:
    """Copy the measured model and its card to where the runtime finds them.

    Writes the card as a page, too (bird_detector.md): data, terms, limits and figures.
    """
    from edgebird.errors import ModelError
    from edgebird.model import load_model, write_model
    from model_build.card_page import card_page

    try:
        model = load_model(_tflite(run), "detector")
    except ModelError as error:
        raise click.ClickException(str(error)) from None
    if not model.card.metrics:
        raise click.ClickException(f"its figures are missing; first: {_step('evaluate', run)}")
    origin = _origin(run)
    if to is None and origin.is_own:
        raise click.ClickException(
            "this model knows one feeder and should not replace the shipped one: say where --to"
        )
    path = (to or Path("edgebird/models")) / model.path.name
    write_model(model.content, model.card, path)
    path.with_suffix(".md").write_text(card_page(model.card, origin.threshold), encoding="utf-8")
    click.echo(f"shipped: {path}, threshold {model.card.threshold}")


def _measure_input(material, recipe, device) -> None:
    from model_build.composing import Composer, Workers
    from model_build.input_pipeline import measure_input

    composer = Composer(material, recipe.seed, recipe.size_px, recipe.empty_share)
    with closing(Workers(composer, device.processes)) as workers:
        rate = measure_input(workers, recipe.batch, seconds=20)
    what = f"{device.processes} processes" if device.processes else "threads"
    click.echo(f"{rate:.1f} pictures of {recipe.size_px} px a second from {what}")


def _step(name: str, run: Path) -> str:
    """The command that takes a step with a run."""
    given = "" if run == Path("runs/detector") else f" --run {shlex.quote(str(run))}"
    return f"python -m model_build {name}{given}"


def _weights(run: Path) -> Path:
    weights = run / "detector.weights.h5"
    if not weights.exists():
        own = "" if run == Path("runs/detector") else " --data FOLDER"
        raise click.ClickException(f"no {weights}; first: {_step('train', run)}{own}")
    return weights


def _tflite(run: Path) -> Path:
    tflite = run / "bird_detector.tflite"
    if not tflite.exists():
        raise click.ClickException(f"no {tflite}; first: {_step('quantize', run)}")
    return tflite


def _origin(run: Path):
    from model_build.runs import Origin

    try:
        return Origin.read(run)
    except ValueError as error:
        raise click.ClickException(str(error)) from None


def _sources_of(run: Path, data: Path | None):
    """What a run was made from, with the pictures read."""
    import msgspec

    from model_build.runs import load_sources

    origin = _origin(run)
    if data is not None and data.resolve() != Path(origin.data).resolve():
        # the hard ones are among the run's own pictures
        origin = msgspec.structs.replace(
            origin, data=str(data.resolve()), hard_negatives=None, learnt=None
        )
    try:
        return origin, load_sources(origin, run, click.echo)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(_with_cure(error)) from None


def _is_foreign(data: Path | None, origin) -> bool:
    """Whether these are other pictures than a run's own.

    The packs are the same ones wherever they lie.
    """
    from model_build.runs import is_gathered

    if data is None or data.resolve() == Path(origin.data).resolve():
        return False
    return not is_gathered(data) or (origin.is_own and Path(origin.data).exists())


def _measured_on(run: Path, data: Path | None, birds: tuple[str, ...] = ()):
    """What a run was made from, and the sets that it is measured on."""
    import msgspec

    from model_build.runs import is_gathered, load_unseen

    origin = _origin(run)
    if not _is_foreign(data, origin) or is_gathered(data):
        if birds:
            raise click.UsageError("--bird goes with --data and a folder of other pictures")
        origin, sources = _sources_of(run, data)
        return origin, _validation_sets(sources)
    try:
        pictures, gathered = load_unseen(origin, data, click.echo, birds)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(_with_cure(error)) from None
    return msgspec.structs.replace(origin, data=str(data.resolve())), _sets_of(pictures, gathered)


def _validation_sets(sources):
    return _sets_of(sources.own.validation if sources.own else None, sources.gathered)


def _sets_of(own, gathered):
    from model_build.validation import own_set, validation_sets

    sets = [] if own is None else [own_set(own)]
    if gathered:
        sets += validation_sets(
            gathered.packs, gathered.cutouts_validation, gathered.objects_validation
        )
    return sets


def _with_cure(error: Exception) -> str:
    """An error's line; what is missing in the packs comes from the first step."""
    if isinstance(error, FileNotFoundError):
        return f"{error}; first: python -m model_build gather PACKS"
    return str(error)


if __name__ == "__main__":
    main()
