#!/usr/bin/env python3
"""Draw the accuracy of pruned networks by epoch, a panel for each limit of bytes: docs/training.svg.

Usage: scripts/training_figure.py --unpruned 76.03 docs/runs/* > docs/training.svg

Each argument is the folder of a run that has `search.budget_bytes`: its config.toml and metrics.jsonl.
"""

import argparse
import html
import json
import pathlib
import sys
import tomllib

# Text, grid, and a line for each method, on a light and on a dark page.
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.name { font-weight: 600 } .note { fill: #57606a; font-size: 12px }
line { stroke: #d0d7de } polyline { fill: none; stroke-width: 2 }
.search { stroke-dasharray: 2 4 }
.m0 { stroke: #0969da } .m1 { stroke: #bf8700 } .m2 { stroke: #1a7f37 }
circle.m0 { fill: #0969da } circle.m1 { fill: #bf8700 } circle.m2 { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #8d96a0 } line { stroke: #30363d }
  .m0 { stroke: #4493f8 } .m1 { stroke: #d29922 } .m2 { stroke: #3fb950 }
  circle.m0 { fill: #4493f8 } circle.m1 { fill: #d29922 } circle.m2 { fill: #3fb950 }
}
"""
PANEL, GAP, LEFT, TOP, HEIGHT, BOTTOM = 250, 32, 36, 52, 240, 40


class Run:
    """What a folder says of its run."""

    def __init__(self, folder):
        search = tomllib.loads((folder / "config.toml").read_text())["search"]
        self.method, self.limit = search["method"], search["budget_bytes"]
        records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        epochs = [record for record in records if record["kind"] == "epoch"]
        self.points = [(100 * epoch["top1"], epoch["stage"]) for epoch in epochs]


def panel(runs, methods, x, scale, length):
    """Title, epochs and curves of the runs under one limit."""
    place = lambda number, top1: (x + PANEL * number / length, scale(top1))
    yield f'<text class="name" x="{x}" y="{TOP - 16}">at most {runs[0].limit / 1e9:.2f} GB</text>'
    for number in range(1, length + 1):
        yield f'<text class="note" x="{place(number, 0)[0]:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{number}</text>'
    for run in runs:
        colour = methods.index(run.method)
        spots = [(*place(number, top1), top1, stage) for number, (top1, stage) in enumerate(run.points, 1)]
        for (x1, y1, *_), (x2, y2, _, stage) in zip(spots, spots[1:]):
            yield f'<polyline class="m{colour} {stage}" points="{x1:.1f},{y1:.1f} {x2:.1f},{y2:.1f}"/>'
        for number, (cx, cy, top1, stage) in enumerate(spots, 1):
            about = f"{run.method}, epoch {number} ({stage}): {top1:.1f} %"
            hollow = ' fill-opacity="0.25"' if stage == "search" else ""
            yield f'<circle class="m{colour}" cx="{cx:.1f}" cy="{cy:.1f}" r="4"{hollow}><title>{about}</title></circle>'


def draw(runs, unpruned):
    limits = sorted({run.limit for run in runs}, reverse=True)
    methods = list(dict.fromkeys(run.method for run in runs))
    length = max(len(run.points) for run in runs)
    low = 10 * int(min(top1 for run in runs for top1, _ in run.points) // 10)
    high = 10 * int(-(-max([unpruned, *(top1 for run in runs for top1, _ in run.points)]) // 10))
    scale = lambda top1: TOP + HEIGHT * (high - top1) / (high - low)
    width = LEFT + len(limits) * (PANEL + GAP)

    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HEIGHT + BOTTOM}" role="img">'
    yield "<title>Top-1 on the test images after each epoch, by method and limit of bytes</title>"
    yield f"<style>{STYLE}</style>"
    key = LEFT
    for colour, method in enumerate(methods):
        yield f'<circle class="m{colour}" cx="{key + 4}" cy="10" r="4"/>'
        yield f'<text x="{key + 14}" y="14">{html.escape(method)}</text>'
        key += 26 + 8 * len(method)
    yield f'<text class="note" x="{key + 8}" y="14">pale: in the search; grey: unpruned, {unpruned:g} %</text>'
    for number, limit in enumerate(limits):
        x = LEFT + number * (PANEL + GAP)
        for top1 in range(low, high + 1, 10):
            y = scale(top1)
            yield f'<line x1="{x}" x2="{x + PANEL}" y1="{y:.1f}" y2="{y:.1f}"/>'
            if number == 0:
                yield f'<text class="note" x="{x - 8}" y="{y + 4:.1f}" text-anchor="end">{top1}</text>'
        y = scale(unpruned)
        yield f'<line x1="{x}" x2="{x + PANEL}" y1="{y:.1f}" y2="{y:.1f}" stroke-width="3"/>'
        yield from panel([run for run in runs if run.limit == limit], methods, x, scale, length)
    yield f'<text class="note" x="{LEFT}" y="{TOP + HEIGHT + 34}">epoch</text>'
    yield f'<text class="note" x="0" y="{TOP - 16}">%</text>'
    yield "</svg>"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of runs")
    parser.add_argument("--unpruned", type=float, required=True, help="top-1 of the network before, in %%")
    arguments = parser.parse_args()
    runs = []
    for folder in arguments.runs:
        try:
            runs.append(Run(folder))
        except (OSError, KeyError, ValueError) as error:
            sys.exit(f"{folder}: no run of `copriv train` that has search.budget_bytes ({error!r})")
        if not runs[-1].points:
            sys.exit(f"{folder}: no epoch is complete yet")
    print("\n".join(draw(runs, arguments.unpruned)))


if __name__ == "__main__":
    main()
