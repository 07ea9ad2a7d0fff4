"""To the CPU's kernels and back, for tensors on a device without float64.

Every public function asks :func:`away` first, and so does what a drop-in computes in float64 below them. The way is
differentiable, by ``Tensor.to``, so that gradients come back to where the tensors are. Results, float64 ones too, are
float32 there, and indices int64. It waits for the device twice, to read the tensors and for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fasttriplet import engines
from fasttriplet.arguments import as_passed


def away(tensor: object) -> bool:
    """Whether it is a tensor on a device without float64."""
    # No decorator does this: to hand all arguments on would cost a call on the CPU 0.6 us, where this takes 0.1.
    if getattr(tensor, "is_cpu", True) or not isinstance(tensor, Tensor):
        return False
    return _lacks_float64(tensor.device.type, tensor.device.index)


def there_and_back(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """What ``function`` gives for its own ``locals()``, computed on the CPU and brought back.

    Its tensors must be on one device, that of the first of them; a number may also be on the CPU.
    """
    arguments = as_passed(given)
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    first, device = next((name, value.device) for name, value in tensors.items())
    for name, value in tensors.items():
        if value.device != device and not (value.is_cpu and value.dim() == 0):
            raise ValueError(f"{name} must be on the device of {first}, {device}; got {name} on {value.device}")
    _announce(function.__name__, device.type, device.index)
    arguments.update({name: value.to("cpu") for name, value in tensors.items()})
    return _back(function(**arguments), device)


def _back(result: Any, device: torch.device) -> Any:
    """Tensors of ``result``, one or a tuple of them and of tuples, on ``device``."""
    if isinstance(result, Tensor):
        # Two steps, since on the way back through one the gradient might be cast before it has left the device.
        return (result.float() if result.dtype == torch.float64 else result).to(device)
    if isinstance(result, tuple):
        parts = [_back(each, device) for each in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return result


@torch.compiler.assume_constant_result
def _lacks_float64(kind: str, index: int | None) -> bool:
    return engines.lacks_float64(engines.device_of(kind, index))


@torch.compiler.assume_constant_result
def _announce(function: str, kind: str, index: int | None) -> None:
    """While ``torch.compile`` traces, so that the graph is whole."""
    engines.announce_trip(function, engines.device_of(kind, index))
