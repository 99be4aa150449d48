import numpy as np
import pytest

from weights.datasets import load
from weights.signals import signals


def test_the_same_seed_gives_the_same_signals():
    (one, labels), (two, same), (other, _) = signals(50), signals(50), signals(50, seed=2)
    assert (one.shape, one.dtype, labels.dtype) == ((50, 3, 224), np.float32, np.uint8)
    assert np.array_equal(one, two)
    assert np.array_equal(labels, same)
    assert not np.array_equal(one, other)


def test_noise_and_wave_have_the_same_power_in_both_classes():
    found, labels = signals(2000)
    assert 0.45 < labels.mean() < 0.55
    for kind in (0, 1):
        assert found[labels == kind].var() == pytest.approx(2, abs=0.05)


def test_a_wave_has_the_documented_frequency():
    found, _ = signals(200)
    spectrum = np.abs(np.fft.rfft(found, axis=2)).mean(1)
    loudest = spectrum.argmax(1)
    assert loudest.min() >= 1
    assert 11 <= loudest.max() <= 13


def test_signals_load_as_a_data_set_without_files(tmp_path):
    data = load("signals", tmp_path, download=False)
    assert data.classes == ("sine", "square")
    assert (len(data.train), len(data.validation), len(data.test)) == (8100, 900, 1000)
