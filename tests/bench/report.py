"""What was measured, as a page and as a picture."""

import math
import shlex
import statistics
from xml.sax.saxutils import escape

import members
import size
from across import IDLE
from local import ROWS as LOCAL_ROWS

OURS, MEASURE, SYNC = "p2pfs", "gocryptfs", "syncthing"
LESS_IS_BETTER = {r.name: r.less_is_better for r in LOCAL_ROWS}
UNITS = {r.name: r.unit for r in LOCAL_ROWS}


def number(x):
    if x == 0:
        return "0"
    if x >= 99.95:
        return f"{x:,.0f}"
    return f"{x:.1f}" if x >= 9.995 else f"{x:.2f}" if x >= 0.9995 else f"{x:.3f}"


def median(samples, key=None):
    values = [s[key] for s in samples if key in s] if key else samples
    return statistics.median(values) if values else None


def table(header, lines):
    columns = "|---|" + "---:|" * (len(header) - 1)
    return ["| " + " | ".join(header) + " |", columns, *("| " + " | ".join(line) + " |" for line in lines), ""]


def times_better(row, ours, other):
    return other / ours if LESS_IS_BETTER[row] else ours / other


def local_part(run):
    names = run["mounts"]
    base = MEASURE if MEASURE in names else names[0]
    lines = []
    for row, samples in run["local"].items():
        medians = {n: median(samples[n]) for n in names}
        cells = [f"{row}, {UNITS[row]}"]
        for n in names:
            if medians[n] is None:
                cells.append("failed" if f"{row}, {n}" in run["failed"] else "")
                continue
            cell = number(medians[n])
            if n != base and medians[base]:
                cell += f" ({number(times_better(row, medians[n], medians[base]))})"
            cells.append(cell)
        lines.append(cells)
    return [
        "## On one machine", "",
        f"In brackets: how many times better than {base}, whichever way the unit points; below 1 is worse. Cold: the daemon",
        "was started again and the kernel's caches were dropped" +
        ("." if run["root"] else ", or would have been: this run had no right to drop them."), "",
        *table(["", *names], lines),
    ]


def across_part(run):
    names = run["pairs"]
    rows = {row: samples for row, samples in run["across"].items() if row != IDLE}
    sizes = run["across_sizes"]
    titles = {"many files of 1 KiB": f"{sizes['files']:,} files of 1 KiB", "big file": f"a file of {sizes['big'] >> 20:,} MiB",
              "renamed file": "its rename", "renamed directory": "rename of a directory of 1,000",
              "removed files": f"removal of the {sizes['files']:,}"}
    part = ["## From one machine to another", "",
            "Both are this machine, and loopback is between them. A time ends when B has read everything and it is the same."
            if run["own_network"] else
            "Both are this machine, and loopback is between them, which others used as well. A time ends when B has read "
            "everything and it is the same.", ""]

    def lines(cell):
        return [[titles.get(row, row), *(cell(row, samples[n]) if samples[n] else "" for n in names)]
                for row, samples in rows.items()]

    def times(_, samples):
        if "p95" in samples[0]:
            return f"{number(median(samples, 'after'))} (95 % within {number(median(samples, 'p95'))})"
        return f"{number(median(samples, 'after'))} ({number(median(samples, 'in_all'))})"

    if rows:
        part += ["Seconds from the last write, in brackets from the first:", "", *table(["", *names], lines(times))]
        part += ["Processor seconds of A + B, until both have nothing more to do:", "", *table(["", *names], lines(
            lambda _, s: f"{number(median(s, 'cpu_a'))} + {number(median(s, 'cpu_b'))}"))]
        part += ["MiB over loopback, in both directions and with all headers:", "", *table(["", *names], lines(
            lambda _, s: number(median(s, "bytes") / (1 << 20))))]
    idle = {n: s for n, s in run["across"].get(IDLE, {}).items() if s}
    if idle:
        seconds = next(iter(idle.values()))[0]["seconds"]
        part += ["Both sides together, with nothing to do, after the rows before:", "", *table(
            ["", *idle], [[f"processor ticks of 10 ms in {seconds} s", *(number(median(s, "ticks")) for s in idle.values())],
                          ["wake-ups in a second", *(number(median(s, "wake_ups")) for s in idle.values())]])]
    return part


def size_part(run):
    counts = list(run["size"])
    lines = [[title, *(number(run["size"][c][key]) for c in counts)] for key, title in size.ROWS.items()]
    return ["## The size of a volume", "",
            "p2pfs alone, measured once, through the volume's own calls: no kernel and no network. Files of 1 KiB, 1,000 to a directory. "
            "Memory is one replica's.", "",
            *table(["", *(f"{c:,} files" for c in counts)], lines)]


def members_part(run):
    counts = list(run["members"])
    titles = [f"{c:,} users, {c * members.DEVICES:,} devices" for c in counts]

    def figures(result, name):
        return f"{number(result[f'{name}_ms'])} + {number(result[f'{name}_there_ms'])}"

    both = [[title, *(figures(run["members"][c], name) for c in counts)] for name, title in members.BOTH.items()]
    sent = [[f"{title}, KiB", *(number(run["members"][c][f"{name}_bytes"] / 1024) for c in counts)]
            for name, title in members.BOTH.items() if name in ("admit", "remove_user", "write")]
    alone = [[title, *(number(run["members"][c][key]) for c in counts)] for key, title in members.ALONE.items()]
    return ["## Many members", "",
            "p2pfs alone, through the volume's own calls, on this disk. Each device has signed a commit, and one user was removed before "
            "the others came. Milliseconds on the owner's device, synced, and at another replica that takes it in, synced:", "",
            *table(["", *titles], both),
            "What is sent for it, and the rest:", "", *table(["", *titles], sent + alone)]


def page(run):
    machine = run["machine"]
    text = ["# Performance", ""]
    if run["quick"]:
        text += ["**A quick look with small sizes: it shows that the benchmark runs, not what p2pfs does.**", ""]
    text += [
        f"Written by `{shlex.join(['./scripts/bench', *run['options']])}`. Figures are medians of {run['rounds']} "
        f"round{'s' if run['rounds'] > 1 else ''}; the programs take turns in each row, in the other order in every second",
        "round. Figures of different runs are not to be compared: ratios within one are.", "",
        *table(["", ""], [[k, machine[k]] for k in ("date", "processor", "memory", "disk", "kernel")]
               + [["load average at the start, at the end", f"{machine['load']}, {run['load_at_end']}"]]),
        machine["versions"] + ".", "",
        "In a virtual machine of up to four processors whose kernel halts idle ones at once, p2pfs run by root has them poll while",
        "programs make quick calls (ARCHITECTURE.md, Locks and threads). Elsewhere names and small files may take up to twice as long.", "",
    ]
    if run["local"]:
        text += local_part(run)
    if run["across"]:
        text += across_part(run)
    if run["size"]:
        text += size_part(run)
    if run["members"]:
        text += members_part(run)
    if run["failed"]:
        text += ["## What failed", "", *(f"- {what}: {why}" for what, why in run["failed"].items()), ""]
    return "\n".join(text).rstrip() + "\n"


# ---- the picture

def ratios(run):
    """Groups of (title, how many times better than the other)."""
    groups = []
    local = []
    for row, samples in run["local"].items():
        ours, other = median(samples.get(OURS, [])), median(samples.get(MEASURE, []))
        if ours and other:
            local.append((row, times_better(row, ours, other)))
    if local:
        groups.append((f"On one machine, beside {MEASURE}", local))
    across = []
    for row, samples in run["across"].items():
        if row != IDLE:
            key = "after" if row != "big file" else "in_all"
            ours, other = median(samples.get(OURS, []), key), median(samples.get(SYNC, []), key)
            if ours and other:
                across.append((row, other / ours))
    if across:
        groups.append((f"To another machine, beside {SYNC.capitalize()}", across))
    return groups


def picture(run):
    """Bars to the right of the middle where p2pfs is better, to the left where it is worse; each line is ten times."""
    groups = ratios(run)
    if not groups:
        return None
    label, width, line, top = 330, 800, 20, 30
    low = min(-0.5, *(math.log10(r) for _, rows in groups for _, r in rows))
    high = max(0.5, *(math.log10(r) for _, rows in groups for _, r in rows))
    room = width - label - 110  # for the figures at both ends

    def x(power):
        return label + 55 + room * (power - low) / (high - low)

    height = top + sum(line * (len(rows) + 2) for _, rows in groups) + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
           'font-family="sans-serif" font-size="12">',
           "<title>How many times better or worse p2pfs does than the programs beside it</title>",
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
           f'<text x="10" y="20" fill="#555555">Times better (right) or worse (left) than the program beside it, medians'
           f'{" of a quick look" if run["quick"] else ""}; {escape(run["machine"]["date"])}</text>']
    for power in range(math.ceil(low), math.floor(high) + 1):
        colour = "#888888" if power == 0 else "#dddddd"
        out.append(f'<line x1="{x(power):.1f}" x2="{x(power):.1f}" y1="{top}" y2="{height - 5}" stroke="{colour}"/>')
    y = top
    for title, rows in groups:
        y += line
        out.append(f'<text x="10" y="{y}" font-weight="bold" fill="#222222">{escape(title)}</text>')
        for name, ratio in rows:
            y += line
            ends = sorted((x(0), x(math.log10(ratio))))
            better = ratio >= 1
            out.append(f'<text x="{label}" y="{y}" text-anchor="end" fill="#222222">{escape(name)}</text>')
            out.append(f'<rect x="{ends[0]:.1f}" y="{y - 11}" width="{max(ends[1] - ends[0], 1):.1f}" height="14" '
                       f'fill="{"#2f7d5b" if better else "#c2703d"}"/>')
            place = f'x="{ends[1] + 4:.1f}"' if better else f'x="{ends[0] - 4:.1f}" text-anchor="end"'
            out.append(f'<text {place} y="{y}" fill="#222222">{number(ratio)}</text>')
        y += line
    return "\n".join([*out, "</svg>"]) + "\n"
