"""Peers that die, freeze, crawl or are refused by the registry: the others get their blobs all the same."""
import os
import pathlib
import sys
import threading
import time

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from harness import Relay, main, say, wait_for  # noqa: E402
from harness.puller import Abandoned, RegistryError  # noqa: E402
from harness.swarm import MIB, PATIENT, SwarmCase  # noqa: E402

SIZE = 10 * MIB
LINK = "60mbit"  # SIZE takes 1.4 s


class Faults(SwarmCase):
    """The granted node is a; b, c and d wait for it. `strike` is what happens to it."""

    # Who is asked about the layer in the static directory: one of the others, here.
    arbiter = "b"

    def begin(self, size=4, **options):
        options = {"registry": "scripted", "registry_link": LINK, **options}
        c = self.cluster(size=size, **options)
        self.a, *self.others = c.nodes("abcdefgh"[:size])
        self.one = self.layers(1, SIZE, by=c.by_name[self.arbiter].address)
        self.digest = self.one.layers[0]
        return c

    def granted(self, part=0.0, **options):
        """a pulls, and is granted; and, when that part has come, `reached` is set and it pauses until `go_on` is."""
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.addCleanup(self.go_on.set)

        def pace(fetched):
            if fetched.digest == self.digest and fetched.got >= part * SIZE and part:
                self.reached.set()
                if not self.go_on.wait(60):
                    raise Abandoned()
        first = self.a.start_image("team/app:v1", pace=pace, **options)
        wait_for("a to be granted", lambda: self.digest in first.puller.fetched and
                 first.puller.fetched[self.digest].granted.is_set(), 10)
        return first

    def the_others(self, seconds=30.0, times=2.0):
        """All of them end well; the registry sent it no more than so many times."""
        self.finish(self.waiting, seconds)
        self.assert_sent(self.one, times)

    def strike(self, part, what):
        """a has got that part, and the others with it, when `what` happens."""
        first = self.granted(part)
        self.waiting = [n.start_image("team/app:v1") for n in self.others]
        self.assertTrue(self.reached.wait(20))
        for node in self.others:
            wait_for("the others to know of a", lambda n=node: n.metric("cairn_p2p_grant_waits_total") >= 1, 5)
        what()
        return first

    def assert_dead(self, part):
        self.begin()
        self.strike(part, self.a.die)
        self.the_others()

    def test_killed_at_10(self):
        """The granted node dies when it has got a tenth."""
        self.assert_dead(0.1)

    def test_killed_at_50(self):
        """The granted node dies when it has got half."""
        self.assert_dead(0.5)

    def test_killed_at_90(self):
        """The granted node dies when it has got nine tenths."""
        self.assert_dead(0.9)

    def test_killed_process(self):
        """Only the daemon is killed; its kernel lives, and says so: nobody need wait for a stall."""
        self.begin(p2p={"stall": "20s"})
        self.strike(0.5, self.a.cairnd.kill)
        self.the_others(15)

    def test_frozen(self):
        """The granted node's daemon is stopped: its connections stay, and say nothing. It goes on when it can."""
        self.begin()
        first = self.strike(0.5, lambda: self.a.cairnd.process.signal(19))
        self.the_others()
        self.a.cairnd.process.signal(18)
        self.go_on.set()
        self.finish([first])

    def test_link_cut(self):
        """The granted node's link is cut, and comes back later: it ends its own pull then."""
        self.begin()
        first = self.strike(0.5, self.a.host.cut)
        self.the_others()
        self.a.host.mend()
        self.go_on.set()
        self.finish([first])

    def test_slow_link(self):
        """The granted node's link goes down to a hundredth."""
        self.begin()
        first = self.strike(0.3, lambda: self.a.host.limit(up="600kbit", down="600kbit"))
        self.go_on.set()
        self.the_others()
        first.puller.abandon()

    def test_slow_registry_for_one(self):
        """The granted node gets its bytes from the registry at a hundredth, while its link to peers is fine."""
        c = self.begin()
        c.registry.always("GET", self.digest, c.registry.to_client(self.a.host.address, c.registry.drip(75000)))
        first = self.granted()
        self.waiting = [n.start_image("team/app:v1") for n in self.others]
        self.the_others()
        first.puller.abandon()

    def test_cancelled(self):
        """The granted node's containerd cancels its pull: what came of it is not lost, and another goes on."""
        self.begin()
        first = self.strike(0.5, lambda: None)
        first.puller.abandon()
        self.go_on.set()
        self.the_others(15)
        with self.assertRaises(Abandoned):
            first.result()

    def test_cancelled_waiter(self):
        """One that waits goes away: nobody else notices."""
        self.begin(p2p=PATIENT)
        first = self.granted(0.5)
        self.waiting = [n.start_image("team/app:v1") for n in self.others]
        self.assertTrue(self.reached.wait(20))
        gone = self.waiting.pop()
        gone.puller.client.close()
        self.go_on.set()
        self.finish([first])
        self.the_others(times=1.05)

    def refused(self, code):
        """The registry answers so to a, and to a alone."""
        c = self.begin(p2p=PATIENT)
        c.registry.always("GET", self.digest, c.registry.to_client(self.a.host.address, c.registry.status(code)))
        first = self.granted()
        self.waiting = [n.start_image("team/app:v1") for n in self.others]
        self.the_others(15, 1.05)
        with self.assertRaises(RegistryError):
            first.result()
        say("and a, which asks again, gets it from the others")
        again = self.a.start_image("team/app:v1")
        self.finish([again])
        self.assertNotEqual(again.puller.fetched[self.digest].how, "registry")

    def test_registry_says_401(self):
        """The granted node has no credentials."""
        self.refused(401)

    def test_registry_says_403(self):
        """The granted node may not."""
        self.refused(403)

    def test_registry_says_429(self):
        """The granted node has asked too often."""
        self.refused(429)

    def test_registry_says_nothing(self):
        """The granted node's request is never answered: the grant is taken over after a stall."""
        c = self.begin()
        gate = c.registry.hold("GET", self.digest)
        hold = c.registry.scripts["GET", self.digest]
        c.registry.always("GET", self.digest, c.registry.to_client(self.a.host.address, hold))
        first = self.granted()
        self.waiting = [n.start_image("team/app:v1") for n in self.others]
        self.assertTrue(gate.reached.wait(10))
        self.the_others(15)
        gate.open()
        self.finish([first])

    def test_all_die_but_one(self):
        """Of five, four die one after the other, each while it is the one that downloads: the last one ends well."""
        self.begin(size=5)
        alive = [self.a, *self.others]
        running = {n.name: n.start_image("team/app:v1") for n in alive}

        def downloading():
            for node in alive:
                fetched = running[node.name].puller.fetched.get(self.digest)
                if fetched and fetched.granted.is_set() and fetched.got >= MIB and not fetched.over.is_set():
                    return node
            return None
        while len(alive) > 1:
            victim = wait_for("somebody to download", downloading, 20)
            say("dies:", victim.name)
            alive.remove(victim)
            victim.die()
        self.finish([running[alive[0].name]], 40)

    def test_queued_grants(self):
        """One opens 40 layers at once and downloads 3 at a time, slowly: others, which want them all, are not held
        up by it."""
        c = self.cluster(size=3, registry="scripted", registry_link="200mbit")
        a, b, d = c.nodes("abc")
        one = self.layers(40, 256 << 10)
        slots, slow = threading.Semaphore(3), threading.Event()

        def pace(fetched):
            if fetched.digest in one.layers and fetched.got == 0:
                slots.acquire()  # pylint: disable=consider-using-with
                slow.wait(3.0)   # it is slow to begin, and to go on
                slots.release()
        first = a.start_image("team/app:v1", parallel=60, pace=pace)
        wait_for("a to have opened them all", lambda: len(first.puller.fetched) == 42, 10)
        began = time.monotonic()
        self.finish([b.start_image("team/app:v1"), d.start_image("team/app:v1")], 60)
        say(f"the others took {time.monotonic() - began:.1f} s; a is through: {not first.running()}")
        self.assertLess(time.monotonic() - began, 30)  # a would take 40 s
        slow.set()
        self.finish([first])
        self.assert_sent(one, 2.0)

    def test_garbage_by_a_tenant(self):
        """Somebody writes garbage as a layer that is not his: he alone fails, and the others get the true blob."""
        c = self.begin(size=4)
        client = self.a.cairnd.client()
        garbage = os.urandom(SIZE)
        with client.write(60) as writer:
            self.assertEqual(writer.stat(ref=f"evil/1/layer-{self.digest}", total=SIZE).offset, 0)
            self.assertEqual(writer.stat().offset, 0)
            say("he is granted; the others follow him")
            half = 0
            while half < SIZE // 2:
                half = writer.data(garbage[half:half + MIB], half).offset
            self.waiting = [n.start_image("team/app:v1") for n in self.others]
            wait_for("the others to have got some of it", lambda: any(
                n.from_peers() > MIB for n in self.others), 10)
            with self.assertRaises(grpc.RpcError):
                while half < SIZE:
                    half = writer.data(garbage[half:half + MIB], half).offset
                writer.commit(self.digest, total=SIZE, offset=SIZE)
        self.the_others(30, 3.0)  # each for himself: nobody is believed about it in the meantime
        self.assertEqual(self.digest in self.a.held(), False)
        say("one that comes now gets the true one, and so does another pull there")
        self.finish([self.a.start_image("team/app:v1")])
        self.assert_sent(self.one, 3.0)
        self.assertTrue(all(n.tool.run("verify").returncode == 0 for n in c.by_name.values()))


class FaultsOfTheArbiter(Faults):
    """The same, where the granted node is also the one that is asked about the layer."""

    arbiter = "a"


class Relayed(SwarmCase):
    """Links that break in mid-stream, by a relay before one of two holders."""

    def begin(self, size=SIZE, **p2p):
        c = self.cluster(size=3, registry="scripted", p2p=p2p)
        self.one = self.layers(1, size)
        host = c.net.host("a")
        self.relay = self.enter(Relay((host.address, 7480), (host.address, 7481), host.inside))
        self.a = c.node("a", start=False, advertise=self.relay.address)
        self.b, self.d = c.node("b", start=False), c.node("c", start=False)
        for node in (self.a, self.b, self.d):
            node.start()
        c.await_members(self.a, self.b, self.d)
        return c

    def test_delay(self):
        """A link of 100 ms each way: nothing breaks, and pieces are asked for ahead."""
        self.begin()
        self.finish([self.a.start_image("team/app:v1")])
        self.settled(self.a)
        self.relay.delay = 0.1
        pull = self.d.start_image("team/app:v1")
        self.finish([pull])
        self.assert_sent(self.one, 1.0 if pull.puller.fetched[self.one.layers[0]].how == "swarm" else 2.0)

    def strike(self, what):
        """The one source gives 2 MiB, and then that happens to its link."""
        self.begin(min_rate="100KiB")
        self.finish([self.a.start_image("team/app:v1")])
        self.settled(self.a)
        self.relay.rate = 2 * MIB
        before = self.relay.bytes
        pull = self.d.start_image("team/app:v1")
        wait_for("some of it", lambda: self.relay.bytes - before > 2 * MIB)
        what()
        self.finish([pull])
        self.assert_sent(self.one, 2.0)

    def test_cut(self):
        """The one source's connections are reset in mid-stream."""
        self.strike(lambda: self.relay.cut())

    def test_frozen(self):
        """The one source's link is frozen in mid-stream, and stays so."""
        self.strike(lambda: self.relay.freeze())

    def test_slow_source_is_replaced(self):
        """Of two holders one crawls: the other gives."""
        self.begin()
        for node in (self.a, self.b):
            self.finish([node.start_image("team/app:v1")])
            self.settled(node)
        self.relay.rate = 50_000
        pull = self.d.start_image("team/app:v1")
        self.finish([pull])
        self.assertLess(pull.seconds, 8)
        self.assert_sent(self.one, 1.0)


if __name__ == "__main__":
    main()
