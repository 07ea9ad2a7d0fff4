"""ResNet-50 trained on real images with the batch-hard triplet loss: ``python -m examples.resnet50.train``.

The map; an arrow is "imports"::

    train -> options, trainer, report, plots
    trainer -> datasets, sampler, augment, learner, telemetry, agreement, divergence, best, record
    best -> evaluate, checkpoint
    learner -> model, schedule, losses, precision, sync_norm
    train, trainer, sync_norm -> processes
    datasets, augment, evaluate -> transfer
    options, evaluate, report -> measures
    train, report, precision, agreement -> device

- :mod:`~examples.resnet50.train`: the command: exit codes, Ctrl-C; what it says is in
  :mod:`~examples.resnet50.report`.
- :mod:`~examples.resnet50.trainer`: the loop over steps, one learner or two on the same batches.
- :mod:`~examples.resnet50.learner`: one network with its optimiser and its loss.
- :mod:`~examples.resnet50.processes`: the processes of ``torchrun``: whose rows are whose, what they decide together.
- :mod:`~examples.resnet50.sync_norm`: batch norm over the rows of all processes.
- :mod:`~examples.resnet50.device`: which device ``--device`` means, and where float64 is computed.
- :mod:`~examples.resnet50.telemetry`: what steps measured, read from the device for ten of them at once.
- :mod:`~examples.resnet50.agreement`: how far the fused and the reference loss may part, and why.
- :mod:`~examples.resnet50.datasets`: one file per data set, each giving training and test images.
- :mod:`~examples.resnet50.evaluate`: the test images as queries of each other, by ``fasttriplet.retrieval``.
- :mod:`~examples.resnet50.best`: the best network by a metric, and when a run ends for want of a better one.
"""
