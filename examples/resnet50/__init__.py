"""ResNet-50 trained on real images with triplet losses: ``python -m examples.resnet50.train``.

The map; an arrow is "imports"::

    train -> options, trainer, report
    report -> trainer, evaluate, files, plots
    trainer -> datasets, augment, learner, agreement, best, telemetry
    best -> evaluate, files
    learner -> model, processes, sync_norm

- :mod:`~examples.resnet50.train`: the command: exit codes, Ctrl-C.
- :mod:`~examples.resnet50.options`: every option once, and what depends on the data set.
- :mod:`~examples.resnet50.report`: what is said, written and drawn, with :mod:`~examples.resnet50.plots`.
- :mod:`~examples.resnet50.trainer`: the loop over steps, one learner or two on the same batches.
- :mod:`~examples.resnet50.learner`: one network with its loss, optimiser and learning rate.
- :mod:`~examples.resnet50.model`: the network, and its pretrained weights.
- :mod:`~examples.resnet50.datasets`: one file per data set, each giving training and test images.
- :mod:`~examples.resnet50.augment`: random changes of images.
- :mod:`~examples.resnet50.evaluate`: the test images as queries of each other, by ``fasttriplet.retrieval``.
- :mod:`~examples.resnet50.best`: the best network by a metric, and when a run ends for want of a better one.
- :mod:`~examples.resnet50.agreement`: how far the fused and the reference loss may part, and why.
- :mod:`~examples.resnet50.telemetry`: what steps measured, read from the device for ten of them at once.
- :mod:`~examples.resnet50.files`: tables, checkpoints and the folder that they are in.
- :mod:`~examples.resnet50.processes`: the processes of ``torchrun``: whose rows are whose, what they decide together.
- :mod:`~examples.resnet50.sync_norm`: batch norm over the rows of all processes.
- :mod:`~examples.resnet50.device`: which device ``--device`` means, in which precision, and where float64 is computed.
- :mod:`~examples.resnet50.vision`: torchvision, also where its compiled operators do not load.
"""
