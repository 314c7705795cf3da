"""Processes with a log of their own, and waiting for states with a deadline."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

# Lines that say nothing about a failure.
NOISE = re.compile(r'msg="(response completed|event (published|forwarded)|loading plugin|(stat|prepare) snapshot)')
FOREIGN_ENV = ("NOTIFY_SOCKET", "CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE")


class Timeout(AssertionError):
    pass


def wait_for(what, condition, seconds=20.0, every=0.02):
    """Poll until condition() is true; its value is returned. `what` completes "waited ... s for"."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"waited {seconds:g} s for {what}")
        time.sleep(every)


def free_port():
    """Free in our network namespace, in which nobody else takes ports."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def clean_env(**more):
    env = {k: v for k, v in os.environ.items() if k not in FOREIGN_ENV}
    env.update(more)
    return env


class Process:
    """A daemon: started in a process group of its own, with stdout and stderr in a log file."""

    running = []  # every process that was started and not stopped, oldest first
    logs = []     # every log file, for when a test fails

    def __init__(self, name, argv, folder, env=None, host=None):
        """host: of harness/net.py, to run on."""
        self.name = name
        self.argv = host.argv(*argv) if host else [str(a) for a in argv]
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / f"{name}.log"
        self.env = env or {}
        self.popen = None

    def start(self):
        if self.log not in Process.logs:
            Process.logs.append(self.log)
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          cwd=self.folder, env=clean_env(**self.env), process_group=0)
        (self.folder / f"{self.name}.pid").write_text(f"{self.popen.pid}\n")
        Process.running.append(self)
        return self

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen is not None and self.popen.poll() is None

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, seconds=30.0):
        """Its exit status; negative: ended by that signal."""
        try:
            status = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Timeout(f"{self.name} did not end within {seconds:g} s") from None
        if self in Process.running:
            Process.running.remove(self)
        return status

    def stop(self, seconds=30.0):
        if not self.alive():
            if self in Process.running:
                Process.running.remove(self)
            return self.popen.returncode if self.popen else None
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self):
        """SIGKILL, at once."""
        if self.alive():
            self.signal(signal.SIGKILL)
        return self.wait()

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def end_all():
    for process in reversed(list(Process.running)):
        try:
            process.kill()
        except (Timeout, OSError):
            pass
    Process.running.clear()


def log_tails(lines=int(os.environ.get("CAIRN_LOG_LINES", "40"))):
    """The end of each log, for a failed test's report."""
    parts = []
    for log in Process.logs:
        if log.exists():
            text = [line[:240] for line in log.read_text(errors="replace").splitlines() if not NOISE.search(line)]
            parts.append(f"---- {log.parent.parent.name}/{log.parent.name}/{log.name}: the last of {len(text)} lines")
            parts += text[-lines:]
    return "\n".join(parts)
