"""The file systems that are compared on one machine, each over a folder of its own on the same disk."""

import os
import shutil

from lifetime import Failure, run, tail, until

PASSPHRASE = b"correct horse battery staple\n"


class Mount:
    """One of them. `root` is where it shows."""

    program = None

    def __init__(self, life, name):
        self.life, self.name = life, name
        self.folder = life.make(name.replace(" ", "-"))
        self.home, self.root = (os.path.join(self.folder, n) for n in ("home", "mnt"))
        os.mkdir(self.home)
        os.mkdir(self.root)
        self.log = os.path.join(self.folder, "log")
        self.process = None
        self.passphrase = os.path.join(self.folder, "passphrase")
        with open(self.passphrase, "wb") as f:
            f.write(PASSPHRASE)

    @classmethod
    def is_here(cls):
        return cls.program is None or shutil.which(cls.program)

    def create(self):
        """What is done once, before the first mount."""

    def start(self):
        with open(self.passphrase, "rb") as passphrase:
            self.process = self.life.spawn(self.command(), self.log, stdin=passphrase, env=self.environment())

        def shows():
            if self.process.poll() is not None:
                raise Failure(f"{self.name} did not mount: {tail(self.log)}")
            return os.path.ismount(self.root)

        until(f"{self.name} is not mounted", shows)
        os.listdir(self.root)

    def stop(self):
        def unmounted():
            try:
                run(["fusermount3", "-u", self.root])
            except Failure:
                return not os.path.ismount(self.root)
            return True

        until(f"{self.name} stays mounted", unmounted)
        self.life.wait(self.process)
        self.life.end(self.process)

    def command(self):
        raise NotImplementedError

    def environment(self):
        return dict(os.environ)


class P2pfs(Mount):
    def __init__(self, life, name, binaries):
        super().__init__(life, name)
        self.binary = os.path.join(binaries, "p2pfs")

    def environment(self):
        return dict(os.environ, P2PFS_HOME=self.home)

    def create(self):
        run([self.binary, "init", "--name", "alice", "--no-passphrase"], self.log, env=self.environment())

    def command(self):
        return [self.binary, "mount", "--foreground", "--listen", "127.0.0.1:0", self.root]

    def stop(self):
        self.life.end(self.process)


class Gocryptfs(Mount):
    program = "gocryptfs"

    def create(self):
        # A cheap key derivation: mounting is not what is measured.
        run(["gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", self.passphrase, self.home], self.log)

    def command(self):
        return ["gocryptfs", "-q", "-fg", "-nosyslog", "-passfile", self.passphrase, self.home, self.root]


class Cryfs(Mount):
    program = "cryfs"

    def environment(self):
        return dict(os.environ, CRYFS_FRONTEND="noninteractive", CRYFS_NO_UPDATE_CHECK="true",
                    CRYFS_LOCAL_STATE_DIR=os.path.join(self.folder, "state"))

    def command(self):
        config = os.path.join(self.folder, "config")
        return ["cryfs", "-f", "-c", config, self.home, self.root]


class Encfs(Mount):
    program = "encfs"

    def command(self):
        return ["encfs", "-f", "--standard", "--stdinpass", self.home, self.root]


class Plain(Mount):
    """No mount at all: what the disk and the kernel give by themselves."""

    def start(self):
        pass

    def stop(self):
        pass


PEERS = {"gocryptfs": Gocryptfs, "cryfs": Cryfs, "encfs": Encfs, "plain directory": Plain}
