"""Has schemathesis make up requests from the interface description and send them to a monitor.

Usage: run.py SCHEMATHESIS MONITOR KERNEL [EXAMPLES], in the root of the repository. KERNEL is a test guest that waits.

Three machines are asked: one that was never started, one whose guest runs, one whose guest runs with devices on PCI.
Each must answer with a documented status, content type and body, and never end by itself except as the guest asked.
schemathesis speaks TCP, so a proxy stands between; it starts a monitor anew when one ended.
"""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

DESCRIPTION = os.path.abspath("resources/openapi/cloister.json")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
# The guest reset or switched off: Ctrl-Alt-Del and the power button are requests like others.
GUEST_ENDED = 0
STREAM_QUIET_SECONDS = 0.2
LAST_CHUNK = b"0\r\n\r\n"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Monitor:
    """A monitor that is started anew whenever it ended, with a guest that runs if there is a kernel."""

    def __init__(self, program, flags, kernel):
        self.program, self.flags, self.kernel = os.path.abspath(program), flags, kernel
        # Files whose names are made up land here.
        self.folder = tempfile.TemporaryDirectory(prefix="schemathesis-")
        self.socket = os.path.join(self.folder.name, "api.sock")
        self.process, self.starts, self.failures = None, 0, []

    def ensure(self):
        if self.process and self.process.poll() is None:
            return
        if self.process and self.process.returncode != GUEST_ENDED:
            self.failures.append(self.process.returncode)
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        errors = open(os.path.join(self.folder.name, "stderr"), "ab")
        with errors:
            self.process = subprocess.Popen(
                [self.program, "--api-sock", self.socket, "--level", "Error", *self.flags],
                cwd=self.folder.name, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            )
        self.starts += 1
        self.await_socket()
        if self.kernel:
            self.put("/boot-source", {"kernel_image_path": os.path.abspath(self.kernel)})
            # Named as in the examples, so that these find them.
            drive, memory = self.file("drive"), self.file("memory")
            self.put("/drives/rootfs", {"drive_id": "rootfs", "is_root_device": False, "path_on_host": drive})
            self.put("/pmem/data", {"id": "data", "path_on_host": memory})
            self.put("/entropy", {})
            self.put("/vsock", {"guest_cid": 3, "uds_path": self.fresh("vsock")})
            self.put("/balloon", {"amount_mib": 0, "deflate_on_oom": True, "stats_polling_interval_s": 1})
            self.put("/hotplug/memory", {"total_size_mib": 256})
            self.put("/actions", {"action_type": "InstanceStart"})

    def await_socket(self):
        for _ in range(1000):
            try:
                connection = UnixConnection(self.socket)
                connection.connect()
                connection.close()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.01)
        sys.exit(f"the monitor does not listen; it ended with {self.process.poll()}")

    def fresh(self, name):
        return os.path.join(self.folder.name, f"{name}.{self.starts}")

    def file(self, name):
        with open(self.fresh(name), "wb") as file:
            file.truncate(2 << 20)
        return file.name

    def put(self, path, body):
        connection = UnixConnection(self.socket)
        connection.request("PUT", path, json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 204:
            sys.exit(f"PUT {path} is refused: {text}")
        connection.close()

    def end(self):
        """Ends it; gives what it ended with before, other than as its guest asked."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
        elif self.process.returncode != GUEST_ENDED:
            self.failures.append(self.process.returncode)
        with open(os.path.join(self.folder.name, "stderr"), errors="replace") as errors:
            panics = [line for line in errors if "panicked at" in line]
        return self.failures + panics


async def forward(reader, writer, seen):
    """Passes bytes on until they end; `seen` looks at each piece first."""
    try:
        while piece := await reader.read(65536):
            seen(piece)
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def answer(reader, writer, is_stream):
    """As `forward`, but an answer that never ends is ended once it is quiet: after whole chunks."""
    try:
        while True:
            limit = STREAM_QUIET_SECONDS if is_stream() else None
            try:
                piece = await asyncio.wait_for(reader.read(65536), limit or 1)
            except TimeoutError:
                if limit:
                    writer.write(LAST_CHUNK)
                    break
                continue
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def served_by(monitor):
    async def serve(reader, writer):
        try:
            monitor.ensure()
            up_reader, up_writer = await asyncio.open_unix_connection(monitor.socket)
        except OSError:
            # It ended this moment; the client tries again.
            writer.close()
            return
        asked = {"stream": False}
        head = {"bytes": b""}

        def look(piece):
            asked["stream"] = piece.startswith(b"GET /events")

        def answered():
            return asked["stream"] and head["bytes"].startswith(b"HTTP/1.1 200")

        class Heads:
            """The monitor's answers, with the first bytes of the latest kept."""

            async def read(self, size):
                piece = await up_reader.read(size)
                if piece.startswith(b"HTTP/1.1"):
                    head["bytes"] = piece[:16]
                return piece

        upward = asyncio.ensure_future(forward(reader, up_writer, look))
        await answer(Heads(), writer, answered)
        upward.cancel()
        up_writer.close()

    return serve


async def ask(schemathesis, examples, monitor):
    """Serves one monitor and has it asked; true when nothing is wrong."""
    monitor.ensure()
    server = await asyncio.start_server(served_by(monitor), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    checks = [word for check in CHECKS for word in ("-c", check)]
    client = await asyncio.create_subprocess_exec(
        schemathesis, "run", DESCRIPTION, "--url", f"http://127.0.0.1:{port}", "--seed", "1",
        "--max-examples", examples, "--no-color", *checks,
        # It leaves a folder of its own where it runs.
        cwd=monitor.folder.name,
    )
    status = await client.wait()
    server.close()
    return status == 0


def main(schemathesis, program, kernel, examples="20"):
    schemathesis = os.path.abspath(schemathesis)
    wrong = []
    for name, flags, guest in (
        ("a machine that is described", [], None),
        ("a machine that runs", [], kernel),
        ("a machine that runs, on PCI", ["--enable-pci"], kernel),
    ):
        print(f"== {name}", flush=True)
        monitor = Monitor(program, flags, guest)
        is_good = asyncio.run(ask(schemathesis, examples, monitor))
        ends = monitor.end()
        print(f"== {name}: {monitor.starts} starts of the monitor, ended wrongly: {ends or 'never'}", flush=True)
        if ends or not is_good:
            wrong.append(name)
    sys.exit(f"wrong: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
