#!/usr/bin/env bash
# A sweep of pruned networks: one `copriv train` for each method, budget and seed, then one report of all.
#
#   scripts/sweep.sh count          how many points there are
#   scripts/sweep.sh list           each point's number and name
#   scripts/sweep.sh run N          trains point N (from 0), or goes on with it where it was interrupted
#   scripts/sweep.sh gather         copriv report over all points so far
#
# With --dry-run after the word it prints the command and does not run it. What to sweep is in the environment:
#
#   CONFIG   configuration                        configs/cifar100_mobilenet_v2_prune.toml
#   DATA     folder of the data set               (copriv's own default)
#   OUT      folder for the runs                  out/sweep
#   METHODS  values of search.method              "copriv dp" (deepreduce, snl and senet in a sweep of their own, with
#                                                 SETTINGS="search.gates=layers")
#   BUDGETS  values of BUDGET_KEY                 "0.75 0.5 0.25"
#   SEEDS    values of seed                       "1"
#   BUDGET_KEY  which limit is swept              search.budget (with another limit, search.budget=1, so that this one binds)
#   SETTINGS further KEY=VALUE settings           ""
#   COPRIV   the program                          copriv
#
# A batch scheduler runs the points: scripts/sweep.slurm (a job array), scripts/sweep-kubernetes.yaml (an indexed Job).
# SIGTERM and SIGINT stop a point in good order; it then exits with 75, and the same command goes on with it.
set -euo pipefail

config=${CONFIG:-configs/cifar100_mobilenet_v2_prune.toml}
out=${OUT:-out/sweep}
copriv=${COPRIV:-copriv}
budget_key=${BUDGET_KEY:-search.budget}
read -ra methods <<< "${METHODS:-copriv dp}"
read -ra budgets <<< "${BUDGETS:-0.75 0.5 0.25}"
read -ra seeds <<< "${SEEDS:-1}"
read -ra settings <<< "${SETTINGS:-}"

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# One line a point: method, budget, seed.
points() {
    local method budget seed
    for method in "${methods[@]}"; do
        for budget in "${budgets[@]}"; do
            for seed in "${seeds[@]}"; do
                echo "$method $budget $seed"
            done
        done
    done
}

name() { # method, budget, seed
    echo "$1-$2-seed$3"
}

# Runs a command that stops at SIGINT; 75 where it was told to.
interruptible() {
    local stopped=0 status=0
    # Job control, for a command in the background would otherwise ignore SIGINT.
    set -m
    "$@" &
    local child=$!
    trap 'stopped=1; kill -INT "$child" 2> /dev/null || true' TERM INT
    wait "$child" || status=$?
    # A signal ends the wait, not the command.
    while kill -0 "$child" 2> /dev/null; do
        wait "$child" || status=$?
    done
    if [ "$stopped" = 1 ]; then status=75; fi
    return "$status"
}

run() { # number, perhaps --dry-run
    local number=$1 line method budget seed folder setting
    line=$(points | sed -n "$((number + 1))p")
    if [ -z "$line" ]; then
        echo "there is no point $number: the sweep has $(points | wc -l)" >&2
        exit 2
    fi
    read -r method budget seed <<< "$line"
    folder=$out/$(name "$method" "$budget" "$seed")
    local command=("$copriv" train "$config" --out "$folder")
    command+=(--set "search.method=$method" --set "$budget_key=$budget" --set "seed=$seed")
    # Every method knows search.budget, and all limits hold: that of the configuration would bind, too.
    case $budget_key in
        search.budget_* | search.threshold) command+=(--set search.budget=1) ;;
    esac
    for setting in "${settings[@]}"; do
        command+=(--set "$setting")
    done
    if [ -n "${DATA:-}" ]; then command+=(--data "$DATA"); fi
    if [ -d "$folder/state" ] || [ -d "$folder/state.old" ]; then command+=(--resume); fi
    if [ "${2:-}" = --dry-run ]; then
        echo "${command[*]}"
    else
        mkdir -p "$out"
        interruptible "${command[@]}"
    fi
}

gather() {
    local command=("$copriv" report "$out" --out "$out/report.html")
    if [ "${1:-}" = --dry-run ]; then echo "${command[*]}"; else "${command[@]}"; fi
}

case ${1:-} in
    count) points | wc -l ;;
    list) points | { number=0; while read -r method budget seed; do
        echo "$number $(name "$method" "$budget" "$seed")"
        number=$((number + 1))
    done; } ;;
    run) [ -n "${2:-}" ] || usage; run "$2" "${3:-}" ;;
    gather) gather "${2:-}" ;;
    *) usage ;;
esac
