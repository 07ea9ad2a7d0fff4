"""What ``examples/siamese_resnet50.py`` prints: trained, it ranks more triplets right than the pixels do."""

import re

from tests.scripts.running import run_script


def test_both_stages_beat_the_pixels(tmp_path):
    printed = run_script("siamese_resnet50.py", "--steps", "10", folder=tmp_path)
    found = re.findall(r"^([a-z4, ]+): +(\d+\.\d)% of 5000 triplets ranked right$", printed, re.MULTILINE)
    assert [name for name, _ in found] == ["pixels", "features", "head", "layer4, head"], printed
    pixels, features, head, both = (float(share) for _, share in found)
    assert min(head, both) > max(pixels, features) + 3, printed
