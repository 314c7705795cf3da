"""How fast a cluster fills, beside what its links allow; and what asking costs where nobody has anything.

Run by tools/bench. Each node is a network namespace with a link of a given rate (tbf); so is the registry. Nodes
have a cairnd and, instead of containerd, a client that does what containerd does with its content store. All begin
at the same moment with an image that nobody has.

    ideal = max(S / B, N * S / (B + N * B))     S: bytes of the image, B: the rate of every link, N nodes
"""
import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import Cluster, log_tails  # noqa: E402
from harness.cluster import all_of  # noqa: E402
from harness.process import end_all  # noqa: E402

MIB = 1 << 20
FOLDER = pathlib.Path(os.environ["CAIRN_TEST_DIR"])
LAYERS = 4
# As they are by default.
P2P = {"stall": "5s", "decide": "20ms"}


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def cpu(pid):
    """Seconds that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


class Bench:
    def __init__(self, options):
        self.options = options
        self.rows = []
        self.number = 0

    def row(self, name, **values):
        self.rows.append({"name": name, **values})
        texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values.values()]
        print("  ".join([name, *(f"{key.replace('_', ' ')} {text}" for key, text in zip(values, texts))]), flush=True)

    def cluster(self, size, **options):
        self.number += 1
        options = {"registry": "scripted", "p2p": P2P, "level": "info", **options}
        return Cluster(FOLDER / str(self.number), size=size, **options)

    def swarm(self, nodes, mbit, directory="static"):
        """Seconds of each node, and what the registry sent."""
        size = self.options.size * MIB
        with self.cluster(nodes, directory=directory, link=f"{mbit}mbit", registry_link=f"{mbit}mbit") as c:
            made = c.nodes(c.names)
            one = c.registry.image("bench/app:v1", [os.urandom(size // LAYERS) for _ in range(LAYERS)])
            before = [cpu(n.cairnd.process.pid) for n in made]
            running = [n.start_image("bench/app:v1") for n in made]
            all_of(running, 600)
            used = sum(cpu(n.cairnd.process.pid) for n in made) - sum(before)
            sent = c.registry.sent_of(set(one.layers))
            hows = [f.how for r in running for f in r.puller.fetched.values()]
            say(f"{nodes} nodes: {[round(r.seconds, 1) for r in running]}, {hows.count('registry')} of {len(hows)} "
                f"blobs from the registry")
            if self.options.check:
                for r in running:
                    r.puller.check()
        shutil.rmtree(FOLDER / str(self.number))
        return [r.seconds for r in running], sent / size, used

    def rate(self, mbit):
        """What one plain TCP stream gets of such a link, in bytes a second."""
        with self.cluster(2, registry=None, tls=False, link=f"{mbit}mbit") as c:
            a, b = c.net.host("a"), c.net.host("b")
            self.transfer(a, b, MIB)  # they know each other from here on
            took = self.transfer(a, b, 32 * MIB)
        shutil.rmtree(FOLDER / str(self.number), ignore_errors=True)
        return 32 * MIB / took

    @staticmethod
    def transfer(a, b, size):
        """Seconds of so many bytes from a to b."""
        with a.inside():
            server = socket.create_server((a.address, 0))

        def give():
            with server, server.accept()[0] as client:
                client.sendall(bytes(size))
        threading.Thread(target=give, daemon=True).start()
        began = time.monotonic()
        with b.inside():
            client = socket.create_connection(server.getsockname())
        with client:
            while client.recv(1 << 18):
                pass
        return time.monotonic() - began

    def cold(self):
        mbit = self.options.mbit
        size, rate = self.options.size * MIB, mbit * 1e6 / 8
        plain = self.rate(mbit)
        self.row("plain TCP over one such link", MB_s=plain / 1e6, of_its_rate=plain / rate)
        for nodes in self.options.nodes:
            ideal = max(size / rate, nodes * size / (rate + nodes * rate))
            medians, slowest, sent, used = [], [], [], []
            for _ in range(self.options.runs):
                seconds, times, cpus = self.swarm(nodes, mbit)
                medians.append(statistics.median(seconds) / ideal)
                slowest.append(max(seconds) / ideal)
                sent.append(times)
                used.append(cpus / (nodes * size / 2**30))
            median, worst = statistics.median(medians), statistics.median(slowest)
            self.row(f"{nodes} cold nodes, {self.options.size} MiB, links of {mbit} Mbit/s", ideal_s=ideal,
                     median_node=median, slowest_node=worst, registry_times=statistics.median(sent),
                     cpu_s_per_GiB=statistics.median(used),
                     goals="met" if median <= 1.15 and worst <= 1.5 else "NOT MET (1.15, 1.5)",
                     runs=[[round(m, 3), round(s, 3)] for m, s in zip(medians, slowest)])

    def second_stats(self, node, count, size=MIB):
        """Seconds of each second STAT, about blobs that nobody has; each is let go of before the next."""
        took = []
        with node.cairnd.client() as client:
            for number in range(count):
                digest = "sha256:" + os.urandom(32).hex()
                ref = f"bench/{number}/layer-{digest}"
                with client.write() as writer:
                    assert writer.stat(ref=ref, total=size).offset == 0
                    began = time.perf_counter()
                    reply = writer.stat()
                    took.append(time.perf_counter() - began)
                    assert reply.offset == 0
                client.abort(ref)
        return took

    def miss(self):
        count = self.options.questions
        for name, nodes, options in (("nobody to ask", 1, {"p2p": {**P2P, "listen": ""}}),
                                     ("static, 5 nodes", 5, {}), ("etcd, 5 nodes", 5, {"directory": "etcd"})):
            with self.cluster(nodes, **options) as c:
                if nodes == 1:
                    made = [c.node("a")]
                else:
                    made = c.nodes(c.names)
                self.second_stats(made[0], 20)  # connections are made
                took = [1000 * s for s in self.second_stats(made[0], count)]
            shutil.rmtree(FOLDER / str(self.number), ignore_errors=True)
            base = took if nodes == 1 else base
            p50 = percentile(took, 0.5) - (percentile(base, 0.5) if nodes > 1 else 0)
            p99 = percentile(took, 0.99) - (percentile(base, 0.5) if nodes > 1 else 0)
            goals = {} if nodes == 1 else {"goals": "met" if p50 <= 3 and p99 <= 25 else "NOT MET (3, 25)"}
            self.row(f"second STAT where nobody has it: {name}" + (", added" if nodes > 1 else ""), p50_ms=p50,
                     p99_ms=p99, highest_ms=max(took), **goals)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 5, 10])
    parser.add_argument("--mbit", type=int, default=100)
    parser.add_argument("--size", type=int, default=128, help="MiB of the image")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--only", choices=["cold", "miss"])
    parser.add_argument("--check", action="store_true", help="read everything back")
    parser.add_argument("--json")
    bench = Bench(parser.parse_args())
    FOLDER.mkdir(exist_ok=True)
    try:
        if bench.options.only != "miss":
            bench.cold()
        if bench.options.only != "cold":
            bench.miss()
    except Exception as error:  # pylint: disable=broad-except
        end_all()
        print(f"bench: {type(error).__name__}: {error}\n{log_tails(15)}", file=sys.stderr, flush=True)
        os._exit(1)
    if bench.options.json:
        pathlib.Path(bench.options.json).write_text(json.dumps(bench.rows, indent=1) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
