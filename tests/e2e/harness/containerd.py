"""Debian's containerd with root, state and sockets of its own, and ctr to talk to it."""
import functools
import os
import pathlib
import shutil
import signal
import subprocess

from harness.cri import CriClient
from harness.process import Process, clean_env, wait_for

CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [{disabled}]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[debug]
  level = "debug"
{proxy}
[plugins."io.containerd.metadata.v1.bolt"]
  content_sharing_policy = "{policy}"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    discard_unpacked_layers = {discard}
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/certs.d"
"""
PROXY = """\
[proxy_plugins]
  [proxy_plugins.cairn]
    type = "content"
    address = "{address}"
"""
HOSTS = """\
server = "http://{host}"
[host."http://{host}"]
  capabilities = ["pull", "resolve"]
"""


@functools.cache
def snapshotter():
    """overlayfs, or native where the temporary folder's file system cannot be an overlay's layer."""
    folder = pathlib.Path(os.environ["CAIRN_TEST_DIR"], "overlay")
    for name in ("lower", "upper", "work", "merged"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, folder / "merged"],
                          stderr=subprocess.DEVNULL, check=False)
    if done.returncode == 0:
        subprocess.run(["umount", folder / "merged"], check=True)
    shutil.rmtree(folder)
    return "overlayfs" if done.returncode == 0 else "native"


def all_of(run, script):
    """The stdout of a shell script in a container. ctr at times ends before it has read all that the process
    wrote: the script says when it is through, and is run again if that was not seen."""
    mark = "\nthat is all\n"
    for _ in range(5):
        out = run("{ " + script + "; } && { echo; echo that is all; }")
        if out.endswith(mark):
            return out[:-len(mark)]
    raise AssertionError(f"{script!r} said {out!r}, and not to its end")


class Containerd:
    """store: the socket of the content store, None: containerd's own."""

    def __init__(self, folder, store=None, cri=False, policy="shared", discard=False, hosts=(), host=None):
        self.folder = pathlib.Path(folder) / "containerd"
        self.socket = self.folder / "c.sock"
        self.store = store
        self.cri_enabled = cri
        self.policy = policy
        self.discard = discard
        self.hosts = hosts  # registries
        self.host = host    # of harness/net.py, None: ours
        self.process = None
        self.cri_client = None
        self.containers = []

    def __enter__(self):
        self.folder.mkdir(parents=True)
        self.configure()
        for host in self.hosts:
            folder = self.folder / "certs.d" / host
            folder.mkdir(parents=True)
            (folder / "hosts.toml").write_text(HOSTS.format(host=host))
        self.start()
        return self

    def configure(self):
        """Write config.toml; after a change of store, for the next start."""
        disabled = ["io.containerd.content.v1.content"] if self.store else []
        disabled += ["io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
        if not self.cri_enabled:
            disabled.append("io.containerd.grpc.v1.cri")
        (self.folder / "config.toml").write_text(CONFIG.format(
            folder=self.folder, socket=self.socket, disabled=", ".join(f'"{d}"' for d in disabled),
            proxy=PROXY.format(address=self.store) if self.store else "", policy=self.policy,
            snapshotter=snapshotter(), discard=str(self.discard).lower()))

    def __exit__(self, *_):
        for namespace, name in list(self.containers):
            if self.process.alive():
                self.end_container(name, namespace)
        if self.cri_client:
            self.cri_client.close()
        self.process.stop()
        self.end_shims()
        for line in reversed(pathlib.Path("/proc/self/mounts").read_text().splitlines()):
            if str(self.folder) in line.split()[1]:
                subprocess.run(["umount", "-l", line.split()[1]], check=False)

    def start(self, wait=True):
        self.process = Process("containerd", ["containerd", "--config", self.folder / "config.toml"], self.folder,
                               host=self.host)
        self.process.start()
        if wait:
            wait_for("containerd to answer", self.answers, 30)

    def answers(self):
        if not self.process.alive():
            raise AssertionError("containerd ended:\n" + self.process.log_text()[-3000:])
        return self.ctr("version", check=False, timeout=5).returncode == 0 and (
            not self.cri_enabled or self.cri.ready())

    def stop(self):
        return self.process.stop()

    def kill(self):
        return self.process.kill()

    def restart(self, kill=False):
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def end_shims(self):
        """Shims outlive containerd on purpose, and hold their containers."""
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and str(self.socket).encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue

    @property
    def cri(self):
        if self.cri_client is None:
            self.cri_client = CriClient(self.socket)
        return self.cri_client

    @property
    def content(self):
        """Where containerd's own store keeps its blobs."""
        return self.folder / "root/io.containerd.content.v1.content"

    @property
    def database(self):
        return self.folder / "root/io.containerd.metadata.v1.bolt/meta.db"

    # ctr

    def argv(self, *args, ns="default"):
        argv = ["ctr", "-a", str(self.socket), "-n", ns, *map(str, args)]
        return self.host.argv(*argv) if self.host else argv

    def ctr(self, *args, ns="default", check=True, timeout=120, stdin=None):
        done = subprocess.run(self.argv(*args, ns=ns), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              input=stdin or b"", timeout=timeout, check=False, env=clean_env(), cwd=self.folder)
        done.stdout = done.stdout.decode(errors="replace")
        done.stderr = done.stderr.decode(errors="replace")
        if check and done.returncode != 0:
            raise AssertionError(f"ctr {' '.join(map(str, args))}: exit status {done.returncode}\n"
                                 f"{done.stdout[-300:]}\n{done.stderr}")
        return done

    def ctr_bytes(self, *args, ns="default"):
        """What ctr writes to its stdout, as it is."""
        return subprocess.run(self.argv(*args, ns=ns), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True,
                              env=clean_env(), timeout=120).stdout

    def start_ctr(self, *args, ns="default"):
        """ctr in the background; finish it with finish()."""
        number = len(list(self.folder.glob("ctr*.log")))
        process = Process(f"ctr{number}", self.argv(*args, ns=ns), self.folder)
        return process.start()

    def pull(self, ref, ns="default", check=True, timeout=180, args=()):
        return self.ctr("images", "pull", "--plain-http", "--snapshotter", snapshotter(), *args, ref, ns=ns,
                        check=check, timeout=timeout)

    def start_pull(self, ref, ns="default"):
        return self.start_ctr("images", "pull", "--plain-http", "--snapshotter", snapshotter(), ref, ns=ns)

    def remove(self, *refs, ns="default"):
        """Remove images and let containerd's garbage collection run."""
        self.ctr("images", "rm", "--sync", *refs, ns=ns)

    def images(self, ns="default"):
        return set(self.ctr("images", "ls", "-q", ns=ns).stdout.split())

    def recorded(self, ns="default"):
        """Digests that containerd records in this namespace."""
        return set(self.ctr("content", "ls", "-q", ns=ns).stdout.split())

    def complete(self, ref, ns="default"):
        """What `ctr images check` says."""
        done = self.ctr("images", "check", f"name=={ref}", ns=ns, check=False)
        return done.returncode == 0 and "complete (" in done.stdout and "incomplete" not in done.stdout

    # containers

    def run_args(self, name, *more):
        group = f"/{pathlib.Path(os.environ['CAIRN_RUN']).name}/{name}"
        return ["run", "--snapshotter", snapshotter(), "--cgroup", group, *more]

    def run(self, ref, script, ns="default"):
        """Run a container to its end; its stdout."""
        def once(marked):
            name = f"once-{os.urandom(4).hex()}"
            return self.ctr(*self.run_args(name, "--rm"), ref, name, "/bin/sh", "-c", marked, ns=ns).stdout
        return all_of(once, script)

    def start_container(self, ref, name, ns="default"):
        """A container that sleeps until it is ended."""
        self.ctr(*self.run_args(name, "-d"), ref, name, "/bin/sleep", "100000", ns=ns)
        self.containers.append((ns, name))

    def exec(self, name, script, ns="default"):
        """Run it in a container; its stdout."""
        def once(marked):
            identity = os.urandom(4).hex()
            return self.ctr("tasks", "exec", "--exec-id", identity, name, "/bin/sh", "-c", marked, ns=ns).stdout
        return all_of(once, script)

    def end_container(self, name, ns="default"):
        self.ctr("tasks", "kill", "-s", "SIGKILL", "-a", name, ns=ns, check=False)
        self.ctr("tasks", "delete", "-f", name, ns=ns, check=False)
        self.ctr("containers", "rm", name, ns=ns, check=False)
        self.containers.remove((ns, name))

    def whole(self, ref, version, ns="default"):
        """Run it and check every file: all layers' checksums, and the version. Fails if it is not so."""
        out = self.run(ref, "cat /etc/version && cat /sums/* | sha256sum -c >/tmp/out && wc -l </tmp/out", ns=ns)
        if out.split()[0] != version or int(out.split()[1]) < 1:
            raise AssertionError(f"{ref}: said {out!r}, {version} was expected")
