import torch

from touchstone.data.digits import digits


def test_split_is_stratified_disjoint_and_scaled():
    data = digits()
    assert data.train.shape == (1297, 64) and data.held_out.shape == (500, 64)
    assert data.train.min() == -1 and data.train.max() == 1
    share_train, share_held_out = (torch.bincount(labels) / len(labels) for labels in data[1::2])
    assert (share_train - share_held_out).abs().max() < 0.005
    assert torch.cdist(data.train, data.held_out).min() > 0
