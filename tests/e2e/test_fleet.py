"""Preheat of several nodes, coordinated by the one that is asked: what each of them came to, and nothing else."""
import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import main, say, wait_for  # noqa: E402
from harness.preheat import Outcome  # noqa: E402
from harness.swarm import MIB, PATIENT, SwarmCase  # noqa: E402

NAME = "team/app:live"


class FleetCase(SwarmCase):
    def preheat(self, node, *args, status=None, stdin=None):
        done = node.tool.run("--json", "preheat", self.c.registry.ref(NAME), *args, stdin=stdin)
        outcome = Outcome(done)
        outcome.nodes = self.nodes_of(done)
        say({name: (row["state"], row["error"]) for name, row in outcome.nodes.items()}, outcome.stderr)
        if status is not None:
            self.assertEqual(outcome.status, status, outcome)
        return outcome

    def start_preheat(self, node, *args):
        process = subprocess.Popen(node.tool.argv("--json", "preheat", self.c.registry.ref(NAME), *args),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def end():
            out, err = process.communicate(timeout=120)
            done = subprocess.CompletedProcess((), process.returncode, out, err)
            outcome = Outcome(done)
            outcome.nodes = self.nodes_of(done)
            say({name: (row["state"], row["error"]) for name, row in outcome.nodes.items()}, err)
            return outcome
        self.stack.callback(process.kill)
        return end

    def nodes_of(self, done):
        """name -> its row, as told last."""
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return {row["name"]: row for row in rows if row["type"] == "node"}

    def states(self, node, job):
        return {name: row["state"] for name, row in self.nodes_of(node.tool.run("--json", "jobs", job)).items()}

    def job_state(self, node, job):
        return Outcome(node.tool.run("--json", "jobs", job)).state

    def report(self, node):
        """digest -> what versions --fleet says."""
        return {row["digest"]: row for row in node.tool.json("versions", self.c.registry.ref(NAME), "--fleet")}

    def small_disk(self, mib):
        folder = self.folder / "small"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", folder], check=True)
        self.stack.callback(subprocess.run, ["umount", "-l", folder], check=False)
        return folder / "state"

    def refused(self, node, *args, says, status=1):
        done = node.tool.run("preheat", self.c.registry.ref(NAME), *args, stdin="secret\n")
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertIn(says, done.stderr)
        self.assertNotIn("secret", done.stderr)


class Staged(FleetCase):
    def begin(self):
        # What is asserted is that each version came once; that a node is down is etcd's word and the coordinator's
        # patience, not a stall.
        c = self.cluster(size=5, registry="scripted", directory="etcd", p2p={**PATIENT, "min_rate": "100KiB"})
        state = self.small_disk(10)
        self.a, self.b, self.c_, self.d, self.e = nodes = [
            c.node(name, start=False, state=state if name == "d" else None) for name in "abcde"]
        for node in nodes:
            node.start()
        c.await_members(*nodes)
        return nodes

    def old_versions(self, nodes):
        """v0, which nobody uses, and v1, which runs everywhere; at the end the tag means v2."""
        v0 = self.layers(1, MIB, NAME)
        outcome = self.preheat(self.a, "--nodes", "all", status=0)
        self.assertEqual({row["state"] for row in outcome.nodes.values()}, {"succeeded"})
        self.assertEqual(len(outcome.nodes), 5)
        v1 = self.layers(1, MIB, NAME)
        self.preheat(self.b, "--nodes", "5", "--batch", "40%", status=0)
        self.assert_sent(v1, 1.01)
        self.finish([node.start_image(NAME) for node in nodes])
        return v0, v1, self.layers(4, 3 * MIB, NAME)

    def die_in_the_middle(self, node, blobs):
        """Once it gets the first of them."""
        wait_for(f"{node.name} to be at it", lambda: node.from_peers() > 3 * MIB, 30)
        self.assertFalse(blobs <= node.held())
        node.die()

    def test_staged(self):
        """A new version under the same tag, two nodes at a time, while the old one runs: a node is down, one's disk is
        full, one dies in the middle, and the report says exactly that. Then pulls, the way back, and a prune."""
        nodes = self.begin()
        v0, v1, v2 = self.old_versions(nodes)
        self.e.die()
        self.c_.host.limit(down="16mbit")
        done = self.start_preheat(self.a, "--nodes", "all", "--batch", "2", "--keep-for", "1h")
        self.die_in_the_middle(self.c_, v2.blobs)
        outcome = done()
        self.assert_told(outcome)
        self.assert_sent(v2, 1.01)
        self.assert_pulls_move_nothing(v2)
        self.assert_way_back(v0, v1, v2)
        self.assert_prune(v0, v1, v2)

    def assert_told(self, outcome):
        self.assertEqual({name: row["state"] for name, row in outcome.nodes.items()},
                         {"a": "succeeded", "b": "succeeded", "c": "down", "d": "failed", "e": "down"})
        self.assertEqual({name: row["batch"] for name, row in outcome.nodes.items()},
                         {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3})
        self.assertEqual((outcome.status, outcome.state), (1, "partial"), outcome)
        self.assertIn("the disk has no room", outcome.nodes["d"]["error"])
        self.assertIn("2 of 5 nodes hold all of it: 1 failed, 2 are down", outcome.stderr)
        for name in "ab":
            self.assertEqual(outcome.nodes[name]["blobs"], {"done": 6, "total": 6, "failed": 0})
        sums = [sum(outcome.nodes[n]["bytes"][key] for n in "ab") for key in ("fetched", "from_peers")]
        self.assertGreaterEqual(sum(sums), 2 * 12 * MIB)
        self.assertGreaterEqual(sums[1], 11 * MIB)

    def assert_pulls_move_nothing(self, v2):
        before = self.c.registry.sent.copy()
        pulls = [node.start_image(NAME) for node in (self.a, self.b)]
        self.finish(pulls)
        for pull in pulls:
            self.assertEqual({one.how for one in pull.puller.fetched.values()}, {"prefill"})
        blobs = {key: n for key, n in (self.c.registry.sent - before).items() if key[1] in set(v2.layers) | {v2.config}}
        self.assertEqual(blobs, {})

    def assert_way_back(self, v0, v1, v2):
        """Where the disk was full, v0 went to make room for v2, in vain; v1 is in use."""
        for asked in (self.a, self.d):
            report = self.report(asked)
            say(json.dumps(report, indent=1))
            self.assertEqual(set(report), {v0.digest, v1.digest, v2.digest})
            for one, ready in ((v0, "ab"), (v1, "abd"), (v2, "ab")):
                row = report[one.digest]
                self.assertEqual((row["ready"], row["nodes"], set(row["ready_nodes"])), (len(ready), 5, set(ready)))
            why = {row["node"]: row["why"] for row in report[v2.digest]["not_ready"]}
            self.assertEqual(set(why), set("cde"))
        text = self.a.tool.terminal("versions", self.c.registry.ref(NAME), "--fleet")[1]
        self.assertIn("roll-back ready: 2 of 5 nodes", text)

    def assert_prune(self, v0, v1, v2):
        ref = self.c.registry.ref(NAME)
        dry = self.a.tool.json("prune", ref, "--keep", "1", "--nodes", "a,b,d", "--dry-run")
        self.assertEqual([row["name"] for row in dry], ["a", "b", "d"])
        self.assertTrue(all(v0.blobs <= node.held() for node in (self.a, self.b)))
        rows = self.a.tool.json("prune", ref, "--keep", "1", "--nodes", "all", status=1)  # two are down
        self.assertEqual({row["name"]: bool(row["error"]) for row in rows},
                         {"a": False, "b": False, "c": True, "d": False, "e": True})
        for node, kept in ((self.a, v1.blobs | v2.blobs), (self.b, v1.blobs | v2.blobs), (self.d, v1.blobs)):
            held = node.held()
            self.assertLessEqual(kept, held, f"{node.name} uses these")
            self.assertFalse((v0.blobs - kept) & held, f"{node.name} used these no more")


class Lives(FleetCase):
    def test_coordinator_killed_and_nodes_that_come(self):
        """The coordinator is killed in the middle, and goes on; a node that was down, and one that is new, are caught
        up; a cancel ends the waiting for others."""
        c = self.cluster(size=4, registry="scripted", directory="etcd", registry_link="40mbit", p2p=PATIENT)
        a, b, down = c.nodes("abc")
        one = self.layers(4, 2 * MIB, NAME)
        a.tool.expect(1, "versions", c.registry.ref(NAME), "--fleet")  # it meets the others, and knows their names
        down.cairnd.kill()
        gate = c.registry.hold("GET", one.layers[3], after=MIB)
        done = a.tool.run("preheat", c.registry.ref(NAME), "--nodes", "all", "--batch", "1", "--until", "10m",
                          "--detach")
        self.assertEqual(done.returncode, 0, done.stderr)
        job = done.stdout.strip()
        self.assertTrue(gate.reached.wait(20), "the first node to be at it")
        wait_for("it to have the others", lambda: set(one.layers[:3]) <= a.held(), 20)
        a.cairnd.kill()
        c.registry.relent()
        a.cairnd.start()
        wait_for("it to go on", lambda: self.states(a, job) == {"a": "succeeded", "b": "succeeded", "c": "down"}, 30)
        self.assertEqual(self.job_state(a, job), "running")
        down.cairnd.start()
        wait_for("c to be caught up", lambda: self.states(a, job).get("c") == "succeeded", 20)
        late = c.node("d")
        wait_for("d to be caught up", lambda: self.states(a, job).get("d") == "succeeded", 20)
        a.tool.ok("cancel", job)
        wait_for("the job to be over", lambda: self.job_state(a, job) == "succeeded", 10)
        for node in (a, b, down, late):
            self.assertLessEqual(one.blobs, node.held())
        self.assert_sent(one, 1.6)  # what a had when it was killed may have come once more
        self.assertIn("n-" + job[2:], {row["id"] for row in b.tool.json("jobs")})

    def test_cancelled(self):
        """A cancel ends the job on the nodes, too; who goes away cancels."""
        c = self.cluster(size=2, registry="scripted", registry_link="10mbit")
        a, b = c.nodes("ab")
        self.layers(2, 4 * MIB, NAME)
        job = a.tool.ok("preheat", c.registry.ref(NAME), "--nodes", "all", "--detach").strip()
        wait_for("both to be at it", lambda: set(self.states(a, job).values()) == {"running"}
                 and b.tool.json("jobs"), 20)
        a.tool.ok("cancel", job)
        wait_for("it to end", lambda: self.job_state(a, job) == "cancelled", 10)
        self.assertEqual(set(self.states(a, job).values()), {"cancelled"})
        for node in (a, b):
            wait_for(f"{node.name} to have ended", lambda n=node: {j["state"] for j in n.tool.json("jobs")} ==
                     {"cancelled"}, 10)

    def test_who_is_meant(self):
        """Names, labels, and what is wrong with the words; a node that is not to be asked; no secret travels."""
        c = self.cluster(size=3, registry="scripted", p2p={"decide": "1s"})
        a, b, off = (c.node("a", start=False, labels={"rack": "r1"}), c.node("b", start=False, labels={"rack": "r2"}),
                     c.node("c", start=False, p2p={"fleet": "off"}))
        for node in (a, b, off):
            node.start()
        c.await_members(a, b, off)
        one = self.layers(1, 1000, NAME)
        self.refused(a, "--nodes", "a,nobody", says='there is no node "nobody"')
        self.refused(a, "--nodes", "rack=r9", says="rack=r9")
        self.refused(a, "--nodes", "all", "--batch", "0", says='batch is "0"')
        self.refused(a, "--nodes", "101%", says='nodes is "101%"')
        self.refused(a, "--nodes", "all", "--max-failures", "120%", says="max_failures")
        self.refused(a, "--nodes", "9", says="9 are asked for")
        self.refused(a, "--nodes", "all", "--username", "me", "--password-stdin", says="docker_config")
        self.refused(off, "--nodes", "all", says="p2p.fleet")
        self.refused(a, "--batch", "2", says="go with --nodes", status=2)
        self.refused(a, "--nodes", "all", "--batch", "two", says="--batch is", status=2)
        self.refused(a, "--nodes", "all", "--until", "yesterday", says="--until is", status=2)
        self.assertEqual(a.tool.json("jobs"), [])
        status, text = a.tool.terminal("preheat", c.registry.ref(NAME), "--nodes", "rack=r2", "--platform", "node")
        say(text)
        self.assertEqual(status, 1, "c does not say what labels it has")
        self.assertRegex(text, r"(?m)^b +succeeded ")
        self.assertRegex(text, r"(?m)^c +failed .*p2p\.fleet")
        self.assertLessEqual(one.blobs, b.held())
        self.assertFalse(one.blobs & a.held())
        self.assertEqual(self.preheat(a, "--nodes", "b,a", status=0).nodes["a"]["state"], "succeeded")
        line = a.tool.fields("preheat", c.registry.ref(NAME), "--nodes", "b")[0]
        self.assertEqual(line[:3], ["node", "b", "succeeded"])
        self.assertEqual(os.listdir(off.cairnd.state / "jobs"), [])
        self.assertRegex(a.log(), r'ev=audit who=local .*method=Preheat what="[^"]*team/app:live[^"]* b,a"')
        self.assertRegex(b.log(), r"ev=asked by=\S+ what=Begin code=OK")
        say("two coordinators at once, for the same image")
        one = self.layers(2, MIB, NAME)
        for end in [self.start_preheat(node, "--nodes", "a,b") for node in (a, b)]:
            self.assertEqual(end().state, "succeeded")
        self.assert_sent(one, 2.0)  # a grant is no lock: on a slow machine one may come twice


if __name__ == "__main__":
    main()
