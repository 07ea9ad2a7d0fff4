"""What ``examples/mnist.py`` prints and writes: mining beats the pixels after an epoch, and every way is drawn."""

import re

from PIL import Image

from tests.scripts.running import run_script


def test_each_way_of_mining_is_measured_and_drawn(tmp_path):
    printed = run_script("mnist.py", "--epochs", "1", "--bfloat16", folder=tmp_path)
    found = re.findall(r"^([a-z-]+) +(\d+) +([01]\.\d{3}) +([01]\.\d{3}) +([01]\.\d{3})$", printed, re.MULTILINE)
    assert [(name, int(epoch)) for name, epoch, *_ in found] == [
        ("pixels", 0),
        ("random", 1),
        ("semi-hard", 1),
        ("batch-hard", 1),
    ], printed
    mean_precision = {name: float(value) for name, *_, value in found}
    assert all(mean_precision[name] > mean_precision["pixels"] + 0.1 for name in ("semi-hard", "batch-hard")), printed
    with Image.open(tmp_path / "mnist" / "tsne.png") as picture:
        assert picture.width > 1000
    assert list((tmp_path / "mnist" / "semi-hard").glob("events.out.tfevents.*"))
