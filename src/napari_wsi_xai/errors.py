"""The error tree: every error this package raises on purpose.

::

    WsiXaiError
    ├── SlideError              a slide cannot be used
    │   ├── SlideNotFoundError      nothing is there (path or URL)
    │   ├── UnsupportedSlideError   something is there, but no backend reads it
    │   ├── SlideReadError          opened, but pixels cannot be read
    │   └── MissingMppError         the micrometres per pixel are not known
    ├── GridError               tiles cannot be laid on the slide as asked
    │   └── NoTissueError           no tile holds enough tissue
    ├── AnnotationError         a polygon file cannot be read or written
    ├── ModelError              a model cannot be used
    │   ├── ModelFileError          file damaged, of another kind, or unsafe to load
    │   │   └── CheckpointError         its tensors fit no known head
    │   └── WeightsNotFoundError    weights are neither given nor cached
    ├── RunError                a run cannot give a result
    ├── StoreError              a result store cannot be read or written
    │   └── StoreMismatchError      it holds results of another slide, model or grid
    ├── CohortError             the slides to train on are not as they must be
    ├── MissingExtraError       an optional dependency is not installed
    └── BadArgumentError        an argument's value is out of its limits

Messages are one sentence with the value, the limit and the remedy. The command line prints the
message alone and ends with ``exit_status``: 2 where the call itself must change, else 1.
"""

__all__ = [
    "AnnotationError",
    "BadArgumentError",
    "CheckpointError",
    "CohortError",
    "GridError",
    "MissingExtraError",
    "MissingMppError",
    "ModelError",
    "ModelFileError",
    "NoTissueError",
    "RunError",
    "SlideError",
    "SlideNotFoundError",
    "SlideReadError",
    "StoreError",
    "StoreMismatchError",
    "UnsupportedSlideError",
    "WeightsNotFoundError",
    "WsiXaiError",
    "WsiXaiWarning",
]


class WsiXaiError(Exception):
    """Base of all errors raised on purpose by this package."""

    exit_status = 1


class SlideError(WsiXaiError):
    """A slide cannot be used."""


class SlideNotFoundError(SlideError, FileNotFoundError):
    """There is nothing at the path or URL."""


class UnsupportedSlideError(SlideError):
    """There is something, but no backend can read it as a slide."""


class SlideReadError(SlideError):
    """The slide opens, but its pixels cannot be read."""


class MissingMppError(SlideError):
    """The slide does not say its micrometres per pixel and the caller did not either."""

    exit_status = 2


class GridError(WsiXaiError):
    """Tiles cannot be laid on the slide as asked."""


class NoTissueError(GridError):
    """No tile of the grid holds enough tissue."""


class AnnotationError(WsiXaiError):
    """A polygon file cannot be read or written."""


class ModelError(WsiXaiError):
    """A model cannot be used."""


class ModelFileError(ModelError):
    """A model file is damaged, of another kind, or unsafe to load."""


class CheckpointError(ModelFileError):
    """The tensors of a checkpoint fit no known head, or cannot be used."""


class WeightsNotFoundError(ModelError, FileNotFoundError):
    """Weights are neither given nor in the cache, and cannot be downloaded."""


class RunError(WsiXaiError):
    """A run cannot give a result: no tile could be used."""


class StoreError(WsiXaiError):
    """A result store cannot be read or written."""


class StoreMismatchError(StoreError):
    """A result store holds results of another slide, model or grid."""


class CohortError(WsiXaiError):
    """Slides to train on, their labels, splits or features are not as they must be."""


class MissingExtraError(WsiXaiError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}: "
            f'pip install "napari-wsi-xai[{extra}]" brings it.'
        )


class BadArgumentError(WsiXaiError, ValueError):
    """An argument's value is out of its limits."""

    exit_status = 2


class WsiXaiWarning(UserWarning):
    """Base of all warnings of this package."""
