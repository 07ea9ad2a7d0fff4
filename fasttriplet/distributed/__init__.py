"""One batch over the processes of a group: rows gathered once, each rank's own anchors mined against all of them.

- :mod:`fasttriplet.distributed.group`: what processes send one another, by ``torch.distributed``.
- :mod:`fasttriplet.distributed.agreement`: all ranks go on, or all raise the same error.
- :mod:`fasttriplet.distributed.batch`: the batch of all ranks.
- :mod:`fasttriplet.distributed.mining`: what every rank mines, gathered.
- :mod:`fasttriplet.distributed.autograd`: what connects a rank's tensors to those of all.
"""
