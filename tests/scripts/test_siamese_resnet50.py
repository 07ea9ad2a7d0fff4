"""What ``examples/siamese_resnet50.py`` prints: more triplets are ranked right after each stage than before both."""

import re

from tests.scripts.running import run_script


def test_both_stages_train(tmp_path):
    printed = run_script("siamese_resnet50.py", "--steps", "12", folder=tmp_path)
    found = re.findall(r"^([a-z4 ]+): +(\d+\.\d)% of 5000 triplets ranked right", printed, re.MULTILINE)
    assert [name for name, _ in found] == ["before", "head trained", "layer4 and head trained"], printed
    before, head, both = (float(share) for _, share in found)
    assert 50 < before < head and before < both - 3, printed
