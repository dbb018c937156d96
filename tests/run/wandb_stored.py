"""A run as the W&B server of the tests stores it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Run:
    """`files`: name -> line number -> line."""

    name: str
    project: str
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[int, str]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Files that were uploaded whole: name -> newest content."""
    exit_code: int | None = None
    state: str = "finished"

    @property
    def config(self) -> dict[str, Any]:
        return {k: v["value"] for k, v in json.loads(self.fields["config"]).items() if k != "_wandb"}

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for _, line in sorted(self.files.get("wandb-history.jsonl", {}).items())]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.files.get("wandb-summary.json", {})
        return dict(json.loads(lines[max(lines)])) if lines else {}

    def bucket(self) -> dict[str, Any]:
        entity = {"id": "e1", "name": "someone"}
        project = {"id": "p1", "internalId": "1", "name": self.project, "entity": entity}
        return {"id": self.node, "name": self.name, "displayName": self.name, "sweepName": None, "project": project} | {
            "historyLineCount": len(self.history),
            "config": self.fields.get("config", "{}"),
            "tags": self.fields.get("tags") or [],
            "description": "",
            "notes": None,
        }

    def resume_status(self) -> dict[str, Any]:
        def tail(name: str) -> str:
            return json.dumps([line for _, line in sorted(self.files.get(name, {}).items())][-1:])

        return self.bucket() | {
            "summaryMetrics": json.dumps(self.summary),
            "logLineCount": 0,
            "eventsLineCount": len(self.files.get("wandb-events.jsonl", {})),
            "historyTail": tail("wandb-history.jsonl"),
            "eventsTail": tail("wandb-events.jsonl"),
            "wandbConfig": '{"t": {"1": []}}',
        }

    def described(self) -> dict[str, Any]:
        """The answer to a query of `wandb.Api`."""
        last = max((row["_step"] for row in self.history), default=-1)
        user = {"name": "someone", "username": "someone"}
        metadata = {"state": self.state, "group": self.fields.get("groupName"), "jobType": None, "commit": None}
        metadata |= {"readOnly": False, "user": user}
        times = {"createdAt": "2026-01-01T00:00:00Z", "heartbeatAt": "2026-01-01T00:00:00Z", "projectId": "1"}
        more = {"summaryMetrics": json.dumps(self.summary), "systemMetrics": "{}", "stopped": False}
        keys = {key: {"typeCounts": [{"type": "number", "count": 1}]} for row in self.history for key in row}
        return self.bucket() | metadata | times | more | {"historyKeys": {"lastStep": last, "keys": keys, "sets": []}}

    @property
    def node(self) -> str:
        return base64.b64encode(f"Run:v1:{self.name}".encode()).decode()
