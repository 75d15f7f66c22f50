"""What a finished training leaves: predictions, metrics and a model."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_wsi_xai.errors import ModelError, WsiXaiError
from napari_wsi_xai.models.bundle import Model, save_model
from napari_wsi_xai.models.checkpoints.reading import HEAD_KEY
from napari_wsi_xai.models.encoders import build_encoder
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.mil import MILModel
from napari_wsi_xai.models.tensor_files import hash_tensors
from napari_wsi_xai.training.bags import BagDataset, Kept
from napari_wsi_xai.training.cohort import SIDES, Cohort
from napari_wsi_xai.training.end_to_end import EndToEnd
from napari_wsi_xai.training.facts import FeatureFacts
from napari_wsi_xai.training.losses import run_head
from napari_wsi_xai.training.metrics import Metrics, classification_metrics
from napari_wsi_xai.training.records import write_atomically
from napari_wsi_xai.training.splits import Split

if TYPE_CHECKING:
    from napari_wsi_xai.training.module import MILModule

__all__ = ["Predictions", "find_encoder", "predict", "write_head", "write_model"]

_NAMED = re.compile(r"(?P<name>\S+) \((?:untrained, seed (?P<seed>\d+)|(?P<weights>[^()\s]+))\)")

Predictions = dict[int, list[float]]
"""Index of a case to its class probabilities."""


@torch.no_grad()
def predict(
    head: MILModel,
    cohort: Cohort,
    indices: Sequence[int],
    tiles: EndToEnd | None = None,
    kept: Kept | None = None,
) -> Predictions:
    """Class probabilities of some of a cohort's slides, all tiles of each taken.

    ``tiles`` says how their descriptors are made, where an encoder was trained too; ``kept`` are
    bags that need not be read again.

    Raises
    ------
    ModelError
        A bag does not fit the head, or the head's weights are not finite; the message names the
        slide.
    """
    head.eval()
    found: Predictions = {}
    if tiles is None:
        bags = BagDataset(cohort, indices, use=head.magnification_use, kept=kept)
    else:
        bags = tiles.judged(cohort, indices)
    for place, index in enumerate(indices):
        bag = bags[place] if tiles is None else tiles.described(bags[place])
        try:
            chances = head.probabilities(run_head(head, bag).logits)
        except ModelError as error:
            raise ModelError(f"{bag.name}: {error}") from error
        if not torch.isfinite(chances).all():
            raise ModelError(
                f"{bag.name}: the trained head gives no finite probabilities, so the training has "
                "diverged: take a lower lr, or clip."
            )
        found[index] = chances.tolist()
    return found


def side_metrics(
    cohort: Cohort, split: Split, predictions: Predictions, seed: int
) -> dict[str, Metrics]:
    """Metrics of the sides of a split that have slides and are not trained on."""
    sides = {side: getattr(split, side) for side in SIDES[1:] if getattr(split, side)}
    return {side: cohort_metrics(cohort, i, predictions, seed) for side, i in sides.items()}


def cohort_metrics(
    cohort: Cohort, indices: Sequence[int], predictions: Predictions, seed: int
) -> Metrics:
    """Metrics of some slides, with intervals over their patients."""
    return classification_metrics(
        [cohort.cases[i].label for i in indices],
        [predictions[i] for i in indices],
        seed,
        patients=[cohort.cases[i].patient for i in indices],
        classes=cohort.classes,
    )


def write_predictions(
    cohort: Cohort,
    rows: Sequence[tuple[int, str]],
    probabilities: Sequence[list[float]],
    path: Path,
) -> Path:
    """A CSV line for each (index of a case, side): names, labels and its probabilities."""
    with write_atomically(path) as temporary, temporary.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        columns = [f"p_{name}" for name in cohort.classes]
        lines.writerow(["slide", "patient", "side", "label", "predicted", *columns])
        for (index, side), chances in zip(rows, probabilities, strict=True):
            case = cohort.cases[index]
            predicted = cohort.classes[max(range(len(chances)), key=chances.__getitem__)]
            told = [case.slide, case.patient, side, cohort.classes[case.label], predicted]
            lines.writerow([*told, *(repr(p) for p in chances)])
    return path


def find_encoder(facts: FeatureFacts) -> Encoder | None:
    """The encoder that features were made with, where their stores tell it by name and hash.

    Only names that say all of it can be found: published weights, or seeded random ones. ``None``
    for others, and where it cannot be built or is not the very one.
    """
    told = _NAMED.fullmatch(facts.encoder or "")
    if told is None or facts.encoder_hash is None:
        return None
    try:
        encoder = build_encoder(told["name"], told["weights"])
        if told["seed"] is not None:
            encoder = build_encoder(replace(encoder.spec, seed=int(told["seed"])))
    except WsiXaiError:
        return None
    return encoder if encoder.content_hash == facts.encoder_hash else None


def write_model(
    module: MILModule,
    cohort: Cohort,
    facts: FeatureFacts,
    encoder: Encoder | None,
    folder: Path,
    metadata: dict[str, Any],
) -> Path:
    """The module's head as :func:`write_head` writes it."""
    return write_head(module.head, cohort, facts, encoder, folder, metadata)


def write_head(
    head: MILModel,
    cohort: Cohort,
    facts: FeatureFacts,
    encoder: Encoder | None,
    folder: Path,
    metadata: dict[str, Any],
) -> Path:
    """A bundle ``model.safetensors``, or ``head.safetensors`` where the encoder is not known.

    The second holds the head's tensors under their own names and, in its header, architecture,
    arguments, classes and metadata as JSON.
    """
    if encoder is not None and facts.tile_px is not None and facts.mpps is not None:
        mpps = facts.mpps[-head.num_magnifications :]
        name = f"{encoder.spec.name.replace('/', '-')}-{head.architecture}"
        if "start" in metadata.get("training", {}):
            name += "-end-to-end"
        model = Model(
            encoder, head, facts.tile_px, mpps[-1], cohort.classes, name, "", metadata, mpps
        )
        return save_model(model, folder / "model.safetensors")
    from safetensors.torch import save

    about = {
        "architecture": head.architecture,
        "arguments": head.arguments,
        "classes": list(cohort.classes),
        "encoder": facts.encoder,
        "encoder_hash": facts.encoder_hash,
        "tile_px": facts.tile_px,
        "mpps": facts.mpps,
        "metadata": metadata,
    }
    state = head.state_dict()
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    path = folder / "head.safetensors"
    with write_atomically(path) as temporary:
        temporary.write_bytes(save(tensors, {HEAD_KEY: json.dumps(about)}))
    return path


def metadata_of(
    module: MILModule, cohort: Cohort, split: Split, facts: FeatureFacts, balance: dict[str, Any]
) -> dict[str, Any]:
    """What a model says of its training."""
    best = module.best_epoch
    kept = len(module.history) - 1 if best is None else best
    sides = {side: [cohort.cases[i].slide for i in getattr(split, side)] for side in SIDES}
    origin = "start" if module.recipe.end_to_end else "features"
    return {
        "trained": True,
        "training": {
            "recipe": module.recipe.to_dict(),
            "cohort": cohort.content_hash,
            "split": {"name": split.name, **sides},
            "balance": balance,
            "epochs": len(module.history),
            "best_epoch": kept + 1,
            "figures": _without_nan(module.history[kept]),
            "stopped_because": module.stopped_because,
            origin: {"encoder": facts.encoder, "encoder_hash": facts.encoder_hash},
            "head_hash": f"sha256:{hash_tensors(module.head.state_dict())}",
            "torch": str(torch.__version__).split("+")[0],
        },
    }


def _without_nan(row: dict[str, float]) -> dict[str, float | None]:
    return {name: value if value == value else None for name, value in row.items()}
