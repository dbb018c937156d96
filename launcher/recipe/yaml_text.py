"""YAML text -> plain data, and the line each key stands on. The only importer of yaml.

Numbers and booleans are read as YAML 1.2 does: `1e-3` is a number, `no` is a word, dates are text. Nothing is executed.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

Path = tuple[str | int, ...]
Lines = dict[Path, int]

MAX_NODES = 20_000
"""A recipe has hundreds; aliases of aliases can unfold to billions."""


class YamlError(Exception):
    """`line` is 1-based."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # yaml's own class attribute, replaced


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"~|null|"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)\Z"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)\Z"),
    list("-+0123456789."),
)


def read_yaml(text: str) -> tuple[Any, Lines]:
    """Return the data and the 1-based line of every path in it. Raise YamlError at the first thing that is not YAML."""
    loader = _Loader(text)
    lines: Lines = {}
    try:
        node = loader.get_single_node()
        return (None if node is None else _read_node(loader, node, (), lines)), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, f"not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(1, f"not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()


def _read_node(loader: _Loader, node: yaml.Node, path: Path, lines: Lines) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(lines) > MAX_NODES or len(path) > 20:
        raise YamlError(line, "too many or too deep values for a recipe")
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            key_line = key_node.start_mark.line + 1
            if key in data:
                raise YamlError(key_line, f"{'.'.join(map(str, (*path, key)))}: key stands here twice")
            lines[(*path, key)] = key_line
            data[key] = _read_node(loader, value_node, (*path, key), lines)
        return data
    if isinstance(node, yaml.SequenceNode):
        return [_read_node(loader, child, (*path, i), lines) for i, child in enumerate(node.value)]
    return loader.construct_object(node)


def render_yaml(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
