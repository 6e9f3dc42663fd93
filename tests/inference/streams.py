"""A camera on the loopback that sends pictures one after another, as Motion JPEG cameras do."""

import contextlib
import http.server
import threading
import time

import cv2

from tests.inference.videos import pictures


class Stream(http.server.BaseHTTPRequestHandler):
    """PNGs in a multipart answer; the path says what goes wrong. The first request finds out that this is no image."""

    requests = 0

    def do_GET(self):
        type(self).requests += 1
        if self.path == "/gone" and self.requests > 2:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=--next")
        self.end_headers()
        breaks = self.path == "/gone" or (self.path == "/lost" and self.requests < 3)
        for index, image in enumerate(pictures({"/endless": 10_000}.get(self.path, 4 if breaks else 8))):
            data = cv2.imencode(".png", image)[1].tobytes()
            if self.path == "/broken" and index in (2, 5):
                data = data[:50]
            length = b"" if self.path == "/short" else b"Content-Length: %d\r\n" % len(data)
            self.wfile.write(b"----next\r\nContent-Type: image/png\r\n%s\r\n%s\r\n" % (length, data))
            if self.path == "/endless":
                time.sleep(0.01)
        if not breaks:
            self.wfile.write(b"----next--\r\n")

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):
            super().handle()


@contextlib.contextmanager
def serving():
    """The address of a camera, while it is there."""
    Stream.requests = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
