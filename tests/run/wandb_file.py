"""Reads an offline `.wandb` file, whole or cut off by a kill: a LevelDB log of wandb's protobuf records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK_BYTES = 32768
HEADER_BYTES = 7  # of the file, and of each piece of a record: crc32, length, type
WHOLE, FIRST, LAST = 1, 2, 4


@dataclass
class OfflineRun:
    """An offline run as it is on disk. `axes`: metric or pattern -> its axis."""

    run: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None


def read_offline_runs(folder: Path) -> list[OfflineRun]:
    """The runs under `folder`/wandb, oldest first."""
    return [_read(path) for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb"))]


def _read(path: Path) -> OfflineRun:
    run = OfflineRun()
    for body in _bodies(path.read_bytes()):
        record: Any = wandb_internal_pb2.Record()  # type: ignore[attr-defined]  # protobuf classes are made at import
        record.ParseFromString(body)
        _add(run, record)
    return run


def _add(run: OfflineRun, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        r = record.run
        run.run = {"id": r.run_id, "project": r.project, "group": r.run_group, "job_type": r.job_type}
        run.run |= {"name": r.display_name, "tags": list(r.tags)}
        run.config |= {item.key: json.loads(item.value_json) for item in r.config.update if item.key}
    elif kind == "history":
        run.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
    elif kind == "summary":
        run.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
    elif kind == "metric":
        run.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    elif kind == "exit":
        run.exit_code = record.exit.exit_code


def _key(item: Any) -> str:
    return ".".join(item.nested_key) or str(item.key)


def _bodies(content: bytes) -> Iterator[bytes]:
    assert content[:4] == b":W&B"
    at, parts = HEADER_BYTES, b""
    while at + HEADER_BYTES <= len(content):
        if BLOCK_BYTES - at % BLOCK_BYTES < HEADER_BYTES:
            at += BLOCK_BYTES - at % BLOCK_BYTES
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        piece = content[at + HEADER_BYTES : at + HEADER_BYTES + length]
        if not kind or len(piece) < length:
            return
        at += HEADER_BYTES + length
        parts = piece if kind in (WHOLE, FIRST) else parts + piece
        if kind in (WHOLE, LAST):
            yield parts
