"""Clear errors for bad input: every public function of a method says which argument was wrong and what it needs."""

from collections.abc import Sequence

import numpy as np
import torch


def finite(**arguments: torch.Tensor | np.ndarray) -> None:
    """Reject empty arrays and arrays that hold NaN or infinite numbers.

    Args:
        **arguments: arrays or tensors of any shape, under the names the caller's user knows.

    Raises:
        ValueError: naming the first argument that is empty or not finite, and how many entries are not.
    """
    for name, value in arguments.items():
        array = torch.as_tensor(value)
        if array.numel() == 0:
            raise ValueError(f"{name} is empty (shape {tuple(array.shape)}): give at least one entry")
        if array.is_floating_point() or array.is_complex():
            bad = int((~torch.isfinite(array)).sum())
            if bad:
                raise ValueError(
                    f"{name} holds {bad} NaN or infinite of {array.numel()} entries: remove or replace them"
                )


def shaped(name: str, value: torch.Tensor | np.ndarray, shape: Sequence[int | str]) -> dict[str, int]:
    """Reject an array whose shape does not fit, and return the sizes of the named axes.

    Args:
        name: the argument's name, for the message.
        value: array or tensor.
        shape: what is expected, one entry an axis: an int (exact size) or a name (any size >= 0; equal names must agree).

    Returns:
        the size of each named axis.

    Raises:
        ValueError: naming the argument, the shape it has and the shape it should have.
    """
    sizes: dict[str, int] = {}
    actual = tuple(np.shape(value))
    wanted = "(" + ", ".join(str(axis) for axis in shape) + ")"
    fits = len(actual) == len(shape)
    if fits:
        for size, axis in zip(actual, shape, strict=True):
            fits &= size == (axis if isinstance(axis, int) else sizes.setdefault(axis, size))
    if not fits:
        raise ValueError(f"{name} has shape {actual}, expected {wanted}")
    return sizes
