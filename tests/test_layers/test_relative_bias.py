"""The table, its index, and its resampling."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.layers import gather_bias, relative_position_index, resample_absolute, resample_table, table_size
from swin_pos_det.layers.relative_bias import RESAMPLING_MODES, geometric_matrix
from tests import reference


def test_literal_index_of_a_2x2_window():
    # Offsets (down, across) from -1 to 1 in rows of three: no offset is row 4.
    assert relative_position_index((2, 2)).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


@pytest.mark.parametrize('window', [(1, 1), (2, 2), (2, 5), (7, 3), (7, 7)])
def test_bias_equals_the_reference(window):
    rows, cols = table_size(window)
    table = torch.randn(rows * cols, 3)
    assert torch.equal(gather_bias(table, window), reference.bias_of_window(table, window))


def test_index_equals_mmdets():
    from mmdet.models.backbones.swin import WindowMSA
    for window in ((7, 7), (4, 9)):
        theirs = WindowMSA(embed_dims=4, num_heads=2, window_size=window).relative_position_index
        assert torch.equal(relative_position_index(window), theirs)


PAIRS = [((7, 7), (12, 12)), ((12, 12), (7, 7)), ((7, 7), (7, 14)), ((3, 5), (5, 3)), ((1, 1), (4, 4))]


@pytest.mark.parametrize(('source', 'target', 'mode'), [
    (source, target, mode) for source, target in PAIRS for mode in RESAMPLING_MODES
    if (source, mode) != ((1, 1), 'geometric')])  # the reference's splines need two points on an axis
def test_resampling_equals_the_reference(source, target, mode):
    rows, cols = table_size(source)
    table = torch.randn(rows * cols, 2)
    got = resample_table(table, source, target, mode)
    assert got.shape == (table_size(target)[0] * table_size(target)[1], 2)
    torch.testing.assert_close(got, reference.resized_table(table, source, target, mode), rtol=0, atol=1e-6)


@pytest.mark.parametrize(('source', 'target'), [(1, 1), (1, 5), (2, 2), (2, 9), (7, 7), (7, 8), (7, 32),
                                                (12, 7), (9, 1)])
def test_geometric_resampling_leaves_near_offsets_alone(source, target):
    matrix = geometric_matrix(source, target)
    assert matrix.shape == (2 * target - 1, 2 * source - 1)
    torch.testing.assert_close(matrix.sum(1), torch.ones(2 * target - 1, dtype=torch.float64))
    torch.testing.assert_close(matrix.flip(0, 1), matrix, msg='left and right are alike')
    near = min(source, target, 2) - 1  # no offset, and one token to either side
    for offset in range(-near, near + 1):
        want = torch.zeros(2 * source - 1, dtype=torch.float64)
        want[source - 1 + offset] = 1
        torch.testing.assert_close(matrix[target - 1 + offset], want, rtol=0, atol=1e-9)
    far = torch.zeros(2 * source - 1, dtype=torch.float64)
    far[source - 1 - min(source - 1, target - 1) if source >= target else 0] = 1
    torch.testing.assert_close(matrix[0], far, rtol=0, atol=1e-6)


def test_geometric_resampling_to_a_smaller_window_cuts_the_far_offsets_off():
    table = torch.randn(13 * 13, 2)
    got = resample_table(table, (7, 7), (4, 5), 'geometric')
    torch.testing.assert_close(got.view(7, 9, 2), table.view(13, 13, 2)[3:10, 2:11])


def test_same_window_is_the_identity():
    table = torch.randn(169, 2)
    assert resample_table(table, (7, 7), (7, 7)) is table


def test_resampling_keeps_constants_and_orientation():
    # A bias that only grows downwards must do so after resampling, and must not depend on the column.
    rows, cols = table_size((4, 6))
    table = torch.arange(rows, dtype=torch.float32).repeat_interleave(cols).unsqueeze(1)
    picture = resample_table(table, (4, 6), (8, 3)).view(*table_size((8, 3)))
    torch.testing.assert_close(picture, picture[:, :1].expand_as(picture), rtol=0, atol=1e-5)
    assert (picture[1:, 0] > picture[:-1, 0]).all()


def test_gradients_reach_the_learned_table():
    table = torch.randn(25, 2, dtype=torch.float32, requires_grad=True)
    weights = torch.randn(2, 16, 16)
    (gather_bias(resample_table(table, (3, 3), (4, 4)), (4, 4)) * weights).sum().backward()
    copy = table.detach().clone().requires_grad_()
    (reference.bias_of_window(reference.resized_table(copy, (3, 3), (4, 4)), (4, 4)) * weights).sum().backward()
    torch.testing.assert_close(table.grad, copy.grad, rtol=0, atol=1e-5)
    assert (table.grad != 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_resampling_keeps_the_dtype(dtype):
    assert resample_table(torch.randn(169, 2).to(dtype), (7, 7), (12, 12)).dtype == dtype


def test_wrong_tables_and_modes_are_named():
    with pytest.raises(ValueError, match=r'window \(7, 7\) has 13 \* 13 = 169 rows, got 25'):
        resample_table(torch.zeros(25, 2), (7, 7), (12, 12))
    with pytest.raises(ValueError, match="got 'lanczos'"):
        resample_table(torch.zeros(169, 2), (7, 7), (12, 12), 'lanczos')


def test_absolute_embedding_is_resampled_and_kept():
    embedding = torch.arange(6.).view(1, 6, 1)  # a 2 x 3 grid
    assert resample_absolute(embedding, (2, 3), (2, 3)) is embedding
    got = resample_absolute(embedding, (2, 3), (4, 6)).view(4, 6)
    assert (got[1:] > got[:-1]).all() and (got[:, 1:] > got[:, :-1]).all()
    with pytest.raises(ValueError, match='grid .3, 3. has 9 tokens, got 6'):
        resample_absolute(embedding, (3, 3), (4, 4))
