r"""The user-item graph of a recommender as a sparse matrix that multiplies quickly in both directions.

With the interactions :math:`R` (users by items) the adjacency is :math:`A = \begin{pmatrix}0&R\\R^\top&0\end{pmatrix}`;
users come first, items after them. The messages on its edges are weighted by powers of the two degrees.
"""

import warnings

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.checks import finite, shaped

# Message weight = (receiver's degree)^-left * (sender's degree)^-right, under the names of the LightGCN paper, table 5.
EDGE_WEIGHTS = {
    "symmetric": (0.5, 0.5),
    "L": (0.5, 0.0),
    "R": (0.0, 0.5),
    "L1": (1.0, 1.0),
    "L1-L": (1.0, 0.0),
    "L1-R": (0.0, 1.0),
}


class UserItemGraph:
    """A weighted bipartite adjacency, held with its transpose for the backward pass.

    Attributes:
        users: number of users.
        items: number of items.
        matrix: the weighted adjacency in CSR, users first.
        transposed: the same object for a symmetric weight.
    """

    def __init__(
        self,
        pairs: Int[Tensor, "pairs 2"],
        users: int,
        items: int,
        *,
        weight: str = "symmetric",
        self_loops: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        """Build the matrix; nodes without an edge keep an empty row.

        Args:
            pairs: (user, item) training interactions; repeated pairs count once.
            users: number of users.
            items: number of items.
            weight: which powers of the degrees weigh a message, a key of ``EDGE_WEIGHTS``.
            self_loops: add an edge from every node to itself before the degrees are taken.
            dtype: of the matrix.

        Raises:
            ValueError: if pairs are empty, misshapen or out of range, or the weight is unknown.
        """
        finite(pairs=pairs)
        shaped("pairs", pairs, ("pairs", 2))
        if weight not in EDGE_WEIGHTS:
            raise ValueError(f"weight {weight!r} is unknown: choose from {', '.join(EDGE_WEIGHTS)}")
        rows, columns = pairs.unique(dim=0).numpy().T
        if rows.min() < 0 or columns.min() < 0 or rows.max() >= users or columns.max() >= items:
            raise ValueError(f"pairs must hold users below {users} and items below {items}, and nothing negative")
        met = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(users, items))
        adjacency = scipy.sparse.bmat([[None, met], [met.T, None]], format="csr")
        if self_loops:
            adjacency = (adjacency + scipy.sparse.identity(users + items)).tocsr()
        degree = np.maximum(np.asarray(adjacency.sum(1)).ravel(), 1)
        left, right = EDGE_WEIGHTS[weight]
        scaled = scipy.sparse.diags(degree**-left) @ adjacency @ scipy.sparse.diags(degree**-right)
        self.users, self.items = users, items
        self.matrix = _csr(scaled, dtype)
        self.transposed = self.matrix if left == right else _csr(scaled.T, dtype)

    def __matmul__(self, values: Float[Tensor, "nodes dim"]) -> Float[Tensor, "nodes dim"]:
        """One step of message passing: every node receives the weighted sum of its neighbours' values."""
        return _Product.apply(self.matrix, self.transposed, values)


class _Product(torch.autograd.Function):
    """Sparse times dense; the gradient is one more product, with the transpose (the same matrix when symmetric)."""

    @staticmethod
    def forward(ctx, matrix, transposed, values):
        ctx.transposed = transposed
        return matrix @ values

    @staticmethod
    def backward(ctx, gradient):
        return None, None, ctx.transposed @ gradient


def _csr(matrix: scipy.sparse.spmatrix, dtype: torch.dtype) -> Tensor:
    """A scipy matrix as a torch CSR tensor with 32-bit indices, which the CPU kernels multiply fastest."""
    matrix = matrix.tocsr()
    matrix.sort_indices()
    indices = [torch.as_tensor(part.astype(np.int32)) for part in (matrix.indptr, matrix.indices)]
    with warnings.catch_warnings():  # torch announces on first use that its CSR support is in beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(*indices, torch.as_tensor(matrix.data, dtype=dtype), size=matrix.shape)
