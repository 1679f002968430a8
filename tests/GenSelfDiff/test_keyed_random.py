"""Steps and noise from keys: the published generator bit by bit, and good as random numbers go."""

import numpy as np
import pytest
import torch
from scipy import stats

from GenSelfDiff import keyed_random
from GenSelfDiff.keyed_random import keyed_normal, keyed_steps

ALL = 2**64 - 1
KEYS = torch.arange(40) * 104_729


def split_mix(z):
    """One output of SplitMix64, in Python's whole numbers."""
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & ALL
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & ALL
    return z ^ z >> 31


def bits(key, sequence, i):
    return split_mix((split_mix(key + (sequence << 32)) + (i + 1) * 0x9E3779B97F4A7C15) & ALL)


def test_the_generator_is_split_mix():
    """The first output for the state 0 is the published one; steps and normals are made of such bits."""
    assert split_mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    key = 2**32 - 1
    keys = torch.tensor([5, key])
    assert keyed_steps(keys, 1000)[1] == (bits(key, 1, 0) >> 1) % 1000
    drawn = [bits(key, 2, i) for i in range(3)]
    radius = np.sqrt([-2 * np.log(((b >> 32) + 0.5) / 2**32) for b in drawn])
    angle = np.array([2 * np.pi * (b & 0xFFFFFFFF) / 2**32 for b in drawn])
    expected = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
    assert keyed_normal(keys, 2, 3)[1].flatten().numpy() == pytest.approx(expected, abs=1e-5)
    assert keyed_normal(keys, 5)[1].numpy() == pytest.approx(expected[:5], abs=1e-5)


def test_the_rarest_bits_give_a_finite_number(monkeypatch):
    """Where all 32 bits of the radius are 0, once in 4 billion draws, its logarithm must exist."""
    for bits, largest in ((0, 6.77), (-1, 1e-4)):
        monkeypatch.setattr(keyed_random, "_bits", lambda keys, _s, n, b=bits: torch.full((len(keys), n), b))
        x = keyed_normal(KEYS, 4)
        assert x.isfinite().all() and x.abs().max() <= largest


def test_an_image_does_not_depend_on_the_others_in_its_batch():
    together = keyed_normal(KEYS, 3, 8, 8), keyed_steps(KEYS, 1000)
    alone = keyed_normal(KEYS[7:8], 3, 8, 8), keyed_steps(KEYS[7:8], 1000)
    assert torch.equal(together[0][7:8], alone[0]) and torch.equal(together[1][7:8], alone[1])


def test_normals_are_normal_and_independent():
    x = keyed_normal(KEYS, 3, 64, 64)
    assert x.shape == (40, 3, 64, 64) and x.dtype == torch.float32 and x.isfinite().all()
    flat = x.flatten(1).double()
    assert stats.kstest(flat.flatten().numpy(), "norm").pvalue > 1e-3
    between = torch.corrcoef(flat) - torch.eye(40)
    assert between.abs().max() < 5 / flat.shape[1] ** 0.5
    for lag in (1, 64, 64 * 64, flat.shape[1] // 2):  # neighbours, rows, channels, and the two of one pair
        assert abs((flat[:, lag:] * flat[:, :-lag]).mean()) < 5 / (40 * (flat.shape[1] - lag)) ** 0.5


def test_steps_are_equally_likely():
    counts = np.bincount(keyed_steps(torch.arange(50_000), 100), minlength=100)
    assert len(counts) == 100 and stats.chisquare(counts).pvalue > 1e-3
