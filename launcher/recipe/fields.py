"""Types that several sections of a recipe share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema

from launcher.recipe.duration import Duration, parse_duration


class _Schema(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        return str(dft) if isinstance(dft, Duration) else super().encode_default(dft)


class Section(BaseModel):
    """A frozen part of a recipe: unknown keys and wrong types are errors, and the text below a field describes it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, title=None
    )

    @classmethod
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:
        """As pydantic's own, with durations as a recipe writes them."""
        return super().model_json_schema(*arguments, **{"schema_generator": _Schema, **options})


S = TypeVar("S", bound=Section)


def with_values(section: S, values: Mapping[str, Any]) -> S:
    """The section, or recipe, with these values under dotted keys, validated like a file's: `{"run.dir": "here"}`.

    Values are as YAML has them: durations as text, sections as dicts. Raise pydantic's ValidationError for any other.
    """
    data = section.model_dump(mode="json")
    for path, value in values.items():
        *sections, key = path.split(".")
        here = data
        for name in sections:
            here = here[name]
        here[key] = value
    # JSON mode: in YAML as in JSON a tuple is written as a list.
    return type(section).model_validate_json(json.dumps(data))


def _positive_duration(value: object) -> Duration:
    duration = parse_duration(value)
    if duration.value <= 0:
        raise ValueError("must be longer than 0")
    return duration


def _as_written(duration: Duration) -> str:
    return str(duration)


_TEXT_SCHEMA: dict[str, Any] = {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ep|st|im)$"}
_LENGTH_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "number", "minimum": 0}, _TEXT_SCHEMA]}
_INTERVAL_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _TEXT_SCHEMA]}

Length = Annotated[
    Duration,
    BeforeValidator(parse_duration),
    PlainSerializer(_as_written),
    WithJsonSchema(_LENGTH_SCHEMA),
]
"""`30ep` epochs, `5000st` optimizer steps, `1000000im` images; a bare number is epochs; 0 is none."""

Interval = Annotated[
    Duration,
    BeforeValidator(_positive_duration),
    PlainSerializer(_as_written),
    WithJsonSchema(_INTERVAL_SCHEMA),
]
"""A Length above 0; a bare number is epochs."""

Pixels = Annotated[int, Field(ge=1, le=4096)]
Size = Pixels | tuple[Pixels, Pixels]
"""Pixels: one number, or [height, width]."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
