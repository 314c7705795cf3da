"""The three CRI image calls that the tests need, with messages encoded by hand: Debian has no package
with CRI's .proto files."""
import grpc

from harness.content import channel

SERVICE = "/runtime.v1.ImageService/"


def varint(number):
    out = b""
    while True:
        low, number = number & 0x7F, number >> 7
        out += bytes([low | (0x80 if number else 0)])
        if not number:
            return out


def field(number, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data):
    """(number, value) of each field; nested messages and strings are bytes."""
    position = 0

    def take():
        nonlocal position
        number = shift = 0
        while True:
            byte = data[position]
            position += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return number

    while position < len(data):
        key = take()
        if key & 7 == 0:
            yield key >> 3, take()
        elif key & 7 == 2:
            length = take()
            yield key >> 3, data[position:position + length]
            position += length
        else:
            raise ValueError(f"wire type {key & 7}")


class CriClient:
    def __init__(self, socket, timeout=180):
        self.channel = channel(socket)
        self.timeout = timeout

    def call(self, method, request, timeout=None):
        return self.channel.unary_unary(SERVICE + method)(request, timeout=timeout or self.timeout)

    def pull(self, ref, timeout=None):
        """PullImage. Returns the image's id (the digest of its config)."""
        reply = self.call("PullImage", field(1, field(1, ref)), timeout)
        return dict(fields(reply))[1].decode()

    def start_pull(self, ref):
        """A PullImage that runs; .result() waits for it."""
        return self.channel.unary_unary(SERVICE + "PullImage").future(field(1, field(1, ref)), timeout=self.timeout)

    def remove(self, ref):
        self.call("RemoveImage", field(1, field(1, ref)))

    def images(self):
        """id -> list of its tags."""
        found = {}
        for number, entry in fields(self.call("ListImages", b"")):
            if number == 1:
                parts = list(fields(entry))
                identity = next(value.decode() for n, value in parts if n == 1)
                found[identity] = [value.decode() for n, value in parts if n == 2]
        return found

    def ready(self):
        try:
            self.call("ListImages", b"", 5)
            return True
        except grpc.RpcError:
            return False

    def close(self):
        self.channel.close()
