"""The command of the example with the tiny network in the place of ResNet-50, for torchrun."""

from __future__ import annotations

import sys

from examples.resnet50 import trainer
from examples.resnet50.train import main
from tests.examples.conftest import build_tiny

if __name__ == "__main__":
    trainer.build_model = build_tiny
    sys.exit(main())
