"""A DNS server with as many faults as wanted."""
import socket
import struct
import threading


STOP = b"stop"


class Dns:
    """A DNS server on our end of the network: answers A of the names it has; `failing`: "" or servfail or silent."""

    def __init__(self, address, names):
        self.names, self.failing = names, ""
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((address, 53))
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with self.sock:
            while True:
                data, to = self.sock.recvfrom(4096)
                if data == STOP:
                    return
                if self.failing != "silent":
                    self.sock.sendto(self.answer(data), to)

    def answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12:at + 5]
        kind = struct.unpack(">H", query[at + 1:at + 3])[0]
        found = self.names.get(".".join(labels).lower(), []) if kind == 1 else []
        code = 2 if self.failing == "servfail" else 0 if ".".join(labels).lower() in self.names else 3
        found = [] if code else found
        head = query[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(found), 0, 0)
        return head + question + b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(a)
                                          for a in found)

    def close(self):
        self.sock.sendto(STOP, self.sock.getsockname())
        self.thread.join()
