"""What ``examples/keras_fit.py`` prints: ``fit`` lowers the loss, and images it was not given find their class."""

import importlib.util
import re

import pytest

from tests.scripts.running import run_script

if importlib.util.find_spec("keras") is None:
    pytest.skip("Keras is not installed (pip install 'fasttriplet[compat]')", allow_module_level=True)


def test_fit_trains(tmp_path):
    printed = run_script("keras_fit.py", "--epochs", "6", folder=tmp_path)
    told = re.search(r"^loss in epoch 1 (\d\.\d{3}), in epoch 6 (\d\.\d{3})$", printed, re.MULTILINE)
    rows = re.findall(r"^(\w+) +nearest of the same class ([01]\.\d{3}), MAP@R ([01]\.\d{3}), in test$", printed, re.M)
    assert told and [name for name, *_ in rows] == ["pixels", "untrained", "trained"], printed
    first, last = map(float, told.groups())
    assert last < 0.7 * first < 0.35  # of a margin of 0.3
    pixels, untrained, trained = (tuple(map(float, figures)) for _, *figures in rows)
    assert trained[0] > max(pixels[0], untrained[0]) + 0.1 and trained[1] > 4 * max(pixels[1], untrained[1])
