from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.geometry import Region
from napari_wsi_xai.runs import RunPlan
from napari_wsi_xai.runs.local import BlockQueue
from napari_wsi_xai.tiles import TileGrid

GRID = TileGrid((24, 32), 50, 0.5, 50, (0, 0), (0.5, 0.5), 0, 1.0)
PLAN = RunPlan("slide", None, None, GRID, np.ones(GRID.shape, bool), block_tiles=4)


@given(y=st.integers(-500, 1500), x=st.integers(-500, 2000), size=st.integers(1, 900))
def test_blocks_in_view_come_before_all_others(y, x, size):
    queue = BlockQueue(PLAN, list(PLAN.blocks))
    queue.focus(Region(y, x, size, size))
    order = list(queue)
    assert sorted(order) == list(PLAN.blocks)

    def in_view(block) -> bool:
        top, left = block.row * 200, block.col * 200
        return top <= y + size and top + 200 >= y and left <= x + size and left + 200 >= x

    flags = [in_view(block) for block in order]
    assert flags == sorted(flags, reverse=True)


def test_focus_moves_while_blocks_are_taken():
    queue = BlockQueue(PLAN, list(PLAN.blocks))
    blocks = iter(queue)
    assert next(blocks) == PLAN.blocks[0]
    queue.focus(Region(1100, 1500, 10, 10))
    assert (next(blocks).row, len(queue)) == (5, len(PLAN.blocks) - 2)
    queue.focus(None)
    assert next(blocks) == PLAN.blocks[1]
