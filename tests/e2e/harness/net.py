"""A small network: a bridge in the test's own network namespace, and hosts on it, each in a namespace of its own.

    with Network() as net:
        a = net.host("a")                     # 10.77.0.11, reaches all others, and they it
        a.limit(up="100mbit", down="100mbit")
        Process("x", a.argv("x", "--flag"), folder).start()
        with a.inside(): sock = socket.socket()   # a socket of that namespace, to be used by any thread
        a.cut(); a.mend()                     # its link is dead; alive again

There is no delay here, as not every kernel has netem: harness/relay.py does that."""
import contextlib
import ctypes
import json
import os
import pathlib
import subprocess

CLONE_NEWNET = 0x40000000
PREFIX = "10.77.0."
LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*args, ns=None):
    argv = ["ip", *(["-n", ns] if ns else []), *map(str, args)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def setns(fd):
    if LIBC.setns(fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


class Host:
    """A namespace with one address and one link. Made by Network.host."""

    def __init__(self, network, name, number):
        self.network = network
        self.name = name
        self.address = f"{PREFIX}{number}"
        self.netns = f"{network.prefix}{name}"
        self.port = f"v{number}"  # our end of its link
        ip("netns", "add", self.netns)
        ip("link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.netns)
        ip("link", "set", self.port, "master", network.bridge, "up")
        ip("link", "set", "lo", "up", ns=self.netns)
        ip("address", "add", f"{self.address}/24", "dev", "eth0", ns=self.netns)
        ip("link", "set", "eth0", "up", ns=self.netns)

    def argv(self, *command):
        """The command, run in here. Not by `ip netns exec`: that hides the cgroups."""
        return ["nsenter", f"--net=/run/netns/{self.netns}", "--", *map(str, command)]

    @contextlib.contextmanager
    def inside(self):
        """Sockets that this thread makes are of this namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(f"/run/netns/{self.netns}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                setns(there)
            finally:
                os.close(there)
            try:
                yield self
            finally:
                setns(home)
        finally:
            os.close(home)

    def limit(self, up=None, down=None):
        """Rates as tc has them, "100mbit"; None: no limit. To be changed at any time."""
        for rate, device, ns in ((up, "eth0", self.netns), (down, self.port, None)):
            tc = ["tc"] + (["-n", ns] if ns else [])
            if rate is None:
                subprocess.run([*tc, "qdisc", "del", "dev", device, "root"], stderr=subprocess.DEVNULL, check=False)
            else:
                subprocess.run([*tc, "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, "burst", "128kb",
                                "latency", "60ms"], check=True)

    def cut(self):
        """Nothing gets through, in either direction, and nobody is told."""
        ip("link", "set", self.port, "nomaster")

    def mend(self):
        ip("link", "set", self.port, "master", self.network.bridge)

    def counted(self):
        """Bytes that it has (received, sent) by its link, with all headers."""
        stats = json.loads(ip("-s", "-j", "link", "show", "dev", self.port))[0]["stats64"]
        return stats["tx"]["bytes"], stats["rx"]["bytes"]

    def remove(self):
        # A process that is left in the namespace keeps it, but not its link.
        subprocess.run(["ip", "link", "del", self.port], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["ip", "netns", "del", self.netns], stderr=subprocess.DEVNULL, check=False)


class Network(contextlib.AbstractContextManager):
    """The test's process is on it too, with the address .1."""

    number = 0

    def __init__(self):
        Network.number += 1
        self.prefix = f"c{os.getpid()}x{Network.number}-"
        self.bridge = f"cbr{Network.number}"
        self.address = f"{PREFIX}1"
        self.hosts = {}

    def __enter__(self):
        pathlib.Path("/run/netns").mkdir(exist_ok=True)
        ip("link", "add", self.bridge, "type", "bridge", "forward_delay", "0")
        try:
            ip("address", "add", f"{self.address}/24", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def host(self, name):
        """A new host, or the one of that name."""
        if name not in self.hosts:
            self.hosts[name] = Host(self, name, len(self.hosts) + 11)
        return self.hosts[name]

    def __exit__(self, *_):
        for host in self.hosts.values():
            host.remove()
        subprocess.run(["ip", "link", "del", self.bridge], check=False)
