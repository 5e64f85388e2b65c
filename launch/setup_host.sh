#!/usr/bin/env bash
# Prepares a machine; launch/tpu_vm.py, launch/sky.yaml and launch/ray_cluster.yaml run it on each.
#
#   setup_host.sh [HOST:/EXPORT DIRECTORY | gs://BUCKET/DIRECTORY]
#
# Mounts the export of NFS at /shared, makes DIRECTORY below it, and installs the packages for TPUs, for
# GPUs or for neither into .venv of the checkout, and what buckets need if one is named. The images have Python 3.10,
# therefore uv brings a newer one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ $# -eq 2 ]; then
    # A machine that has just started may still be installing its own updates.
    apt=(sudo apt-get -o DPkg::Lock::Timeout=600 -qq)
    if ! command -v mount.nfs >/dev/null; then
        "${apt[@]}" update
        "${apt[@]}" install -y nfs-common
    fi
    sudo mkdir -p /shared
    mountpoint -q /shared || sudo mount -t nfs -o hard "$1" /shared
    [ -d "$2" ] || sudo mkdir -p -m 1777 "$2"
fi

if [ ! -x .venv/bin/python ]; then
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --python 3.12 .venv
fi
if command -v nvidia-smi >/dev/null; then
    python3 -m uv pip install --quiet --python .venv/bin/python -r requirements.txt "jax[cuda12]"
elif compgen -G "/dev/accel*" >/dev/null || compgen -G "/dev/vfio/*" >/dev/null; then
    python3 -m uv pip install --quiet --python .venv/bin/python -r requirements-tpu.txt
else
    python3 -m uv pip install --quiet --python .venv/bin/python -r requirements.txt
fi
if [ $# -eq 1 ]; then
    python3 -m uv pip install --quiet --python .venv/bin/python --constraint requirements.txt gcsfs
fi
