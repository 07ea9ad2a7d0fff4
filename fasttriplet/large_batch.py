"""Large batches on one device: a loss of all embeddings, with the model's graph of one chunk of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import get_device_states, set_device_states

from fasttriplet.check import check_count
from fasttriplet.distributed.agreement import Statement, agreed
from fasttriplet.distributed.group import Group, check_process_group
from fasttriplet.distributed.held import HoldsProcessGroup


def grad_cache(
    model: nn.Module,
    loss: Callable[..., Tensor],
    inputs: Any,
    *loss_args: Any,
    chunk_size: int,
    process_group: object = None,
) -> Tensor:
    """The loss of the model's embeddings of all ``inputs``, in the memory of one chunk of them.

    The model runs twice. First without a graph, chunk by chunk, for the embeddings of all, of which the loss is taken.
    Then, when ``backward`` is called on what this returns, again with a graph, chunk by chunk, each of them followed by
    its own backward from the gradient of its embeddings. Parameters get the gradient of one large batch, but for the
    order in which float32 sums run: within 1e-5 of the largest entry, of parameters in float64 1e-12.

    Random numbers are drawn again as they were, so that dropout is the same in both runs, and buffers are what they
    were before the first, so that running statistics are updated once a chunk. Batch norm in train mode normalises
    each chunk by itself, so that its embeddings are not those of one large batch: use chunks as large as the batches it
    is meant for, or freeze it.

    Under ``DistributedDataParallel`` and FSDP2 gradients are synchronised once, with the last chunk, and FSDP2's
    ``set_requires_gradient_sync`` is true afterwards. ``backward`` may
    be called once, by whatever means: ``GradScaler``, accelerators, several losses summed. Both runs are under the
    autocast of this call.

    Args:
        model: called with a chunk of ``inputs``: ``model(x)`` for a tensor, ``model(*inputs)`` for a tuple or list,
            ``model(**inputs)`` for a dict. Must return a tensor of embeddings, one row for each of the chunk's.
        loss: called with the embeddings [N, D] and ``loss_args``; returns a scalar tensor. A module of this package or
            any other function; what requires grad in it, or in ``loss_args``, gets its gradient as well.
        inputs: a tensor [N, ...], or a tuple, list or dict of tensors [N, ...], nested or not; what is no tensor is
            handed to every chunk as it is.
        *loss_args: of the loss, as labels [N].
        chunk_size: rows of a chunk, at least 1.
        process_group: handed to the loss under this name where it is not None; a module of this package has its own,
            which is then the one. The ranks agree on the number of chunks, so that models whose forward communicates,
            as FSDP's, run equally often on all of them.

    Returns:
        The loss, a scalar.

    Raises:
        TypeError: an argument is of the wrong type, or what the model or the loss returns.
        ValueError: a wrong value or shape.
        RuntimeError: a second ``backward``.

    Example:
        >>> import torch
        >>> from fasttriplet import BatchHardTripletLoss, grad_cache
        >>> model = torch.nn.Linear(32, 8)
        >>> x, labels = torch.randn(64, 32), torch.arange(64) // 4
        >>> loss = grad_cache(model, BatchHardTripletLoss(), x, labels, chunk_size=16)
        >>> loss.backward()
        >>> model.weight.grad.shape
        torch.Size([8, 32])

    Source: L. Gao, Y. Zhang, J. Han, J. Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup", 2021, https://arxiv.org/abs/2101.06983.
    """
    check_count("chunk_size", chunk_size)
    process_group, told = _processes(loss, process_group)
    chunks = _chunks(inputs, chunk_size, process_group)
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    ambience = _Ambience.here([*tensors, *list(model.parameters())[:1]])
    states, embeddings = [], []
    with torch.no_grad(), _buffers_kept(model), _synchronising(model, False):
        for chunk in chunks:
            states.append(_RandomState.now(chunk, model))
            embeddings.append(_embeddings_of(model, chunk))
    everything = torch.cat(embeddings)
    if not torch.is_grad_enabled():
        return _loss_of(loss, everything, loss_args, told)
    everything.requires_grad_()
    value = _loss_of(loss, everything, loss_args, told)
    sizes = [len(rows) for rows in embeddings]
    second = _SecondRun(model, chunks, states, sizes, ambience, everything, value)
    return _Replayed.apply(torch.zeros((), requires_grad=True), second)


class _Replayed(torch.autograd.Function):
    """The loss; its backward is the second run."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, second: _SecondRun) -> Tensor:
        ctx.second = second
        return second.value.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.second is None:
            raise RuntimeError("grad_cache runs the model's backward once: call it again for a second backward")
        second, ctx.second = ctx.second, None
        with torch.enable_grad():
            second.run(grad)
        return None, None


class _SecondRun(NamedTuple):
    model: nn.Module
    chunks: list[Any]
    states: list[_RandomState]
    sizes: list[int]
    ambience: _Ambience
    everything: Tensor  # [N, D] embeddings, a leaf
    value: Tensor  # the loss of them

    def run(self, grad: Tensor) -> None:
        torch.autograd.backward(self.value, grad.to(self.value.dtype))
        gradient = self.everything.grad
        if gradient is None:  # the loss has no use for the embeddings
            gradient = torch.zeros_like(self.everything)
        last = len(self.chunks) - 1
        afterwards = _RandomState.now(self.chunks, self.model)
        parts = zip(self.chunks, self.states, gradient.split(self.sizes), strict=True)
        for number, (chunk, state, of_chunk) in enumerate(parts):
            with _synchronising(self.model, number == last), self.ambience.entered():
                state.restore()
                rows = _embeddings_of(self.model, chunk)
                if rows.requires_grad:  # else the model is frozen, and the loss may have parameters alone
                    torch.autograd.backward(rows, of_chunk)
        afterwards.restore()


class _RandomState(NamedTuple):
    """Of the CPU, and of the devices of a call."""

    cpu: Tensor
    devices: list[int]
    of_devices: list[Tensor]

    @classmethod
    def now(cls, chunk: Any, model: nn.Module) -> _RandomState:
        tensors = [leaf for leaf in pytree.tree_leaves(chunk) if isinstance(leaf, Tensor)]
        return cls(torch.get_rng_state(), *get_device_states(*tensors, *list(model.parameters())[:1]))

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.devices:
            set_device_states(self.devices, self.of_devices)


class _Ambience(NamedTuple):
    """The autocast of a call, by device type."""

    modes: list[dict[str, Any]]

    @classmethod
    def here(cls, tensors: Sequence[Tensor]) -> _Ambience:
        kinds = {"cpu", *(tensor.device.type for tensor in tensors)}
        return cls(
            [
                {
                    "device_type": kind,
                    "enabled": torch.is_autocast_enabled(kind),
                    "dtype": torch.get_autocast_dtype(kind),
                    "cache_enabled": torch.is_autocast_cache_enabled(),
                }
                for kind in sorted(kinds)
                if torch.amp.is_autocast_available(kind)
            ]
        )

    @contextmanager
    def entered(self) -> Iterator[None]:
        with ExitStack() as stack:
            for mode in self.modes:
                stack.enter_context(torch.autocast(**mode))
            yield


def _chunks(inputs: Any, chunk_size: int, process_group: object) -> list[Any]:
    """Of all tensors in ``inputs``; at least one, which may have no rows."""
    leaves, structure = pytree.tree_flatten(inputs)

    def checked() -> tuple[Statement, bool]:
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors:
            raise TypeError(f"inputs must be a tensor, or a tuple, list or dict of them; got {type(inputs).__name__}")
        counts = {tuple(tensor.shape[:1]) for tensor in tensors}
        if len(counts) > 1 or () in counts:
            shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors)
            raise ValueError(f"inputs must be tensors [N, ...] of one N; got {shapes}")
        return Statement({}, max(1, -(-len(tensors[0]) // chunk_size))), True

    if process_group is None:
        number = checked()[0].rows
    else:
        number = max(statement.rows for statement in agreed(Group(process_group), checked)[0])
    pieces = [leaf.tensor_split(number) if isinstance(leaf, Tensor) else [leaf] * number for leaf in leaves]
    return [pytree.tree_unflatten(list(chunk), structure) for chunk in zip(*pieces, strict=True)]


def _embeddings_of(model: nn.Module, chunk: Any) -> Tensor:
    if isinstance(chunk, dict):
        rows = model(**chunk)
    elif isinstance(chunk, tuple | list):
        rows = model(*chunk)
    else:
        rows = model(chunk)
    if not isinstance(rows, Tensor):
        raise TypeError(
            f"model must return a tensor of embeddings [n, D]; got {type(rows).__name__}: wrap it in a module that does"
        )
    return rows


def _processes(loss: Callable[..., Tensor], process_group: object) -> tuple[object, dict[str, object]]:
    """The process group, and what the loss is told of it: a module of this package has been, when it was made."""
    check_process_group(process_group)
    if not isinstance(loss, HoldsProcessGroup):
        return process_group, {} if process_group is None else {"process_group": process_group}
    if process_group is not None and loss.process_group is not process_group:
        raise ValueError(
            "process_group must be that which the loss was made with, as BatchHardTripletLoss(process_group=...); got "
            f"{process_group!r} and a loss with {loss.process_group!r}"
        )
    return loss.process_group, {}


def _loss_of(
    loss: Callable[..., Tensor], embeddings: Tensor, loss_args: Sequence[Any], told: dict[str, object]
) -> Tensor:
    value = loss(embeddings, *loss_args, **told)
    if not isinstance(value, Tensor):
        raise TypeError(f"loss must return a tensor; got {type(value).__name__}")
    if value.dim() != 0:
        raise ValueError(f"loss must return a scalar, as with reduction='mean'; got a tensor of {list(value.shape)}")
    return value


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """What the model writes to its buffers is undone, but for what ``DistributedDataParallel`` does before it calls its
    module: it makes all ranks' buffers the same, in the first run alone.
    """
    module = model.module if isinstance(model, DistributedDataParallel) else model
    before: list[tuple[Tensor, Tensor]] = []

    def remember(*_: Any) -> None:
        if not before:
            before.extend((buffer, buffer.clone()) for buffer in module.buffers())

    hook = module.register_forward_pre_hook(remember) if any(True for _ in module.buffers()) else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
        for buffer, kept in before:
            buffer.copy_(kept)


@contextmanager
def _synchronising(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Whether a backward within sums gradients over processes, where the model does that at all."""
    switch = getattr(model, "set_requires_gradient_sync", None)  # FSDP2's
    if switch is not None:
        switch(wanted)
    try:
        with nullcontext() if wanted else _no_sync(model):
            yield
    finally:
        if switch is not None:
            switch(True)


def _no_sync(model: nn.Module) -> AbstractContextManager[Any]:
    quiet = getattr(model, "no_sync", None)  # DistributedDataParallel's
    return quiet() if quiet is not None else nullcontext()
