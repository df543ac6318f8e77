"""What the kernel tells of processes: time, wake-ups; and of the loopback device."""

import os

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def family(pids):
    """These processes and all that came of them."""
    found, todo = set(), list(pids)
    while todo:
        pid = todo.pop()
        if pid in found:
            continue
        found.add(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as f:
                    todo += map(int, f.read().split())
        except OSError:
            continue
    return found


def ticks(pids):
    """Processor time of a family, of its dead and reaped as well."""
    total = 0
    for pid in family(pids):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
                # After the name, which may hold anything: utime, stime, cutime, cstime are fields 14 to 17.
                total += sum(map(int, f.read().rpartition(")")[2].split()[11:15]))
        except OSError:
            continue
    return total


def seconds(pids):
    return ticks(pids) / TICKS_PER_S


def sleeps(pids):
    """How often each thread of a family went to sleep by itself."""
    counts = {}
    for pid in family(pids):
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/status", encoding="utf-8", errors="replace") as f:
                    counts[task] = sum(int(line.split()[1]) for line in f if line.startswith("voluntary_ctxt"))
        except OSError:
            continue
    return counts


def wake_ups(pids, before):
    """How often a family was woken since `before` (from `sleeps`). What threads did that ended since is not known."""
    return sum(now - before.get(task, 0) for task, now in sleeps(pids).items())


def bytes_on_loopback():
    with open("/proc/net/dev", encoding="ascii") as f:
        line = next(line for line in f if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])
