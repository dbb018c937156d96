"""A W&B server on loopback: as much of GraphQL and file_stream as wandb 0.31 needs for a run that may resume."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from tests.run.wandb_stored import Run

Variables = dict[str, Any]


class WandbServer:
    """`with WandbServer() as server`: serves until the end of the block. `fault`: None, an HTTP status, or "hang"."""

    def __init__(self, fault: int | str | None = None) -> None:
        self.fault = fault
        self.runs: dict[str, Run] = {}
        self.unknown: list[str] = []
        self.stored: list[str] = []
        """Names of files that were uploaded whole."""
        self.reports: list[Variables] = []
        self._released = threading.Event()
        handler = type("Handler", (_Handler,), {"state": self})
        self._http = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> WandbServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        self._released.set()
        self._http.shutdown()
        self._http.server_close()

    def hang(self) -> None:
        self._released.wait(60)

    def answer(self, operation: str, v: Variables) -> dict[str, Any] | None:
        """The `data` of a GraphQL reply; None for what it does not know."""
        known: dict[str, Callable[[Variables], dict[str, Any]]] = {
            "ServerFeaturesQuery": lambda v: {"serverInfo": {"features": []}},
            "Viewer": self._viewer,
            "GetDefaultEntity": self._viewer,
            "UpsertBucket": self._upsert,
            "RunResumeStatus": self._resume_status,
            "RunStoppedStatus": lambda v: {"project": {"run": {"stopped": False}}},
            "OrganizationCoreWeaveOrganizationID": lambda v: {"entity": None},
            "Run": self._describe,
            "RunHistoryKeys": self._describe,
            "RunParquetHistory": self._live,
            "SampledHistoryPage": self._page,
            "CreateRunFiles": self._create_files,
            "Runs": self._list,
            "GetProjects": self._list_projects,
            "ProjectInternalId": lambda v: {"project": {"internalId": "1"}},
            "upsertView": self._keep_report,
            "RunFiles": self._list_files,
            "ArtifactType": lambda v: {"project": {"artifact": None}},
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": lambda v: {"createArtifactManifest": {"artifactManifest": self._manifest("m1")}},
            "UpdateArtifactManifest": lambda v: {"updateArtifactManifest": {"artifactManifest": self._manifest("m1")}},
            "CreateArtifactFiles": self._create_artifact_files,
            "CommitArtifact": lambda v: {"commitArtifact": {"artifact": {"id": v["artifactID"], "digest": "d"}}},
            "MarkRunFilesUploaded": lambda v: {"markRunFilesUploaded": {"success": True}},
        }
        if operation not in known:
            self.unknown.append(operation)
            return None
        return known[operation](v)

    def _viewer(self, v: Variables) -> dict[str, Any]:
        return {"viewer": {"id": "u1", "entity": "someone", "username": "someone", "flags": "{}"}}

    def _upsert(self, v: Variables) -> dict[str, Any]:
        inserted = v["name"] not in self.runs
        run = self.runs.setdefault(v["name"], Run(v["name"], v["project"]))
        run.fields |= {key: value for key, value in v.items() if value is not None}
        return {"upsertBucket": {"bucket": run.bucket(), "inserted": inserted}}

    def _resume_status(self, v: Variables) -> dict[str, Any]:
        run = self.runs.get(v["name"])
        bucket = run.resume_status() if run is not None else None
        return {
            "model": {"id": "m1", "name": v["project"], "entity": {"id": "e1", "name": "someone"}, "bucket": bucket}
        }

    def _describe(self, v: Variables, **more: Any) -> dict[str, Any]:
        run = self.runs.get(v.get("name") or v.get("runName") or v["run"])
        return {"project": run and {"internalId": "1", "run": run.described() | more}}

    def _live(self, v: Variables) -> dict[str, Any]:
        rows = self.runs[v["runName"]].history
        live = [row for row in rows if all(key in row for key in v["liveKeys"])]
        return self._describe(v, parquetHistory={"parquetUrls": [], "liveData": live})

    def _page(self, v: Variables) -> dict[str, Any]:
        """The requested keys of the rows that have all of them."""
        spec = json.loads(v["spec"])
        rows = [
            {key: row[key] for key in spec["keys"]}
            for row in self.runs[v["run"]].history
            if spec["minStep"] <= row["_step"] <= spec["maxStep"] and all(key in row for key in spec["keys"])
        ]
        return self._describe(v, sampledHistory=[rows])

    def _list(self, v: Variables) -> dict[str, Any]:
        """Pages of one run each."""
        wanted, runs = json.loads(v["filters"])["group"], list(self.runs.values())
        found = [run for run in runs if (run.project, run.fields.get("groupName")) == (v["project"], wanted)]
        first = int(v.get("cursor") or 0)
        edges = [{"node": run.described(), "cursor": str(first + 1)} for run in found[first : first + 1]]
        page = {"endCursor": str(first + 1), "hasNextPage": first + 1 < len(found)}
        listed = {"edges": edges, "pageInfo": page}
        return {"project": {"internalId": "1", "readOnly": False, "runCount": len(found), "runs": listed}}

    def _list_projects(self, v: Variables) -> dict[str, Any]:
        metadata = {"id": "1", "entityName": v["entity"], "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False}
        names = sorted({run.project for run in self.runs.values()})
        edges = [{"node": metadata | {"name": name, "user": None}, "cursor": name} for name in names]
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def _keep_report(self, v: Variables) -> dict[str, Any]:
        self.reports.append(v | {"spec": json.loads(v["spec"])})
        project = {"id": "1", "name": v["projectName"], "entityName": v["entityName"]}
        metadata = {
            "id": "r1",
            "type": v["type"],
            "name": v["name"],
            "displayName": v["displayName"],
            "spec": v["spec"],
        }
        more = {"description": v["description"], "updatedAt": "2026-01-01T00:00:00Z", "project": project}
        return {"upsertView": {"view": metadata | more, "inserted": True}}

    def _list_files(self, v: Variables) -> dict[str, Any]:
        stored = self.runs[v["name"]].stored
        edges = []
        for name, content in stored.items():
            url = f"{self.url}/storage/{v['name']}/{name}"
            metadata = {"id": name, "name": name, "url": url, "directUrl": url, "sizeBytes": len(content)}
            edges.append({"node": metadata | {"mimetype": "", "updatedAt": "", "md5": ""}, "cursor": name})
        files = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "run": {"fileCount": len(stored), "files": files}}}

    def _create_files(self, v: Variables) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{v['run']}/{name}"} for name in v["files"]]
        return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}

    def _create_artifact(self, v: Variables) -> dict[str, Any]:
        """W&B stores the tables of a run in an artifact."""
        artifact = {"id": "a1", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"__typename": "CreateArtifactPayload", "artifact": artifact}}

    def _manifest(self, name: str) -> dict[str, Any]:
        file = {"id": "f1", "uploadUrl": f"{self.url}/storage/artifacts/{name}", "uploadHeaders": []}
        return {"id": name, "file": file}

    def _create_artifact_files(self, v: Variables) -> dict[str, Any]:
        def node(name: str) -> dict[str, Any]:
            found = {"storagePath": name, "uploadUrl": f"{self.url}/storage/artifacts/{name}", "uploadHeaders": []}
            return {"node": found | {"uploadMultipartUrls": None, "artifact": {"id": "a1"}}}

        files = v["input"]["artifactFiles"] if "input" in v else v["artifactFiles"]
        return {"createArtifactFiles": {"files": {"edges": [node(file["name"]) for file in files]}}}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        run = self.runs[name]
        for file, chunk in (sent.get("files") or {}).items():
            lines = run.files.setdefault(file, {})
            lines.update({chunk.get("offset", 0) + i: line for i, line in enumerate(chunk.get("content", []))})
        if sent.get("complete"):
            run.exit_code = sent.get("exitcode", 0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: WandbServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name in the standard library
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.state.fault == "hang":
            self.state.hang()
        elif isinstance(self.state.fault, int):
            self._reply({"errors": [{"message": "out of order"}]}, self.state.fault)
        elif self.path == "/graphql":
            self._graphql(json.loads(body))
        elif found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.state.stream(found[1], json.loads(body))
            self._reply({"limits": {}})
        else:
            self.state.unknown.append(self.path)
            self._reply({}, 404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        run, _, name = unquote(self.path).removeprefix("/storage/").partition("/")
        self.state.stored.append(name)
        if run in self.state.runs:
            self.state.runs[run].stored[name] = content
        self._reply({})

    def do_GET(self) -> None:
        run, _, name = unquote(self.path).removeprefix("/storage/").partition("/")
        self._send(self.state.runs[run].stored[name], 200)

    def _graphql(self, request: dict[str, Any]) -> None:
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        data = self.state.answer(found[1] if found else request["query"], request.get("variables") or {})
        self._reply({"data": data} if data is not None else {"errors": [{"message": "unknown"}], "data": None})

    def _reply(self, reply: dict[str, Any], status: int = 200) -> None:
        self._send(json.dumps(reply).encode(), status)

    def _send(self, data: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
