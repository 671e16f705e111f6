"""A server of several processes, in vLLM's place: `--port`, `GET /health`, children that outlive a killed parent.

Its children ignore requests to end, and hold shared memory and a semaphore. Who they are stands in the file $STAND_IN.
"""

import http.server
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context, resource_tracker, shared_memory

if "--child" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource_tracker.register = lambda *_: None  # as after a kill: nobody tidies up
    memory = shared_memory.SharedMemory(create=True, size=64)
    lock = get_context("spawn").Lock()
    print(os.getpid(), memory.name, f"sem.{lock._semlock.name.removeprefix('/')}", flush=True)
    time.sleep(600)

children = [subprocess.Popen([sys.executable, __file__, "--child"], stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
lines = [child.stdout.readline().split() for child in children]
with open(os.environ["STAND_IN"], "w", encoding="utf-8") as file:
    for line in [[str(os.getpid())], *lines]:
        file.write(" ".join(line) + "\n")
if os.environ.get("STAND_IN_FAILS"):
    sys.exit("a planted reason")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *arguments):
        pass


port = int(sys.argv[sys.argv.index("--port") + 1]) if "--port" in sys.argv else 0
print("settings:", *sys.argv[1:], flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
