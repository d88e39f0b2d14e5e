"""The normal equations against torch's own least squares, and what they make of data that says nothing."""

from __future__ import annotations

import pytest
import torch

from passes.least_squares import Equations


def rows(count, groups, width, seed=0):
    return torch.randn(count, groups, width, generator=torch.Generator().manual_seed(seed))


def fitted(x, r, y=None, intercept=True, chunks=3):
    equations = Equations(x.shape[1], x.shape[2], r.shape[2], intercept)
    half = torch.arange(len(x)) % 2
    for part in torch.arange(len(x)).chunk(chunks):
        equations.add(x[part], r[part], (r if y is None else y)[part], half[part])
    return equations.fit()


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("intercept", [True, False])
def test_it_is_the_least_squares_solution(groups, intercept):
    x = rows(400, groups, 5) + 1.5
    r = torch.einsum("rgd,gdo->rgo", x, rows(5, groups, 4, 1).movedim(1, 0)) + 0.05 * rows(400, groups, 4, 2)
    r = r + (torch.tensor([1.0, -2.0, 0.5, 3.0]) if intercept else 0)
    fit = fitted(x, r, intercept=intercept)
    for g in range(groups):
        ones = torch.ones(400, 1, dtype=torch.float64)
        design = torch.cat([x[:, g].double(), ones], 1) if intercept else x[:, g].double()
        expected = torch.linalg.lstsq(design, r[:, g].double()).solution
        torch.testing.assert_close(fit.weight[g], expected[:5], rtol=1e-3, atol=1e-4)
        if intercept:
            torch.testing.assert_close(fit.offset[g], expected[5], rtol=1e-3, atol=1e-3)
        else:
            assert not fit.offset.any()
    assert fit.gain > 0.99


def test_columns_that_repeat_are_no_trouble():
    x = rows(200, 1, 3)
    x = torch.cat([x, x[:, :, :1], torch.zeros(200, 1, 1)], 2)
    r = x[:, :, :1] * 2
    fit = fitted(x, r)
    assert torch.isfinite(fit.weight).all()
    torch.testing.assert_close(x[:, 0].double() @ fit.weight[0], r[:, 0].double(), rtol=1e-3, atol=1e-3)
    assert fit.weight[0, 0, 0] == pytest.approx(1, abs=1e-3)  # the two share it
    assert fit.weight[0, 3, 0] == pytest.approx(1, abs=1e-3)


def test_more_columns_than_rows_are_held_near_what_they_are():
    """Nothing but noise: unridged, 60 columns explain any 40 residuals exactly and the next ones not at all."""
    x, noise = rows(80, 1, 60), rows(80, 1, 2, 1)
    assert fitted(x, noise - noise.mean(0)) is None
    fit = fitted(x, x[:, :, :2] + 0.3 * noise)
    assert fit.ridge > 1e-6
    fresh = rows(1000, 1, 60, 5)
    error = (fresh[:, 0].double() @ fit.weight[0] + fit.offset[0] - fresh[:, 0, :2]).square().mean()
    assert error < 0.9  # of a variance of 1


def test_an_offset_alone_is_the_mean():
    r = rows(50, 2, 3) + torch.tensor([1.0, 2.0, 3.0])
    fit = fitted(r.new_zeros(50, 2, 0), r)
    torch.testing.assert_close(fit.offset, r.double().mean(0))
    assert fit.weight.numel() == 0
    assert 0 < fit.gain < 1


def test_errors_count_by_the_scale_of_their_output():
    """A loud output that cannot be predicted must not hide a quiet one that can."""
    x = rows(60, 1, 20)
    loud, quiet = 10 * rows(60, 1, 1, 3), 0.1 * x[:, :, :1]
    fit = fitted(x, torch.cat([loud - loud.mean(), quiet], 2), y=torch.cat([10 * loud, quiet], 2))
    torch.testing.assert_close(fit.weight[0, 0, 1], torch.tensor(0.1, dtype=torch.float64), rtol=0.1, atol=0)


def test_one_half_without_images_fits_nothing():
    x = rows(20, 1, 3)
    equations = Equations(1, 3, 3, True)
    equations.add(x, x, x, torch.zeros(20, dtype=torch.long))
    assert equations.fit() is None
