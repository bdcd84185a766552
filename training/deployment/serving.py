"""A model behind HTTP: JSON or forms in, JSON out.

`transformers serve` answers chats of language models; what is served here are embeddings, labels, answers and captions.
"""

import json
import socket
import threading
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.middleware.trustedhost import TrustedHostMiddleware

from .answers import Endpoint, endpoints_of
from .request_fields import MOST_ITEMS
from .served_model import ServedModel, open_served_model

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_BYTES = 20 * 2**20  # of a request
LISTS = ("texts", "images")  # fields that a form may give several times


def make_app(served: ServedModel, allowed_hosts: tuple[str, ...] = LOOPBACK, max_bytes: int = MOST_BYTES) -> FastAPI:
    """
    The server's application.

    Args:
        allowed_hosts: Names that a request may call the server by; others are refused, so that no web page reaches a
            server on this machine through a name of its own. `("*",)`: any.
        max_bytes: Most bytes of a request.
    """
    endpoints = endpoints_of(served)
    app = FastAPI(title=f"omnilatent: {served.model_class}")
    named = [f"[{host}]" if ":" in host else host for host in allowed_hosts]  # `Host: [::1]:8000`
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=named)
    lock = threading.Lock()  # one request at a time computes; others wait, and are read meanwhile

    def compute(endpoint: Endpoint, given: dict) -> dict:
        fields = endpoint.fields.read(given)
        with lock, torch.inference_mode():
            return endpoint.answer(served, fields)

    def add(name: str, endpoint: Endpoint):
        async def answer(request: Request):
            given = await _read_request(request, max_bytes)
            try:
                return JSONResponse(await run_in_threadpool(compute, endpoint, given))
            except ValidationError as error:
                raise HTTPException(422, _describe(error)) from error
            except ValueError as error:  # the model's own checks, such as of a text's length
                raise HTTPException(422, str(error)) from error

        schema = {"application/json": {"schema": endpoint.fields.model_json_schema()}}
        app.add_api_route(
            f"/{name}",
            answer,
            methods=["POST"],
            summary=endpoint.summary,
            openapi_extra={"requestBody": {"required": True, "content": schema}},
        )

    for name, endpoint in endpoints.items():
        add(name, endpoint)

    @app.get("/health", summary="Whether the server answers, and what.")
    def health() -> dict:
        return {"status": "ok", "model": served.model_class, "endpoints": [f"/{name}" for name in endpoints]}

    @app.exception_handler(404)
    async def not_found(request: Request, error) -> JSONResponse:
        known = ", ".join(f"POST /{name}" for name in endpoints)
        detail = f"There is no {request.url.path}: {served.model_class} answers {known} and GET /health."
        return JSONResponse({"detail": detail}, 404)

    return app


def serve(name_or_path: str | Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """
    Answer until interrupted.

    Args:
        name_or_path: A model saved with its processor, or an export.
        host: Where to listen; by default this machine alone can reach it.
        port: 0: any that is free. The address is printed.
    """
    served = open_served_model(name_or_path)
    app = make_app(served, LOOPBACK if host in LOOPBACK else ("*",))
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        address = f"[{host}]" if ":" in host else host
        print(f"{served.model_class} answers on http://{address}:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


async def _read_request(request: Request, max_bytes: int) -> dict:
    """The fields of a request in JSON, or of a form with uploaded files."""
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise HTTPException(411, "Expected a `Content-Length` header: the size of a request is limited.")
    if int(length) > max_bytes:
        raise HTTPException(413, f"The request has {length} bytes, expected at most {max_bytes}.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            given = json.loads(await request.body())
        except (ValueError, RecursionError) as error:  # the latter: nested too deeply
            raise HTTPException(400, f"The request's body is no JSON: {error}") from error
        if not isinstance(given, dict):
            raise HTTPException(422, f"Expected a JSON object, got {type(given).__name__}.")
        return given
    if kind == "multipart/form-data":
        return await _read_form(request, max_bytes)
    raise HTTPException(415, f"Expected application/json or multipart/form-data, got {kind or 'no content type'}.")


async def _read_form(request, max_bytes):
    given = {}
    async with request.form(max_files=MOST_ITEMS, max_fields=2 * MOST_ITEMS, max_part_size=max_bytes) as form:
        for name in form:
            values = [await part.read() if isinstance(part, UploadFile) else part for part in form.getlist(name)]
            if name in LISTS:
                given[name] = values
            elif len(values) > 1:
                raise HTTPException(422, f"{name}: expected one, got {len(values)}.")
            else:
                given[name] = values[0]
    return given


def _describe(error: ValidationError) -> str:
    """Each field that is wrong and why, without what was sent."""
    problems = []
    for problem in error.errors(include_input=False, include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        problems.append(f"{where}: {message}" if where else message)
    return "; ".join(problems)
