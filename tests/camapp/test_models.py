"""The model that the settings name: what cannot take pictures is refused before a camera is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from camapp.models import load_model
from camapp.settings import Settings
from engine import ModelError, nets


def test_a_net_that_takes_no_pictures_is_refused_in_one_line(tmp_path: Path) -> None:
    shapes = nets.build("mobilenet_v3_1d_small").parameters
    np.savez(tmp_path / "signals.npz", **{name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    with pytest.raises(ModelError, match=r"signals\.npz: net 'mobilenet_v3_1d_small' takes \(3, 224\), not pictures"):
        load_model(Settings(model=str(tmp_path / "signals.npz")))
