"""What ``examples/pca_head.py`` prints: the head is scikit-learn's PCA before training, and better after it."""

import re

from tests.scripts.running import run_script


def test_the_head_starts_as_the_whitened_pca_and_improves(tmp_path):
    printed = run_script("pca_head.py", "--steps", "60", "--components", "32", folder=tmp_path)
    found = re.findall(
        r"^(\w+) +(\d+) numbers: hit rate at 1 ([01]\.\d{3}), MAP@R ([01]\.\d{3})$", printed, re.MULTILINE
    )
    assert [(name, int(numbers)) for name, numbers, *_ in found] == [
        ("features", 512),
        ("PCA", 32),
        ("whitened", 32),
        ("trained", 32),
    ], printed
    map_at_r = {name: float(value) for name, *_, value in found}
    assert map_at_r["trained"] > map_at_r["whitened"] + 0.03
    difference = re.search(r"differs from scikit-learn's by at most (\S+)$", printed, re.MULTILINE)
    assert difference and float(difference[1]) < 1e-2, printed
