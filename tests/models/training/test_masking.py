"""What is hidden, how often, and at what weight."""

import torch

from dlmbench.models.training.masking import hide_by_count, hide_by_time, stratified


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_time_lies_in_each_part() -> None:
    drawn = stratified(1000, generator())
    assert torch.equal((drawn * 1000).ceil().sort().values, torch.arange(1.0, 1001.0))
    assert not torch.equal(drawn, drawn.sort().values)


def test_a_time_hides_its_share_at_its_inverse() -> None:
    hidden = hide_by_time(400, 500, generator())
    counts = torch.bincount(hidden.places // 500, minlength=400)
    # 4.5 standard deviations of a binomial.
    spread = 4.5 * (500 * hidden.time * (1 - hidden.time)).sqrt() + 1
    assert bool(((counts - 500 * hidden.time).abs() < spread).all())
    assert torch.equal(hidden.weights, 1 / hidden.time[hidden.places // 500])


def test_counts_are_even_and_weigh_their_inverse() -> None:
    hidden = hide_by_count(16, 24, 8, generator())  # 48 blocks of 8: each count six times
    counts = torch.bincount(hidden.places // 8, minlength=48)
    assert torch.bincount(counts).tolist() == [0, 6, 6, 6, 6, 6, 6, 6, 6]
    assert torch.equal(hidden.weights, 8 / counts[hidden.places // 8])
    # So the weights of a block add up to 8 whatever was drawn, and each position is hidden as often as any other.
    torch.testing.assert_close(hidden.row_sums(torch.ones(len(hidden.places)), 16, 24), torch.full((16,), 24.0))
    many = hide_by_count(4000, 8, 8, generator(1))
    share = torch.bincount(many.places % 8) / 4000
    assert bool(((share - 4.5 / 8).abs() < 0.04).all())


def test_every_set_of_a_size_is_as_likely() -> None:
    hidden = hide_by_count(12_000, 3, 3, generator(2))
    bits = torch.zeros(12_000, dtype=torch.long).index_add_(0, hidden.places // 3, 2 ** (hidden.places % 3))
    share = torch.bincount(bits, minlength=8) / 12_000
    expected = torch.tensor([0, 1, 1, 1, 1, 1, 1, 3]) / 9  # sets as binary numbers: three of one, three of two, one
    assert bool(((share - expected).abs() < 0.015).all())


def test_a_count_has_times_of_its_own() -> None:
    """Uniform over all counts; Beta(k, n - k + 1), whose mean is k / (n + 1), for each."""
    hidden = hide_by_count(20_000, 4, 4, generator(4))
    counts = torch.bincount(hidden.places // 4)
    means = torch.stack([hidden.time[counts == k].mean() for k in range(1, 5)])
    torch.testing.assert_close(means, torch.tensor([0.2, 0.4, 0.6, 0.8]), atol=0.01, rtol=0)
    assert abs(float((hidden.time < 0.3).float().mean()) - 0.3) < 0.015


def test_hidden_tokens_become_the_mask() -> None:
    ids = torch.arange(12).view(3, 4)
    hidden = hide_by_count(3, 4, 4, generator())
    noisy = hidden.noisy(ids, 99)
    assert (noisy == 99).flatten().nonzero()[:, 0].tolist() == hidden.places.tolist()
    assert torch.equal(noisy[noisy != 99], ids[noisy != 99])
    assert int(ids.max()) == 11
