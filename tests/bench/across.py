"""Getting things across: how long until what was done at A shows at B, whole and the same."""

import dataclasses
import os
import statistics
import sys
import time
from typing import Callable

import processes
from lifetime import Failure

KIB, MIB = 1 << 10, 1 << 20
A_DIRECTORY = 1000
PATIENCE_S = 300
clock = time.perf_counter


@dataclasses.dataclass(frozen=True)
class Sizes:
    big: int
    files: int
    saves: int
    idle_s: int


FULL = Sizes(1024 * MIB, 10000, 50, 20)
QUICK = Sizes(64 * MIB, 2000, 10, 5)


@dataclasses.dataclass(frozen=True)
class Row:
    key: str
    run: Callable
    needs: tuple = ()


class Work:
    """One pair's work in one round."""

    def __init__(self, pair, sizes, data):
        self.pair, self.sizes, self.data = pair, sizes, data
        # Where the big file was changed since, and to what: all pairs share the data.
        self.edit_at, self.edit_page = 0, b""

    def at_a(self, *names):
        return os.path.join(self.pair.a, *names)

    def at_b(self, *names):
        return os.path.join(self.pair.b, *names)

    def until_there(self, change, names, there, pause=0.01):
        """Makes the change; seconds in all, and from its last write on, until B has it."""
        begun = clock()
        change()
        written = clock()
        self.pair.push(names)
        while not self.is_there(there):
            if clock() - written > PATIENCE_S:
                raise Failure(f"not there after {PATIENCE_S} s")
            time.sleep(pause)
        done = clock()
        return {"in_all": done - begun, "after": done - written}

    @staticmethod
    def is_there(there):
        try:
            return there()
        except OSError:
            return False

    def expected(self, at, end):
        """These bytes of the big file."""
        part = self.data[at:end]
        first, last = max(at, self.edit_at), min(end, self.edit_at + len(self.edit_page))
        if first < last:
            part = bytearray(part)
            part[first - at:last - at] = self.edit_page[first - self.edit_at:last - self.edit_at]
        return part

    def big_is_at(self, *names):
        part, at = bytearray(MIB), 0
        with open(self.at_b(*names), "rb", buffering=0) as f:
            while got := f.readinto(part):
                if part[:got] != self.expected(at, at + got):
                    return False
                at += got
        return at == len(self.data)

    # ---- the rows

    def saves(self):
        os.mkdir(self.at_a("saved"))
        self.until_there(lambda: None, ["saved"], lambda: os.path.isdir(self.at_b("saved")))
        self.pair.settle()
        waits = []
        for i in range(self.sizes.saves):
            body = os.urandom(KIB)
            a, b = self.at_a("saved", f"f{i}"), self.at_b("saved", f"f{i}")
            waits.append(self.until_there(lambda: write(a, body), ["saved"], lambda: read(b) == body, 0.001)["after"])
        waits.sort()
        return {"after": statistics.median(waits), "p95": waits[round(0.95 * (len(waits) - 1))]}

    def paths(self):
        for i in range(self.sizes.files):
            yield i, (f"d{i // A_DIRECTORY:02}", f"f{i % A_DIRECTORY:03}")

    def small(self):
        def make():
            os.mkdir(self.at_a("small"))
            for i, (directory, name) in self.paths():
                if i % A_DIRECTORY == 0:
                    os.mkdir(self.at_a("small", directory))
                write(self.at_a("small", directory, name), self.data[i * KIB:(i + 1) * KIB])

        def there():
            # The newest first: what is not there yet is told soon.
            return all(read(self.at_b("small", *path)) == self.data[i * KIB:(i + 1) * KIB]
                       for i, path in reversed(list(self.paths())))

        return self.until_there(make, ["small"], there, 0.02)

    def big(self):
        def make():
            with open(self.at_a("big"), "wb", buffering=0) as f:
                for at in range(0, len(self.data), MIB):
                    f.write(self.data[at:at + MIB])

        return self.until_there(make, ["big"], lambda: os.stat(self.at_b("big")).st_size == len(self.data)
                                and self.big_is_at("big"))

    def edit(self):
        at, page = len(self.data) // 2 + 4 * KIB, os.urandom(4 * KIB)
        self.edit_at, self.edit_page = at, page

        def change():
            fd = os.open(self.at_a("big"), os.O_WRONLY)
            os.pwrite(fd, page, at)
            os.close(fd)

        def there():
            fd = os.open(self.at_b("big"), os.O_RDONLY)
            try:
                return os.pread(fd, len(page), at) == page
            finally:
                os.close(fd)

        result = self.until_there(change, ["big"], there)
        if not self.big_is_at("big"):
            raise Failure("the rest of the file is not what it was")
        return result

    def rename_big(self):
        def there():
            return os.stat(self.at_b("bigger")).st_size == len(self.data) and not os.path.exists(self.at_b("big"))

        result = self.until_there(lambda: os.rename(self.at_a("big"), self.at_a("bigger")), ["bigger"], there)
        if not self.big_is_at("bigger"):
            raise Failure("the renamed file is not what it was")
        return result

    def rename_directory(self):
        def there():
            return (len(os.listdir(self.at_b("small", "renamed"))) == A_DIRECTORY
                    and not os.path.exists(self.at_b("small", "d00")))

        return self.until_there(lambda: os.rename(self.at_a("small", "d00"), self.at_a("small", "renamed")),
                                ["small"], there)

    def remove(self):
        def change():
            for directory in os.listdir(self.at_a("small")):
                for name in os.listdir(self.at_a("small", directory)):
                    os.unlink(self.at_a("small", directory, name))
                os.rmdir(self.at_a("small", directory))
            os.rmdir(self.at_a("small"))

        return self.until_there(change, [], lambda: not os.path.lexists(self.at_b("small")))


def write(path, body):
    with open(path, "wb", buffering=0) as f:
        f.write(body)


def read(path):
    with open(path, "rb", buffering=0) as f:
        return f.read()


ROWS = [
    Row("a saved file of 1 KiB", Work.saves),
    Row("many files of 1 KiB", Work.small),
    Row("big file", Work.big),
    Row("4 KiB changed in it", Work.edit, ("big file",)),
    Row("renamed file", Work.rename_big, ("big file",)),
    Row("renamed directory", Work.rename_directory, ("many files of 1 KiB",)),
    Row("removed files", Work.remove, ("many files of 1 KiB",)),
]
IDLE = "idle"


def chosen(only):
    if only is None:
        return ROWS, {r.key for r in ROWS} | {IDLE}
    wanted = {key for key in [*(r.key for r in ROWS), IDLE] if only in key}
    needed = wanted | {need for r in ROWS if r.key in wanted for need in r.needs}
    return [r for r in ROWS if r.key in needed], wanted


def measure_row(row, work):
    """The row's figures, with both sides' processor time until they rest, and the bytes until B has it."""
    pair = work.pair
    before, sent = pair.seconds(), processes.bytes_on_loopback()
    result = row.run(work)
    result["bytes"] = processes.bytes_on_loopback() - sent
    pair.settle()
    result["cpu_a"], result["cpu_b"] = (now - then for now, then in zip(pair.seconds(), before, strict=True))
    return result


def measure_idle(pairs, seconds):
    """Of pairs that go on by themselves, all during the same time."""
    pids = {p.name: [pid for side in p.sides() for pid in side] for p in pairs}
    time.sleep(5)
    before = {n: (processes.ticks(ids), processes.sleeps(ids)) for n, ids in pids.items()}
    time.sleep(seconds)
    return {n: {"ticks": processes.ticks(ids) - before[n][0],
                "wake_ups": processes.wake_ups(ids, before[n][1]) / seconds, "seconds": seconds}
            for n, ids in pids.items()}


def measure(make_pairs, names, sizes, rounds, only, tell):
    """Results by row and pair, and what failed. `make_pairs(round)` makes new pairs."""
    rows, reported = chosen(only)
    results = {key: {n: [] for n in names} for key in [*(r.key for r in ROWS), IDLE] if key in reported}
    failed = {}
    if not results:
        return results, failed
    data = os.urandom(max(sizes.big, sizes.files * KIB))[:sizes.big]
    for number in range(rounds):
        pairs = make_pairs(number)
        works, spoilt = {}, {n: set() for n in names}
        for pair in pairs:
            try:
                pair.start()
                works[pair.name] = Work(pair, sizes, data)
            except Failure as e:
                failed.setdefault(("start", pair.name), str(e))
                print(f"bench: {pair.name}: {e}", file=sys.stderr)
        order = list(works) if number % 2 == 0 else list(works)[::-1]
        for row in rows:
            for n in order:
                if row.key in works[n].pair.cannot or spoilt[n] & set(row.needs):
                    continue
                os.sync()
                try:
                    result = measure_row(row, works[n])
                except (Failure, OSError) as e:
                    spoilt[n].add(row.key)
                    failed.setdefault((row.key, n), str(e))
                    print(f"bench: {row.key}, {n}: {e}", file=sys.stderr)
                    continue
                if row.key in reported:
                    results[row.key][n].append(result)
            if row.key in reported:
                said = ", ".join(f"{n} {v[-1]['after']:.4g}" for n, v in results[row.key].items() if v)
                tell(f"round {number + 1}/{rounds}: across, {row.key} (s): {said}")
        if IDLE in reported:
            for n, result in measure_idle([w.pair for w in works.values() if w.pair.goes_on], sizes.idle_s).items():
                results[IDLE][n].append(result)
                tell(f"round {number + 1}/{rounds}: idle: {n} {result['ticks']} ticks, {result['wake_ups']:.1f}/s")
        for pair in pairs:
            pair.stop()
    return results, failed
