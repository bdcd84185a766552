"""A Hub on loopback: what `huggingface_hub` asks for when a model is pushed and pulled, and nothing more."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class HubStub:
    """
    Repositories in memory behind HTTP.

    Attributes:
        endpoint: For `HF_ENDPOINT`.
        files: (repository, path) -> bytes of what was committed.
        private: Repository -> whether it was created as private.
    """

    def __enter__(self):
        self.files, self.private, self.commits = {}, {}, 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def head(self) -> str:
        """Commit hash of the newest commit."""
        return f"{self.commits:040x}"


class _Handler(BaseHTTPRequestHandler):
    hub: HubStub

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self.path.split("?")[0].strip("/").split("/")
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.hub.private.setdefault(name, wanted.get("visibility") == "private")
            self._json({"url": f"{self.hub.endpoint}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif parts[:2] == ["api", "models"] and parts[4:5] == ["preupload"]:
            files = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif parts[:2] == ["api", "models"] and parts[4:5] == ["commit"]:
            self._commit("/".join(parts[2:4]), body)
        else:
            self._json({"error": f"no such route: POST {self.path}"}, 404)

    def _commit(self, repository, body):
        for line in map(json.loads, filter(None, body.decode().splitlines())):
            if line["key"] == "file":
                value = line["value"]
                assert value["encoding"] == "base64"
                self.hub.files[repository, value["path"]] = base64.b64decode(value["content"])
        self.hub.commits += 1
        url = f"{self.hub.endpoint}/{repository}/commit/{self.hub.head}"
        self._json({"success": True, "commitUrl": url, "commitOid": self.hub.head})

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            repository = "/".join(parts[2:4])
            names = [path for name, path in self.hub.files if name == repository]
            if repository not in self.hub.private:
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            elif parts[4:5] == ["tree"] and parts[6:]:
                self._json({"error": "no such folder"}, 404, {"X-Error-Code": "EntryNotFound"})
            elif parts[4:5] == ["tree"]:
                sizes = {name: len(self.hub.files[repository, name]) for name in names}
                self._json([{"type": "file", "path": n, "size": size, "oid": "0" * 40} for n, size in sizes.items()])
            else:
                self._json(
                    {
                        "id": repository,
                        "modelId": repository,
                        "sha": self.hub.head,
                        "private": False,
                        "tags": [],
                        "siblings": [{"rfilename": name} for name in names],
                    }
                )
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), "/".join(parts[4:]))
        else:
            self._json({"error": f"no such route: GET {self.path}"}, 404)

    do_HEAD = do_GET

    def _file(self, repository, path):
        data = self.hub.files.get((repository, path))
        if data is None:
            self._json(
                {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.head}
            )
            return
        etag = hashlib.sha1(data).hexdigest()
        self._send(data, 200, "application/octet-stream", {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.head})

    def _json(self, value, status=200, headers=None):
        self._send(json.dumps(value).encode(), status, "application/json", headers or {})

    def _send(self, data, status, kind, headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args):
        pass
