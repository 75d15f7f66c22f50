"""What runs over one magnification and over several have in common."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from napari_wsi_xai.geometry import Region
from napari_wsi_xai.runs.progress import Progress
from napari_wsi_xai.runs.store_group import StoreGroup
from napari_wsi_xai.slides import Slide, open_slide

__all__ = ["SlideRun"]


class SlideRun(ABC):
    """A slide being scored by a model, or the stored result of that.

    Iterating does the work and yields :class:`Progress`; breaking off, :meth:`cancel` or a crash
    loses at most the blocks under way, and the next iteration goes on from there. Its maps are
    *provisional* until :attr:`complete`.

    Attributes
    ----------
    store
        Where features and maps are kept.
    note
        What precision was used and why; empty before it is settled.
    """

    def __init__(self, store: StoreGroup, slide: Slide | None = None) -> None:
        self.store = store
        self.note = ""
        self._slide = slide
        self._cancel = threading.Event()
        self._focus: Region | None = None

    # -- what it is ------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """Folder of the result store; None while it lives in memory."""
        return self.store.path

    @property
    def name(self) -> str:
        """Name of the slide."""
        return str(self.store.attributes["slide"]["name"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the model, in the order of its logits."""
        return tuple(self.store.attributes["model"]["classes"])

    @property
    def score_kind(self) -> str:
        """What the tile scores are, in words: "attention logit", "class logit"..."""
        return str(self.store.attributes["model"]["score_kind"])

    @property
    def slide(self) -> Slide:
        """The slide, opened when first asked for."""
        if self._slide is None:
            known = self.store.attributes["slide"]
            mpp = tuple(known["mpp"]) if known["mpp_source"] == "user" else None
            self._slide = open_slide(known["source"], mpp=mpp)
        return self._slide

    @property
    @abstractmethod
    def total(self) -> int:
        """Number of tiles to be read."""

    @property
    @abstractmethod
    def done(self) -> int:
        """Number of tiles dealt with so far."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether every tile has been dealt with."""

    @property
    def result(self) -> dict[str, Any] | None:
        """What the MIL head said of the tiles done so far, as stored; None before that.

        Keys: ``logits``, ``probabilities`` (class to 0..1), ``predicted``, ``tiles_used``,
        ``tiles_total``, ``complete``.
        """
        return self.store.attributes.get("result")

    @property
    def probabilities(self) -> dict[str, float]:
        """Slide-level probability of each class; empty before the first result."""
        return dict(self.result["probabilities"]) if self.result else {}

    @property
    def predicted(self) -> str | None:
        """The class with the highest probability."""
        return str(self.result["predicted"]) if self.result else None

    # -- doing the work --------------------------------------------------------------------

    @abstractmethod
    def __iter__(self) -> Iterator[Progress]:
        """Do the work and tell of it."""

    def compute(self) -> Self:
        """Do all the work; returns itself."""
        for _ in self:
            pass
        return self

    def cancel(self) -> None:
        """Stop after the forward pass under way; what is complete is kept. Any thread may call."""
        self._cancel.set()

    def focus(self, region_level0: Region | None) -> None:
        """Do the blocks nearest to this rectangle first. Any thread may call, at any time."""
        self._focus = region_level0
