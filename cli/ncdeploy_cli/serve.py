"""`ncdeploy serve`: bundles as a server that speaks the Open Inference Protocol v2."""

from pathlib import Path
from typing import Annotated

import typer

from ncdeploy_cli import console, options

_WHERE, _HOW = "Where", "How much"


def serve(
    bundles: Annotated[
        list[Path],
        typer.Argument(help="Bundles, or other models, each named after its file or folder.", show_default=False),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=_WHERE)] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=_WHERE)
    ] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that requests have to carry. Needed on addresses that others can reach.",
            show_default="none",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most rows in one network call.", show_default="where a row costs least", rich_help_panel=_HOW
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Most requests that wait; others are told to come later.", rich_help_panel=_HOW)
    ] = 512,
    max_body: Annotated[int, typer.Option(min=1, help="Most MiB of a request.", rich_help_panel=_HOW)] = 16,
    drain: Annotated[
        str, typer.Option(help="Time to end in after SIGTERM, for requests that are there.", rich_help_panel=_HOW)
    ] = "30s",
    device: Annotated[str, options.device()] = "cpu",
    threads: Annotated[int | None, options.threads()] = None,
    as_json: options.Json = False,
) -> None:
    """Serve models over HTTP: one engine each, whose calls hold the rows of all requests.

    Clients of KServe and Triton work, tritonclient.http for one; http://HOST:PORT/ is a page to look at.

    Example:  ncdeploy serve bundle/ --port 8000
    """
    from ncdeploy.errors import InputError
    from ncdeploy.serving.listen import bind, read_token
    from ncdeploy.serving.listen import serve as listen
    from ncdeploy.serving.server import Server

    token = None if token_file is None else read_token(token_file)
    seconds = options.seconds("--drain", drain)
    names = [path.resolve().name.removesuffix(".onnx").removesuffix(".plan").removesuffix(".pt") for path in bundles]
    if len(set(names)) < len(names):
        raise InputError(f"{bundles[0]}: two models have the same name; rename a folder")
    with bind(host, port, token=token) as listening:
        servers = {
            name: Server.open(path, device=device, threads=threads, max_rows=rows, queue=queue)
            for name, path in zip(names, bundles, strict=True)
        }

        def ready() -> None:
            address, number = listening.getsockname()[:2]
            if as_json:
                console.print_json({"models": names, "host": address, "port": number})
            shown = f"[{address}]" if ":" in address else address
            console.stderr().print(f"serving {', '.join(names)} on http://{shown}:{number}/  (Ctrl-C ends it)")

        try:
            listen(servers, listening, token=token, max_body=max_body << 20, drain=seconds, ready=ready)
        except KeyboardInterrupt:
            console.stderr().print("ended")
