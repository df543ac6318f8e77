"""What the figures were measured on, and what must be there for them."""

import datetime
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys

from lifetime import Failure

PEERS = {  # program: Debian package
    "gocryptfs": "gocryptfs", "cryfs": "cryfs", "encfs": "encfs", "syncthing": "syncthing", "rsync": "rsync",
    "scp": "openssh-client", "sshd": "openssh-server", "rclone": "rclone",
}
NEEDED = {"fusermount3": "fuse3", "git": "git", "tar": "tar"}
VERSION_OF = {
    "gocryptfs": ["gocryptfs", "-version"], "cryfs": ["cryfs", "--version"], "encfs": ["encfs", "--version"],
    "syncthing": ["syncthing", "--version"], "rsync": ["rsync", "--version"], "ssh": ["ssh", "-V"],
    "rclone": ["rclone", "version"], "git": ["git", "--version"],
}
# Where Debian keeps sshd, which is not on everybody's path.
os.environ["PATH"] += ":/usr/sbin:/sbin"


def is_root():
    return os.geteuid() == 0


def install(programs):
    missing = sorted({package for program, package in programs.items() if not shutil.which(program)})
    if not missing:
        return
    as_root = [] if is_root() else ["sudo"]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    subprocess.run([*as_root, "apt-get", "update", "-qq"], check=True, stdout=sys.stderr)
    subprocess.run([*as_root, *environment, "apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing],
                   check=True, stdout=sys.stderr)


def check():
    missing = [package for program, package in NEEDED.items() if not shutil.which(program)]
    if missing:
        raise Failure(f"please install: {' '.join(missing)}")
    if not os.path.exists("/dev/fuse"):
        raise Failure("/dev/fuse is missing: load the fuse module, or give this container the device")


def alone_on_loopback():
    """Whether this process has a network of its own; brings its loopback device up, which is down at first."""
    if os.environ.get("P2PFS_BENCH_OWN_NETWORK") != "1":
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        up_and_running = 0x1 | 0x40
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", up_and_running))  # SIOCSIFFLAGS
    return True


def own_network():
    """Starts this program again in a network of its own, so that bytes on loopback are its own as well."""
    if is_root() and shutil.which("unshare") and "P2PFS_BENCH_OWN_NETWORK" not in os.environ:
        works = subprocess.run(["unshare", "--net", "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0
        os.environ["P2PFS_BENCH_OWN_NETWORK"] = "1" if works else "0"
        if works:
            os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


def first_line(path, start=""):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return next((line.strip() for line in f if line.startswith(start)), "")
    except OSError:
        return ""


def disk_below(folder):
    with open("/proc/self/mounts", encoding="utf-8") as f:
        entries = [line.split()[:3] for line in f]
    holds = [e for e in entries if e[1] == "/" or (folder + "/").startswith(e[1] + "/")]
    device, _, kind = max(holds, key=lambda e: len(e[1]))
    queue = f"/sys/class/block/{os.path.basename(device)}/queue/rotational"
    turns = {"0": ", no moving parts", "1": ", says that it rotates"}.get(first_line(queue), "")
    return f"{kind} on {device}{turns}"


def version(command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Some print a warning first.
    lines = done.stdout.decode(errors="replace").splitlines()
    return next((line.strip() for line in lines if any(c.isdigit() for c in line)), None)


def describe(folder, repository, peers):
    commit = subprocess.run(["git", "-C", repository, "describe", "--always", "--dirty", "--exclude", "*"],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout.decode().strip()
    model = first_line("/proc/cpuinfo", "model name").partition(":")[2].strip() or os.uname().machine
    memory = int(first_line("/proc/meminfo", "MemTotal").split()[1]) / (1 << 20)
    versions = [f"p2pfs at commit {commit or 'unknown'}"]
    used = [program for program in VERSION_OF if program in ("git", "ssh") or program in " ".join(peers)]
    versions += [v for program in used if shutil.which(program) and (v := version(VERSION_OF[program]))]
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{os.cpu_count()} cores, {model}",
        "memory": f"{memory:.0f} GiB",
        "disk": disk_below(folder),
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "versions": "; ".join(versions),
    }
