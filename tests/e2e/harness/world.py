"""A registry, cairnd and containerd that belong together."""
import contextlib
import os
import pathlib

from harness.cairnd import Cairnd
from harness.containerd import Containerd
from harness.registry import Registry


class World(contextlib.ExitStack):
    """with World(folder) as w: w.registry, w.cairnd, w.containerd.

    builtin: containerd with its own store, for comparison; then there is no w.cairnd.
    front: made with the registry, for instance SlowProxy; w.front, and CRI may pull from it."""

    def __init__(self, folder, cri=False, policy="shared", discard=False, builtin=False, front=None, drain="5s",
                 extra="", state=None):
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.options = {"cri": cri, "policy": policy, "discard": discard}
        self.builtin = builtin or os.environ.get("CAIRN_STORE") == "builtin"
        self.make_front = front
        self.drain = drain
        self.extra = extra  # lines for cairn.yaml, or a function of the world that makes them
        self.state = state  # cairnd's state_dir, if it is to be elsewhere

    def __enter__(self):
        super().__enter__()
        try:
            self.registry = self.enter_context(Registry(self.folder))
            self.front = self.enter_context(self.make_front(self.registry)) if self.make_front else None
            hosts = [self.registry.host] + ([self.front.host] if self.front else [])
            store = None
            self.cairnd = None
            if not self.builtin:
                extra = self.extra(self) if callable(self.extra) else self.extra
                daemon = Cairnd(self.folder, self.folder / "containerd/c.sock", self.state, self.drain, extra)
                self.cairnd = self.enter_context(daemon)
                store = self.cairnd.socket
            self.containerd = self.enter_context(Containerd(self.folder, store, hosts=hosts, **self.options))
        except BaseException:
            self.close()
            raise
        return self
