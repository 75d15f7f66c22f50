"""Figures of the epoch that is shown, in words on the canvas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari_wsi_xai.training.rule_words import metric_key
from napari_wsi_xai.viewer.slide_layers import METADATA_KEY

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

__all__ = ["EPOCH_MAP", "follow_epochs", "words_of_epoch"]

EPOCH_MAP = "epoch map"
"""``kind`` of the layers that words are taken from."""

SAID = {
    "probability": "probability",
    "localisation": "localisation",
    "excluded": "attention on excluded",
    "outside_tissue": "outside tissue",
    "entropy": "entropy",
}

METRICS = {
    "val_auc": "validation AUC",
    "val_loss": "validation loss",
    "train_loss": "training loss",
}

FONT_PT, LINE = 9, 130
"""Size of the words, and most characters of a line."""

MARGIN = 0.18
"""Of the canvas beside what is shown, so that there is room for the words."""


def words_of_epoch(about: Mapping[str, Any], index: int) -> str:
    """What is said of one entry: epoch and metrics, then the slide's figures.

    Parameters
    ----------
    about
        A map layer's ``metadata["napari_wsi_xai"]``.
    index
        Which entry, from 0.
    """
    last = len(about["epochs"]) - 1
    head = [f"epoch {about['epochs'][index]} of {about['epochs'][last]}"]
    if about["checks"]:
        head.append(f"step {about['steps'][index]}")
    logged = {metric_key(name): value for name, value in about["metrics"][index].items()}
    head += [f"{words} {logged[name]:.3f}" for name, words in METRICS.items() if name in logged]
    values = {words: about["figures"][name][index] for name, words in SAID.items()}
    said = [f"{words} {value:.2f}" for words, value in values.items() if math.isfinite(value)]
    lines = [*_joined(head), *_joined([f"{about['slide']}, {about['label']}", *said])]
    if index == last and about["stopped_because"]:
        why = about["stopped_because"].partition(", and the rule is")[0]
        lines += wrap(f"stopped: {why}", LINE)
    return "\n".join(lines)


def _joined(parts: list[str]) -> list[str]:
    """The parts in lines, none of them cut in two."""
    lines = parts[:1]
    for part in parts[1:]:
        longer = f"{lines[-1]} · {part}"
        lines[-1:] = [longer] if len(longer) <= LINE else [lines[-1], part]
    return lines


def follow_epochs(viewer: napari.viewer.Viewer) -> None:
    """Say on the canvas which epoch is shown, whenever the viewer shows maps with epochs.

    Of several slides the visible one is spoken of. Text that somebody else has put there stays.
    """
    follower = _followers.get(viewer)
    if follower is None:
        follower = _followers[viewer] = _Follower(viewer)
    follower.fits = not viewer.layers


class _Follower:
    """Keeps a viewer's text up to date, and shows the last epoch of what is added first."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self.fits = False
        self._said = ""
        # The viewer's own events keep this alive, no longer than the viewer.
        layers, dims = viewer.layers.events, viewer.dims.events
        layers.inserted.connect(lambda event: self._added(viewer, event.value), position="last")
        layers.removed.connect(lambda event: self._say(viewer), position="last")
        dims.current_step.connect(lambda event: self._say(viewer))

    def _added(self, viewer: napari.viewer.Viewer, layer: Layer) -> None:
        if "epochs" not in _about(layer):
            return
        layer.events.visible.connect(lambda event: self._say(viewer))
        layer.events.data.connect(lambda event: self._say(viewer))
        shown = [one for one in viewer.layers if "epochs" in _about(one)]
        if len(shown) == 1:
            viewer.dims.set_point(_axis(viewer, layer), len(_about(layer)["epochs"]))
        if self.fits and layer.visible:
            viewer.reset_view(margin=MARGIN)
        self._say(viewer)

    def _say(self, viewer: napari.viewer.Viewer) -> None:
        text = _text(viewer)
        if text.text not in ("", self._said):
            return
        before, self._said = text.text, _words(viewer)
        if before == self._said:
            return
        text.text = self._said
        if not (before and self._said):  # else it may have been hidden by hand
            text.position, text.font_size = "top_left", FONT_PT
            text.visible = bool(self._said)


_followers: WeakKeyDictionary[Any, _Follower] = WeakKeyDictionary()


def _words(viewer: napari.viewer.Viewer) -> str:
    maps = [one for one in viewer.layers if _about(one).get("kind") == EPOCH_MAP]
    layer = next((one for one in reversed(maps) if one.visible), None)
    if layer is None:
        return ""
    position = viewer.dims.point[_axis(viewer, layer)]
    about = _about(layer)
    index = round(position - float(layer.translate[0]))
    return words_of_epoch(about, min(max(index, 0), len(about["epochs"]) - 1))


def _axis(viewer: napari.viewer.Viewer, layer: Layer) -> int:
    """Which of the viewer's axes the layer's epochs are along."""
    return int(viewer.dims.ndim - layer.ndim)


def _about(layer: Layer) -> Mapping[str, Any]:
    found = layer.metadata.get(METADATA_KEY, {})
    return found if isinstance(found, Mapping) else {}


def _text(viewer: napari.viewer.Viewer) -> Any:
    """The viewer's text on the canvas; the attribute moved between versions."""
    overlays = getattr(getattr(viewer, "canvas", None), "overlays", None)
    return viewer.text_overlay if overlays is None else overlays.text
