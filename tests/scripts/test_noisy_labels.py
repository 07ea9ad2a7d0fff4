"""What ``examples/noisy_labels.py`` prints: negatives left out help where labels are wrong, and these are found."""

import re

from tests.scripts.running import run_script


def test_skipping_negatives_bears_wrong_labels_and_they_are_found(tmp_path):
    printed = run_script("noisy_labels.py", "--steps", "100", folder=tmp_path)
    trained = dict(re.findall(r"^(\w+ labels, [\w -]+?) +[01]\.\d{3} +([01]\.\d{3})$", printed, re.MULTILINE))
    names = "clean labels, batch-hard", "wrong labels, batch-hard", "wrong labels, k hardest"
    assert tuple(trained) == names, printed
    clean, batch_hard, k_hardest = (float(trained[name]) for name in names)
    assert clean > k_hardest > batch_hard + 0.15  # MAP@R

    told = re.search(r"^(\d+) labels are wrong", printed, re.MULTILINE)
    assert told, printed
    wrong = int(told[1])
    assert 270 < wrong < 430  # a tenth of 3,500, give or take more than four standard deviations
    flagged = re.findall(r"^.{66} *(\d+) +([01]\.\d{3}) +([01]\.\d{3})$", printed, re.MULTILINE)
    assert len(flagged) == 3, printed
    for rows, precision, recall in flagged:  # both count the same rows
        assert abs(int(rows) * float(precision) - wrong * float(recall)) < 1
        assert float(precision) > 0.13  # 0.1 by chance
    precision, recall = map(float, flagged[2][1:])
    assert precision > 0.6 and recall > 0.75
