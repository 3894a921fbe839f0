"""The studio: one local page with the loop, the comparison, the traces and a playground, beside the API.

    app.include_router(studio_router(source))       # everything under /studio, and / goes there
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bucle.web.source import StudioSource

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

__all__ = ["StudioSource", "studio_app", "studio_router"]


def studio_router(source: StudioSource, *, hosts: Sequence[str] = ()) -> APIRouter:
    """The studio's routes over `source`: pages under `/studio`, and a redirect from `/`.

    Only loopback host names are answered, and `hosts` beside them (against DNS rebinding). It only reads: ratings
    and chats go from the browser to `/v1/feedback` and `/v1/chat/completions` of the same origin.
    """
    from bucle.web.routes import router

    return router(source, hosts)


def studio_app(source: StudioSource, *, hosts: Sequence[str] = ()) -> FastAPI:
    """The same routes as an app of their own, to mount behind the gateway."""
    from fastapi import FastAPI

    app = FastAPI(title="Bucle studio", docs_url=None, redoc_url=None, openapi_url=None)
    from bucle.web.label_routes import LabelSource, label_router

    if isinstance(source, LabelSource):
        app.include_router(label_router(source, hosts=hosts))
    app.include_router(studio_router(source, hosts=hosts))
    return app
