#!/usr/bin/env python3
"""Draw the table that scripts/cost_table.sh prints: docs/costs.svg.

Usage: scripts/cost_table.sh | scripts/cost_figure.py > docs/costs.svg
       sed -n '/^| network/,/^$/p' README.md | scripts/cost_figure.py > docs/costs.svg
"""

import html
import math
import sys

# Text, grid, and a bar for each row of a network, on a light and on a dark page.
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.name { font-weight: 600 } .note { fill: #57606a; font-size: 12px }
line { stroke: #d0d7de }
.b0 { fill: #8c959f } .b1 { fill: #bf8700 } .b2 { fill: #1a7f37 } .b3 { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #8d96a0 } line { stroke: #30363d }
  .b0 { fill: #6e7681 } .b1 { fill: #d29922 } .b2 { fill: #3fb950 } .b3 { fill: #4493f8 }
}
"""
WIDTH, LEFT, RIGHT = 860, 130, 170
BAR, GAP, TITLE = 16, 5, 30
BOTTOM = 34


def rows(lines):
    """Network, way, gigabytes offline and online, of each row of the table."""
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 5 and cells[2].endswith("GB"):
            offline, online = (float(cell.removesuffix("GB")) for cell in cells[2:4])
            yield cells[0], cells[1].replace("`", ""), offline, online


def amount(gigabytes):
    """In the unit in which people would say it."""
    return f"{gigabytes:.2f} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.3g} MB"


def draw(table):
    networks = list(dict.fromkeys(row[0] for row in table))
    totals = [offline + online for _, _, offline, online in table]
    low, high = (round_(math.log10(total)) for round_, total in
                 ((math.floor, min(totals)), (math.ceil, max(totals))))
    scale = (WIDTH - LEFT - RIGHT) / (high - low)
    height = len(networks) * (TITLE + GAP) + len(table) * (BAR + GAP) + BOTTOM
    position = lambda gigabytes: LEFT + (math.log10(gigabytes) - low) * scale

    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    yield "<title>Bytes of one private inference, offline and online together, on a logarithmic scale</title>"
    yield f"<style>{STYLE}</style>"
    for power in range(low, high + 1):
        x = LEFT + (power - low) * scale
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TITLE - 6}" y2="{height - BOTTOM}"/>'
        label = f"{10 ** power} GB" if power >= 0 else f"{10 ** (power + 3)} MB"
        yield f'<text class="note" x="{x:.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{label}</text>'
    y = 0
    for network in networks:
        y += TITLE
        yield f'<text class="name" x="0" y="{y - 9}">{html.escape(network)}</text>'
        for place, (_, way, offline, online) in enumerate(row for row in table if row[0] == network):
            end = position(offline + online)
            yield f'<text x="{LEFT - 10}" y="{y + 12.5}" text-anchor="end">{html.escape(way)}</text>'
            yield (f'<rect class="b{place % 4}" x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR}" rx="2">'
                   f"<title>{amount(offline)} offline, {amount(online)} online</title></rect>")
            yield (f'<text class="note" x="{end + 6:.1f}" y="{y + 12.5}">'
                   f"{amount(offline)} + {amount(online)}</text>")
            y += BAR + GAP
        y += GAP
    yield "</svg>"


def main():
    table = list(rows(sys.stdin))
    if not table:
        sys.exit("no rows: give the table of scripts/cost_table.sh on standard input")
    print("\n".join(draw(table)))


if __name__ == "__main__":
    main()
