"""The model's card as a page for people: data, terms, limits and figures."""

from __future__ import annotations

from collections.abc import Mapping

from edgebird.model import DatasetMetrics, ModelCard
from model_build.metrics import SIZES

# What the sets are that `validation` measures on.
SETS = {
    "own": "the owner's pictures that were not trained with",
    "val": "photos of species and scenes that no training picture came from",
    "val-small": "birds of those photos, composed small and difficult: backlit, hidden, blurred",
    "nestbox": "a real Raspberry Pi camera in a nest box; no threshold is chosen on it",
    "empty-hard": "no bird, but animals, things and leaves, as small and dark as birds would be",
}

_LIMITS = """\
- It says "bird" and where, not which species, and does not tell a decoy or a drawing from a bird.
- Birds smaller than about 4 % of the picture's longer side are mostly missed.
- It was trained on photos by day. Infrared and night pictures are imitated in training (grey,
  noise), not learnt from real ones.
- Scores are no probabilities. At a new feeder look at the first day's alerts and set
  `--threshold`, or teach it the feeder's own pictures.
- It counts birds for people who like birds. Do not let anything depend on it that matters more."""


def card_page(card: ModelCard, start_threshold: float | None = None) -> str:
    """The card in Markdown.

    Args:
        card: of a detector.
        start_threshold: that of the model that its training started from.
    """
    width, height = card.input_size_px
    parts = [
        f"# {card.name}",
        f"Finds birds in pictures of {width} x {height} pixels: an int8 TFLite model for CPUs, "
        f"EfficientNet-Lite with a head that answers for every {card.stride_px} x "
        f"{card.stride_px} pixels. What the program reads is in the `.json` beside this page.",
        "## Figures",
        _figures(card, start_threshold),
        "## Limits",
        _LIMITS,
        "## Training data and terms",
        f"Weights: {card.licence}.",
        _table(["data", "terms"], [[data.name, data.terms] for data in card.training_data]),
        f"Trained by the code of commit `{card.commit[:12]}`; sha256 of the model "
        f"`{card.sha256[:12]}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _figures(card: ModelCard, start_threshold: float | None) -> str:
    if not card.metrics:
        return "Not measured yet."
    parts = [
        f"Of the int8 model, at its default threshold of {card.threshold}, for pictures on their "
        "own: they are looked at at three scales, and mirrored, too, and what is doubtful a second "
        "time by the classifier. In the next columns AP50 as a video's frames are looked at, at "
        "two scales, then without the second look, and the same of the float network."
    ]
    if card.threshold_chosen_at is not None:
        parts[0] += f" The threshold was chosen on `{card.threshold_chosen_at.dataset}`."
        if "empty-hard" in card.metrics:
            parts[0] += " Pictures of `empty-hard` were among the empty ones that it keeps quiet."
    elif card.threshold == start_threshold:
        parts[0] += " The threshold is that of the model it was trained on from."
    stills = {name: kinds["stills"] for name, kinds in card.metrics.items()}
    rows = []
    for name, m in stills.items():
        # older cards have no "frames"
        others = (card.metrics[name].get(kind) for kind in ("frames", "int8", "float"))
        rows.append(
            [
                f"`{name}`",
                f"{m.pictures:,}",
                f"{m.birds:,}",
                _share(m.ap50),
                *(_share(other.ap50 if other else None) for other in others),
                # where there is no bird to be right about it says nothing
                _share(m.precision if m.birds else None),
                _share(m.recall),
                f"{m.empty_flagged} of {m.empty_pictures:,}" if m.empty_pictures else "-",
            ]
        )
    head = ["set", "pictures", "birds", "AP50", "as frames", "network alone", "float"]
    head += ["precision", "recall", "false alarms"]
    parts.append(_table(head, rows))
    parts.append("\n".join(f"- `{name}`: {SETS[name]}" for name in stills if name in SETS))
    for field, title in (("recall_by_size", "size"), ("recall_by_kind", "kind of difficulty")):
        parts.extend(_recalls(stills, field, title))
    return "\n\n".join(part for part in parts if part)


def _recalls(stills: Mapping[str, DatasetMetrics], field: str, title: str) -> list[str]:
    by_set = {name: getattr(m, field) for name, m in stills.items()}
    by_set = {name: recalls for name, recalls in by_set.items() if len(recalls) > 1}
    if not by_set:
        return []
    groups = list(dict.fromkeys(group for recalls in by_set.values() for group in recalls))
    groups.sort(key=lambda group: list(SIZES).index(group) if group in SIZES else 0)
    rows = [
        [group, *(_share(recalls.get(group)) for recalls in by_set.values())] for group in groups
    ]
    return [f"Recall by {title}:", _table(["", *(f"`{name}`" for name in by_set)], rows)]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
