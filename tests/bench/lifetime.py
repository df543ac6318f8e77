"""Everything a run starts or makes, and the end of it: also after Ctrl-C, `kill`, or an error.

Processes get a signal from the kernel when this program dies without a chance to end them. What a killed run left
all the same, dead mounts and its folder, goes with the next run.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
PREFIX = "p2pfs-bench-"
ENDING_S = 60


class Failure(Exception):
    """Something that is reported in one line."""


def die_with_parent(how=signal.SIGTERM):
    LIBC.prctl(PR_SET_PDEATHSIG, how)


def mounts_below(folder):
    with open("/proc/self/mounts", encoding="utf-8") as f:
        points = [line.split()[1].encode().decode("unicode_escape") for line in f]
    return [p for p in reversed(points) if p.startswith(folder + "/")]


def remove_tree(folder):
    """Detaches what is mounted in there first, so that nothing on a mount is removed by mistake."""
    for point in mounts_below(folder):
        if LIBC.umount2(point.encode(), 2) != 0:  # MNT_DETACH
            subprocess.run(["fusermount3", "-u", "-z", point], stderr=subprocess.DEVNULL, check=False)
    if not mounts_below(folder):
        shutil.rmtree(folder, ignore_errors=True)


class Lifetime(contextlib.AbstractContextManager):
    """Owns the run's folder, its processes and whatever is put on its stack."""

    def __init__(self, parent):
        parent = os.path.realpath(parent or tempfile.gettempdir())
        self.sweep(parent)
        self.folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)
        self.running = []

    @staticmethod
    def sweep(parent):
        for entry in os.listdir(parent):
            pid = entry.removeprefix(PREFIX).partition("-")[0]
            if entry.startswith(PREFIX) and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                remove_tree(os.path.join(parent, entry))

    def __enter__(self):
        def interrupted(number, _frame):
            raise SystemExit(128 + number)

        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, interrupted)
        return self

    def __exit__(self, *_):
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        for process in self.running:
            if process.poll() is None:
                process.terminate()
        for process in reversed(self.running):
            self.wait(process)
        remove_tree(self.folder)

    def make(self, name):
        path = os.path.join(self.folder, name)
        os.makedirs(path, exist_ok=True)
        return path

    def spawn(self, command, log, **options):
        """A process that goes on beside us; its output goes to the file `log`."""
        with open(log, "ab") as out:
            process = subprocess.Popen(
                command, **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, **options},
                start_new_session=True, preexec_fn=die_with_parent)
        self.running.append(process)
        return process

    def wait(self, process, seconds=ENDING_S):
        """Until it has ended; then it is made to."""
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def end(self, process):
        if process.poll() is None:
            process.terminate()
        self.wait(process)
        self.running.remove(process)


def tail(log):
    try:
        with open(log, encoding="utf-8", errors="replace") as f:
            return " / ".join(f.read().strip().splitlines()[-3:])
    except OSError:
        return ""


def run(command, log=None, **options):
    """Runs it to its end; what it printed."""
    options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **options)
    if log:
        with open(log, "ab") as f:
            f.write(done.stdout + done.stderr)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing said"]
        raise Failure(f"{command[0]}: exit {done.returncode}: {said[0]}")
    return done.stdout.decode(errors="replace")


def until(what, condition, seconds=60, pause=0.05):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"after {seconds} s: {what}")
        time.sleep(pause)
