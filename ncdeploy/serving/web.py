"""HTTP for `Server`s: the Open Inference Protocol v2, metrics, and the page for people.

    GET  /v2  /v2/health/live  /v2/health/ready  /v2/models/NAME  /v2/models/NAME/ready
    POST /v2/models/NAME/infer
    POST /v2/models/NAME/watch   the same request; a line of JSON after every network call, samples as they converge
    GET  /metrics  /status  /

With a token, all but health and the page itself, which holds nothing, need `Authorization: Bearer TOKEN`.
"""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ncdeploy.errors import BusyError, InputError, NcdeployError
from ncdeploy.ports import Value
from ncdeploy.serving.metrics import Metrics
from ncdeploy.serving.protocol import LENGTH, OUTPUTS, Asked, metadata, read_request, write_answer
from ncdeploy.serving.server import Server
from ncdeploy.version import __version__

BODY_SECONDS = 30.0
_SHOWN = 120  # calls on the page
_OPEN = ("/", "/v2/health/live", "/v2/health/ready")
_MOST_PICTURE = 4096  # values of a sample that the page draws


class Web:
    """The application of some servers by name.

    token:    that every request has to carry, or None
    max_body: bytes of a request at most
    drain:    seconds that requests have to end in when the application does
    """

    def __init__(
        self, servers: Mapping[str, Server], *, token: str | None = None, max_body: int = 16 << 20, drain: float = 30.0
    ) -> None:
        self._servers, self._token, self._max_body, self._drain = dict(servers), token, max_body, drain
        self._metrics = {name: Metrics(name, server) for name, server in self._servers.items()}
        model = "/v2/models/{name}"
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/status", self._status),
                Route("/metrics", self._show_metrics),
                Route("/v2", self._about),
                Route("/v2/health/live", self._well),
                Route("/v2/health/ready", self._well),
                *(
                    Route(f"{model}{version}{path}", endpoint, methods=[method])
                    for version in ("", "/versions/{version}")
                    for path, endpoint, method in (
                        ("", self._model, "GET"),
                        ("/ready", self._ready, "GET"),
                        ("/infer", self._infer, "POST"),
                        ("/watch", self._watch, "POST"),
                    )
                ),
            ],
            exception_handlers={
                HTTPException: _refused,
                InputError: partial(_failed, 400),
                BusyError: self._busy,
                NcdeployError: partial(_failed, 500),
            },
            lifespan=self._lifespan,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The application: see ASGI."""
        if scope["type"] == "http" and self._token is not None and scope["path"] not in _OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._token.encode()):
                text = "this server wants its token: send the header Authorization: Bearer TOKEN"
                await JSONResponse({"error": text}, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self.app(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        yield
        await asyncio.gather(*(server.close(drain=self._drain) for server in self._servers.values()))

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))

    async def _well(self, request: Request) -> Response:
        return JSONResponse({})

    async def _about(self, request: Request) -> Response:
        return JSONResponse({"name": "ncdeploy", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def _model(self, request: Request) -> Response:
        name, server = self._server(request)
        return JSONResponse(metadata(name, server.info, _takes(server), _made(server)))

    async def _ready(self, request: Request) -> Response:
        self._server(request)
        return JSONResponse({})

    async def _show_metrics(self, request: Request) -> Response:
        pages = [generate_latest(metrics.registry) for metrics in self._metrics.values()]
        return Response(b"".join(pages), media_type=CONTENT_TYPE_LATEST)

    async def _status(self, request: Request) -> Response:
        return JSONResponse({"models": {name: self._of(name, server) for name, server in self._servers.items()}})

    def _of(self, name: str, server: Server) -> dict[str, Any]:
        ticks = list(server.ticks)[-_SHOWN:]
        return {
            "waiting": server.waiting,
            "in_work": server.in_work,
            "most": server.most,
            "plans": list(server.plans),
            "shape": list(_made(server)),
            "labels": server.info.num_classes,
            "conditions": [n for n in _takes(server) if n != "labels"],
            "latency": self._metrics[name].quantiles(),
            "calls": [[tick.samples, tick.seconds, tick.beside, tick.owners] for tick in ticks],
        }

    async def _infer(self, request: Request) -> Response:
        name, server = self._server(request)
        asked = await self._asked(request, server)
        with self._metrics[name].request() as outcome:
            served = await _while_connected(
                request, server.sample(seeds=asked.seeds, conditions=asked.conditions, **asked.options)
            )
            outcome.done(served)
        parameters = {"calls": served.depth, "nfe": served.nfe, "waited_s": served.waited_s, "wall_s": served.wall_s}
        body, length = await asyncio.to_thread(write_answer, name, asked, served, parameters)
        headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
        return Response(body, media_type="application/json" if length is None else "application/octet-stream",
                        headers=headers)  # fmt: skip

    async def _watch(self, request: Request) -> Response:
        server = self._server(request)[1]
        asked = await self._asked(request, server)
        if server.info.dim > _MOST_PICTURE:
            raise InputError(f"watch: is for samples of up to {_MOST_PICTURE} values; these have {server.info.dim}")
        lines: asyncio.Queue[Any] = asyncio.Queue(maxsize=8)

        def see(samples: Any) -> None:
            if not lines.full():  # a slow reader sees fewer
                lines.put_nowait(samples)

        work = asyncio.ensure_future(
            server.sample(seeds=asked.seeds, conditions=asked.conditions, watch=see, **asked.options)
        )

        async def write() -> AsyncIterator[bytes]:
            try:
                while not (work.done() and lines.empty()):
                    get = asyncio.ensure_future(lines.get())
                    await asyncio.wait([get, work], return_when=asyncio.FIRST_COMPLETED)
                    if get.done():
                        values = server.info.to_data_units(get.result().astype(np.float64))
                        yield json.dumps({"samples": np.round(values, 4).tolist()}).encode() + b"\n"
                    else:
                        get.cancel()
                served = work.result()
                data = np.asarray(server.info.to_data_units(served.samples.astype(np.float64)))
                end = {"samples": np.round(data, 4).tolist(), "calls": served.depth, "wall_s": served.wall_s}
                yield json.dumps(end).encode() + b"\n"
            except NcdeployError as e:
                yield json.dumps({"error": str(e)}).encode() + b"\n"
            finally:
                work.cancel()

        return StreamingResponse(write(), media_type="application/x-ndjson")

    async def _busy(self, request: Request, e: Exception) -> Response:
        later = max(server.retry_after() for server in self._servers.values())
        return JSONResponse({"error": str(e)}, 429, {"Retry-After": str(later)})

    def _server(self, request: Request) -> tuple[str, Server]:
        name, version = request.path_params["name"], request.path_params.get("version", "1")
        if name not in self._servers or version != "1":
            known = ", ".join(self._servers)
            raise HTTPException(
                404, f"there is no model {name[:60]!a} of version {version[:20]!a}; there are {known}, 1"
            )
        return name, self._servers[name]

    async def _asked(self, request: Request, server: Server) -> Asked:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, "content-encoding: compressed bodies are not read; send it as it is")
        body = await self._body(request)
        return await asyncio.to_thread(read_request, body, request.headers.get(LENGTH), _takes(server), OUTPUTS)

    async def _body(self, request: Request) -> bytes:
        too_large = HTTPException(413, f"body: at most {self._max_body} bytes are read; ask for fewer samples at once")
        told = request.headers.get("content-length", "0")
        if told.isdecimal() and int(told) > self._max_body:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():
                    body += piece
                    if len(body) > self._max_body:
                        raise too_large
        except TimeoutError as e:
            raise HTTPException(408, f"body: did not come within {BODY_SECONDS:.0f} s") from e
        except ClientDisconnect as e:
            raise HTTPException(400, "body: the connection broke off") from e
        return bytes(body)


async def _while_connected(request: Request, work: Any) -> Any:
    """What work gives; if the client hangs up, it is cancelled."""
    task = asyncio.ensure_future(work)

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    hung_up = asyncio.ensure_future(gone())
    try:
        await asyncio.wait([task, hung_up], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(499, "the client closed the connection")
        return task.result()
    finally:
        task.cancel()
        hung_up.cancel()


def _takes(server: Server) -> dict[str, Value]:
    """What goes with the seed, by name: labels, the model's conditions, and what its encoder takes in their place."""
    info, encoder = server.info, server.engine.encoder
    labels = [Value(name="labels", dtype="int64", shape=())] if info.num_classes else []
    return {v.name: v for v in (*labels, *info.conditions, *(() if encoder is None else encoder.part.inputs))}


def _made(server: Server) -> tuple[int, ...]:
    """Shape of a sample as it is given out."""
    decoder = server.engine.decoder
    return server.info.shape if decoder is None else decoder.part.outputs[0].shape


async def _refused(request: Request, e: Exception) -> Response:
    assert isinstance(e, HTTPException)  # which is what it is registered for
    return JSONResponse({"error": e.detail}, e.status_code)


async def _failed(status: int, request: Request, e: Exception) -> Response:
    return JSONResponse({"error": " ".join(str(e).split())}, status)
