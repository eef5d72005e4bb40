#!/usr/bin/env bash
# Prints what private inference costs, to the byte: README's table. Takes no data; weights are random, for cost does not depend on
# them. Usage: scripts/cost_table.sh [COPRIV_BINARY]
set -euo pipefail

copriv=${1:-target/release/copriv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

row() { # network, width, description, mask or "whole"
    local network=$1 width=$2 description=$3 mask=$4 preset
    "$copriv" -q init --network "$network" --width "$width" --out "$work/whole"
    if [ "$mask" = whole ]; then
        cp "$work/whole" "$work/net"
    else
        "$copriv" -q prune "$work/whole" --mask "$mask" --out "$work/net"
    fi
    "$copriv" -q fuse "$work/net" --out "$work/fused"
    for setting in "cryptflow2 ot" "copriv ot" "fast ot" "fast lattice"; do
        read -r preset correlation <<< "$setting"
        "$copriv" -q compile "$work/fused" --out "$work/plan" --preset "$preset" --set head_room=1 --set "correlation=$correlation" --set lattice=hint
        "$copriv" inspect "$work/plan" --json | python3 -c '
import json, sys
description, preset, correlation = sys.argv[1:]
total = json.load(sys.stdin)["total"]
def gigabytes(phase):
    return (total[phase]["server_to_client"] + total[phase]["client_to_server"]) / 1e9
offline, online, rounds = gigabytes("offline"), gigabytes("online"), total["online"]["rounds"]
how = f"`{preset}`" + ({"ot": ", OT", "lattice": ", lattice"}[correlation] if preset == "fast" else "")
print(f"| {description} | {how} | {offline:.3f} GB | {online:.4f} GB | {rounds} |")
' "$description" "$preset" "$correlation"
    done
}

echo "| network, 32x32, 100 classes | preset | offline | online | online rounds |"
echo "|---|---|---|---|---|"
row mobilenet_v2 1.0 "MobileNetV2 x1.0" whole
row mobilenet_v2 1.0 "MobileNetV2 x1.0, half of the blocks fused" 01010101010101010
row mobilenet_v2 1.0 "MobileNetV2 x1.0, all 17 blocks fused" 00000000000000000
row resnet18 1.0 "ResNet-18" whole
