#!/usr/bin/env bash
# Executes what is left of PLAN.md with several processes on each card of this machine, until all is done or the time is.
#
#     bash results/large/cards.sh ROWS RUNS CARDS PROCESSES SECONDS [more of run.py's arguments, such as --parts HI]
#
# CARDS of them, with PROCESSES on each. Every process compiles its runs and trains them one after the other; what they
# say stands in RUNS/process-CARD-NUMBER.txt. Each card has an MPS daemon of its own, so that its processes compute at
# the same time. A process that can begin nothing, as others train the masks that it needs, asks again. A process one of
# whose runs fails ends after its call; the script waits for the others, and exits with 1. Ctrl-C ends all of them; what
# they trained goes on at another call.
set -euo pipefail
whole='^[1-9][0-9]*$'
if [ $# -lt 5 ] || ! [[ $3 =~ $whole && $4 =~ $whole && $5 =~ $whole ]]; then
    sed -n '4s/^#  *//p' "$0" >&2
    exit 2
fi
rows=$1 runs=$2 cards=$3 processes=$4 end=$((SECONDS + $5))
shift 5
script=$(dirname "$0")/run.py
for program in nvidia-cuda-mps-control python; do
    if ! command -v $program >/dev/null; then
        echo "$program is not on the PATH; put it there, or start run.py by hand" >&2
        exit 1
    fi
done
IFS=, read -ra places <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((cards - 1)))}" # those that the caller may use
if [ ${#places[@]} -lt "$cards" ]; then
    echo "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES has fewer than $cards cards; give ${#places[@]}" >&2
    exit 2
fi
mkdir -p "$runs"
daemons=$(mktemp -d)
begun=()
set -m # so that each process is in a group of its own, which ends with it
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

stop() {
    for process in $(jobs -pr); do
        kill -- "-$process" 2>/dev/null || true
    done
    wait || true # a daemon with clients does not quit
    for daemon in "$daemons"/*/; do
        CUDA_MPS_PIPE_DIRECTORY=${daemon%/} nvidia-cuda-mps-control <<<quit || true # of one that did not start
    done
    rm -r "$daemons"
}

card() { # its environment
    export CUDA_MPS_PIPE_DIRECTORY=$daemons/$1 CUDA_MPS_LOG_DIRECTORY=$daemons/$1 CUDA_VISIBLE_DEVICES=$2
}

work() {
    export OMP_NUM_THREADS=1
    while left=$((end - SECONDS)) && [ $left -gt 0 ]; do
        said=$(python "$script" "$rows" --runs "$runs" --device cuda --precision bf16 --alone --seconds $left "$@" \
            2>>"$log" | tee -a "$log") || return 1
        [[ $said == *" s, expected "* || $said == *"other processes execute"* ]] || break # nothing is left, or no time
        sleep 10
    done
}

for ((i = 0; i < cards; i++)); do
    mkdir "$daemons/$i"
    (card $i "${places[i]}" && nvidia-cuda-mps-control -d </dev/null)
done
for ((i = 0; i < cards; i++)); do
    for ((n = 0; n < processes; n++)); do
        (card $i 0 && log=$runs/process-$i-$n.txt && work "$@") & # the daemon's card is the only one there
        begun+=($!)
    done
done
failed=0
for process in "${begun[@]}"; do
    wait "$process" || failed=1
done
exit $failed
