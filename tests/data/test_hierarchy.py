import pytest
import torch

from touchstone.data.hierarchy import binary_tree


def test_tree_of_eight_items():
    inputs, features = binary_tree(3)
    assert inputs.shape == (8, 8) and features.shape == (8, 15)
    torch.testing.assert_close(inputs.mT @ inputs / 8, torch.eye(8))
    assert features[:, 0].all()  # the root is above every item
    assert features.sum(1).eq(4).all()  # an item lies below one node of each of four generations
    torch.testing.assert_close(features[:, 7:], torch.eye(8))
    shared = features @ features.mT
    assert shared[0, 1] == 3 and shared[0, 2] == 2 and shared[0, 7] == 1  # relatives share more features


def test_singular_values_by_generation():
    inputs, features = binary_tree(2, torch.float64)
    values = torch.linalg.svdvals(features.mT @ inputs / 4)
    torch.testing.assert_close(values, torch.tensor([7, 3, 1, 1], dtype=torch.float64).div(4).sqrt())


def test_levels_are_checked():
    with pytest.raises(ValueError, match="levels"):
        binary_tree(0)
