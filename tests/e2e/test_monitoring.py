"""deploy/prometheus and deploy/grafana, against the metrics of real nodes in a real Prometheus."""
import json
import pathlib
import re
import subprocess
import sys
import unittest
import urllib.parse
import urllib.request

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import (Authority, Cairnctl, Cairnd, E2E, Process, Puller, World, digests, free_port,  # noqa: E402
                     main, metrics, say, wait_for)

TOP = pathlib.Path(__file__).resolve().parents[2]
RULES = TOP / "deploy/prometheus/cairn.rules.yaml"
DASHBOARD = json.loads((TOP / "deploy/grafana/cairn.json").read_text())
ALERTS = {rule["alert"]: rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
# There only after something happened that does not happen here; docs/operations.md says so.
LATER = {"cairn_p2p_bad_pieces_total"}
# Series of these labels are there only after an error.
ERRORS = re.compile(r'grpc_code=~"Internal|cairn_p2p_bad_pieces_total')

A, B = ('{job="cairn",instance="a"}', '{job="cairn",instance="b"}')
GIB = 1 << 30
# Alert -> series of an hour and a half, a value a minute, that make it fire at the end. Each line replaces one of GOOD.
BAD = {
    "CairnDown": {"up" + A: "1x80 0x10"},
    "CairnNotServing": {"cairn_serving" + A: "0x90"},
    "CairnRestarts": {"cairn_start_time_seconds" + A: "1x70 2x5 3x5 4x10"},
    "CairnImagesBroken": {"cairn_containerd_missing" + A: "1x90"},
    "CairnBlobsDamaged": {"cairn_damaged_blobs" + A: "2x90"},
    "CairnRepairsFail": {'cairn_repairs_total{job="cairn",instance="a",result="failed"}': "0x85 1x5"},
    "CairnContainerdAway": {"cairn_containerd_reachable" + A: "0x90"},
    "CairnDiskFull": {"cairn_disk_free_bytes" + A: f"{GIB}x90"},
    "CairnDiskPressure": {"cairn_gc_pressure_unrelieved" + A: "1x90"},
    "CairnGarbageStays": {"cairn_gc_last_pass_timestamp_seconds" + A: "-7200x90"},
    "CairnWritesFail": {'cairn_rpc_handled_total{instance="a",grpc_method="Write",grpc_code="ResourceExhausted"}':
                        "1+1x90"},
    "CairnSlow": {'cairn_rpc_duration_seconds_bucket{instance="a",grpc_method="Info",le="0.25"}': "0+1x90"},
    "CairnPeersUnhealthy": {"cairn_p2p_healthy" + A: "0x90"},
    "CairnSeesFewNodes": {"cairn_p2p_members" + A: "1x90"},
    "CairnPeersRefused": {"cairn_p2p_refused_total" + A: "0+1x90"},
    "CairnCertificateEnds": {"cairn_p2p_certificate_end_timestamp_seconds" + A: f"{14 * 86400}x90"},
    "CairnPiecesBad": {"cairn_p2p_pieces_bad_total" + A: "0x80 1x10"},
}
# A node that is well, and does what nodes do: a few strangers, a restart, a few failed writes, a disk that is used.
GOOD = {
    "up" + A: "1x90", "cairn_serving" + A: "1x90", "cairn_start_time_seconds" + A: "1x80 2x10",
    "cairn_containerd_missing" + A: "0x90", "cairn_damaged_blobs" + A: "0x90",
    'cairn_repairs_total{job="cairn",instance="a",result="failed"}': "3x90", "cairn_containerd_reachable" + A: "1x90",
    "cairn_disk_free_bytes" + A: f"{10 * GIB}x90", "cairn_disk_bytes" + A: f"{100 * GIB}x90",
    "cairn_gc_pressure_unrelieved" + A: "0x90", "cairn_gc_last_pass_timestamp_seconds" + A: "0+60x90",
    'cairn_rpc_handled_total{instance="a",grpc_method="Write",grpc_code="ResourceExhausted"}': "1x85 2x5",
    'cairn_rpc_duration_seconds_bucket{instance="a",grpc_method="Info",le="0.25"}': "0+1000x90",
    'cairn_rpc_duration_seconds_bucket{instance="a",grpc_method="Info",le="1"}': "0+1001x90",
    'cairn_rpc_duration_seconds_bucket{instance="a",grpc_method="Info",le="+Inf"}': "0+1001x90",
    "cairn_p2p_healthy" + A: "1x90", "cairn_p2p_members" + A: "2x90", "cairn_p2p_members" + B: "2x90",
    "cairn_p2p_certificate_end_timestamp_seconds" + A: f"{15 * 86400}x90",
    "cairn_p2p_refused_total" + A: "0x85 5x5", "cairn_p2p_pieces_bad_total" + A: "4x90",
}


def expressions():
    """(where, expression) of the dashboard and of the rules, without the dashboard's variables."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
            yield panel["title"], expr
    for name, rule in ALERTS.items():
        yield name, rule["expr"]


def names(expr):
    return set(re.findall(r"\bcairn_\w+", expr))


class Files(unittest.TestCase):
    def promtool(self, *args, cwd=TOP):
        done = subprocess.run(["promtool", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, cwd=cwd, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_each_alert_fires_when_it_should_and_alone(self):
        """promtool test rules: each bad series makes its own alert fire, and a node that is well makes none."""
        self.promtool("check", "rules", RULES)
        self.assertEqual(set(BAD), set(ALERTS))
        tests = []
        for alert, bad in [(None, {}), *BAD.items()]:
            self.assertLessEqual(set(bad), set(GOOD), alert)
            series = [{"series": name, "values": values} for name, values in {**GOOD, **bad}.items()]
            fired = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []
            tests.append({"name": alert or "all is well", "interval": "1m", "input_series": series,
                          "promql_expr_test": [{"expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                                                "eval_time": "89m", "exp_samples": fired}]})
        path = pathlib.Path("/run/cairn-rules.test.yaml")
        path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
        self.promtool("test", "rules", path)

    def test_each_alert_says_what_it_means_and_what_to_do(self):
        text = (TOP / "docs/operations.md").read_text()
        headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                    for line in text.splitlines() if line.startswith("#")}
        for name, rule in ALERTS.items():
            self.assertEqual(set(rule["annotations"]), {"summary", "description", "runbook"}, name)
            page, heading = rule["annotations"]["runbook"].split("#")
            self.assertEqual(page, "docs/operations.md")
            self.assertIn(heading, headings, name)
            self.assertIn(name, text)

    def test_operations_name_what_there_is(self):
        """Each event of the log and each metric that the document names is in the code."""
        text = (TOP / "docs/operations.md").read_text()
        code = "\n".join(path.read_text() for folder in ("base", "cache", "cmd", "oci", "p2p", "plugin", "rpc")
                         for path in sorted((TOP / folder).glob("*.c")))
        named = set(re.findall(r"`(?:ev=)?([a-z]+(?:_[a-z]+)+)`", text))
        self.assertGreater(len(named), 20)
        for name in named - {"state_dir"}:
            self.assertIn(f'"{name.removeprefix("cairn_")}"', code, name)

    def test_dashboard_is_well_formed(self):
        panels = DASHBOARD["panels"]
        self.assertEqual(len({p["id"] for p in panels}), len(panels))
        taken = set()
        for panel in panels:
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24)
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertFalse(cells & taken, panel["title"])
            taken |= cells
            if panel["type"] != "row":
                self.assertTrue(panel["description"] and panel["targets"], panel["title"])
        variables = {v["name"] for v in DASHBOARD["templating"]["list"]} | {"__rate_interval"}
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels)))
        self.assertLessEqual(used, variables)


class Prometheus:
    """Scrapes these ports each second, as job "cairn", and evaluates the rules."""

    def __init__(self, folder, ports):
        self.folder = folder / "prometheus"
        self.ports, self.port, self.process = ports, free_port(), None

    def __enter__(self):
        self.folder.mkdir()
        targets = [f"127.0.0.1:{port}" for port in self.ports]
        (self.folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "cairn", "static_configs": [{"targets": targets}]}]}))
        self.process = Process("prometheus", [
            "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn",
            f"--web.listen-address=127.0.0.1:{self.port}"], self.folder).start()
        return self

    def __exit__(self, *_):
        self.process.kill()

    def get(self, path, **query):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, expr):
        return self.get("query", query=expr)["result"]

    def value(self, expr):
        """Of one sample; None while there is none, or nobody answers."""
        try:
            found = self.query(expr)
        except OSError:
            return None
        return float(found[0]["value"][1]) if found else None


class Scrape(E2E):
    def nodes(self):
        """Two that share, one of them with containerd."""
        ports = [free_port(), free_port()]
        authority = Authority(self.folder / "pki")
        cert, key = authority.issue("node")
        tls = json.dumps({"ca": str(authority.ca), "cert": str(cert), "key": str(key)})

        def p2p(own, extra="gc: {interval: 1s, high_watermark: 100%, low_watermark: 100%, min_free: 0%}\n"):
            return (f'p2p: {{listen: "127.0.0.1:{own}", decide: 1s, tls: {tls}, '
                    f'peers: ["127.0.0.1:{ports[0]}", "127.0.0.1:{ports[1]}"]}}\n{extra}')
        self.w = self.enter(World(self.folder, extra=p2p(ports[0])))
        self.b = self.enter(Cairnd(self.folder / "b", extra=p2p(ports[1])))

    def test_all_that_is_asked_for_is_there(self):
        self.nodes()
        prometheus = self.enter(Prometheus(self.folder, [self.w.cairnd.http, self.b.http]))
        wait_for("both to be scraped", lambda: prometheus.value("count(cairn_p2p_members == 2)") == 2)
        say("a pull, by containerd and by the other node")
        self.w.containerd.pull(self.w.registry.ref("demo/small:v1"))
        wait_for("the other node to be told", lambda: metrics(self.w.cairnd.http)["cairn_p2p_announced_blobs"] == len(
            digests("demo/small:v1")))
        with Puller(self.b.socket, self.w.registry.host) as puller:
            puller.image("demo/small:v1")
            say(list(puller.fetched.values()))
        tool = Cairnctl(self.w.cairnd.socket, self.folder)
        tool.ok("gc")
        pulls = "sum(rate(cairn_pull_blobs_total[1m]))"
        wait_for("a rate of what was done", lambda: (prometheus.value(pulls) or 0) > 0)
        wait_for("a pass on both", lambda: prometheus.value("count(cairn_gc_last_pass_timestamp_seconds)") == 2)
        wait_for("bytes of peers", lambda: (prometheus.value("sum(rate(cairn_p2p_sent_bytes_total[1m]))") or 0) > 0)
        there = set(prometheus.get("label/__name__/values"))
        used = set()
        for where, expr in expressions():
            with self.subTest(where=where, expr=expr):
                found = prometheus.query(expr)  # what Prometheus refuses raises
                self.assertLessEqual(names(expr) - there, LATER)
                if where not in ALERTS and not ERRORS.search(expr):
                    self.assertTrue(found, "there is nothing to show")
            used |= names(expr)
        self.assertLessEqual(LATER, used)
        say("the rules are in use, and nothing fires but what is so")
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        self.assertEqual({rule["name"] for rule in rules}, set(ALERTS))
        self.assertEqual({rule["health"] for rule in rules} - {"unknown"}, {"ok"})
        self.assertEqual(prometheus.query('ALERTS{alertstate="firing"}'), [])


if __name__ == "__main__":
    main()
