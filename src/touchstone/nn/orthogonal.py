r"""Orthogonal matrices drawn from the uniform (Haar) measure."""

import torch
from jaxtyping import Float
from torch import Tensor


def haar_orthogonal(
    rows: int,
    columns: int,
    batch: tuple[int, ...] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*batch rows columns"]:
    r"""Matrices with orthonormal columns (or rows, whichever are fewer), uniformly distributed.

    The Q of a QR decomposition of a Gaussian matrix is uniform only once the signs are fixed: LAPACK's choice of
    signs depends on the matrix, so each column of Q is multiplied by the sign of the diagonal of R
    (Mezzadri 2007, arXiv:math-ph/0609050).

    Args:
        rows: number of rows.
        columns: number of columns.
        batch: leading batch dimensions; every matrix is an independent draw.
        generator: source of randomness; the global one by default.
        dtype: floating type of the result.

    Returns:
        ``Q`` with :math:`Q^TQ=I` when ``rows >= columns`` and :math:`QQ^T=I` otherwise.

    Raises:
        ValueError: if ``rows`` or ``columns`` is not positive.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"rows and columns must be at least 1, got rows={rows}, columns={columns}")
    tall = torch.randn(*batch, max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(tall)
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    return (q if rows >= columns else q.mT).to(dtype).contiguous()
