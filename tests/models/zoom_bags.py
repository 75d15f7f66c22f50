"""Bags of several magnifications and ZoomMIL heads that tests share."""

from __future__ import annotations

import torch

from golden_cases import Case, assert_near
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts.zoommil import LAYOUTS

__all__ = ["LAYOUT", "NAMES", "bags_of", "check_levels", "head_of", "nested", "restrict", "small"]

(LAYOUT,) = LAYOUTS
NAMES = ("low_mag", "mid_mag", "high_mag")


def head_of(case):
    """The authors' model as one of ours, in eval mode."""
    made = case.meta["kwargs"]
    options = {"k_sample": made["k_sample"], "dropout": made["dropout"] or 0.0}
    if "k_sigma" in made:
        options["k_sigma"] = made["k_sigma"]
    head = build_mil(LAYOUT.architecture, **LAYOUT.arguments(case.state_dict), **options)
    head.load_state_dict(LAYOUT.rename(case.state_dict))
    return head


def bags_of(case):
    return [case.tensor(f"in/x{n}")[0].requires_grad_() for n in (1, 2, 3)]


def small(k=3, magnifications=3, classes=2, **arguments):
    torch.manual_seed(5)
    sizes = {"hidden": 6, "out_features": 8, "k_sample": k, "num_magnifications": magnifications}
    return build_mil("zoommil", 12, classes, **sizes, **arguments)


def nested(coarse=7, factors=(4, 4), d=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    counts = [coarse]
    for factor in factors:
        counts.append(counts[-1] * factor)
    return [torch.randn(n, d, generator=draw) for n in counts]


def restrict(head, bags):
    """What a run reads: each finer bag holds the children of the opened rows only."""
    kept, rows = [bags[0]], torch.arange(len(bags[0]))
    for level in range(len(bags) - 1):
        factor = len(bags[level + 1]) // len(bags[level])
        opened = rows[head.open_tiles(level, kept[-1])]
        rows = torch.cat([torch.arange(n * factor, (n + 1) * factor) for n in opened.tolist()])
        kept.append(bags[level + 1][rows])
    return kept


def check_levels(case: Case, levels):
    for name, seen in zip(NAMES, levels, strict=True):
        assert_near(seen.tile_scores[:, 0], case[f"out/attn_raw/ga_{name}"][0], name)
        assert_near(seen.attention[:, 0], case[f"out/attn_softmax/ga_{name}"][0], name)
        if seen.selection is not None:
            assert_near(seen.selection[:, 0], case[f"out/attn_softmax/aux_ga_{name}"][0], name)
    assert [seen.selection is None for seen in levels] == [False, False, True]
