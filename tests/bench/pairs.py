"""Ways to get a folder's changes from one machine to another; both are this one, and what is between them is loopback."""

import json
import os
import shlex
import shutil
import socket
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET

import processes
from lifetime import Failure, run, tail, until


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Pair:
    """Side A, where changes are made, and side B, where they are to show."""

    programs = ()
    cannot = ()  # names of rows
    goes_on = False  # whether it runs by itself, so that its idling can be measured

    def __init__(self, life, name, folder):
        self.life, self.name = life, name
        self.home = life.make(folder)
        self.a, self.b = life.make(f"{folder}/a"), life.make(f"{folder}/b")
        self.started = []
        self.pushed_s = 0.0

    @classmethod
    def is_here(cls):
        return all(map(shutil.which, cls.programs))

    def at_home(self, *names):
        return os.path.join(self.home, *names)

    def spawn(self, name, command, **options):
        process = self.life.spawn(command, self.at_home(f"{name}.log"), **options)
        self.started.append(process)
        return process

    def start(self):
        raise NotImplementedError

    def push(self, names):
        """Brings B up to date, if that doesn't happen by itself; `names` changed."""

    def settle(self):
        """Until both sides have nothing more to do."""

    def sides(self):
        """The processes of A and of B."""
        return [], []

    def seconds(self):
        """Processor time of A and of B so far."""
        a, b = map(processes.seconds, self.sides())
        return a + self.pushed_s, b

    def pushes(self, command):
        """Runs a command of A's, and counts its time as A's."""
        process = self.life.spawn(command, self.at_home("push.log"))
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.life.running.remove(process)
        self.pushed_s += used.ru_utime + used.ru_stime
        if process.returncode != 0:
            raise Failure(f"{command[0]}: exit {process.returncode}: {tail(self.at_home('push.log'))}")

    def stop(self):
        for process in reversed(self.started):
            self.life.end(process)
        self.started.clear()


class P2pfsPair(Pair):
    goes_on = True

    def __init__(self, life, name, folder, binaries):
        super().__init__(life, name, folder)
        self.binaries = binaries

    def of(self, side):
        return dict(os.environ, P2PFS_HOME=self.at_home(f"store-{side}"))

    def p2pfs(self, side, *arguments):
        return run([os.path.join(self.binaries, "p2pfs"), *arguments], self.at_home("commands.log"), env=self.of(side))

    def mount(self, side, root):
        command = [os.path.join(self.binaries, "p2pfs"), "mount", "--foreground", "--listen", "127.0.0.1:0", root]
        daemon = self.spawn(side, command, env=self.of(side))
        until(f"{side} is not mounted: {tail(self.at_home(side + '.log'))}", lambda: os.path.ismount(root))
        return daemon

    def start(self):
        registry = [os.path.join(self.binaries, "p2pfs-registry"), "--listen", "127.0.0.1:0", "--state",
                    self.at_home("registry")]
        os.mkdir(self.at_home("registry"))
        self.spawn("registry", registry)

        def address():
            # Its log is there as well.
            with open(self.at_home("registry.log"), encoding="utf-8") as f:
                return next((line.strip() for line in f if line.startswith("127.0.0.1:") and "#" in line), None)

        until("the registry does not tell its address", address)
        self.p2pfs("a", "init", "--name", "alice", "--no-passphrase", "--registry", address())
        self.daemons = [self.mount("a", self.a)]
        ticket = self.p2pfs("a", "invite").strip()
        self.p2pfs("b", "join", ticket, "--name", "bob", "--no-passphrase")
        self.daemons.append(self.mount("b", self.b))
        until("the two are not connected", lambda: all(
            json.loads(self.p2pfs(side, "status", "--json"))["peers_connected"] for side in "ab"))
        self.settle()

    def settle(self):
        for side in "ba":
            self.p2pfs(side, "wait", "--timeout", "300s")

    def sides(self):
        return [self.daemons[0].pid], [self.daemons[1].pid]


class Syncthing(Pair):
    """Two instances that know of each other and of nothing else; changes are watched for."""

    programs = ("syncthing",)
    goes_on = True
    KEY = "bench"
    OPTIONS = {
        "globalAnnounceEnabled": "false", "localAnnounceEnabled": "false", "relaysEnabled": "false",
        "natEnabled": "false", "urAccepted": "-1", "crashReportingEnabled": "false", "autoUpgradeIntervalH": "0",
        "startBrowser": "false", "reconnectionIntervalS": "1", "setLowPriority": "false",
    }

    def start(self):
        environment = dict(os.environ, HOME=self.home, STNODEFAULTFOLDER="1", STNOUPGRADE="1")
        homes = [self.at_home(f"home-{side}") for side in "ab"]
        for home in homes:
            run(["syncthing", "generate", f"--home={home}"], self.at_home("commands.log"), env=environment)
        ids = [run(["syncthing", f"--home={home}", "--device-id"], env=environment).strip() for home in homes]
        self.ids, self.control = ids, [free_port(), free_port()]
        listening = [f"tcp://127.0.0.1:{free_port()}" for _ in homes]
        for side, home in enumerate(homes):
            self.configure(os.path.join(home, "config.xml"), side, listening)
        self.daemons = [
            self.spawn(f"side-{side}", ["syncthing", "serve", f"--home={home}", "--no-browser", "--no-restart"],
                       env=environment) for side, home in zip("ab", homes, strict=True)]
        until("the two syncthings are not connected", lambda: all(map(self.connected, (0, 1))), 120)
        self.settle()

    def configure(self, path, side, listening):
        document = ET.parse(path)
        root = document.getroot()
        for old in root.findall("folder") + root.findall("device"):
            root.remove(old)
        folder = ET.SubElement(root, "folder", id="bench", path=(self.a, self.b)[side], type="sendreceive",
                               rescanIntervalS="3600", fsWatcherEnabled="true", fsWatcherDelayS="1")
        for device, address in zip(self.ids, listening, strict=True):
            ET.SubElement(folder, "device", id=device)
            entry = ET.SubElement(root, "device", id=device, compression="metadata")
            ET.SubElement(entry, "address").text = address
        root.find("gui/address").text = f"127.0.0.1:{self.control[side]}"
        root.find("gui/apikey").text = self.KEY
        options = root.find("options")
        for old in options.findall("listenAddress"):
            options.remove(old)
        for name, value in {**self.OPTIONS, "listenAddress": listening[side]}.items():
            entry = options.find(name)
            if entry is None:
                entry = ET.SubElement(options, name)
            entry.text = value
        document.write(path)

    def ask(self, side, path):
        request = urllib.request.Request(f"http://127.0.0.1:{self.control[side]}/rest/{path}",
                                         headers={"X-API-Key": self.KEY})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)
        except (OSError, urllib.error.URLError):
            return None

    def connected(self, side):
        answer = self.ask(side, "system/connections")
        return answer and answer["connections"].get(self.ids[1 - side], {}).get("connected")

    def settle(self):
        seen = []

        def quiet():
            now = []
            for side in (0, 1):
                state = self.ask(side, "db/status?folder=bench")
                other = self.ask(side, f"db/completion?folder=bench&device={self.ids[1 - side]}")
                if not state or not other or state["state"] != "idle" or state["needTotalItems"] or other["needItems"]:
                    seen.clear()
                    return False
                now.append(state["sequence"])
            if seen and seen[-1] != now:
                seen.clear()
            seen.append(now)
            return len(seen) > 6

        until("syncthing does not come to rest", quiet, 300, 0.5)

    def sides(self):
        return [self.daemons[0].pid], [self.daemons[1].pid]


class OverSsh(Pair):
    """Commands that are run for each change, through an sshd of their own."""

    def start(self):
        self.port = free_port()
        for key in ("host-key", "key"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.at_home(key)])
        shutil.copy(self.at_home("key.pub"), self.at_home("authorized"))
        os.makedirs("/run/sshd", exist_ok=True)
        options = {
            "ListenAddress": "127.0.0.1", "HostKey": self.at_home("host-key"), "PidFile": "none", "StrictModes": "no",
            "AuthorizedKeysFile": self.at_home("authorized"), "PermitRootLogin": "yes", "UsePAM": "no",
            "Subsystem": "sftp internal-sftp",
        }
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        command = [shutil.which("sshd"), "-D", "-e", "-f", "/dev/null", "-p", str(self.port), *settings]
        self.server = self.spawn("sshd", command)
        self.ssh = ["-F", "/dev/null", "-i", self.at_home("key"), "-o", "StrictHostKeyChecking=no", "-o",
                    "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"]
        self.user = run(["id", "-un"]).strip()
        self.there = f"{self.user}@127.0.0.1:{self.b}/"

        def listens():
            if self.server.poll() is not None:
                raise Failure(f"sshd ended: {tail(self.at_home('sshd.log'))}")
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0

        until("sshd does not listen", listens)

    def sides(self):
        return [], [self.server.pid]


class Rsync(OverSsh):
    programs = ("rsync", "ssh", "sshd")

    def push(self, names):
        shell = shlex.join(["ssh", "-p", str(self.port), *self.ssh])
        self.pushes(["rsync", "-a", "--delete", "-e", shell, self.a + "/", self.there])


class Scp(OverSsh):
    """Copies what is named, and knows nothing of what is gone."""

    programs = ("scp", "sshd")
    cannot = ("renamed file", "renamed directory", "removed files")

    def push(self, names):
        sources = [os.path.join(self.a, name) for name in names]
        self.pushes(["scp", "-r", "-p", "-q", "-P", str(self.port), *self.ssh, *sources, self.there])


class Rclone(OverSsh):
    programs = ("rclone", "sshd")

    def push(self, names):
        self.pushes([
            "rclone", "--config", os.devnull, "sync", "--create-empty-src-dirs", self.a, f":sftp:{self.b}",
            "--sftp-host", "127.0.0.1", "--sftp-port", str(self.port), "--sftp-user", self.user, "--sftp-key-file",
            self.at_home("key"), "--sftp-shell-type", "unix", "--sftp-disable-hashcheck"])


PEERS = {"syncthing": Syncthing, "rsync over ssh": Rsync, "scp": Scp, "rclone over sftp": Rclone}
