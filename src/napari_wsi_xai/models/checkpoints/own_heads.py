"""Heads that this package trained and wrote without an encoder."""

from __future__ import annotations

from collections.abc import Sequence

from napari_wsi_xai.errors import BadArgumentError, CheckpointError
from napari_wsi_xai.models.checkpoints.layout import Layout
from napari_wsi_xai.models.checkpoints.reading import Contents
from napari_wsi_xai.models.checkpoints.recognition import Match
from napari_wsi_xai.models.mil import build_mil

__all__ = ["SOURCE", "own_head", "require_classes"]

SOURCE = "napari-wsi-xai train"


def own_head(contents: Contents, architecture: str | None) -> Match | None:
    """The head that a file of this package says it holds; None for files of others.

    Raises
    ------
    CheckpointError
        Its tensors are not those of that head, or another ``architecture`` is looked for.
    """
    own = contents.own
    if own is None:
        return None
    name, arguments = str(own["architecture"]), own["arguments"]
    if architecture not in (None, name):
        raise CheckpointError(f"{contents.origin} holds a {name} head, not {architecture}.")
    head = build_mil(name, **arguments)
    shapes = {key: tensor.shape for key, tensor in head.state_dict().items()}
    if shapes != {key: tensor.shape for key, tensor in contents.tensors.items()}:
        raise CheckpointError(
            f"{contents.origin} is damaged: its tensors are not those of the {name} head that it "
            "says it holds."
        )
    names = {key: key for key in shapes}
    layout = Layout(name, SOURCE, names, lambda tensors: dict(arguments))
    return Match(layout, head, dict(contents.tensors), dict(arguments), dict(contents.tensors))


def require_classes(contents: Contents, classes: Sequence[str]) -> None:
    """Raise where the classes are not those that the file says, in their order."""
    if contents.own is not None and contents.own["classes"] != list(classes):
        told = ",".join(contents.own["classes"])
        raise BadArgumentError(
            f"classes {','.join(classes)} are not those that {contents.origin} was trained with: "
            f"give {told}, in this order."
        )
