import pytest
import torch

from touchstone.nn.orthogonal import haar_orthogonal


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (6, 4), (4, 6)])
def test_orthonormal(rows, columns):
    q = haar_orthogonal(rows, columns, (3,), torch.Generator().manual_seed(0), torch.float64)
    assert q.shape == (3, rows, columns)
    gram = q.mT @ q if rows >= columns else q @ q.mT
    torch.testing.assert_close(gram, torch.eye(min(rows, columns), dtype=q.dtype).expand_as(gram), rtol=0, atol=1e-12)


def test_entries_average_to_zero_and_traces_are_haar():
    count, size = 4000, 4
    q = haar_orthogonal(size, size, (count,), torch.Generator().manual_seed(1), torch.float64)
    # LAPACK's sign convention alone leaves the diagonal negative on average
    assert q.mean(0).abs().max() < 4 / (size * count) ** 0.5
    trace = q.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(trace.square().mean() - 1) < 0.15  # E[(tr Q)^2] = 1 on the orthogonal group


def test_seeded_and_checked():
    a, b = (haar_orthogonal(5, 5, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b) and a.dtype == torch.float32
    with pytest.raises(ValueError, match="rows"):
        haar_orthogonal(0, 3)
