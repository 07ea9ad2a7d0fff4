"""Arguments declared once (``fasttriplet/arguments.py``) are written out on the pages, as ``help()`` shows them."""

from __future__ import annotations

import importlib
import re
from typing import Any

from griffe import Docstring, Extension, Function, Module, Object, Parameter, ParameterKind, Parameters

from fasttriplet import arguments

UNPACKED = re.compile(r"Unpack\[(\w+)\]")


def write_out(function: Function) -> None:
    """``**name: Unpack[...]`` gives way to the fields of that ``TypedDict``, in signature and docstring."""
    unpacked = {p.name: UNPACKED.fullmatch(str(p.annotation)) for p in function.parameters}
    kept = [parameter for parameter in function.parameters if unpacked[parameter.name] is None]
    for found in filter(None, unpacked.values()):
        module = arguments if hasattr(arguments, found[1]) else importlib.import_module(function.module.path)
        declared = getattr(module, found[1])
        for name, annotation in arguments.annotations_of(declared).items():
            default = repr(arguments.DEFAULTS.get(name))
            kept.append(Parameter(name, annotation=annotation, kind=ParameterKind.keyword_only, default=default))
        if isinstance(function.docstring, Docstring):
            text = arguments.with_entries(function.docstring.value, arguments.entries_of(declared))
            function.docstring.value = text
    function.parameters = Parameters(*kept)


class SharedArguments(Extension):
    def on_package(self, *, pkg: Module, **_: Any) -> None:
        self.write_out_within(pkg)

    def write_out_within(self, obj: Object) -> None:
        if isinstance(obj, Function):
            write_out(obj)
        for member in obj.members.values():
            if not member.is_alias:
                self.write_out_within(member)
