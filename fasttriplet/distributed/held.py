"""A process group as a module keeps it: copies of the module share it, and a pickle of it is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttriplet.distributed.group import check_process_group


class _Held:
    def __init__(self, process_group: Any) -> None:
        self.process_group = process_group

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self

    def __reduce__(self) -> Any:
        if self.process_group is None:
            return _Held, (None,)
        raise TypeError(
            "what has a process_group cannot be pickled: set it to None first, or save the state_dict() of a module"
        )


class HoldsProcessGroup:
    """Of a module: the attribute ``process_group``, checked where it is set."""

    if TYPE_CHECKING:  # torch.jit.script reads annotations
        _held: _Held
    #: For ``torch.jit.script`` of models that hold such a module.
    __jit_unused_properties__: tuple[str, ...] = ("process_group",)

    @property
    def process_group(self) -> Any:
        """As it was given; another may be set at any time."""
        return self._held.process_group

    @process_group.setter
    def process_group(self, process_group: object) -> None:
        self._held = _Held(check_process_group(process_group))
