"""Reading of reference numbers."""

import numpy as np
import pytest
import torch

from golden_cases import assert_near, cases, load_case


def test_a_file_is_taken_apart(tmp_path):
    meta = np.frombuffer(b'{"cls": "Head", "seed": 3}', dtype=np.uint8)
    arrays = {"in/h": np.ones((2, 3), np.float32), "state_dict/fc.weight": np.zeros((1, 3))}
    np.savez(tmp_path / "b.npz", **arrays, meta=meta)
    np.savez(tmp_path / "a.npz", **arrays)
    case = load_case(tmp_path / "b.npz")
    assert list(case.arrays) == ["in/h"]
    assert case["in/h"].shape == case.tensor("in/h").shape == (2, 3)
    assert "in/h" in case
    assert "out/h" not in case
    assert list(case.state_dict) == ["fc.weight"]
    assert case.meta == {"cls": "Head", "seed": 3}
    assert [c.name for c in cases(tmp_path.parent, tmp_path.name)] == ["a", "b"]
    with pytest.raises(AssertionError, match="no c"):
        cases(tmp_path.parent, tmp_path.name, "c*.npz")


def test_near_looks_at_shapes_too():
    assert_near(torch.ones(3), np.ones(3) + 1e-6)
    with pytest.raises(AssertionError, match=r"\(3,\)"):
        assert_near(torch.ones(3), np.ones((1, 3)))
    with pytest.raises(AssertionError, match="scores"):
        assert_near(torch.ones(3), np.ones(3) + 1e-3, "scores")
