"""Work on one machine: the same on every file system that is compared, one sample of each in turn."""

import dataclasses
import io
import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from typing import Callable

from lifetime import Failure, die_with_parent

KIB, MIB = 1 << 10, 1 << 20
PAGE = 4 * KIB
clock = time.perf_counter


@dataclasses.dataclass(frozen=True)
class Sizes:
    big: int  # bytes of the big file
    random: int  # calls of random reads and writes
    fsyncs: int
    appends: int
    opens: int
    saves: int
    inserts: int
    files: int
    tree: int  # files of the tree that is unpacked


FULL = Sizes(1024 * MIB, 16384, 256, 20000, 20000, 200, 1000, 10000, 20000)
QUICK = Sizes(64 * MIB, 2048, 32, 2000, 2000, 20, 50, 1000, 1000)
A_DIRECTORY = 100  # files in one of the small files' directories


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    unit: str
    run: Callable
    needs: tuple  # names of rows that must have run
    cold: bool

    @property
    def less_is_better(self):
        return self.unit in ("s", "us", "ms")


ROWS = []


def row(name, unit, needs=(), cold=False):
    def add(function):
        ROWS.append(Row(name + (", cold" if cold else ""), unit, function, tuple(needs), cold))
        return function

    return add


class Place:
    """A folder on one of the file systems, and what is to be written there."""

    def __init__(self, root, sizes, data, tarball, seed):
        self.root, self.sizes, self.data, self.tarball, self.seed = root, sizes, data, tarball, seed

    def at(self, *names):
        return os.path.join(self.root, *names)

    def small(self, letter="f"):
        """The paths of the small files."""
        for i in range(self.sizes.files):
            yield self.at("small", f"d{i // A_DIRECTORY:03}", f"{letter}{i % A_DIRECTORY:03}")

    def offsets(self, count, size):
        places = random.Random(self.seed).choices(range(size // PAGE), k=count)
        return [place * PAGE for place in places]


def timed(command, **options):
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    begun = clock()
    done = subprocess.run(command, check=False, **options)
    took = clock() - begun
    if done.returncode != 0:
        raise Failure(f"{command[0]}: exit {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}")
    return took


# ---- one big file

BIG = "sequential write, fsync"


@row(BIG, "MiB/s")
def write_big(p):
    begun = clock()
    fd = os.open(p.at("big"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for at in range(0, p.sizes.big, MIB):
        os.write(fd, p.data[at:at + MIB])
    os.fsync(fd)
    os.close(fd)
    return p.sizes.big / MIB / (clock() - begun)


def read_big(p, compare=False):
    part, at = bytearray(MIB), 0
    begun = clock()
    fd = os.open(p.at("big"), os.O_RDONLY)
    while got := os.readv(fd, [part]):
        if compare and part[:got] != p.data[at:at + got]:
            raise Failure("what was read is not what was written")
        at += got
    os.close(fd)
    if at != p.sizes.big:
        raise Failure(f"{at} bytes were read of {p.sizes.big}")
    return p.sizes.big / MIB / (clock() - begun)


@row("sequential read", "MiB/s", [BIG], cold=True)
def read_big_cold(p):
    return read_big(p)


@row("sequential read, warm", "MiB/s", [BIG])
def read_big_warm(p):
    read_big(p, compare=True)
    return read_big(p)


@row("random read 4 KiB", "calls/s", [BIG], cold=True)
def random_read(p):
    places = p.offsets(p.sizes.random, p.sizes.big)
    fd = os.open(p.at("big"), os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    begun = clock()
    for at in places:
        os.pread(fd, PAGE, at)
    took = clock() - begun
    os.close(fd)
    return len(places) / took


def random_writes(p, count, each):
    places = p.offsets(count, p.sizes.big)
    page = os.urandom(PAGE)
    fd = os.open(p.at("big"), os.O_RDWR)
    begun = clock()
    for at in places:
        os.pwrite(fd, page, at)
        if each:
            os.fsync(fd)
    os.fsync(fd)
    took = clock() - begun
    os.close(fd)
    return count / took


@row("random write 4 KiB, fsync at the end", "calls/s", [BIG])
def random_write(p):
    return random_writes(p, p.sizes.random, each=False)


@row("random write 4 KiB, fsync each", "calls/s", [BIG])
def random_write_fsync(p):
    return random_writes(p, p.sizes.fsyncs, each=True)


def mixed_job(p, number, count):
    size = p.sizes.big // 8
    dice = random.Random(p.seed * 2 + number)
    page = os.urandom(PAGE)
    fd = os.open(p.at(f"mixed{number}"), os.O_RDWR)
    for _ in range(count):
        at = dice.randrange(size // PAGE) * PAGE
        if dice.random() < 0.7:
            os.pread(fd, PAGE, at)
        else:
            os.pwrite(fd, page, at)
    os.fsync(fd)
    os.close(fd)


MIXED = "two files for two jobs"


@row(MIXED, "")
def make_mixed(p):
    for number in range(2):
        with open(p.at(f"mixed{number}"), "wb") as f:
            f.write(p.data[:p.sizes.big // 8])
            f.flush()
            os.fsync(f.fileno())


@row("two jobs, 70 % reads, 30 % writes of 4 KiB", "calls/s", [MIXED], cold=True)
def two_jobs(p):
    count = p.sizes.random // 4
    begun = clock()
    jobs = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                mixed_job(p, number, count)
                status = 0
            finally:
                os._exit(status)
        jobs.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in jobs):
        raise Failure("a job failed")
    return 2 * count / (clock() - begun)


# ---- small writes

LOG = "append 128 B"


@row(LOG, "calls/s")
def append(p):
    line = os.urandom(128)
    begun = clock()
    fd = os.open(p.at("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for _ in range(p.sizes.appends):
        os.write(fd, line)
    os.close(fd)
    took = clock() - begun
    if os.stat(p.at("log")).st_size != 128 * p.sizes.appends:
        raise Failure("lines are missing")
    return p.sizes.appends / took


@row("open and close", "us", [LOG])
def open_close(p):
    path = p.at("log")
    begun = clock()
    for _ in range(p.sizes.opens):
        os.close(os.open(path, os.O_RDONLY))
    return (clock() - begun) / p.sizes.opens * 1e6


@row("save: write temporary, fsync, rename over", "saves/s")
def save(p):
    body = os.urandom(8 * KIB)
    begun = clock()
    for _ in range(p.sizes.saves):
        fd = os.open(p.at("document.new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, body)
        os.fsync(fd)
        os.close(fd)
        os.rename(p.at("document.new"), p.at("document"))
    return p.sizes.saves / (clock() - begun)


def inserts(p, journal):
    database = sqlite3.connect(p.at(f"{journal}.db"), isolation_level=None)
    if database.execute(f"pragma journal_mode={journal}").fetchone()[0] != journal:
        raise Failure(f"SQLite cannot have a {journal} journal here")
    database.execute("create table t(i integer primary key, b text)")
    begun = clock()
    for i in range(p.sizes.inserts):
        database.execute("insert into t values(?, ?)", (i, "x" * 100))
    took = clock() - begun
    if database.execute("pragma integrity_check").fetchone()[0] != "ok":
        raise Failure("the database is damaged")
    database.close()
    return p.sizes.inserts / took


@row("SQLite inserts, rollback journal", "inserts/s")
def sqlite_delete(p):
    return inserts(p, "delete")


@row("SQLite inserts, WAL", "inserts/s")
def sqlite_wal(p):
    return inserts(p, "wal")


# ---- many small files

SMALL = "create files of 1 KiB"


@row(SMALL, "files/s")
def create(p):
    begun = clock()
    os.mkdir(p.at("small"))
    for i, path in enumerate(p.small()):
        if i % A_DIRECTORY == 0:
            os.mkdir(os.path.dirname(path))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, p.data[i:i + KIB])
        os.close(fd)
    return p.sizes.files / (clock() - begun)


@row("stat all", "files/s", [SMALL], cold=True)
def stat_all(p):
    begun = clock()
    for path in p.small():
        os.stat(path)
    return p.sizes.files / (clock() - begun)


@row("ls -lR", "s", [SMALL], cold=True)
def list_all(p):
    return timed(["ls", "-lR", p.at("small")])


@row("du", "s", [SMALL], cold=True)
def du(p):
    return timed(["du", "-s", p.at("small")])


@row("read all", "files/s", [SMALL], cold=True)
def read_all(p):
    begun = clock()
    for i, path in enumerate(p.small()):
        fd = os.open(path, os.O_RDONLY)
        body = os.read(fd, 2 * KIB)
        os.close(fd)
        if body != p.data[i:i + KIB]:
            raise Failure("what was read is not what was written")
    return p.sizes.files / (clock() - begun)


RENAMED = "rename all"


@row(RENAMED, "files/s", [SMALL])
def rename_all(p):
    begun = clock()
    for old, new in zip(p.small(), p.small("g"), strict=True):
        os.rename(old, new)
    return p.sizes.files / (clock() - begun)


@row("remove all", "files/s", [SMALL])
def remove_all(p):
    return p.sizes.files / timed(["rm", "-r", p.at("small")])


# ---- a source tree

TREE = "untar a source tree"
ADDED = "git add"


@row(TREE, "s")
def untar(p):
    os.mkdir(p.at("tree"))
    return timed(["tar", "-xf", p.tarball, "-C", p.at("tree")])


def git(p, *arguments):
    environment = dict(os.environ, GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM="1")
    return timed(["git", "-c", "safe.directory=*", "-c", "gc.auto=0", "-C", p.at("tree"), *arguments], env=environment)


@row(ADDED, "s", [TREE])
def git_add(p):
    git(p, "init", "-q")
    return git(p, "add", "-A")


@row("git status", "s", [ADDED, TREE], cold=True)
def git_status(p):
    return git(p, "status", "--porcelain")


WORDS = "let mut self return match struct impl fn use pub crate error result option string vec the of and to in".split()


def make_tarball(path, files):
    """The same tree in every run: text, with sizes spread as in source code."""
    dice = random.Random(20)
    longest = 400_000
    text = " ".join(dice.choices(WORDS, k=longest)).encode()
    with tarfile.open(path, "w") as archive:
        for i in range(files):
            entry = tarfile.TarInfo(f"m{i // 400:02}/n{i // 20 % 20:02}/f{i % 20:02}.rs")
            entry.size = min(int(dice.lognormvariate(8, 1.3)), longest)
            entry.mtime = 1_700_000_000
            start = dice.randrange(len(text) - longest)
            archive.addfile(entry, io.BytesIO(text[start:start + entry.size]))


# ---- taking samples

def sample(run, place, seconds):
    """In a process of its own, so that a file system that hangs costs one sample. Raises what went wrong."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setpgid(0, 0)
        die_with_parent(signal.SIGKILL)
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_DFL)
        try:
            answer = {"value": run(place)}
        except BaseException as e:  # whatever it was, the parent reports it
            answer = {"error": f"{type(e).__name__}: {e}" if not isinstance(e, Failure) else str(e)}
        os.write(writer, json.dumps(answer).encode()[:4096])
        os._exit(0)
    os.close(writer)
    ended = False
    try:
        if not select.select([reader], [], [], seconds)[0]:
            raise Failure(f"not done in {seconds} s")
        said = os.read(reader, 8192)
        os.waitpid(pid, 0)
        ended = True
    finally:
        os.close(reader)
        if not ended:
            for kill in (os.killpg, os.kill):
                try:
                    kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
    answer = json.loads(said or b'{"error": "the sample died"}')
    if "error" in answer:
        raise Failure(answer["error"])
    return answer["value"]


def drop_caches():
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("3")
    except OSError:
        pass


def chosen(only):
    """The rows to run, and of them the ones to report."""
    if only is None:
        return ROWS, {r.name for r in ROWS if r.unit}
    wanted = {r.name for r in ROWS if r.unit and only in r.name}
    needed = set(wanted)
    for r in reversed(ROWS):
        if r.name in needed:
            needed.update(r.needs)
    return [r for r in ROWS if r.name in needed], wanted


def measure(mounts, sizes, rounds, only, scratch, timeout, tell):
    """Samples by row and name, and what failed."""
    rows, reported = chosen(only)
    results = {r.name: {m.name: [] for m in mounts} for r in rows if r.name in reported}
    failed = {}
    if not results:
        return results, failed
    data = memoryview(b"".join(os.urandom(min(sizes.big, 16 * MIB)) for _ in range(max(1, sizes.big // (16 * MIB)))))
    tarball = os.path.join(scratch, "tree.tar")
    make_tarball(tarball, sizes.tree)
    for number in range(rounds):
        order = mounts if number % 2 == 0 else mounts[::-1]
        spoilt = {m.name: set() for m in mounts}
        places = {m.name: Place(os.path.join(m.root, f"round{number}"), sizes, data, tarball, number + 1) for m in mounts}
        for m in mounts:
            sample(lambda p: os.mkdir(p.root), places[m.name], timeout)
        for r in rows:
            for m in order:
                if spoilt[m.name] & set(r.needs):
                    continue
                try:
                    if r.cold:
                        m.stop()
                        m.start()
                        drop_caches()
                    else:
                        os.sync()
                    value = sample(r.run, places[m.name], timeout)
                except (Failure, OSError) as e:
                    spoilt[m.name].add(r.name)
                    failed.setdefault((r.name, m.name), str(e))
                    print(f"bench: {r.name}, {m.name}: {e}", file=sys.stderr)
                    continue
                if r.name in reported:
                    results[r.name][m.name].append(value)
            if r.name in reported:
                said = ", ".join(f"{n} {v[-1]:.4g}" for n, v in results[r.name].items() if v)
                tell(f"round {number + 1}/{rounds}: {r.name} ({r.unit}): {said}")
        for m in mounts:
            try:
                sample(lambda p: timed(["rm", "-rf", p.root]), places[m.name], timeout)
            except Failure as e:
                print(f"bench: clearing up on {m.name}: {e}", file=sys.stderr)
    return results, failed
