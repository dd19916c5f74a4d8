"""Messages for bad input name the argument and what it needs."""

import numpy as np
import pytest
import torch

from tests.helpers import unchecked
from touchstone.checks import finite, shaped


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(0, 3), r"x is empty \(shape \(0, 3\)\)"),
        (torch.tensor([1.0, float("nan"), float("inf")]), "x holds 2 NaN or infinite of 3 entries"),
        (np.array([np.nan]), "x holds 1 NaN or infinite of 1 entries"),
        (torch.tensor([complex(0, float("nan"))]), "x holds 1 NaN"),
    ],
)
def test_empty_and_not_finite_arrays_are_refused(value, words):
    with pytest.raises(ValueError, match=words):
        finite(good=torch.ones(1), x=value)


def test_good_arrays_pass():
    assert finite(x=torch.ones(2), y=np.ones(3), count=torch.tensor([1, 2])) is None


def test_shapes_return_the_named_sizes():
    assert shaped("x", torch.zeros(2, 3, 3), ("batch", "dim", "dim")) == {"batch": 2, "dim": 3}
    assert shaped("x", torch.zeros(2, 5), (2, "dim")) == {"dim": 5}


@pytest.mark.parametrize("shape", [("batch",), ("batch", 4), ("dim", "dim"), ("a", "b", "c")])
def test_wrong_shapes_say_what_is_and_what_should_be(shape):
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\), expected \("):
        shaped("x", torch.zeros(2, 3), shape)


def test_unchecked_removes_the_runtime_check():
    with pytest.raises(ValueError, match="x has shape"):
        unchecked(shaped)("x", [[1.0], [2.0]], (3,))
