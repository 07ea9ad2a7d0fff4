"""Docstrings as pages: Sphinx roles become links, double backticks single ones, ``Example:`` a section, and arguments
that are described together a row each.

The docstrings are written for a terminal and with Sphinx' roles; mkdocstrings takes Markdown.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Docstring, Extension, Module, Object

ROLE = re.compile(r":(func|class|meth|mod|attr|data|exc):`(~?)([^`]+)`")
LITERAL = re.compile(r"``(.+?)``", flags=re.DOTALL)
EXAMPLE = re.compile(r"^(\s*)Example:$", flags=re.MULTILINE)
BLOCK = re.compile(r"::\n\n")  # what follows is indented, which is code in Markdown as well
SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): (.*\n(?:\1 +.*\n)*)", flags=re.MULTILINE)  # arguments described together
RETURNS = re.compile(r"^ *Returns:\n +", flags=re.MULTILINE)
ADDRESS = re.compile(r"(?<![(<\"])(https?://[^\s,;]+[^\s,;.)])")


def target_of(name: str, module: Object) -> str:
    """Full name of what a docstring in ``module`` calls ``name``: of its own module, or else of the package."""
    if name.startswith(("fasttriplet", "torch")):
        return name
    return f"{module.path if name.split('.')[0] in module.members else 'fasttriplet'}.{name}"


def as_markdown(text: str, module: Object) -> str:
    def link(match: re.Match[str]) -> str:
        """To the name's place on this site where it has one, else only the name."""
        role, short, name = match.groups()
        shown = name if role == "mod" and not short else name.removeprefix("fasttriplet.")
        return f'<autoref optional identifier="{target_of(name, module)}"><code>{shown}</code></autoref>'

    text = ROLE.sub(link, text)
    text = LITERAL.sub(r"`\1`", text)
    text = BLOCK.sub(":\n\n", text)
    text = ADDRESS.sub(r"<\1>", text)
    return EXAMPLE.sub(r"\1Examples:", text)


def one_by_one(text: str, parameters: set[str]) -> str:
    """Arguments that are described together, each with that description."""

    def split(match: re.Match[str]) -> str:
        indent, names, description = match[1], match[2].split(", "), match[3]
        if not set(names) <= parameters:
            return match[0]
        return "".join(f"{indent}{name}: {description}" for name in names)

    return SEVERAL.sub(split, text)


def with_return_type(text: str, obj: Object) -> str:
    """The annotation before what is returned: else the text up to a colon would be taken for the type."""
    annotation = getattr(obj, "returns", None) if obj.is_function else None
    if annotation is None:
        return text
    return RETURNS.sub(lambda match: f"{match[0]}{annotation}: ", text, count=1)


def parameters_of(obj: Object) -> set[str]:
    function = obj.members.get("__init__") if obj.is_class else obj
    return {parameter.name for parameter in getattr(function, "parameters", ())}


class SphinxRoles(Extension):
    def on_package(self, *, pkg: Module, **_: Any) -> None:
        self.rewrite(pkg)

    def rewrite(self, obj: Object) -> None:
        if isinstance(obj.docstring, Docstring):
            text = with_return_type(one_by_one(obj.docstring.value, parameters_of(obj)), obj)
            obj.docstring.value = as_markdown(text, obj if obj.is_module else obj.module)
        for member in obj.members.values():
            if not member.is_alias:
                self.rewrite(member)
