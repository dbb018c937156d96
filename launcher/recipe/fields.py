"""Field types that several sections of a recipe share, and changing values by dotted key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema

from launcher.recipe.duration import Duration, parse_duration


class RecipeSchema(GenerateJsonSchema):
    """The `schema_generator` of a recipe: durations are written as in YAML."""

    def encode_default(self, dft: Any) -> Any:
        return str(dft) if isinstance(dft, Duration) else super().encode_default(dft)


class Section(BaseModel):
    """A frozen part of a recipe. Unknown keys and wrong types are errors; the text below a field is its description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, title=None
    )

    @classmethod
    def from_plain(cls, data: Any) -> Self:
        """The section from plain data, as YAML has it. Raise pydantic's ValidationError."""
        # JSON mode: in YAML as in JSON a tuple is written as a list.
        return cls.model_validate_json(json.dumps(data))


S = TypeVar("S", bound=Section)
T = TypeVar("T")

Op = Annotated[T, Field(description="Name of the operation.")]
"""The field that names the kind of an operation, `op: Op[Literal["resize"]]`."""


def with_values(section: S, values: Mapping[str, Any]) -> S:
    """The section, or whole recipe, with new values by dotted key, `{"run.dir": "here"}`, validated like a file.

    Values are plain data, as YAML has them: durations as text, sections as dicts; a section that is null is created.
    Raise pydantic's ValidationError for a misspelt key or a wrong value.
    """
    data = section.model_dump(mode="json")
    for path, value in values.items():
        *sections, key = path.split(".")
        here = data
        for name in sections:
            if here.get(name) is None:
                here[name] = {}
            here = here[name]
        here[key] = value
    return section.from_plain(data)


def _positive_duration(value: object) -> Duration:
    duration = parse_duration(value)
    if duration.value <= 0:
        raise ValueError("must be longer than 0")
    return duration


_TEXT_SCHEMA: dict[str, Any] = {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ep|st|im)$"}
_LENGTH_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "number", "minimum": 0}, _TEXT_SCHEMA]}
_INTERVAL_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _TEXT_SCHEMA]}

Length = Annotated[
    Duration, BeforeValidator(parse_duration), PlainSerializer(Duration.__str__), WithJsonSchema(_LENGTH_SCHEMA)
]
"""A length of training, 0 included: `30ep` epochs, `5000st` optimizer steps, `1000000im` images; bare: epochs."""

Interval = Annotated[
    Duration, BeforeValidator(_positive_duration), PlainSerializer(Duration.__str__), WithJsonSchema(_INTERVAL_SCHEMA)
]
"""A Length above 0."""

Pixels = Annotated[int, Field(ge=1, le=4096)]
Size = Pixels | tuple[Pixels, Pixels]
"""Pixels: one number, or [height, width]."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
