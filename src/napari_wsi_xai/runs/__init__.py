"""A run: a slide cut into independent blocks, encoded, kept in a store, explained by a MIL head."""

from napari_wsi_xai.runs.features_io import FeatureBag, read_feature_bag, write_feature_bag
from napari_wsi_xai.runs.imported import run_from_bag
from napari_wsi_xai.runs.opening import open_run
from napari_wsi_xai.runs.plan import Block, BlockResult, RunPlan, encode_block
from napari_wsi_xai.runs.progress import Progress
from napari_wsi_xai.runs.run import Run
from napari_wsi_xai.runs.score import score
from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.runs.top_tiles import TopTile, top_tiles
from napari_wsi_xai.runs.trace import LevelTrace, ZoomTrace
from napari_wsi_xai.runs.zoom import ZoomRun

__all__ = [
    "Block",
    "BlockResult",
    "FeatureBag",
    "LevelTrace",
    "Progress",
    "ResultStore",
    "Run",
    "RunPlan",
    "TopTile",
    "ZoomRun",
    "ZoomTrace",
    "encode_block",
    "open_run",
    "read_feature_bag",
    "run_from_bag",
    "score",
    "top_tiles",
    "write_feature_bag",
]
