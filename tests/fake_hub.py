"""Folders -> a Hub of our own on this machine: the few routes that huggingface_hub and datasets call."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class FakeHub(ThreadingHTTPServer):
    """Repositories with their commits. `calls` is every path that was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}  # "datasets/org/name" -> commit -> path -> bytes
        self.newest: dict[str, str] = {}
        self.calls: list[str] = []

    @property
    def address(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, kind: str, name: str, folder: Path) -> str:
        """kind: models | datasets. The folder's files become the newest commit of the repository. -> its hash"""
        files = {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }
        repository = f"{kind}/{name}"
        digest = hashlib.sha1(repr((repository, sorted(files.items()))).encode()).hexdigest()
        self.repositories.setdefault(repository, {})[digest] = files
        self.newest[repository] = digest
        return digest

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """-> commit and its files. revision: a commit or main."""
        commits = self.repositories.get(repository, {})
        commit = self.newest.get(repository, "") if revision == "main" else revision
        return (commit, commits[commit]) if commit in commits else None


class _Answers(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.calls.append(path)
        words = path.split("/")
        if words[0] == "api":
            repository, what, rest = "/".join(words[1:4]), (words[4:5] or ["revision"])[0], words[5:]
            self.api(repository, what, (rest or ["main"])[0], "/".join(rest[1:]))
        else:
            kind = words.pop(0) if words[0] == "datasets" else "models"
            if len(words) < 5 or words[2] != "resolve":
                return self.refuse("EntryNotFound")
            self.resolve(f"{kind}/{words[0]}/{words[1]}", words[3], "/".join(words[4:]))

    def api(self, repository: str, what: str, revision: str, below: str) -> None:
        found = self.server.find(repository, revision)
        if found is None:
            return self.refuse("RevisionNotFound" if repository in self.server.newest else "RepoNotFound")
        commit, files = found
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in files.items()
        ]
        folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
        entries += [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)]
        if what == "tree":
            inside = [one for one in entries if not below or one["path"].startswith(below + "/")]
            if below and not inside:
                return self.refuse("EntryNotFound")
            if parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() != "true":
                depth = below.count("/") + 1 if below else 0
                inside = [one for one in inside if one["path"].count("/") == depth]
            self.answer(inside)
        elif what == "paths-info":
            asked = json.loads(self.body) if self.body[:1] == b"{" else parse_qs(self.body.decode())
            self.answer([one for one in entries if one["path"] in asked["paths"]])
        else:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            self.answer({"id": repository.partition("/")[2], "sha": commit, "siblings": siblings, "tags": []})

    def resolve(self, repository: str, revision: str, name: str) -> None:
        found = self.server.find(repository, revision)
        if found is None:
            return self.refuse("RevisionNotFound" if repository in self.server.newest else "RepoNotFound")
        commit, files = found
        if name not in files:
            return self.refuse("EntryNotFound", commit)
        content, code, headers = files[name], 200, {}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = int(last) + 1 if last else len(content)
            headers["Content-Range"] = f"bytes {first}-{min(end, len(content)) - 1}/{len(content)}"
            content, code = content[int(first) : end], 206
        headers |= {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"', "X-Repo-Commit": commit}
        self.send(code, content, {**headers, "Accept-Ranges": "bytes"})

    def answer(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, reason: str, commit: str = "") -> None:
        self.send(404, b"{}", {"X-Error-Code": reason, "X-Repo-Commit": commit})

    def send(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A Hub that answers until the block ends."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
