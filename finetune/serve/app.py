"""The page: a picture or the camera at the left, the answer at the right, the model's card below. gradio draws it."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError
from finetune.extras import to_install
from finetune.serve import html
from finetune.serve.guard import Guard
from finetune.serve.keep import Keep
from finetune.serve.reader import MOST_BYTES, Reader

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
OFTEN = 0.25  # seconds between two frames of the camera; the newest waits, older ones are dropped


def require_gradio(keep: Keep) -> Any:
    """gradio, which keeps its files in the folder of uploads and asks nobody for its version."""
    os.environ.update(
        GRADIO_TEMP_DIR=str(keep.path), GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_SSR_MODE="False"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gradio
    if int(gradio.__version__.split(".")[0]) < 6:
        raise FinetuneError(f"the page needs gradio 6, this is {gradio.__version__}: {to_install('serve')}")
    return gradio


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises FinetuneError where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise FinetuneError(f"--host {host}: {error.strerror or error}; 127.0.0.1 is this machine") from None
    try:
        if os.name == "posix":
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(64)
    except OSError as error:
        taken.close()
        raise FinetuneError(
            f"{host}:{port} cannot be used: {error.strerror or error}; another one: --port {port + 1 if 0 < port < 65535 else 7861}"
            ", or any that is free: --port 0"
        ) from None
    return taken


def page(reader: Reader, gradio: Any) -> Any:
    """gradio's Blocks. Nothing is cached, and no function has a name in an API."""
    model, detector = reader.model, reader.detector.name
    closed: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}
    with gradio.Blocks(title=f"{model.name}: apparent expressions", analytics_enabled=False, fill_width=True) as blocks:
        gradio.HTML(html.heading(model))
        with gradio.Row():
            with gradio.Column(scale=2, min_width=280):
                with gradio.Tab("Picture"):
                    picture = gradio.Image(
                        sources=["upload", "clipboard"], label="a picture", type="filepath", buttons=[], elem_id="picture", height=320
                    )
                with gradio.Tab("Camera"):
                    camera = gradio.Image(
                        sources=["webcam"], streaming=True, label="the camera", type="filepath", buttons=[], elem_id="camera", height=320
                    )
            with gradio.Column(scale=3, min_width=320):
                result = gradio.HTML(html.welcome(), elem_id="answer")
        with gradio.Accordion("The model, and its limits", open=True):
            gradio.HTML(html.card(model, detector), elem_id="card")

        def of_picture(sent: Any) -> tuple[str, None]:
            return html.answer(reader.read_sent(sent), model), None

        def of_frame(sent: Any) -> str:
            return html.answer(reader.read_sent(sent, "camera"), model)

        # The drop zone is empty again afterwards: the file that it showed is gone.
        picture.upload(of_picture, picture, [result, picture], concurrency_limit=1, show_progress_on=[result], **closed)
        camera.stream(of_frame, camera, result, stream_every=OFTEN, concurrency_limit=4, show_progress="hidden", **closed)
    blocks.queue(max_size=16)
    return blocks


def application(reader: Reader, host: str) -> Guard:
    """The ASGI application: the page behind its guard."""
    gradio = require_gradio(reader.keep)
    from fastapi import FastAPI

    system = ["system-ui", "sans-serif"]
    theme = gradio.themes.Base(font=system, font_mono=["ui-monospace", "monospace"])
    outer = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app = gradio.mount_gradio_app(
        outer, page(reader, gradio), path="/", footer_links=[], run_history=False, ssr_mode=False, mcp_server=False, pwa=False,
        enable_monitoring=False, max_file_size=MOST_BYTES, allowed_paths=[], show_error=False, theme=theme, css=html.STYLE,
        favicon_path=None,
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
    )  # fmt: skip
    return Guard(app, reader.keep, LOOPBACK | {host.lower()} if is_loopback(host) else None)


def is_loopback(host: str) -> bool:
    return host in LOOPBACK or host.startswith("127.")


def run(app: Guard, taken: socket.socket) -> None:
    """Until Ctrl-C or SIGTERM."""
    import uvicorn

    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2, lifespan="on")
    uvicorn.Server(config).run(sockets=[taken])


def address_of(taken: socket.socket) -> str:
    name, port = taken.getsockname()[:2]
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def folder_words(path: Path) -> str:
    """Where uploads lie until they are read, for people."""
    return "this machine's memory" if str(path).startswith("/dev/shm/") else str(path)
