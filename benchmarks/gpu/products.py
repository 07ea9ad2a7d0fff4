"""What the screen may multiply with on this GPU (FASTTRIPLET_CUDA_PRODUCTS), asked before it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

import fasttriplet

#: Hopper's, which the default is not until they have been measured: by single blocks and by pairs of blocks.
HOPPER = ("wgmma", "wgmma-pair")
PRODUCTS = ("float", "tensor", *HOPPER)
#: Beyond these rows the default uses large tiles, which wgmma would take the place of.
SMALL_TILES = 4096
_VARIABLE = "FASTTRIPLET_CUDA_PRODUCTS"


@contextmanager
def forced(products: str) -> Iterator[None]:
    """The variable is read at every call."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = products
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def lacking(products: str, device: torch.device) -> str:
    """What this GPU or this library lacks for them; empty where nothing. The shim has all of them."""
    if device.type == "cpu" or products == "float":
        return ""
    capability = torch.cuda.get_device_capability(device)
    shown = f"compute capability {capability[0]}.{capability[1]}"
    if products == "tensor":
        return "" if capability[0] >= 8 else f"tensor needs compute capability 8.0 or later, not {shown}"
    if capability != (9, 0):
        return f"{products} needs compute capability 9.0, not {shown}"
    built_for = fasttriplet.build_info()["cuda_architectures"]
    return "" if "sm_90a" in str(built_for) else f"{products} needs a library built for sm_90a, not {built_for}"


def distrust(products: str, device: torch.device) -> str:
    """Why they cannot be used here: what is lacking, or what the tensor cores' test found; empty where nothing."""
    missing = lacking(products, device)
    if missing or device.type == "cpu" or products == "float":
        return missing
    try:
        return torch.ops.fasttriplet._cuda_test_tensor_cores(_index(device), products)
    except RuntimeError as error:  # an instruction that this GPU refuses, say
        return f"the test of its tensor cores ended in {error}"


def share(products: str, device: torch.device) -> str:
    """How far the products of tensor cores are from exact ones, as their test found: every bound rests on that.

    Raises RuntimeError where the test cannot be run, which leaves the process's CUDA broken.
    """
    missing = lacking(products, device)
    if missing:
        return missing
    if device.type == "cpu" or products == "float":
        return f"{products}: no tensor core multiplies here, and none has an error to tell"
    largest = torch.ops.fasttriplet._cuda_tensor_core_share(_index(device), products)
    return f"{products}: the largest error of a tensor core's product is {largest:.4f} of what the bound allows"


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
