"""The benchmark: the same work on p2pfs and on the programs beside it, in turns. `./scripts/bench` starts it."""

import argparse
import dataclasses
import json
import os
import sys

import across
import local
import machine
import members
import mounts
import pairs
import report
import size
from lifetime import Failure, Lifetime

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OURS = report.OURS
# What a quick look compares with.
FEW = ["gocryptfs", "plain directory", "syncthing", "rsync over ssh"]


def arguments():
    text = """The same work on p2pfs and on what is installed of gocryptfs, cryfs, encfs, syncthing, rsync, scp and
    rclone, in turns; a table of medians, and a picture of the main ratios. Files of rows with what they compare:
    tests/bench/local.py, across.py, size.py, members.py. Root is needed to drop the kernel's caches."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=text)
    parser.add_argument("--install-peers", action="store_true", help="install the compared programs from Debian first")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round, fewer peers: a look")
    parser.add_argument("--only", metavar="TEXT", help="only rows whose name has this in it")
    parser.add_argument("--rounds", type=int, metavar="N", help="samples of each row (default: 3, with --quick 1)")
    parser.add_argument("--peers", metavar="NAMES", help="compare with these alone, separated by commas; may be empty")
    parser.add_argument("--dir", metavar="FOLDER", help="the disk to measure (default: the one of temporary files)")
    parser.add_argument("--timeout", type=int, default=600, metavar="S", help="for one sample on one machine (600)")
    parser.add_argument("--output", metavar="FOLDER",
                        help="where performance.md and .svg go (default: docs; of a part or a quick look: target/bench)")
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 1 if options.quick else 3
    if options.rounds < 1:
        parser.error("--rounds: at least one")
    known = {**mounts.PEERS, **pairs.PEERS}
    if options.peers is None:
        options.peers = FEW if options.quick else list(known)
    else:
        options.peers = [n for n in options.peers.split(",") if n]
    for name in options.peers:
        if name not in known:
            parser.error(f"--peers: {name}: there are {', '.join(known)}")
    return options


def tell(line):
    print(line, file=sys.stderr, flush=True)


def present(peers, wanted):
    """Those of them that are wanted and installed."""
    for name, peer in peers.items():
        if name in wanted and not peer.is_here():
            tell(f"bench: {name} is left out, it is not installed (--install-peers)")
    return {name: peer for name, peer in peers.items() if name in wanted and peer.is_here()}


def run_local(life, options, binaries):
    sizes = local.QUICK if options.quick else local.FULL
    if not local.chosen(options.only)[1]:
        return [], {}, {}
    places = [mounts.P2pfs(life, OURS, binaries)]
    places += [peer(life, name) for name, peer in present(mounts.PEERS, options.peers).items()]
    for place in places:
        place.create()
        place.start()
    try:
        results, failed = local.measure(places, sizes, options.rounds, options.only, life.make("inputs"),
                                        options.timeout, tell)
    finally:
        for place in places:
            try:
                place.stop()
            except Failure as e:
                tell(f"bench: {e}")
    return [p.name for p in places], results, failed


def run_across(life, options, binaries):
    sizes = across.QUICK if options.quick else across.FULL
    if not across.chosen(options.only)[1]:
        return [], {}, {}
    peers = present(pairs.PEERS, options.peers)

    def make(number):
        def folder(name):
            return f"across-{number}/{name.replace(' ', '-')}"

        ours = pairs.P2pfsPair(life, OURS, folder(OURS), binaries)
        return [ours, *(peer(life, name, folder(name)) for name, peer in peers.items())]

    names = [OURS, *peers]
    return names, *across.measure(make, names, sizes, options.rounds, options.only, tell)


def main():
    options = arguments()
    if options.install_peers:
        machine.install({**machine.NEEDED, **machine.PEERS})
    machine.check()
    machine.own_network()
    own_network = machine.alone_on_loopback()
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(REPOSITORY, "target")
    binaries = os.path.join(target, "release")
    whole = options.only is None and not options.quick
    output = options.output or (os.path.join(REPOSITORY, "docs") if whole else os.path.join(target, "bench"))
    if not machine.is_root():
        tell("bench: without root the kernel's caches stay, and rows called cold are not")
    with Lifetime(options.dir) as life:
        described = machine.describe(life.folder, REPOSITORY, options.peers)
        mount_names, on_one, failed_on_one = run_local(life, options, binaries)
        pair_names, to_another, failed_across = run_across(life, options, binaries)
        failed = {f"{row}, {name}": why for (row, name), why in {**failed_on_one, **failed_across}.items()}
        sized, populated = {}, {}
        if options.only is None or options.only in size.NAME:
            try:
                # Once: a million files take long to make.
                sized = size.measure(life, binaries, size.QUICK if options.quick else size.FULL, tell)
            except Failure as e:
                failed[size.NAME] = str(e)
        if options.only is None or options.only in members.NAME:
            try:
                populated = members.measure(life, binaries, members.QUICK if options.quick else members.FULL, tell)
            except Failure as e:
                failed[members.NAME] = str(e)
        run = {
            "quick": options.quick, "rounds": options.rounds, "options": sys.argv[1:], "root": machine.is_root(),
            "own_network": own_network, "machine": described, "load_at_end": f"{os.getloadavg()[0]:.1f}",
            "mounts": mount_names, "local": on_one, "pairs": pair_names, "across": to_another,
            "across_sizes": dataclasses.asdict(across.QUICK if options.quick else across.FULL),
            "size": sized, "members": populated, "failed": failed,
        }
    if not (on_one or to_another or sized or populated):
        raise Failure(f"no row has {options.only!r} in its name")
    os.makedirs(output, exist_ok=True)
    os.makedirs(os.path.join(target, "bench"), exist_ok=True)
    page = report.page(run)
    for name, text in {"performance.md": page, "performance.svg": report.picture(run)}.items():
        if text is not None:
            with open(os.path.join(output, name), "w", encoding="utf-8") as f:
                f.write(text)
    with open(os.path.join(target, "bench", "samples.json"), "w", encoding="utf-8") as f:
        json.dump(run, f, indent=1)
    print(page)
    tell(f"bench: written to {output}; every sample is in {os.path.join(target, 'bench', 'samples.json')}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as e:
        sys.exit(f"bench: {e}")
