"""Downloads from the Hugging Face Hub, by its own client, from a hub on loopback."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models.registry import get_spec
from hvt_deploy.models.spec import Checkpoint
from hvt_deploy.models.weights.download import obtain_weights
from hvt_deploy.models.weights.transfer import HostUnreachable

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several chunks
URL = "https://huggingface.co/somebody/net/resolve/main/net.pth.tar"
SPEC = dataclasses.replace(get_spec("faster_vit_0_224"), checkpoint=Checkpoint(url=URL))


@dataclass
class Hub:
    """A hub with one repository, as far as the client asks."""

    address: str
    body: bytes = CONTENT
    status: int = 200
    refusal: str = ""
    holds_after: int = 0
    token: str | None = None
    fetched: list[str] = field(default_factory=list)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            state.token = self.headers.get("Authorization")
            self.answer(0)

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            if "/resolve/" in self.path:
                state.fetched.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
            self.answer(start)
            sent = start + state.holds_after if state.holds_after else None
            self.wfile.write(state.body[start:sent])
            while state.holds_after:  # says nothing more, as a slow line
                time.sleep(0.01)

        def answer(self, start: int) -> None:
            self.send_response(206 if start else state.status)
            if state.refusal:
                self.send_header("X-Error-Code", state.refusal)
            self.send_header("ETag", f'"{hashlib.sha256(state.body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            total = len(state.body)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Length", str(total - start))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", state.address)  # for processes of their own
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "ENDPOINT", state.address)
    template = f"{state.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield state
    state.holds_after = 0
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_for_its_user(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    first = obtain_weights(SPEC, "official", tmp_path)
    assert first.path == tmp_path / "net.pth.tar"
    assert first.path.read_bytes() == CONTENT
    hub.status = 500
    assert obtain_weights(SPEC, "official", tmp_path) == first
    assert hub.fetched == [""]
    assert hub.token == "Bearer hf_mine"


def test_a_file_that_another_program_fetched_from_the_hub_is_taken(
    hub: Hub, tmp_path: Path
) -> None:
    there = hf_hub_download("somebody/net", "net.pth.tar")
    hub.status = 500
    path = obtain_weights(SPEC, "official", tmp_path).path
    assert path == Path(there)
    assert path.read_bytes() == CONTENT
    path.resolve().write_bytes(b"other")
    with pytest.raises(BadInput, match="is not the file first seen"):
        obtain_weights(SPEC, "official", tmp_path)


def test_a_download_whose_process_was_killed_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.holds_after = 2_500_000
    program = (
        "import sys; from pathlib import Path; from hvt_deploy.models.weights import hub, transfer;"
        f"transfer.fetch(hub.locate_on_hub({URL!r}, ''), Path(sys.argv[1]), '')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "net.pth.tar")]
    part = tmp_path / ".net.pth.tar.part"
    with subprocess.Popen(command) as process:
        while not (part.is_file() and part.stat().st_size) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    done, hub.holds_after = part.stat().st_size, 0
    path = obtain_weights(SPEC, "official", tmp_path).path
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert hub.fetched == ["", f"bytes={done}-"]


@pytest.mark.parametrize(
    ("status", "refusal", "sentence"),
    [
        (404, "EntryNotFound", "answered 404 instead of the checkpoint"),
        (401, "RepoNotFound", "answered 401 instead of the checkpoint"),
        (403, "GatedRepo", "asks for your consent at https://huggingface.co/somebody/net"),
    ],
)
def test_what_the_hub_refuses_is_said(
    hub: Hub, tmp_path: Path, status: int, refusal: str, sentence: str
) -> None:
    hub.status, hub.refusal = status, refusal
    with pytest.raises(BadInput, match=sentence):
        obtain_weights(SPEC, "auto", tmp_path)


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_cannot_be_reached_is_not_waited_for(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    template = "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    began = time.monotonic()
    with pytest.raises(HostUnreachable, match="cannot be reached"):
        obtain_weights(SPEC, "official", tmp_path)
    assert obtain_weights(SPEC, "auto", tmp_path).untrained
    assert time.monotonic() - began < 5
