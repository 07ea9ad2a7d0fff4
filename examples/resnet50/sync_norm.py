"""Batch norm over the rows of all processes: their mean and variance, as one process has them.

``torch.nn.SyncBatchNorm`` is for GPUs alone; the one here is for the CPU. The sums of a channel and their number are
added up over the processes, which may have different numbers of rows, and then the squares around the mean: one more
exchange than sums of x and x^2 need, which cancel where the mean is large.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from examples.resnet50.model import EmbeddingNet
from examples.resnet50.processes import Processes


class _SumOfAll(torch.autograd.Function):
    """The sum over the processes; so is its gradient, for each process's loss depends on the sum."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = own.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _SumOfAll.apply(gradients[0], ctx.group), None


class CpuSyncBatchNorm(_BatchNorm):
    """Takes the place of ``norm``, with the same parameters and running statistics, in each process of ``group``."""

    def __init__(self, norm: _BatchNorm, group: Any):
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine=False)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.group = group

    def _check_input_dim(self, input: Tensor) -> None:
        """Any [N, C, ...]."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, ...] to the same shape and dtype; computed in float32 at least, as under autocast."""
        if not self.training:
            return super().forward(input)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        axes, shape = [0, *range(2, input.dim())], [1, -1, *[1] * (input.dim() - 2)]
        values = wide.new_tensor([input.numel() // input.shape[1]])  # of a channel, in this process
        totals = _SumOfAll.apply(torch.cat([wide.sum(axes), values]), self.group)
        mean, number = totals[:-1] / totals[-1], totals[-1].detach()
        if number < 2:
            raise ValueError(f"a channel must have at least 2 values in all processes together; got {int(number)}")
        centred = wide - mean.view(shape)
        variance = _SumOfAll.apply(centred.square().sum(axes), self.group) / number
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.detach(), momentum)
        self.running_var.lerp_(variance.detach() * number / (number - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)


def _replace(module: nn.Module, group: Any) -> None:
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, CpuSyncBatchNorm(child, group))
        else:
            _replace(child, group)


def synchronised(model: EmbeddingNet, processes: Processes) -> EmbeddingNet:
    """A network on the parameters and statistics of ``model`` whose batch norms are those of all processes in training.

    ``model`` itself stays as it is: one process can evaluate it without the others. Alone, it is returned.
    """
    if processes.size == 1:
        return model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    if model.device.type == "cpu":
        _replace(twin, processes.group)
        return twin
    return nn.SyncBatchNorm.convert_sync_batchnorm(twin, processes.group)
