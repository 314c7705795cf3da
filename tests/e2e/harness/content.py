"""A client of containerd's content service, of cairn's own and of health, on one socket."""
import contextlib
import hashlib
import os
import pathlib
import queue
import subprocess
import sys

import grpc

PROTO = pathlib.Path(__file__).resolve().parents[3] / "proto"
SERVICE = "/containerd.services.content.v1.Content/"
LIMIT = 64 << 20
STAT, WRITE, COMMIT = 0, 1, 2


def compile_protos():
    """Generated modules live below the test's folder, made once a process."""
    folder = pathlib.Path(os.environ["CAIRN_TEST_DIR"]) / "proto"
    if not folder.exists():
        folder.mkdir(parents=True)
        subprocess.run(["protoc", f"-I{PROTO}", f"--python_out={folder}", *map(str, PROTO.glob("*.proto"))],
                       check=True)
    sys.path.insert(0, str(folder))


compile_protos()
import cairn_pb2  # noqa: E402  pylint: disable=wrong-import-position
import content_pb2  # noqa: E402  pylint: disable=wrong-import-position
import health_pb2  # noqa: E402  pylint: disable=wrong-import-position
import wire_pb2  # noqa: E402  pylint: disable=wrong-import-position


def channel(socket, **options):
    options = {"grpc.max_receive_message_length": LIMIT, "grpc.max_send_message_length": LIMIT,
               "grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 500,
               "grpc.use_local_subchannel_pool": 1, **options}
    return grpc.insecure_channel(f"unix:{socket}", options=list(options.items()))


def code_of(call, *args, **kwargs):
    """The status code with which it ends."""
    try:
        result = call(*args, **kwargs)
        if hasattr(result, "__next__"):
            for _ in result:
                pass
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        return error.code()


class ContentClient:
    """Every method with plain arguments. Raw bytes go through raw_unary() and raw_stream()."""

    def __init__(self, socket, timeout=20, metadata=()):
        self.channel = channel(socket)
        self.timeout = timeout
        self.metadata = list(metadata)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.channel.close()

    def unary(self, method, request, reply, service=SERVICE, timeout=None):
        call = self.channel.unary_unary(service + method, type(request).SerializeToString, reply.FromString)
        return call(request, timeout=timeout or self.timeout, metadata=self.metadata)

    def stream(self, method, request, reply, service=SERVICE, timeout=None):
        call = self.channel.unary_stream(service + method, type(request).SerializeToString, reply.FromString)
        return call(request, timeout=timeout or self.timeout, metadata=self.metadata)

    # containerd's content service

    def info(self, digest):
        return self.unary("Info", content_pb2.InfoRequest(digest=digest), content_pb2.InfoResponse).info

    def update(self, digest, labels, paths=()):
        request = content_pb2.UpdateRequest()
        request.info.digest = digest
        for key, value in labels.items():
            request.info.labels.add(key=key, value=value)
        request.update_mask.paths.extend(paths)
        return self.unary("Update", request, content_pb2.UpdateResponse).info

    def list(self, *filters):
        replies = self.stream("List", content_pb2.ListContentRequest(filters=filters),
                              content_pb2.ListContentResponse)
        return [info for reply in replies for info in reply.info]

    def listed(self):
        return {info.digest for info in self.list()}

    def delete(self, digest):
        self.unary("Delete", content_pb2.DeleteContentRequest(digest=digest), wire_pb2.Empty)

    def read(self, digest, offset=0, size=0, timeout=None):
        request = content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size)
        replies = self.stream("Read", request, content_pb2.ReadContentResponse, timeout=timeout)
        return b"".join(reply.data for reply in replies)

    def status(self, ref):
        return self.unary("Status", content_pb2.StatusRequest(ref=ref), content_pb2.StatusResponse).status

    def statuses(self, *filters):
        request = content_pb2.ListStatusesRequest(filters=filters)
        return list(self.unary("ListStatuses", request, content_pb2.ListStatusesResponse).statuses)

    def abort(self, ref):
        self.unary("Abort", content_pb2.AbortRequest(ref=ref), wire_pb2.Empty)

    def write(self, timeout=None):
        """An open Write stream."""
        return Writer(self, timeout or self.timeout)

    def put(self, data, ref=None, digest=None, chunk=1 << 20):
        """Write a whole blob and commit it, as containerd would. Returns its digest."""
        digest = digest or "sha256:" + hashlib.sha256(data).hexdigest()
        with self.write() as writer:
            offset = writer.stat(ref=ref or f"test/1/layer-{digest}", total=len(data)).offset
            while offset < len(data):
                part = data[offset:offset + chunk]
                writer.data(part, offset)
                offset += len(part)
            writer.commit(digest, total=len(data), offset=len(data))
        return digest

    # raw bytes

    def raw_unary(self, method, payload, service=SERVICE):
        return self.channel.unary_unary(service + method)(payload, timeout=self.timeout)

    def raw_stream(self, method, payload, service=SERVICE):
        return list(self.channel.unary_stream(service + method)(payload, timeout=self.timeout))

    def raw_bidi(self, method, payloads, service=SERVICE):
        return list(self.channel.stream_stream(service + method)(iter(payloads), timeout=self.timeout))

    # cairn and health

    def health(self, service="", timeout=2):
        reply = self.unary("Check", health_pb2.HealthCheckRequest(service=service), health_pb2.HealthCheckResponse,
                           "/grpc.health.v1.Health/", timeout)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    def watch_health(self, service=""):
        return self.stream("Watch", health_pb2.HealthCheckRequest(service=service), health_pb2.HealthCheckResponse,
                           "/grpc.health.v1.Health/", 600)

    def cairn_status(self):
        return self.unary("Status", cairn_pb2.StatusRequest(), cairn_pb2.StatusResponse, "/cairn.v1.Cairn/")

    def blobs(self):
        """digest -> cairn.v1.Blob, of all states."""
        replies = self.stream("ListBlobs", cairn_pb2.ListBlobsRequest(), cairn_pb2.ListBlobsResponse,
                              "/cairn.v1.Cairn/")
        return {blob.digest: blob for reply in replies for blob in reply.blobs}

    def states(self):
        """digest -> "CACHED" or "REFERENCED"."""
        return {d: cairn_pb2.BlobState.Name(b.state) for d, b in self.blobs().items()}

    def explain(self, digest):
        return self.unary("Explain", cairn_pb2.ExplainRequest(digest=digest), cairn_pb2.ExplainResponse,
                          "/cairn.v1.Cairn/")

    def verify(self, *digests):
        replies = self.stream("Verify", cairn_pb2.VerifyRequest(digests=digests), cairn_pb2.VerifyProgress,
                              "/cairn.v1.Cairn/", timeout=120)
        return [finding for reply in replies for finding in reply.findings]


class Writer(contextlib.AbstractContextManager):
    """A Write stream: one message, then one reply."""

    def __init__(self, client, timeout):
        self.queue = queue.Queue()
        call = client.channel.stream_stream(
            SERVICE + "Write", content_pb2.WriteContentRequest.SerializeToString,
            content_pb2.WriteContentResponse.FromString)
        self.replies = call(iter(self.queue.get, None), timeout=timeout, metadata=client.metadata)

    def __exit__(self, *_):
        self.close()

    def send(self, **fields):
        self.queue.put(content_pb2.WriteContentRequest(**fields))

    def receive(self):
        try:
            return next(self.replies)
        except StopIteration:
            raise EOFError("the Write stream ended with status OK") from None

    def ask(self, **fields):
        self.send(**fields)
        return self.receive()

    def stat(self, ref="", total=0, expected=""):
        return self.ask(action=STAT, ref=ref, total=total, expected=expected)

    def data(self, data, offset):
        return self.ask(action=WRITE, data=data, offset=offset)

    def commit(self, expected="", total=0, offset=0, labels=None):
        pairs = [{"key": k, "value": v} for k, v in (labels or {}).items()]
        return self.ask(action=COMMIT, expected=expected, total=total, offset=offset, labels=pairs)

    def close(self):
        """Half-close, as containerd's Close does, and wait for the end."""
        self.queue.put(None)
        with contextlib.suppress(grpc.RpcError):
            for _ in self.replies:
                pass

    def cancel(self):
        self.replies.cancel()
        self.queue.put(None)
