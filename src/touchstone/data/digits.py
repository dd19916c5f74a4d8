"""The 1,797 handwritten digits of 8 by 8 pixels that ship with scikit-learn, scaled and split once for all."""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


class Digits(NamedTuple):
    """Images with pixels in [-1, 1], flattened row by row, and their labels 0 to 9."""

    train: Float[Tensor, "1297 64"]
    train_labels: Int[Tensor, "1297"]
    held_out: Float[Tensor, "500 64"]
    held_out_labels: Int[Tensor, "500"]


@cache
def digits() -> Digits:
    """The stratified split into 1,297 training and 500 held-out images; the same at every call, so do not change it."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 8 - 1, labels, test_size=500, stratify=labels, random_state=0)
    train, held_out = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    train_labels, held_out_labels = (torch.tensor(part) for part in parts[2:])
    return Digits(train, train_labels, held_out, held_out_labels)
