"""What ``examples/quickstart.py`` prints: the network learns, and the pixels are those of the same changed images."""

import re

from tests.scripts.running import run_script


def test_training_raises_retrieval(tmp_path):
    printed = run_script("quickstart.py", "--steps", "100", folder=tmp_path)
    found = re.findall(r"^(\w+): +nearest of the same class ([01]\.\d{3}), MAP@R ([01]\.\d{3})$", printed, re.MULTILINE)
    assert [name for name, *_ in found] == ["pixels", "untrained", "trained"], printed
    (_, pixels), (_, untrained), (hit_rate, trained) = [(float(hit), float(value)) for _, hit, value in found]
    assert trained > 2 * max(pixels, untrained) and hit_rate > 0.5
    assert re.search(r"^step 100: loss \d+\.\d{3}$", printed, re.MULTILINE)
