"""A real web server on loopback that can be told to fail, stall and lie while it runs."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

CONFIG = """
daemon off;
user root;
pid {root}/nginx.pid;
error_log {root}/error.log;
worker_processes 1;
events {{}}
http {{
    client_body_temp_path {root}/temp; proxy_temp_path {root}/temp; fastcgi_temp_path {root}/temp;
    uwsgi_temp_path {root}/temp; scgi_temp_path {root}/temp;
    log_format short '$status $request_uri $http_range';
    access_log {root}/access.log short;
    server {{
        listen 127.0.0.1:{port};
        location /shards/ {{
            root {root};
            if (-f {root}/switch/fail) {{ return 503; }}
            if (-f {root}/switch/stall) {{ set $limit_rate 100; }}
            if (-f {root}/switch/whole) {{ rewrite ^/shards/(.*)$ /whole/$1 last; }}
            if (-f {root}/switch/lie) {{ rewrite ^/shards/(.*)$ /lie/$1 last; }}
            if (-f {root}/switch/short) {{ rewrite ^/shards/(.*)$ /short/$1 last; }}
        }}
        location /whole/ {{ alias {root}/shards/; max_ranges 0; }}
        location /lie/ {{ alias {root}/lie/; }}
        location /short/ {{ alias {root}/short/; }}
    }}
}}
"""


class WebServer:
    """nginx over ``root``/shards; ``root``/lie and ``root``/short hold what it serves when told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("switch", "temp", "shards"):
            (root / folder).mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/shards"
        (root / "nginx.conf").write_text(CONFIG.format(root=root, port=port))
        nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin")
        assert nginx is not None
        command = [nginx, "-p", str(root), "-c", str(root / "nginx.conf"), "-e", str(root / "error.log")]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, (root / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def close(self) -> None:
        """Ends the server."""
        self._process.terminate()
        self._process.wait()

    def turn(self, switch: str, on: bool) -> None:
        """``fail``, ``stall``, ignore ranges (``whole``), ``lie`` or serve ``short`` files; or do so no more."""
        path = self.root / "switch" / switch
        path.touch() if on else path.unlink(missing_ok=True)

    def requests(self, status: str = "") -> list[str]:
        """What was asked for, of some status: "STATUS PATH RANGE"."""
        return [line for line in (self.root / "access.log").read_text().splitlines() if line.startswith(status)]

    def clear(self) -> None:
        """Turns all switches off and forgets the requests."""
        for switch in (self.root / "switch").iterdir():
            switch.unlink()
        (self.root / "access.log").write_text("")
