"""Where a server listens, and until when: a socket, uvicorn, and its end at SIGTERM."""

import ipaddress
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn

from ncdeploy.errors import FileError, InputError
from ncdeploy.files import read_file
from ncdeploy.serving.patience import PatientProtocol
from ncdeploy.serving.server import Server
from ncdeploy.serving.web import Web

CONNECTIONS = 1024
_BACKLOG = 512
_MOST_TOKEN = 4096


def read_token(path: str | os.PathLike[str]) -> str:
    """The token in a file, without the space around it. Raises FileError for a file that holds none."""
    token = read_file(path, _MOST_TOKEN, "expected a file with the token alone")
    try:
        text = token.decode("ascii").strip()
    except UnicodeDecodeError as e:
        raise FileError(f"{path}: holds more than letters, digits and signs; a token is ASCII") from e
    if len(text) < 16 or any(c.isspace() for c in text):
        raise FileError(f"{path}: expected one word of at least 16 characters, such as openssl rand -hex 32 makes")
    return text


def bind(host: str, port: int, *, token: str | None) -> socket.socket:
    """A socket that listens there.

    Raises InputError for an address that others can reach without a token, and for one that cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if token is None and not ipaddress.ip_address(address[0]).is_loopback:
            raise InputError(
                f"--host {host}: others can reach that, and anybody could use the server; give --token-file, or listen "
                "on 127.0.0.1"
            )
        listening = socket.create_server(address, family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as e:
        raise InputError(f"--host {host} --port {port}: cannot be listened on: {getattr(e, 'strerror', e)}") from e
    return listening


def serve(
    servers: Mapping[str, Server],
    listening: socket.socket,
    *,
    token: str | None = None,
    max_body: int,
    drain: float,
    ready: Callable[[], Any],
) -> None:
    """Serve until SIGTERM or SIGINT; then nobody new is taken, and those who are in have `drain` seconds.

    ready: called when requests are answered
    """
    web = Web(servers, token=token, max_body=max_body, drain=drain)
    config = uvicorn.Config(
        web, http=PatientProtocol, ws="none", lifespan="on", log_level="error", access_log=False, server_header=False,
        limit_concurrency=CONNECTIONS, backlog=_BACKLOG, timeout_graceful_shutdown=max(1, round(drain)),
        h11_max_incomplete_event_size=1 << 14, proxy_headers=False,
    )  # fmt: skip
    _Server(config, ready).run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], Any]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
