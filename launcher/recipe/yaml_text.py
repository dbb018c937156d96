"""YAML text -> plain data and the line of each key. The only importer of yaml.

Numbers and booleans follow YAML 1.2: `1e-3` is a number, `no` is a word, dates are text. Nothing is executed, and text
that unfolds without end is refused early.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

Lines = dict[str, int]
"""Dotted path of a key or list item (`augment.train.0.size`; `` is the whole text) -> line, from 1."""

MAX_CHARACTERS = 200_000
MAX_NODES = 20_000
"""Keys and values of a text. A recipe has hundreds; aliases of aliases can unfold to billions."""
MAX_DEPTH = 20
MAX_DIGITS = 100
"""Digits of a number. Python is slow with thousands of digits, and refuses to print them."""

TAG = "tag:yaml.org,2002:"
KINDS = {"null": "null", "bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}
"""YAML tag of a scalar -> its name in error messages."""


class YamlError(Exception):
    """The text is not plain YAML. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # yaml's own class attribute, replaced
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # Checked while parsing: thousands of open brackets would exhaust Python's stack before there is a tree.
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise YamlError(self.line + 1, "nested too deeply for a recipe")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 (its own rules) or 1.2 would read as a number or a boolean."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # yaml's own class attribute, copied so as not to change SafeDumper's
        first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _kind, _pattern, _first in (
    ("null", r"(~|null|)\Z", ["~", "n", ""]),
    ("bool", r"(true|false)\Z", list("tf")),
    ("int", r"[-+]?(0|[1-9][0-9]*)\Z", list("-+0123456789")),
    ("float", r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)\Z", list("-+0123456789.")),
):
    _Loader.add_implicit_resolver(TAG + _kind, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(TAG + _kind, re.compile(_pattern), _first)


def read_yaml(text: str) -> tuple[Any, Lines]:
    """The data, and the line of every path in it. Raise YamlError at the first place that is not plain YAML."""
    if len(text) > MAX_CHARACTERS:
        raise YamlError(1, f"{len(text):,} characters: too long for a recipe")
    lines: Lines = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return (None if node is None else _read_node(loader, node, "", 0, lines)), lines
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(line, f"not valid YAML: has the character {text[error.position]!a}") from None
    except yaml.MarkedYAMLError as error:
        raise YamlError(*_explain(error)) from None


def _explain(error: yaml.MarkedYAMLError) -> tuple[int, str]:
    """Line and message; the most frequent mistakes get a remedy."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    message = f"not valid YAML: {error.problem or error.context}"
    if "'\\t'" in message:
        return line, "not valid YAML: a tab; indent with spaces"
    if "mapping values are not allowed" in message:
        return line, "not valid YAML: a second ': ' in one value; quote the text, or fix the indentation"
    if error.context and error.context_mark and error.context_mark.line + 1 != line:
        message += f" {error.context} that begins on line {error.context_mark.line + 1}"
    return line, message


def _read_node(loader: _Loader, node: yaml.Node, path: str, depth: int, lines: Lines) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(lines) > MAX_NODES or depth > MAX_DEPTH:
        raise YamlError(line, "too many values for a recipe")
    if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
        return _read_mapping(loader, node, path, depth, lines)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
        return [_read_node(loader, child, join(path, i), depth + 1, lines) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and node.tag.removeprefix(TAG) in KINDS:
        return _read_scalar(loader, node, line)
    raise YamlError(line, f"has the tag {node.tag.replace(TAG, '!!')}; a recipe holds plain values only")


def _read_mapping(loader: _Loader, node: yaml.MappingNode, path: str, depth: int, lines: Lines) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlError(line, "a key must be a word, not a list or a section")
        key = str(key_node.value)
        here = join(path, key)
        if key == "<<":
            raise YamlError(line, "<< is not supported; write the keys out")
        if key in data:
            raise YamlError(line, f"{here}: written twice, first on line {lines[here]}")
        lines[here] = line
        data[key] = _read_node(loader, value_node, here, depth + 1, lines)
    return data


def _read_scalar(loader: _Loader, node: yaml.ScalarNode, line: int) -> Any:
    try:
        if node.tag != f"{TAG}str" and len(node.value) > MAX_DIGITS:
            raise ValueError
        value = loader.construct_object(node)
        if isinstance(value, str):
            value.encode()
    except (ValueError, KeyError):
        kind = KINDS[node.tag.removeprefix(TAG)]
        raise YamlError(line, f"not valid YAML: {node.value[:40]!a} cannot be read as {kind}") from None
    return value


def join(path: str, key: str | int) -> str:
    """Dotted path of `key` in the section at `path`."""
    return f"{path}.{key}" if path else str(key)


def render_yaml(data: Any) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
