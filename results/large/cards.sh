#!/usr/bin/env bash
# Executes what is left of PLAN.md with several processes on each card of this machine, until all is done or the time is.
#
#     bash results/large/cards.sh ROWS RUNS CARDS PROCESSES SECONDS [more of run.py's arguments, such as --parts HI]
#
# CARDS of them, with PROCESSES on each. Every process compiles its runs and trains them one after the other; what they
# say stands in RUNS/process-CARD-NUMBER.txt. Each card has an MPS daemon of its own, so that its processes compute at
# the same time. A process that can begin nothing, as others train the masks that it needs, asks again. One of whose runs
# fails ends, and the script, once all have, with exit code 1. Ctrl-C ends all; what they trained goes on at another call.
set -euo pipefail
whole='^[1-9][0-9]*$'
if [ $# -lt 5 ] || ! [[ $3 =~ $whole && $4 =~ $whole && $5 =~ $whole ]]; then
    sed -n '4s/^#  *//p' "$0" >&2
    exit 2
fi
if ! command -v nvidia-cuda-mps-control >/dev/null; then
    echo "nvidia-cuda-mps-control is not on the PATH; it comes with the driver, or start run.py yourself" >&2
    exit 1
fi
rows=$1 runs=$2 cards=$3 processes=$4 end=$((SECONDS + $5))
shift 5
script=$(dirname "$0")/run.py
mkdir -p "$runs"
daemons=$(mktemp -d)
trap 'trap "" TERM; kill 0; wait' INT TERM # bash lets processes in the background ignore Ctrl-C
trap stop EXIT

stop() {
    for daemon in "$daemons"/*/; do
        CUDA_MPS_PIPE_DIRECTORY=${daemon%/} nvidia-cuda-mps-control <<<quit || true # of one that did not start
    done
    rm -r "$daemons"
}

card() { # its environment, in which it is the only one
    export CUDA_MPS_PIPE_DIRECTORY=$daemons/$1 CUDA_MPS_LOG_DIRECTORY=$daemons/$1
}

work() {
    export CUDA_VISIBLE_DEVICES=0 OMP_NUM_THREADS=1
    while left=$((end - SECONDS)) && [ $left -gt 0 ]; do
        said=$(python "$script" "$rows" --runs "$runs" --device cuda --precision bf16 --alone --seconds $left "$@" |
            tee -a "$log") 2>>"$log" || return 1
        [ -n "$said" ] || break # nothing is left
        sleep 10
    done
}

for ((i = 0; i < cards; i++)); do
    mkdir "$daemons/$i"
    (card $i && CUDA_VISIBLE_DEVICES=$i nvidia-cuda-mps-control -d)
    for ((n = 0; n < processes; n++)); do
        (card $i && log=$runs/process-$i-$n.txt && work "$@") &
    done
done
failed=0
for process in $(jobs -p); do
    wait "$process" || failed=1
done
exit $failed
