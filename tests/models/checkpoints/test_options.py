"""Options that the head itself refuses are not told as misfits of tensors that do not tell them."""

import pytest
import torch

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import import_checkpoint

ABMIL = {
    "attention.0.weight": torch.ones(4, 8),
    "attention.0.bias": torch.ones(4),
    "attention.2.weight": torch.ones(1, 4),
    "attention.2.bias": torch.ones(1),
    "classifier.0.weight": torch.ones(2, 8),
    "classifier.0.bias": torch.ones(2),
}


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("dropout", 1.5, r"^dropout=1\.5 must be from 0 to 1\.$"),
        ("hidden", "x", r"^hidden='x' contra.* say hidden=4: hidden='x' must be a whole number, "),
    ],
)
def test_the_heads_own_reason(option, value, told):
    assert import_checkpoint(ABMIL).arguments["hidden"] == 4
    with pytest.raises(BadArgumentError, match=told):
        import_checkpoint(ABMIL, **{option: value})
