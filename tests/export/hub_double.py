"""A hub on loopback: as much of its protocol as `lem publish` speaks, with every byte it was sent.

No Xet: large files come by LFS, in one piece or, above `part_bytes`, in several.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "t" * 34


@dataclass
class Commit:
    oid: str
    title: str
    message: str
    files: dict[str, tuple[bytes, bool]]  # bytes, and whether they are in LFS


@dataclass
class Repo:
    private: bool
    commits: list[Commit]
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def add(self, title: str, files: dict[str, tuple[bytes, bool]], message: str = "") -> Commit:
        number = len(self.commits)
        oid = hashlib.sha1(f"{number} {title}".encode()).hexdigest()
        self.commits.append(Commit(oid, title, message, {**self.head.files, **files}))
        return self.head

    def content(self) -> dict[str, bytes]:
        """What a reader of the newest commit sees."""
        return {name: data for name, (data, _) in self.head.files.items()}


@dataclass
class Hub:
    """The double's state. `refuse`: status for a request, by method and path, instead of an answer;
    `on_upload`: is told how many large files came before this one."""

    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[tuple[str, Any]] = field(default_factory=list)
    refuse: Callable[[str, str], int | None] = lambda method, path: None
    on_upload: Callable[[int], None] = lambda before: None
    ignored: set[str] = field(default_factory=set)
    card_errors: list[str] = field(default_factory=list)
    part_bytes: int = 1 << 40
    lfs_bytes: int = 4000
    public_whatever: bool = False
    headers: dict[str, str] = field(default_factory=dict)  # of a refusal
    url: str = ""

    def make(self, key: str, private: bool = True) -> Repo:
        attributes = {".gitattributes": (b"*.safetensors filter=lfs\n", False)}
        first = Commit(hashlib.sha1(key.encode()).hexdigest(), "initial commit", "", attributes)
        self.repos[key] = Repo(private, [first])
        return self.repos[key]

    def sent(self, method: str = "PUT") -> list[str]:
        """Paths that were asked for with this method."""
        return [path for done, path in self.requests if done == method]


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """A double that answers until the block is left."""
    hub = Hub()
    handler = type("Bound", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield hub
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        self._do("GET")

    def do_POST(self) -> None:
        self._do("POST")

    def do_PUT(self) -> None:
        self._do("PUT")

    def _do(self, method: str) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        self.hub.requests.append((method, path))
        if method == "PUT":
            self.hub.on_upload(len(self.hub.objects))
        if (status := self.hub.refuse(method, path)) is not None:
            self._answer({"error": "as the test wants it"}, status, **self.hub.headers)
            return
        for wanted, form, does in _ROUTES:
            if wanted == method and (match := re.fullmatch(form, path)):
                does(self, body, *match.groups())
                return
        self._answer({"error": f"the double does not know {method} {path}"}, 404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, value: Any, status: int = 200, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data)

    def _repo(self, key: str) -> Repo | None:
        repo = self.hub.repos.get(key)
        own = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not own):
            self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return None
        return repo

    # -- what is asked -------------------------------------------------------------------------

    def info(self, _: bytes, key: str, revision: str | None = None) -> None:
        if (repo := self._repo(key)) is None:
            return
        named = {commit.oid: commit for commit in repo.commits}
        commit = named[revision] if revision else repo.head
        siblings = []
        for name, (data, large) in commit.files.items():
            entry: dict[str, Any] = {
                "rfilename": name,
                "size": len(data),
                "blobId": "p" * 40 if large else blob_id(data),
            }
            if large:
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        name = key.partition("/")[2]
        self._answer({"id": name, "sha": commit.oid, "private": repo.private, "siblings": siblings})

    def refs(self, _: bytes, key: str) -> None:
        if (repo := self._repo(key)) is not None:
            tags = [
                {"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid}
                for name, oid in repo.tags.items()
            ]
            self._answer({"branches": [], "converts": [], "tags": tags})

    def commits(self, _: bytes, key: str, __: str) -> None:
        if (repo := self._repo(key)) is not None:
            self._answer(
                [
                    {
                        "id": commit.oid,
                        "title": commit.title,
                        "message": commit.message,
                        "date": "2026-01-01T00:00:00.000Z",
                        "authors": [],
                    }
                    for commit in reversed(repo.commits)
                ]
            )

    # -- what is changed -----------------------------------------------------------------------

    def validate(self, body: bytes) -> None:
        self.hub.bodies.append(("validate", json.loads(body)))
        errors = [{"message": text} for text in self.hub.card_errors]
        self._answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        self.hub.bodies.append(("create", asked))
        name = f"{asked['organization']}/{asked['name']}"
        private = asked.get("visibility") == "private" and not self.hub.public_whatever
        self.hub.make(f"{asked['type']}s/{name}", private)
        self._answer({"url": f"{self.hub.url}/{name}", "name": name})

    def preupload(self, body: bytes, key: str, _: str) -> None:
        if (repo := self._repo(key)) is None:
            return
        files = []
        for file in json.loads(body)["files"]:
            large = file["size"] > self.hub.lfs_bytes
            there = repo.head.files.get(file["path"])
            entry = {
                "path": file["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": file["path"] in self.hub.ignored,
            }
            if there is not None:
                data, was_large = there
                sha256 = hashlib.sha256(data).hexdigest()
                entry["oid"] = sha256 if was_large else blob_id(data)
            files.append(entry)
        self._answer({"files": files})

    def batch(self, body: bytes, _: str) -> None:
        self._answer({"objects": [self._upload(file) for file in json.loads(body)["objects"]]})

    def _upload(self, file: dict[str, Any]) -> dict[str, Any]:
        oid, size = file["oid"], file["size"]
        if oid in self.hub.objects:
            return {"oid": oid, "size": size}
        upload: dict[str, Any] = {"href": f"{self.hub.url}/store/{oid}"}
        if size > self.hub.part_bytes:
            count = -(-size // self.hub.part_bytes)
            parts = {str(n): f"{self.hub.url}/store/{oid}/{n}" for n in range(1, count + 1)}
            header = {"chunk_size": str(self.hub.part_bytes), **parts}
            upload = {"href": f"{self.hub.url}/complete/{oid}", "header": header}
        verify = {"href": f"{self.hub.url}/verify/{oid}"}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def store(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._answer({})

    def part(self, body: bytes, oid: str, number: str) -> None:
        self.hub.parts.setdefault(oid, {})[int(number)] = body
        self._answer({}, ETag=f"part-{number}")

    def complete(self, body: bytes, oid: str) -> None:
        parts = [self.hub.parts[oid][part["partNumber"]] for part in json.loads(body)["parts"]]
        assert hashlib.sha256(b"".join(parts)).hexdigest() == oid
        self.hub.objects[oid] = b"".join(parts)
        self._answer({})

    def verify(self, body: bytes, oid: str) -> None:
        good = len(self.hub.objects[oid]) == json.loads(body)["size"]
        self._answer({}, 200 if good else 400)

    def commit(self, body: bytes, key: str, _: str) -> None:
        if (repo := self._repo(key)) is None:
            return
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") != repo.head.oid:
            self._answer({"error": "A commit has happened since"}, 412)
            return
        files = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            else:
                assert line["key"] == "lfsFile"
                files[value["path"]] = (self.hub.objects[value["oid"]], True)
        done = repo.add(header["summary"], files, header["description"])
        page = f"{self.hub.url}/{key.removeprefix('models/')}"
        self._answer({"commitUrl": f"{page}/commit/{done.oid}", "commitOid": done.oid})

    def tag(self, body: bytes, key: str, revision: str) -> None:
        if (repo := self._repo(key)) is None:
            return
        name = json.loads(body)["tag"]
        if name in repo.tags:
            self._answer({"error": "Tag exists"}, 409)
            return
        repo.tags[name] = revision
        self._answer({})


_KEY = r"/api/((?:models|datasets)/[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", _KEY, _Handler.info),
    ("GET", _KEY + r"/revision/(\w+)", _Handler.info),
    ("GET", _KEY + "/refs", _Handler.refs),
    ("GET", _KEY + r"/commits/(\w+)", _Handler.commits),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", _KEY + r"/preupload/(\w+)", _Handler.preupload),
    ("POST", r"/(.+)\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/store/(\w+)", _Handler.store),
    ("PUT", r"/store/(\w+)/(\d+)", _Handler.part),
    ("POST", r"/complete/(\w+)", _Handler.complete),
    ("POST", r"/verify/(\w+)", _Handler.verify),
    ("POST", _KEY + r"/commit/(\w+)", _Handler.commit),
    ("POST", _KEY + r"/tag/(\w+)", _Handler.tag),
]
