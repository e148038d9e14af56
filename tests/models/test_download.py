from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.models.registry import get_spec, list_specs
from hvt_deploy.models.spec import Checkpoint, ModelSpec
from hvt_deploy.models.weights.download import direct_url, obtain_weights
from hvt_deploy.models.weights.transfer import fetch

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several chunks


@dataclass
class Host:
    """A web server on loopback that answers with what a test puts here."""

    port: int
    status: int = 200
    body: bytes = CONTENT
    declared: int = len(CONTENT)
    moved_to: str = ""
    version: str = ""
    breaks_after: int = 0
    holds_after: int = 0
    changes_to: bytes = b""
    ranges: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            if state.moved_to and self.path != state.moved_to:
                self.send_response(302)
                self.send_header("Location", state.moved_to)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, asked = 0, self.headers.get("Range", "")
            if asked and self.headers.get("If-Range") == state.version:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            state.ranges.append(asked)
            self.send_response(206 if start else state.status)
            self.send_header("Content-Length", str(state.declared - start))
            if state.version:
                self.send_header("ETag", state.version)
            self.end_headers()
            sent = state.breaks_after or state.holds_after
            self.wfile.write(state.body[start : start + sent if sent else None])
            while state.holds_after:  # says nothing more, as a slow line
                time.sleep(0.01)
            if state.changes_to:
                state.body, state.declared = state.changes_to, len(state.changes_to)
                state.version, state.breaks_after = '"v2"', 0

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Host(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


def published_at(url: str | None) -> ModelSpec:
    return dataclasses.replace(get_spec("fdvit_ti"), checkpoint=Checkpoint(url=url))


def spec_on(host: Host) -> ModelSpec:
    return published_at(f"http://127.0.0.1:{host.port}/fdvit_ti.pth")


def named(name: str, url: str) -> ModelSpec:
    return dataclasses.replace(published_at(url), name=name)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


@pytest.mark.parametrize("choice", ["auto", "official"])
def test_download_once_then_from_the_cache(host: Host, tmp_path: Path, choice: str) -> None:
    seen: list[tuple[int, int]] = []
    cache = tmp_path / "cache"
    first = obtain_weights(
        spec_on(host), choice, cache, lambda done, total: seen.append((done, total))
    )
    assert (first.source, first.untrained, first.warning) == ("official", False, "")
    assert first.path is not None
    assert first.path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert obtain_weights(spec_on(host), choice, cache) == first
    assert host.requests == ["/fdvit_ti.pth"]
    assert leftovers(cache) == ["fdvit_ti.pth", "sha256.json"]


def test_a_cached_file_that_changed_is_refused(host: Host, tmp_path: Path) -> None:
    path = obtain_weights(spec_on(host), "auto", tmp_path).path
    assert path is not None
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(BadInput, match="not the file first seen"):
        obtain_weights(spec_on(host), "auto", tmp_path)


def test_a_published_file_that_changed_is_refused(host: Host, tmp_path: Path) -> None:
    path = obtain_weights(spec_on(host), "auto", tmp_path).path
    assert path is not None
    path.unlink()
    host.body = CONTENT[::-1]
    with pytest.raises(BadInput, match="not the file first seen"):
        obtain_weights(spec_on(host), "auto", tmp_path)


def test_a_file_put_there_by_hand_is_taken_and_recorded(host: Host, tmp_path: Path) -> None:
    (tmp_path / "fdvit_ti.pth").write_bytes(b"by hand")
    assert obtain_weights(spec_on(host), "official", tmp_path).source == "official"
    assert host.requests == []
    assert "fdvit_ti.pth" in json.loads((tmp_path / "sha256.json").read_text())


@pytest.mark.parametrize("damage", ["", "{", '{"fdvit_ti.pth": 3}', "\x00" * 50])
def test_a_damaged_record_is_made_again(host: Host, tmp_path: Path, damage: str) -> None:
    path = obtain_weights(spec_on(host), "auto", tmp_path).path
    record = tmp_path / "sha256.json"
    recorded = record.read_text()
    record.write_text(damage)
    assert obtain_weights(spec_on(host), "auto", tmp_path).path == path
    assert record.read_text() == recorded


def test_a_truncated_record_keeps_its_whole_entries(host: Host, tmp_path: Path) -> None:
    path = obtain_weights(spec_on(host), "auto", tmp_path).path
    record = tmp_path / "sha256.json"
    record.write_text(record.read_text().rstrip().removesuffix("}") + ', "other.pth": "12ab')
    assert path is not None
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(BadInput, match="not the file first seen"):
        obtain_weights(spec_on(host), "auto", tmp_path)


def test_files_recorded_at_the_same_time_are_all_recorded(tmp_path: Path) -> None:
    url = "https://host.example/{}.pth"
    specs = [named(f"m{i}", url.format(f"m{i}")) for i in range(12)]
    for spec in specs:
        (tmp_path / f"{spec.name}.pth").write_bytes(spec.name.encode())
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda spec: obtain_weights(spec, "official", tmp_path), specs))
    recorded = json.loads((tmp_path / "sha256.json").read_text())
    assert sorted(recorded) == sorted(f"{spec.name}.pth" for spec in specs)


@pytest.mark.parametrize("choice", ["auto", "official"])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": 404, "body": b"", "declared": 0}, "answered 404"),
        ({"status": 503, "body": b"", "declared": 0}, "answered 503"),
        ({"body": b"\n<!doctype html><title>scan warning</title>", "declared": 43}, "web page"),
        ({"body": CONTENT[:-1000]}, "broke off after 3071000 of 3072000"),
        ({"body": b"", "declared": 0}, "broke off after 0"),
    ],
)
def test_an_answer_without_the_file_is_an_error(
    host: Host, tmp_path: Path, choice: str, answer: dict[str, object], message: str
) -> None:
    for key, value in answer.items():
        setattr(host, key, value)
    with pytest.raises(BadInput, match=message) as caught:
        obtain_weights(spec_on(host), choice, tmp_path)
    assert f"http://127.0.0.1:{host.port}/fdvit_ti.pth by hand" in caught.value.hint
    assert str(tmp_path / "fdvit_ti.pth") in caught.value.hint
    assert leftovers(tmp_path) == [], "nothing half done may stay behind"


def test_a_download_that_breaks_off_goes_on_where_it_was(host: Host, tmp_path: Path) -> None:
    host.version, host.breaks_after = '"v1"', 1_000_000
    path = obtain_weights(spec_on(host), "official", tmp_path).path
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert host.ranges == ["", *(f"bytes={n}000000-" for n in (1, 2, 3))]


def test_a_file_that_changed_meanwhile_is_taken_from_the_start(host: Host, tmp_path: Path) -> None:
    host.version, host.breaks_after, host.changes_to = '"v1"', 1_000_000, CONTENT[::-1][:-500]
    path = obtain_weights(spec_on(host), "official", tmp_path).path
    assert path is not None
    assert path.read_bytes() == CONTENT[::-1][:-500]
    assert host.ranges == ["", "bytes=1000000-"]


def test_a_host_that_always_breaks_off_is_not_asked_for_ever(host: Host, tmp_path: Path) -> None:
    host.version, host.breaks_after = '"v1"', 1000
    with pytest.raises(BadInput, match="broke off after 6000 of 3072000 bytes"):
        obtain_weights(spec_on(host), "auto", tmp_path)
    assert leftovers(tmp_path) == [".fdvit_ti.pth.part", ".fdvit_ti.pth.version"]
    host.breaks_after, host.ranges = 0, []
    path = obtain_weights(spec_on(host), "auto", tmp_path).path
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert host.ranges == ["bytes=6000-"]
    assert leftovers(tmp_path) == ["fdvit_ti.pth", "sha256.json"]


_FETCH = """
import sys
from pathlib import Path
from hvt_deploy.models.weights.transfer import fetch
fetch(sys.argv[1], Path(sys.argv[2]), "", lambda done, total: print(done, flush=True))
"""


@pytest.mark.parametrize("changed", [False, True])
def test_a_download_whose_process_was_killed_goes_on(
    host: Host, tmp_path: Path, changed: bool
) -> None:
    """By the next process, unless the host has another file by then."""
    host.version, host.holds_after = '"v1"', 2_500_000
    path = tmp_path / "fdvit_ti.pth"
    with subprocess.Popen(
        [sys.executable, "-c", _FETCH, f"http://127.0.0.1:{host.port}/x", str(path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        part = tmp_path / ".fdvit_ti.pth.part"
        while not (part.is_file() and part.stat().st_size) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert not path.exists()
    done, host.holds_after, host.ranges = part.stat().st_size, 0, []
    if changed:
        host.body, host.version = CONTENT[::-1], '"v2"'
    assert obtain_weights(spec_on(host), "official", tmp_path).path == path
    assert path.read_bytes() == host.body
    assert host.ranges == [f"bytes={done}-"]
    assert leftovers(tmp_path) == ["fdvit_ti.pth", "sha256.json"]


def test_two_processes_fetch_a_file_once(host: Host, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        urls = [f"http://127.0.0.1:{host.port}/x"] * 2
        list(pool.map(lambda url: fetch(url, tmp_path / "x", ""), urls))
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert len(host.requests) == 1


def test_unreachable_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/fdvit_ti.pth"
    obtained = obtain_weights(published_at(url), "auto", tmp_path)
    assert (obtained.path, obtained.source, obtained.untrained) == (None, "random", True)
    assert "cannot be reached" in obtained.warning
    assert "UNTRAINED" in obtained.warning
    with pytest.raises(MissingEnvironment, match="cannot be reached"):
        obtain_weights(published_at(url), "official", tmp_path)


def test_nothing_published(tmp_path: Path) -> None:
    assert obtain_weights(published_at(None), "auto", tmp_path).untrained
    with pytest.raises(BadInput, match="No weights of fdvit_ti were published"):
        obtain_weights(published_at(None), "official", tmp_path)


def test_random_and_file(tmp_path: Path) -> None:
    spec = get_spec("fdvit_ti")
    assert obtain_weights(spec, "random", tmp_path).source == "random"
    given = tmp_path / "mine.pth"
    with pytest.raises(BadInput, match=r"mine\.pth"):
        obtain_weights(spec, str(given), tmp_path)
    given.write_bytes(b"x")
    obtained = obtain_weights(spec, str(given), tmp_path)
    assert (obtained.path, obtained.source, obtained.untrained) == (given, "file", False)


def test_hubs_answer_with_another_address(host: Host, tmp_path: Path) -> None:
    host.moved_to = "/signed/4f5e?expires=3600"
    path = obtain_weights(spec_on(host), "official", tmp_path).path
    assert path == tmp_path / "fdvit_ti.pth"
    assert path.read_bytes() == CONTENT
    assert host.requests == ["/fdvit_ti.pth", "/signed/4f5e?expires=3600"]


def test_models_published_in_one_file_share_it(host: Host, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{host.port}/FasterViT/resolve/main/fastervit_0_224_1k.pth.tar"
    paths = {
        obtain_weights(named(name, url), "official", tmp_path).path
        for name in ("faster_vit_0_224", "faster_vit_0_any_res")
    }
    assert paths == {tmp_path / "fastervit_0_224_1k.pth.tar"}
    assert len(host.requests) == 1


def test_every_published_file_is_fetched_once_and_has_its_own_place(
    host: Host, tmp_path: Path
) -> None:
    published = [s for s in list_specs() if s.checkpoint.url and s.checkpoint.how == "direct"]
    assert {urlsplit(s.checkpoint.url).netloc for s in published} == {
        "github.com",
        "huggingface.co",
    }
    host.body, host.declared = b"weights", 7
    places: dict[str, set[Path]] = {}
    for spec in published:
        path = urlsplit(spec.checkpoint.url).path
        here = dataclasses.replace(
            spec, checkpoint=Checkpoint(url=f"http://127.0.0.1:{host.port}{path}")
        )
        places.setdefault(path, set()).add(obtain_weights(here, "official", tmp_path).path)
    assert sorted(host.requests) == sorted(places)
    assert {len(found) for found in places.values()} == {1}
    assert len(leftovers(tmp_path)) == len(places) + 1


def test_models_whose_files_have_one_name_do_not_share(host: Host, tmp_path: Path) -> None:
    for name in ("timm:one", "timm:other"):
        url = f"http://127.0.0.1:{host.port}/{name[5:]}/resolve/main/model.safetensors"
        obtain_weights(named(name, url), "official", tmp_path)
    assert leftovers(tmp_path) == ["sha256.json", "timm-one.safetensors", "timm-other.safetensors"]
    assert len(host.requests) == 2


def test_google_drive_links_become_direct_ones() -> None:
    checkpoint = get_spec("fdvit_b").checkpoint
    assert direct_url(checkpoint) == (
        "https://drive.usercontent.google.com/download?id=1qhRSCeNgS_ZWXNLq2peSu7ubYBP-9Yqv&export=download&confirm=t"
    )
    assert (
        direct_url(Checkpoint(url="https://host.example/file/d/abc"))
        == "https://host.example/file/d/abc"
    )
