"""Whole runs on gs://, through the client in TensorFlow's own wheel.

What answers is a small server on this machine: the client knows one address
only, so it is led here by `https_proxy`, and trusts a certificate made here.
"""

import http.server
import json
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest

from tests.soak import test_runs

pytestmark = pytest.mark.soak
ROOT = pathlib.Path(__file__).resolve().parents[2]
HOSTS = ("www.googleapis.com", "storage.googleapis.com")
CHANGES = {
    **test_runs.CHANGES,
    "train.num_steps": "60",
    "checkpoint.every_steps": "20",
    "finetune.num_epochs": "1",
}


class Server(http.server.ThreadingHTTPServer):
    """Objects by name, `gs://…`; the bucket `missing` does not exist."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects, self.uploads, self.requests = {}, [], 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        names = ",".join(f"DNS:{host}" for host in HOSTS)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
            + ["-subj", "/CN=store", "-addext", f"subjectAltName={names}"]
            + ["-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
        self.context.load_cert_chain(certificate, key)
        self.environment = {
            **os.environ,
            "https_proxy": f"http://127.0.0.1:{self.server_port}",
            "CURL_CA_BUNDLE": str(certificate),
            "NO_GCE_CHECK": "true",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        }

    def handle_error(self, request, client_address):
        pass  # A client that was killed.


class Handler(http.server.BaseHTTPRequestHandler):
    """What TensorFlow 2.21 asks of the JSON API."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.context.wrap_socket(
            self.connection, server_side=True
        )
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self):
        parts, query = self._parts()
        if parts[0] != "storage":  # /bucket/object
            self._read("gs://" + "/".join(parts))
        elif len(parts) == 4:  # /storage/v1/b/bucket
            self._answer(200, {"location": "US"})
        elif len(parts) == 5:  # …/o
            self._list(parts[3], query)
        else:  # …/o/object
            content = self.server.objects.get(self._name(parts[3:]))
            if content is None:
                return self._answer(404)
            facts = {"size": str(len(content)), "generation": "1"}
            self._answer(200, {**facts, "updated": "2026-01-01T00:00:00.000Z"})

    def do_POST(self):  # /upload/storage/v1/b/bucket/o?name=…
        parts, query = self._parts()
        self._body()
        if parts[4] == "missing":
            return self._answer(404)
        self.server.uploads.append(f"gs://{parts[4]}/{query['name']}")
        number = len(self.server.uploads) - 1
        place = f"https://{HOSTS[0]}/session/{number}"
        self._answer(200, headers={"Location": place})

    def do_PUT(self):
        parts, _ = self._parts()
        content = self._body()
        self.server.objects[self.server.uploads[int(parts[1])]] = content
        self._answer(200)

    def do_DELETE(self):
        parts, _ = self._parts()
        name = self._name(parts[3:])
        found = self.server.objects.pop(name, None) is not None
        self._answer(204 if found else 404)

    def _name(self, parts):
        bucket, _, *name = parts
        return f"gs://{bucket}/{'/'.join(name)}"

    def _parts(self):
        url = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(p) for p in url.path.split("/")[1:]]
        return parts, dict(urllib.parse.parse_qsl(url.query))

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _read(self, name):
        content = self.server.objects.get(name)
        if content is None:
            return self._answer(404)
        _, _, places = self.headers.get("Range", "bytes=0-").partition("=")
        first, _, last = places.partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        self._answer(206 if part else 416, part)

    def _list(self, bucket, query):
        start = f"gs://{bucket}/"
        prefix, mark = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for name in sorted(self.server.objects):
            rest = name.removeprefix(start + prefix)
            if not name.startswith(start + prefix):
                continue
            if mark and mark in rest:
                prefixes.add(prefix + rest.split(mark)[0] + mark)
            else:
                items.append({"name": name.removeprefix(start)})
        number = int(query.get("maxResults", 1_000_000))
        items = items[:number]
        self._answer(200, {"items": items, "prefixes": sorted(prefixes)})

    def _answer(self, code, content=b"", *, headers=None):
        if isinstance(content, dict):
            content = json.dumps(content).encode()
        self.server.requests += 1
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(name="server")
def _server(tmp_path):
    with Server(tmp_path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _start(server, place, **more):
    changes = {**CHANGES, "data.prepared_dir": f"{place}/prepared", **more}
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    command = [sys.executable, "-m", "trainer.main", f"--workdir={place}/run"]
    return subprocess.Popen(
        [*command, "--strategy=one_device", *flags],
        cwd=ROOT,
        env=server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process, code=0):
    said, _ = process.communicate()
    assert process.returncode == code, said
    return said


def _losses(text):
    events = map(json.loads, text.splitlines())
    return sorted(
        (event["stage"], event["step"], event["loss"])
        for event in events
        if "loss" in event
    )


def _whole(server):
    """How many checkpoints of the pretraining are complete."""
    start = "gs://bucket/run/checkpoints/pretrain/"
    return sum(
        name.startswith(start) and name.endswith("manifest.json")
        for name in list(server.objects)
    )


def test_a_killed_run_in_a_bucket_is_the_run_on_the_disk(
    server, tmp_path, record
):
    _finish(_start(server, tmp_path))
    killed = _start(server, "gs://bucket")
    while killed.poll() is None and _whole(server) < 2:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    _finish(killed, -signal.SIGKILL)
    assert "gs://bucket/run/.lock" in server.objects
    said = _finish(_start(server, "gs://bucket"))
    assert "resuming from step" in said
    near = tmp_path / "run"
    far = {
        name.removeprefix("gs://bucket/run/"): content
        for name, content in server.objects.items()
        if name.startswith("gs://bucket/run/") and not name.endswith("/")
    }
    before = _losses((near / "metrics.jsonl").read_text())
    after = _losses(far["metrics.jsonl"].decode())
    names = {
        path.relative_to(near).as_posix()
        for path in near.rglob("*")
        if path.is_file() and "tensorboard" not in path.parts
    }
    found = {name for name in far if not name.startswith("tensorboard/")}
    tests = [
        json.loads(text)["test_sha256"]
        for text in (
            (near / "evaluation.json").read_text(),
            far["evaluation.json"],
        )
    ]
    record(
        "all stages on gs:// against a server, killed once, against the disk:"
        " losses that differ; files that only one has",
        [len({*before} ^ {*after}), sorted((names - {".lock"}) ^ found)],
        [0, []],
    )
    assert len(before) > 20
    assert before == after
    assert names - {".lock"} == found
    assert tests[0] == tests[1]
    assert any(name.startswith("tensorboard/pretrain") for name in far)
    assert f"gs://bucket/prepared/{_fingerprint(far)}/" in "".join(
        server.objects
    )


def _fingerprint(far):
    return json.loads(far["config.json"])["resolved"]["prepared"].rpartition(
        "/"
    )[2]


def test_a_bucket_that_is_missing_is_one_line(server, tmp_path):
    said = _finish(_start(server, "gs://missing"), 2)
    assert len(said.splitlines()) == 1
    assert "gs://missing/" in said
