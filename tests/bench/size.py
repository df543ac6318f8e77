"""A volume of very many files against one of few: p2pfs alone, and without a mount, through `size` in `volume/examples`."""

import json
import os
import shutil

from lifetime import Failure, tail

FULL = (1_000, 1_000_000)
QUICK = (1_000, 20_000)
ROWS = {
    "open_ms": "open, ms", "first_lookup_us": "two lookups, the first after opening, us",
    "lookup_us": "two lookups in a directory that is in memory, us", "wide_lookup_us": "two lookups anywhere, us",
    "first_list_ms": "list a directory of 1,000, the first after opening, ms",
    "list_ms": "list one again, ms", "wide_list_ms": "list any, ms",
    "create_us": "create, write and close a file of 1 KiB, us",
    "change_ms": "one new file to the other peer, synced by both, ms",
    "early_change_ms": "the same right after the first sync, ms", "first_sync_per_s": "first sync to a new peer, files/s",
    "memory_open_mib": "memory after opening, MiB", "memory_used_mib": "memory after the calls above, MiB",
    "memory_sync_mib": "most memory of both peers in the first sync, MiB",
}
# As a daemon has it (`fs-mount/src/daemon/memory.rs`).
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=128"}
NAME = "size of the volume"


def measure(life, binaries, counts, tell):
    """What was measured, by number of files."""
    results = {}
    program, log = os.path.join(binaries, "examples", "size"), os.path.join(life.folder, "size.log")

    def said(*arguments):
        out = os.path.join(life.folder, "size.out")
        with open(out, "wb") as f:
            process = life.spawn([program, *arguments], log, stdout=f, env={**os.environ, **ALLOCATOR})
        process.wait()
        life.end(process)
        if process.returncode != 0:
            raise Failure(f"size {arguments[0]}: exit {process.returncode}: {tail(log)}")
        with open(out, encoding="ascii") as f:
            return json.load(f)

    for count in counts:
        folder = life.make(f"size-{count}")
        made = said("make", folder, str(count))
        results[count] = {**made, **said("measure", folder), **said("sync", folder)}
        shutil.rmtree(folder)
        tell(f"{count} files: {json.dumps(results[count])}")
    return results
