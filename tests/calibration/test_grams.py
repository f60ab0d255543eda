import torch

from moecompress.calibration.grams import GramSum, own_share, shrink


def test_a_gram_sum_is_the_mean_outer_product_over_batches():
    values = torch.randn(3, 50, 6, dtype=torch.float64)
    total = GramSum(6)
    for batch in values.float():
        total.add(batch)
    rows = values.float().double().flatten(0, 1)
    torch.testing.assert_close(total.mean().double(), rows.mT @ rows / 150, rtol=1e-6, atol=1e-6)
    assert total.tokens == 150 and total.mean().dtype == torch.float32


def test_no_tokens_give_zeros():
    assert torch.equal(GramSum(3).mean(), torch.zeros(3, 3))


def test_half_of_a_gram_is_own_at_half_the_width():
    assert own_share(0, 64) == 0
    assert own_share(32, 64) == 0.5
    assert own_share(96, 64) == 0.75


def test_shrinking_mixes_by_that_share():
    own, layer = torch.eye(8), torch.full((8, 8), 2.0)
    assert torch.equal(shrink(own, layer, 0), layer)
    torch.testing.assert_close(shrink(own, layer, 12), 0.75 * own + 0.25 * layer)
