"""deploy/helm and deploy/container: what the chart renders to, what its pods do on a node, and why it is so."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import unittest

import jsonschema
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Authority, E2E, Process, World, main, say, wait_for  # noqa: E402

TOP = pathlib.Path(__file__).resolve().parents[2]
CHART = TOP / "deploy/helm/cairn"
GO = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "", "GOPROXY": "off",
      "GOCACHE": str(TOP / "build/go-cache")}
BASE = {"image": {"repository": "registry.example/cairn"}, "tls": {"secretName": "cairn-tls"}}


def values(**more):
    return {**json.loads(json.dumps(BASE)), **more}


def build_bundle(folder):
    subprocess.run([TOP / "deploy/container/bundle", os.environ["CAIRN_BUILD"], folder], check=True)
    return folder


class Chart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = pathlib.Path(os.environ["CAIRN_TEST_DIR"], "chart")
        cls.files.mkdir()
        cls.render_program = cls.files / "render"
        subprocess.run(["/usr/bin/go", "build", "-o", cls.render_program, "."], cwd=TOP / "tests/support/helm",
                       env={**os.environ, **GO}, check=True)
        cls.schema = json.loads((CHART / "values.schema.json").read_text())

    @staticmethod
    def run_text(argv, text):
        return subprocess.run(argv, input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60,
                              check=False)

    def render(self, given, release="cairn", namespace="kube-system"):
        """kind -> object. Real helm, where there is one, says the same."""
        jsonschema.validate(given, self.schema)
        text = yaml.safe_dump(given)
        done = self.run_text([self.render_program, CHART, release, namespace], text)
        self.assertEqual(done.returncode, 0, done.stderr)
        objects = [doc for doc in yaml.safe_load_all(done.stdout) if doc]
        if shutil.which("helm"):
            real = self.run_text(["helm", "template", release, CHART, "-n", namespace, "-f", "-"], text)
            self.assertEqual(real.returncode, 0, real.stderr)
            self.assertCountEqual([doc for doc in yaml.safe_load_all(real.stdout) if doc], objects)
        kinds = [doc["kind"] for doc in objects]
        self.assertEqual(len(kinds), len(set(kinds)))
        for doc in objects:
            self.assertEqual(doc["metadata"]["namespace"], namespace)
            self.assertLessEqual(len(doc["metadata"]["name"]), 63)
            self.assertEqual(doc["metadata"]["labels"]["app.kubernetes.io/instance"], release)
        return dict(zip(kinds, objects))

    def refused(self, given, message):
        done = self.run_text([self.render_program, CHART, "cairn", "kube-system"], yaml.safe_dump(given))
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(message, done.stderr)

    def config(self, objects, address="192.0.2.7"):
        """cairn.yaml of a node, which cairnd takes."""
        text = objects["ConfigMap"]["data"]["cairn.yaml"]
        text = text.replace("@NODE_NAME@", "node-7").replace("@ADDRESS@", address)
        path = self.files / "cairn.yaml"
        path.write_text(text)
        cairnd = pathlib.Path(os.environ["CAIRN_BUILD"], "cairnd")
        done = self.run_text([cairnd, "--config", path, "--check-config"], "")
        self.assertEqual(done.returncode, 0, done.stderr)
        return yaml.safe_load(text)

    def consistent(self, objects):
        """Selectors find the pods; ports, volumes and names are those that are meant."""
        spec = objects["DaemonSet"]["spec"]
        labels, pod = spec["template"]["metadata"]["labels"], spec["template"]["spec"]
        container, = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        selectors = [spec["selector"]["matchLabels"]]
        if "Service" in objects:
            selectors.append(objects["Service"]["spec"]["selector"])
        for kind, key in (("PodMonitor", "selector"), ("NetworkPolicy", "podSelector")):
            if kind in objects:
                selectors.append(objects[kind]["spec"][key]["matchLabels"])
        for selector in selectors:
            self.assertTrue(selector)
            self.assertLessEqual(selector.items(), labels.items())
        config = self.config(objects)
        self.assertEqual(config["http"]["listen"], f"192.0.2.7:{ports['http']}")
        self.assertEqual(config["node"]["name"], "node-7")
        self.assertEqual({m["name"] for m in container["volumeMounts"]}, {v["name"] for v in pod["volumes"]})
        mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
        volumes = {v["name"]: v for v in pod["volumes"]}
        self.assertEqual(volumes[mounts["/config"]]["configMap"]["name"], objects["ConfigMap"]["metadata"]["name"])
        for kind in ("readinessProbe", "livenessProbe"):
            self.assertIn(container.get(kind, {"httpGet": {"port": "http"}})["httpGet"]["port"], ports)
        if "peers" in ports:
            self.assertEqual(config["p2p"]["listen"], f"192.0.2.7:{ports['peers']}")
            self.assertIn("secretName", volumes[mounts["/tls"]]["secret"])
        else:
            self.assertNotIn("Service", objects)
        if "Service" in objects:
            service = objects["Service"]
            self.assertEqual(service["spec"]["clusterIP"], "None")
            port, = service["spec"]["ports"]
            self.assertEqual((port["port"], port["targetPort"]), (ports["peers"], "peers"))
            name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
            self.assertEqual(config["p2p"]["peers"], [f"{name}:{ports['peers']}"])
        return config, pod, container

    def test_host(self):
        """The default: on the node, in its network, at the node's address."""
        objects = self.render(values())
        self.assertEqual(set(objects), {"ConfigMap", "DaemonSet", "Service"})
        config, pod, container = self.consistent(objects)
        self.assertTrue(pod["hostNetwork"] and pod["hostPID"])
        self.assertEqual(pod["priorityClassName"], "system-node-critical")
        self.assertEqual(container["args"], ["host"])
        self.assertNotIn("livenessProbe", container)  # that cairnd is down is nothing that a new pod would help
        self.assertEqual(config["p2p"]["tls"]["key"], "/etc/cairn/tls/tls.key")
        self.assertEqual(self.config(objects, "[2001:db8::7]")["p2p"]["listen"], "[2001:db8::7]:7400")
        address, = (e for e in container["env"] if e["name"] == "ADDRESS")
        self.assertEqual(address["valueFrom"]["fieldRef"]["fieldPath"], "status.hostIP")

    def test_everything_that_can_be_switched_on(self):
        cert = {"enabled": True, "issuerRef": {"name": "cairn", "kind": "ClusterIssuer"}}
        objects = self.render({"image": BASE["image"], "tls": {"certManager": cert}, "peers": {"port": 7777},
                               "http": {"port": 7778}, "podMonitor": {"enabled": True, "labels": {"team": "x"}},
                               "config": {"gc": {"keep_storage": "48h"}, "p2p": {"upload_limit": "100MiB"}},
                               "podLabels": {"a": "b"}, "podAnnotations": {"c": "d"}}, "a-release", "cairn")
        self.assertEqual(set(objects), {"ConfigMap", "DaemonSet", "Service", "Certificate", "PodMonitor"})
        config, pod, _ = self.consistent(objects)
        self.assertEqual(config["gc"], {"keep_storage": "48h"})
        self.assertEqual(config["p2p"]["upload_limit"], "100MiB")
        made = objects["Certificate"]["spec"]
        self.assertLessEqual({"server auth", "client auth"}, set(made["usages"]))
        self.assertEqual(made["issuerRef"], {"name": "cairn", "kind": "ClusterIssuer"})
        secret, = (v["secret"] for v in pod["volumes"] if v["name"] == "tls")
        self.assertEqual(secret["secretName"], made["secretName"])
        self.assertEqual(objects["PodMonitor"]["metadata"]["labels"]["team"], "x")
        self.assertEqual(objects["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"], "http")

    def test_certificates_of_the_document(self):
        """docs/certificates.md has an authority, and the Certificate that the chart makes of it."""
        text = (TOP / "docs/certificates.md").read_text().split("## With cert-manager")[1]
        blocks = [block for block in re.findall(r"(?:^    .*\n)+", text, re.M) if "apiVersion" in block]
        documents = [doc for block in blocks for doc in yaml.safe_load_all(re.sub(r"(?m)^    ", "", block))]
        self.assertEqual([(d["kind"], d["metadata"]["name"]) for d in documents],
                         [("Issuer", "cairn-selfsigned"), ("Certificate", "cairn-ca"), ("Issuer", "cairn"),
                          ("Certificate", "cairn-node")])
        authority, issuer, node = (d["spec"] for d in documents[1:])
        self.assertEqual(issuer["ca"]["secretName"], authority["secretName"])
        self.assertEqual(authority["issuerRef"]["name"], "cairn-selfsigned")
        cert = {"enabled": True, "issuerRef": {"name": "cairn"}}
        objects = self.render({"image": BASE["image"], "tls": {"certManager": cert}}, "cairn", "cairn")
        made = objects["Certificate"]["spec"]
        del made["renewBefore"]
        self.assertEqual({**made, "secretName": "cairn-node"}, node)

    def test_seed(self):
        """In the pod's own network, with no more rights than it needs, and nobody's content store."""
        policy = {"enabled": True, "nodes": ["192.0.2.0/24"], "metricsFrom": [{"namespaceSelector": {}}]}
        objects = self.render(values(mode="seed", networkPolicy=policy))
        config, pod, container = self.consistent(objects)
        self.assertNotIn("hostNetwork", pod)
        self.assertFalse(container["securityContext"]["allowPrivilegeEscalation"])
        self.assertEqual(config["containerd"]["address"], "")
        self.assertEqual(config["p2p"]["tls"]["key"], "/tls/tls.key")
        rules = {p["port"]: rule["from"] for rule in objects["NetworkPolicy"]["spec"]["ingress"] for p in rule["ports"]}
        self.assertEqual(set(rules), {"peers", "http"})
        self.assertIn({"ipBlock": {"cidr": "192.0.2.0/24"}}, rules["peers"])
        paths = [v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v]
        self.assertEqual(paths, ["/var/lib/cairn-seed"])
        self.refused(values(mode="seed", config={"containerd": {"address": "/run/containerd/containerd.sock"}}),
                     "a seed is no containerd's store")

    def test_alone_and_with_etcd(self):
        objects = self.render({"image": BASE["image"], "peers": {"enabled": False}})
        self.assertEqual(set(objects), {"ConfigMap", "DaemonSet"})
        self.consistent(objects)
        etcd = {"p2p": {"etcd": {"endpoints": ["https://etcd:2379"]}}}
        objects = self.render(values(peers={"directory": "etcd"}, config=etcd))
        config, _, _ = self.consistent(objects)
        self.assertNotIn("Service", objects)
        self.assertEqual(config["p2p"]["etcd"], {"endpoints": ["https://etcd:2379"]})

    def test_containerfile_installs_what_building_needs(self):
        """The same packages as tools/install-deps. (tools/image builds it, which takes a network.)"""
        text = (TOP / "deploy/Containerfile").read_text()
        listed = re.search(r"apt-get install -y --no-install-recommends \\\n((?:.*\\\n)*.*)\nCOPY", text)[1]
        needed = re.search(r"# to build\n(.*?)\t# to run", (TOP / "tools/install-deps").read_text(), re.S)[1]
        self.assertEqual(listed.replace("\\", "").split(), needed.split())

    def test_what_is_wrong_is_said(self):
        self.refused({"tls": BASE["tls"]}, "image.repository")
        self.refused({"image": BASE["image"]}, "nodes that share need certificates")
        self.refused(values(networkPolicy={"enabled": True}), "beyond network policies")
        self.refused({**BASE, "tls": {"certManager": {"enabled": True}}}, "issuerRef.name")
        jsonschema.validate(yaml.safe_load((CHART / "values.yaml").read_text()), self.schema)
        for wrong in ({"mod": "host"}, {"mode": "pod"}, {"peers": {"port": 0}}, {"config": {"gcc": {}}},
                      {"networkPolicy": {"nodes": ["10.0.0.0"]}}, {"podMonitor": {"interval": "often"}}):
            with self.assertRaises(jsonschema.ValidationError, msg=wrong):
                jsonschema.validate(wrong, self.schema)


NSENTER = """\
#!/bin/sh
# What the node's systemd would be told, a line a call.
while [ "$1" != -- ]; do shift; done
shift
echo "$*" >>"$TMPDIR/told"
"""


class Node(E2E):
    """cairn-node, with a folder in place of the node's root."""

    def setUp(self):
        super().setUp()
        names = ("host", "config", "tls", "tmp", "bin")
        self.host, self.config, self.tls, self.tmp, tools = (self.folder / name for name in names)
        for folder in (self.host, self.config, self.tmp, tools):
            folder.mkdir()
        (tools / "nsenter").write_text(NSENTER)
        (tools / "nsenter").chmod(0o755)
        self.bundle = build_bundle(self.folder / "bundle")
        self.env = {"HOST": str(self.host), "CONFIG": str(self.config), "TLS": str(self.tls), "TMPDIR": str(self.tmp),
                    "NODE_NAME": "n1", "ADDRESS": "127.0.0.1", "EVERY": "0.1",
                    "PATH": f"{tools}:{os.environ['PATH']}"}

    def configure(self, more=""):
        (self.config / "cairn.yaml").write_text(
            f"state_dir: {self.folder}/state\nlisten: {self.folder}/s\nnode: {{name: '@NODE_NAME@'}}\n"
            f"containerd: {{address: ''}}\nhttp: {{listen: ''}}\n{more}")

    def certificate(self):
        cert, key = self.authority.issue("n1")
        self.tls.mkdir(exist_ok=True)
        for name, path in (("ca.crt", self.authority.ca), ("tls.crt", cert), ("tls.key", key)):
            shutil.copy(path, self.tls / name)

    def told(self):
        """What systemd was told since the last call, without that cairnd is to run."""
        path = self.tmp / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return [line for line in lines if line != "systemctl start cairnd.service"]

    def wait_told(self, *lines):
        seen = []

        def all_told():
            seen.extend(self.told())
            return set(lines) <= set(seen)
        wait_for(f"systemd to be told {lines}", all_told)
        self.assertEqual(seen, list(lines))

    def test_host(self):
        self.authority = Authority(self.folder / "pki")
        self.certificate()
        self.configure()
        node = Process("cairn-node", [self.bundle / "cairn-node", "host"], self.folder, self.env).start()
        new = ("systemctl daemon-reload", "systemctl enable cairnd.service", "systemctl restart cairnd.service")
        self.wait_told(*new)

        say("what is there now runs")
        unit = (self.host / "etc/systemd/system/cairnd.service").read_text()
        self.assertIn("\nType=notify\n", unit)
        self.assertIn("\n[Service]\nBindReadOnlyPaths=/opt/cairn/resolv.conf:/etc/resolv.conf\n", unit)
        names = (self.host / "opt/cairn/resolv.conf").read_text()
        self.assertEqual(names, pathlib.Path("/etc/resolv.conf").read_text())
        command = re.search(r"^ExecStart=(.*)$", unit, re.M)[1].replace("/opt/", f"{self.host}/opt/")
        command = command.replace("/etc/", f"{self.host}/etc/").split()
        daemon = Process("cairnd", command, self.folder).start()
        tool = [self.host / "opt/cairn/cairnctl", "--socket", self.folder / "s", "status"]
        wait_for("it to serve", lambda: subprocess.run(tool, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                                       check=False).returncode == 0)
        daemon.stop()
        for path, mode in (("cairn.yaml", 0o600), ("tls/tls.key", 0o600)):
            self.assertEqual((self.host / "etc/cairn" / path).stat().st_mode & 0o777, mode)

        say("each change is told once")
        self.certificate()
        self.wait_told("systemctl kill --signal=HUP cairnd.service")
        self.configure("log: {level: debug}\n")
        self.wait_told("systemctl restart cairnd.service")
        self.assertIn("level: debug", (self.host / "etc/cairn/cairn.yaml").read_text())
        self.configure("log: {level: loud}\n")
        wait_for("it to be refused", lambda: "stays as it was" in node.log_text() and "loud" in node.log_text())
        self.assertIn("level: debug", (self.host / "etc/cairn/cairn.yaml").read_text())
        self.assertEqual(self.told(), [])
        node.stop()

        say("a new image: the programs of the one before stay, older ones go")
        self.configure("log: {level: debug}\n")
        for number in range(3):
            (self.bundle / "new").write_text(f"{number}")
            node.start()
            self.wait_told(*new)
            node.stop()
        self.assertEqual(len([p for p in (self.host / "opt/cairn").iterdir() if p.is_dir() and not p.is_symlink()]), 2)

    def test_a_node_with_the_package_is_left_alone(self):
        self.configure()
        (self.host / "usr/sbin").mkdir(parents=True)
        (self.host / "usr/sbin/cairnd").write_text("")
        node = Process("cairn-node", [self.bundle / "cairn-node", "host"], self.folder, self.env).start()
        self.assertEqual(node.wait(20), 1)
        self.assertIn("has a cairnd already", node.log_text())
        self.assertFalse((self.host / "etc").exists())

    def test_seed(self):
        self.authority = Authority(self.folder / "pki")
        self.certificate()
        files = {key: str(self.tls / name) for key, name in (("ca", "ca.crt"), ("cert", "tls.crt"), ("key", "tls.key"))}
        self.configure(f"p2p: {{listen: '@ADDRESS@:0', tls: {json.dumps(files)}}}\n")
        seed = Process("seed", [self.bundle / "cairn-node", "seed"], self.folder, self.env).start()
        wait_for("it to serve", lambda: "ev=ready" in seed.log_text())
        self.assertNotIn("ev=signal", seed.log_text())
        self.certificate()
        wait_for("new certificates to be read", lambda: "ev=certificates_reloaded" in seed.log_text())
        seed.signal(signal.SIGTERM)
        self.assertEqual(seed.wait(20), 0)
        self.assertIn("ev=stopped", seed.log_text())
        say("the end of cairnd is the pod's end")
        self.configure("log: {level: loud}\n")
        seed.start()
        self.assertEqual(seed.wait(20), 1)


class Why(E2E):
    def test_no_container_starts_while_its_store_is_away(self):
        """Why cairnd must not be a container of the containerd that it is the store of: not even from an image that is
        there and unpacked, and that ran before."""
        w = self.enter(World(self.folder))
        ref = w.registry.ref("demo/small:v1")
        w.containerd.pull(ref)
        w.containerd.whole(ref, "v1")
        w.cairnd.stop()
        again = w.containerd.ctr(*w.containerd.run_args("again", "--rm"), ref, "again", "/bin/true", check=False,
                                 timeout=60)
        self.assertNotEqual(again.returncode, 0)
        self.assertRegex(again.stderr, r"(?i)unavailable|no such file|connection error")
        w.cairnd.start()
        wait_for("it to run again", lambda: w.containerd.ctr("images", "check", check=False).returncode == 0)
        w.containerd.whole(ref, "v1")


if __name__ == "__main__":
    main()
