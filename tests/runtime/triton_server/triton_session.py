"""Runs in an environment with nvidia-pytriton and tritonclient: serve REPOSITORY, send IMAGES,
print the answers.

python triton_session.py REPOSITORY ENSEMBLE PIXELS_MODEL IMAGE...
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
import pytriton
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from PIL import Image
from triton_configs import parse_configs

SERVER = Path(pytriton.__file__).parent / "tritonserver"
START_S = 60


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(repository: Path, folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    """The server, with this Python's stub next to its backend."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backends = folder / "backends"
    shutil.copytree(SERVER / "backends", backends)
    stub = "triton_python_backend_stub"
    shutil.copy(SERVER / "python_backend_stubs" / version / stub, backends / "python" / stub)
    http, grpc, metrics = map(str, ports)
    command = [
        str(SERVER / "bin" / "tritonserver"),
        "--model-repository",
        str(repository),
        "--backend-directory",
        str(backends),
        "--http-address",
        "127.0.0.1",
        "--grpc-address",
        "127.0.0.1",
        "--metrics-address",
        "127.0.0.1",
        "--http-port",
        http,
        "--grpc-port",
        grpc,
        "--metrics-port",
        metrics,
    ]
    libraries = SERVER.parent.parent / "nvidia_pytriton.libs"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "LD_LIBRARY_PATH": f"{sysconfig.get_config_var('LIBDIR')}:{libraries}",
    }
    with (folder / "server.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def classes(client: object, module: object, ensemble: str, files: list[bytes]) -> list[list[str]]:
    """The three most probable classes of every file: `value:index:name`, through the ensemble, in
    one batch.
    """
    image = module.InferInput("image", [len(files), 1], "BYTES")
    image.set_data_from_numpy(np.array(files, object).reshape(-1, 1))
    wanted = module.InferRequestedOutput("logits", class_count=3)
    answer = client.infer(ensemble, [image], outputs=[wanted]).as_numpy("logits")
    return [[text.decode() for text in row] for row in answer.reshape(len(files), 3)]


def classes_of_pixels(
    client: http_client.InferenceServerClient, model: str, image: Path
) -> list[str]:
    """The three most probable classes of one image, sent as it was decoded."""
    pixels = np.asarray(Image.open(image).convert("RGB"))[None]
    sent = http_client.InferInput("images_NHWC", list(pixels.shape), "UINT8")
    sent.set_data_from_numpy(pixels)
    wanted = http_client.InferRequestedOutput("logits", class_count=3)
    return [
        text.decode()
        for text in client.infer(model, [sent], outputs=[wanted]).as_numpy("logits")[0]
    ]


def refusal(client: object, ensemble: str) -> str:
    try:
        classes(client, http_client, ensemble, [b"no image"])
    except Exception as error:
        return str(error)
    return ""


def main() -> None:
    repository, ensemble, pixels_model, *images = sys.argv[1:]
    files = [Path(image).read_bytes() for image in images]
    result: dict[str, object] = {"configs": parse_configs(Path(repository))}
    ports = free_ports(3)
    with tempfile.TemporaryDirectory() as temporary:
        server = start(Path(repository), Path(temporary), ports)
        try:
            http = http_client.InferenceServerClient(f"127.0.0.1:{ports[0]}")
            grpc = grpc_client.InferenceServerClient(f"127.0.0.1:{ports[1]}")
            wait(http, server, Path(temporary) / "server.log")
            result["loaded"] = sorted(model["name"] for model in http.get_model_repository_index())
            result["http"] = classes(http, http_client, ensemble, files)
            result["grpc"] = classes(grpc, grpc_client, ensemble, files)
            result["pixels"] = [
                classes_of_pixels(http, pixels_model, Path(image)) for image in images
            ]
            result["refusal"] = refusal(http, ensemble)
            http.close()
            grpc.close()
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
    print(json.dumps(result))


def wait(
    client: http_client.InferenceServerClient, server: subprocess.Popen[bytes], log: Path
) -> None:
    for _ in range(START_S):
        try:
            if client.is_server_ready():
                return
        except Exception:  # not listening yet
            pass
        if server.poll() is not None:
            break
        time.sleep(1)
    raise SystemExit(log.read_text()[-4000:])


if __name__ == "__main__":
    main()
