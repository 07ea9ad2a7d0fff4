"""What ``examples/reid_cameras.py`` prints: the rule of Market-1501 counts, and training finds what others saw."""

import re

from tests.scripts.running import run_script


def test_training_finds_identities_in_other_cameras(tmp_path):
    printed = run_script("reid_cameras.py", "--steps", "150", folder=tmp_path)
    rows = re.findall(r"^(pixels|untrained network|trained network)((?: +[01]\.\d{3}){6})$", printed, re.MULTILINE)
    figures = {name: [float(figure) for figure in line.split()] for name, line in rows}
    assert list(figures) == ["pixels", "untrained network", "trained network"], printed
    for rank_1, rank_5, mean_ap, rank_1_forgotten, rank_5_forgotten, map_forgotten in figures.values():
        # the same camera's second shot, the nearest as a rule, is left out of the one and not of the other
        assert rank_1 + 0.2 < rank_1_forgotten and rank_5 < rank_5_forgotten and mean_ap < map_forgotten
    for name in ("pixels", "untrained network"):
        assert figures[name][0] < 0.03 and figures[name][2] < 0.03, name
    rank_1, rank_5, mean_ap = figures["trained network"][:3]
    assert rank_1 > 0.07 and rank_5 > 0.25 and mean_ap > 0.07

    told = re.search(
        r"^Without groups (\d+) farthest and (\d+) nearest positives of the last 128", printed, re.MULTILINE
    )
    assert told, printed
    # three others of an identity's twelve shots: the camera's second one is among them for 3 anchors in 11
    assert int(told[1]) < int(told[2]) and 15 <= int(told[2]) <= 55
