#!/usr/bin/env bash
# Runs a command on one host of a TPU slice; launch/tpu_vm.py runs it on all of them.
#
#   run_on_host.sh HOSTS COMMAND...
#
# On several hosts it tells JAX who they are, by the variables that msm_jax/parallel/distributed.py reads. It ends with
# a line that names the exit status, since gcloud passes on the status of one host only.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
hosts=$1
shift
export PATH="$PWD/.venv/bin:$PATH"

attribute() {
    curl -sSf --retry 5 -H "Metadata-Flavor: Google" \
        "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

if [ "$hosts" -gt 1 ]; then
    if ! endpoints=$(attribute worker-network-endpoints) || ! number=$(attribute agent-worker-number); then
        echo "launch: host ? exit status 1"
        exit 1
    fi
    # A list of names, or of name:id:address.
    first=${endpoints%%,*}
    export JAX_COORDINATOR_ADDRESS="${first##*:}:8482" JAX_NUM_PROCESSES="$hosts" JAX_PROCESS_ID="$number"
fi

# At shutdown every process gets SIGTERM. With a trap, this shell stays until the command has saved its checkpoint.
trap : TERM INT
"$@"
status=$?
echo "launch: host ${JAX_PROCESS_ID:-0} exit status $status"
exit "$status"
