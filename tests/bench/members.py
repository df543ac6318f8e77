"""A volume of very many members against one of few: p2pfs alone, and without a mount, through `members` in `volume/examples`."""

import json
import os
import shutil

from lifetime import Failure, tail
from size import ALLOCATOR

FULL = (10, 100, 1_000)
QUICK = (10, 50)
DEVICES = 10
# Of what is done on the owner's device and then tells another replica: title, name in what the program prints.
BOTH = {
    "admit": "admit one more user", "device": "let in one more device", "remove_user": "remove a user with ten devices",
    "remove_device": "remove one's own device", "remove_other_device": "remove another's device",
    "private": "chmod 600, the first", "named": "setfacl for a user, the first", "write": "a new file of 1 KiB",
    "late_write": "the same after those removals",
}
ALONE = {
    "first_sync_s": "a newcomer takes all in, s", "memory_sync_mib": "most memory of both peers in that, MiB",
    "open_ms": "open, ms", "memory_open_mib": "memory after opening, MiB", "meet_ms": "two peers meet again, ms",
    "list_ms": "list the users, ms", "devices_ms": "list the devices, ms",
}
NAME = "members of the volume"


def measure(life, binaries, counts, tell):
    """What was measured, by number of users."""
    results = {}
    program, log = os.path.join(binaries, "examples", "members"), os.path.join(life.folder, "members.log")

    def said(*arguments):
        out = os.path.join(life.folder, "members.out")
        with open(out, "wb") as f:
            process = life.spawn([program, *arguments], log, stdout=f, env={**os.environ, **ALLOCATOR})
        process.wait()
        life.end(process)
        if process.returncode != 0:
            raise Failure(f"members {arguments[0]}: exit {process.returncode}: {tail(log)}")
        with open(out, encoding="ascii") as f:
            return json.load(f)

    for count in counts:
        folder = life.make(f"members-{count}")
        results[count] = {**said("run", folder, str(count)), **said("open", folder)}
        shutil.rmtree(folder)
        tell(f"{count} users: {json.dumps(results[count])}")
    return results
