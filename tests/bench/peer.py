"""One node gets a large blob from another over mutual TLS on loopback, in turn with curl that gets the same bytes
from nginx over the same certificates. cairn hashes and keeps what comes; curl writes it into a file, or only takes it.

Run by tools/bench."""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import Cairnd, Process, free_port, wait_for  # noqa: E402
from harness.authority import Authority  # noqa: E402
from harness.process import end_all  # noqa: E402

MIB = 1 << 20
FOLDER = pathlib.Path(os.environ["CAIRN_TEST_DIR"])
NGINX = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  sendfile on;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    ssl_client_certificate {ca};
    ssl_verify_client on;
    root {root};
  }}
}}
"""


def cpu(pid):
    """Seconds that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Nginx:
    def __init__(self, folder, authority, certificate, root):
        self.port = free_port()
        self.folder = folder
        self.authority = authority
        self.certificate = certificate
        folder.mkdir()
        (folder / "conf").write_text(NGINX.format(folder=folder, port=self.port, ca=authority.ca, cert=certificate[0],
                                                  key=certificate[1], root=root))
        self.process = Process("nginx", ["nginx", "-c", folder / "conf", "-e", folder / "error.log"], folder)
        self.process.start()
        wait_for("nginx to answer", lambda: self.get("ready", "/dev/null")[0], 20)

    def get(self, name, into):
        """(whether it came, seconds, CPU seconds of curl)"""
        argv = ["curl", "-sf", "--cacert", self.authority.ca, "--cert", self.certificate[0], "--key",
                self.certificate[1], "-o", into, "--resolve", f"node:{self.port}:127.0.0.1",
                f"https://node:{self.port}/{name}"]
        before = os.times()
        began = time.monotonic()
        done = subprocess.run([str(a) for a in argv], check=False)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        return done.returncode == 0, time.monotonic() - began, used


class Bench:
    def __init__(self, options):
        self.options = options
        self.size = options.size * MIB
        self.authority = Authority(FOLDER / "ca")
        self.certificate = self.authority.issue("node", ["127.0.0.1"])
        self.root = FOLDER / "root"
        self.root.mkdir()
        (self.root / "ready").write_text("yes\n")
        self.taken = FOLDER / "taken"
        self.ports = [free_port(), free_port()]
        self.rows = []

    def node(self, number):
        tls = f"{{ca: {self.authority.ca}, cert: {self.certificate[0]}, key: {self.certificate[1]}}}"
        return Cairnd(FOLDER / f"node{number}", extra=(
            f"p2p:\n  listen: 127.0.0.1:{self.ports[number]}\n  tls: {tls}\n"
            f"  peers: [{', '.join(f'127.0.0.1:{p}' for p in self.ports)}]\n"))

    def from_peer(self, giver, taker, client, digest):
        """(seconds, CPU of the giver, CPU of the taker)"""
        before = cpu(giver.process.pid), cpu(taker.process.pid)
        ref = f"bench/1/layer-{digest}"
        for _ in range(20):  # just after its start a node does not know the others
            with client.write(timeout=300) as writer:
                assert writer.stat(ref=ref, total=self.size).offset == 0
                began = time.monotonic()
                reply = writer.stat()
                took = time.monotonic() - began
            client.abort(ref)
            if reply.offset == self.size:
                break
            time.sleep(0.2)
        else:
            raise AssertionError(f"it did not come from the other node: {taker.process.log_text()[-2000:]}")
        return took, cpu(giver.process.pid) - before[0], cpu(taker.process.pid) - before[1]

    def again(self, taker):
        """The taker forgets everything. A first question waits until it knows the others: that is not measured."""
        taker.stop()
        shutil.rmtree(taker.state)
        taker.start()
        client = taker.client()
        ref = f"bench/0/layer-sha256:{os.urandom(32).hex()}"
        with client.write() as writer:
            writer.stat(ref=ref, total=1)
            writer.stat()
        client.abort(ref)
        return client

    def curl(self, nginx, into):
        self.taken.unlink(missing_ok=True)
        before = cpu(nginx.process.pid)
        came, took, used = nginx.get("blob", into)
        assert came
        return took, cpu(nginx.process.pid) - before, used

    def run(self):
        data = os.urandom(MIB)
        with open(self.root / "blob", "wb") as blob:
            for number in range(self.options.size):
                blob.write(number.to_bytes(8, "big") + data[8:])
        nginx = Nginx(FOLDER / "nginx", self.authority, self.certificate, self.root)
        runs = {"peer": [], "curl -o file": [], "curl -o /dev/null": []}
        with self.node(0) as giver, self.node(1) as taker:
            digest = giver.client(timeout=300).put((self.root / "blob").read_bytes())
            for number in range(self.options.runs + 1):  # the first warms up
                client = self.again(taker)
                turn = {"peer": self.from_peer(giver, taker, client, digest),
                        "curl -o file": self.curl(nginx, self.taken),
                        "curl -o /dev/null": self.curl(nginx, "/dev/null")}
                print(f"bench: {({k: [round(x, 2) for x in v] for k, v in turn.items()})}", file=sys.stderr, flush=True)
                for name, values in turn.items():
                    if number > 0:
                        runs[name].append(values)
        self.report(runs)

    def report(self, runs):
        gib = self.size / (1 << 30)
        for name, values in runs.items():
            row = {"name": f"one peer to another, {self.options.size} MiB: {name}",
                   "MB_s": self.size / 1e6 / statistics.median(v[0] for v in values),
                   "giver_cpu_s_per_GiB": statistics.median(v[1] for v in values) / gib,
                   "taker_cpu_s_per_GiB": statistics.median(v[2] for v in values) / gib}
            if name != "peer":
                row["peer_over_it"] = statistics.median(
                    theirs[0] / ours[0] for ours, theirs in zip(runs["peer"], values))
            self.rows.append(row)
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the blob")
    parser.add_argument("--json")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    status = 0
    try:
        bench = Bench(options)
        bench.run()
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps(bench.rows, indent=1) + "\n")
    except Exception as error:  # pylint: disable=broad-except
        print(f"bench: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        status = 1
    end_all()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
