#!/bin/sh
# NVIDIA's entrypoint checks the driver and enables forward compatibility. Its banner goes to
# stderr here, because stdout is for results (`--json`).
nvidia=/opt/nvidia/nvidia_entrypoint.sh
[ -x "$nvidia" ] || exec hvt-deploy "$@"
exec 3>&1
exec "$nvidia" sh -c 'exec "$@" >&3 3>&-' - hvt-deploy "$@" >&2
