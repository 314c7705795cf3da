"""What the end-to-end tests are made of. A test file does

    from harness import E2E, World, main

and describes the behaviour of a whole world: a registry, cairnd and containerd, each with its own
files, sockets and ports below the test's folder. Run by tools/test only: it gives the tests a mount,
process and network namespace in which nothing they do can be left behind."""
from harness.case import E2E, main, say
from harness.authority import Authority
from harness.cairnctl import Cairnctl
from harness.cairnd import Cairnd
from harness.cluster import Cluster, Node, all_of, together
from harness.containerd import Containerd, snapshotter
from harness.content import ContentClient, code_of
from harness.cri import CriClient
from harness.dns import Dns
from harness.etcd import Etcd
from harness.gc import GcCase, Leases, metrics
from harness.images import main as images_make
from harness.net import Network
from harness.preheat import Certificates, Outcome, PreheatCase, plain, random_layers, write_docker_config
from harness.process import Process, free_port, log_tails, wait_for
from harness.proxy import SlowProxy
from harness.puller import Puller, Running
from harness.registry import Registry, digests, image
from harness.relay import Relay
from harness.scripted import ScriptedRegistry
from harness.tokens import TokenServer
from harness.web_proxy import WebProxy
from harness.world import World

__all__ = ["E2E", "main", "say", "Cairnctl", "Cairnd", "Containerd", "ContentClient", "code_of", "CriClient", "GcCase",
           "Leases", "metrics", "Process", "free_port", "log_tails", "wait_for", "SlowProxy", "Registry", "digests",
           "image", "images_make", "World", "snapshotter", "Certificates", "Outcome", "PreheatCase", "plain",
           "random_layers", "write_docker_config", "ScriptedRegistry", "TokenServer",
           "WebProxy", "Authority", "Cluster", "Node", "all_of", "together", "Etcd", "Network", "Puller", "Running",
           "Relay", "Dns"]
