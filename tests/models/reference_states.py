"""State dicts by the published codes' names: stored ones, and ones made to a list of shapes."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import torch

from golden_cases import load_case

__all__ = [
    "architecture_of",
    "bag_for",
    "listed_states",
    "made_state",
    "reference_names",
    "stored_states",
]

METHODS = (
    "abmil",
    "chowder",
    "clam",
    "dsmil",
    "msdamil",
    "sparseconvmil",
    "transmil",
    "xmil",
    "zoommil",
)
_ARCHITECTURES = {
    "abmil_gated": "abmil-gated",
    "abmil": "abmil",
    "chowder": "chowder",
    "msintuit_chowder": "chowder",
    "clam_sb": "clam-sb",
    "clam_mb": "clam-mb",
    "mil_fc": "mil-fc",
    "dsmil": "dsmil",
    "msdamil": "msmil",
    "sparse_": "sparseconvmil",
    "transmil": "transmil",
    "xmil_attnmil": "xmil-attnmil",
    "xmil_transmil": "xmil-transmil",
    "zoommil": "zoommil",
}
_LINE = re.compile(r"  state_dict/(\S+) \(([\d, ]*)\)")


def architecture_of(case: str) -> str:
    """The architecture that the name of a file of reference numbers speaks of."""
    start = next(start for start in _ARCHITECTURES if case.startswith(start))
    return _ARCHITECTURES[start]


def stored_states(golden: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Every stored state dict of a MIL head, by file name."""
    found = {}
    for method in METHODS:
        for path in sorted((golden / method).glob("*.npz")):
            state = load_case(path).state_dict
            if state:
                found[path.stem] = state
    assert found
    return found


def listed_states(golden: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of every listed state dict of a MIL head, stored or not."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for method in METHODS:
        case = ""
        for line in (golden / method / "ARRAYS.txt").read_text().splitlines():
            if line.startswith("== "):
                case = line.removeprefix("== ").removesuffix(".npz")
            elif (match := _LINE.match(line)) is not None:
                sizes = tuple(int(n) for n in match[2].replace(",", " ").split())
                found.setdefault(case, {})[match[1]] = sizes
    assert found
    return found


def made_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Numbers that depend on the tensor's name alone, small enough for any network."""
    state = {}
    for name, shape in shapes.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        inputs = max(1, int(torch.tensor(shape[1:]).prod()))
        state[name] = torch.randn(shape, generator=generator) / inputs**0.5
    return state


def bag_for(head, n: int = 12):
    """A bag, or bags, that a head takes, and coordinates of its tiles."""
    if head.magnification_use in ("zoom", "pool"):
        sizes = [3 * 4**level for level in range(max(2, head.num_magnifications))]
        return [_features(size, head.in_features) for size in sizes], None
    grid = torch.stack(torch.meshgrid(torch.arange(n), torch.arange(2), indexing="ij"), -1)
    return _features(n, head.in_features), grid.reshape(-1, 2)[:n] * 40


def _features(n: int, length: int) -> torch.Tensor:
    return torch.randn(n, length, generator=torch.Generator().manual_seed(n))


def reference_names(state: dict[str, torch.Tensor]) -> list[str]:
    """First parts of the names, where more than a leaf follows at least once."""
    return sorted({name.partition(".")[0] for name in state if name.count(".") >= 1})
