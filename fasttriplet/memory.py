"""A memory of past batches, as references for any loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fasttriplet.check import check_count, check_dense


class CrossBatchMemory(nn.Module):
    """The last ``size`` embeddings and their labels, in a ring of slots: more candidates than a batch has, at no graph.

    Slots fill from the first on, and then the oldest is written over, so that the order of slots is not the order of
    age; of equal distances the lowest slot wins, whatever its age. :meth:`ages` tells how old each is. Past embeddings
    drift from what the network would make of those samples now: start to use them once the network changes slowly, and
    keep ``size`` to what a few hundred steps fill.

    Args:
        size: slots, at least 1.
        dim: columns of the embeddings, at least 1.
        dtype: floating dtype of the stored embeddings. Half precision takes half the memory, and is widened each time
            it is searched. Default ``torch.float32``.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    The buffers ``embeddings`` [size, dim], ``labels`` [size] int64 and ``steps`` [size] int64 (the number of the
    :meth:`enqueue` that wrote the slot, -1 where none has) and the place in the ring are in ``state_dict()``. The place
    is kept as Python integers, so nothing waits for the device; call :meth:`enqueue` outside of what ``torch.compile``
    traces.

    Example:
        >>> import torch
        >>> from fasttriplet import CrossBatchMemory, batch_hard_triplet_loss
        >>> memory = CrossBatchMemory(size=1024, dim=16)
        >>> for step in range(3):
        ...     x, y = torch.randn(8, 16, requires_grad=True), torch.arange(8) // 2
        ...     memory.enqueue(x, y)
        ...     references, labels = memory.references()
        ...     loss = batch_hard_triplet_loss(
        ...         x, y, ref_embeddings=references, ref_labels=labels, self_indices=memory.self_indices()
        ...     )
        ...     loss.backward()
        >>> memory
        CrossBatchMemory(size=1024, dim=16, dtype=torch.float32)
        >>> len(memory)
        24

    Source: X. Wang, H. Zhang, W. Huang, M. Scott, "Cross-Batch Memory for Embedding Learning", 2020,
    https://arxiv.org/abs/1912.06798.
    """

    embeddings: Tensor
    labels: Tensor
    steps: Tensor

    def __init__(self, size: int, dim: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.size, self.dim = check_count("size", size), check_count("dim", dim)
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype; got {type(dtype).__name__}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating dtype; got {dtype}")
        self.register_buffer("embeddings", torch.zeros(self.size, self.dim, dtype=dtype))
        self.register_buffer("labels", torch.zeros(self.size, dtype=torch.int64))
        self.register_buffer("steps", torch.full((self.size,), -1))
        self._place, self._filled, self._step, self._last = 0, 0, 0, 0

    def __len__(self) -> int:
        """Slots that are filled."""
        return self._filled

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor, labels: Tensor) -> None:
        """Writes a batch over the oldest slots, detached; of a batch larger than ``size`` the last rows.

        It writes in place. A loss over :meth:`references` keeps views of the slots for its backward: enqueue before the
        loss or after its backward, in between PyTorch raises an error.

        Args:
            embeddings: [N, dim] of any floating dtype, on the memory's device.
            labels: [N] of any integer dtype or bool, on the memory's device.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a wrong shape, dtype or device.
        """
        self._check(embeddings, labels)
        self._last, n = len(labels), min(len(labels), self.size)
        rows, classes = embeddings[len(labels) - n :], labels[len(labels) - n :]
        ahead = min(n, self.size - self._place)  # to the end of the ring; the rest goes to its start
        for slots, part in (
            (slice(self._place, self._place + ahead), slice(ahead)),
            (slice(n - ahead), slice(ahead, n)),
        ):
            self.embeddings[slots].copy_(rows[part])
            self.labels[slots].copy_(classes[part])
            self.steps[slots] = self._step
        self._place = (self._place + n) % self.size
        self._filled = min(self._filled + n, self.size)
        self._step += 1

    def references(self) -> tuple[Tensor, Tensor]:
        """(embeddings [K, dim], labels [K]) of the K filled slots: views, no copies, for ``ref_embeddings`` and
        ``ref_labels``."""
        return self.embeddings[: self._filled], self.labels[: self._filled]

    def self_indices(self) -> Tensor:
        """[N] int64, for the argument of that name: the slots of the batch enqueued last, -1 for rows not kept."""
        kept = min(self._last, self.size)
        numbers = torch.arange(-self._last, 0, device=self.labels.device)
        return torch.where(numbers >= -kept, (self._place + numbers) % self.size, -1)

    def ages(self) -> Tensor:
        """[K] int64: how many batches have been enqueued since the one in each filled slot; 0 for the last."""
        return self._step - 1 - self.steps[: self._filled]

    def reset(self) -> None:
        """Empties all slots."""
        self.embeddings.zero_()
        self.labels.zero_()
        self.steps.fill_(-1)
        self._place, self._filled, self._step, self._last = 0, 0, 0, 0

    def get_extra_state(self) -> dict[str, int]:
        return {"place": self._place, "filled": self._filled, "step": self._step, "last": self._last}

    def set_extra_state(self, state: Any) -> None:
        self._place, self._filled = state["place"], state["filled"]
        self._step, self._last = state["step"], state["last"]

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        """All or nothing: what fits of a memory of another shape would end up beside what does not."""
        saved = state_dict.get(f"{prefix}embeddings")
        if saved is not None and saved.shape != self.embeddings.shape:
            errors.append(
                f"size mismatch for {prefix}embeddings: must have shape {list(self.embeddings.shape)}; got "
                f"{list(saved.shape)}"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def extra_repr(self) -> str:
        return f"size={self.size}, dim={self.dim}, dtype={self.embeddings.dtype}"

    def _check(self, embeddings: object, labels: object) -> None:
        check_dense("embeddings", embeddings)
        check_dense("labels", labels)
        assert isinstance(embeddings, Tensor) and isinstance(labels, Tensor)
        for name, value in (("embeddings", embeddings), ("labels", labels)):
            if value.device != self.labels.device:
                raise ValueError(f"{name} must be on the memory's device, {self.labels.device}; got {value.device}")
        if not embeddings.is_floating_point():
            raise ValueError(f"embeddings must have a floating dtype; got {embeddings.dtype}")
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels must have an integer dtype or bool; got {labels.dtype}")
        if embeddings.dim() != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(f"embeddings must have shape [N, {self.dim}]; got {list(embeddings.shape)}")
        if labels.shape != embeddings.shape[:1]:
            raise ValueError(
                f"labels must have shape [{len(embeddings)}] to match embeddings {list(embeddings.shape)}; got "
                f"{list(labels.shape)}"
            )
