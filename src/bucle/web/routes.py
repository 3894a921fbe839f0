"""The studio's routes. They only read; see `studio_router` in this package for what they promise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.routing import APIRoute

from bucle.core.errors import BadInput, BucleError, NotFound
from bucle.data.kinds import readable
from bucle.loop.report import read_story, render_report
from bucle.loop.report.formats import LANGUAGES
from bucle.loop.report.model import Link, Story, clean
from bucle.loop.report.render import STATIC as REPORT_STATIC
from bucle.loop.report.render import environment, figures, story_context
from bucle.web.guard import HEADERS, host_allowed
from bucle.web.source import StudioSource

__all__ = ["router"]

HERE = Path(__file__).parent
STATIC = {name: folder / path for name, folder, path in (
    ("tokens.css", REPORT_STATIC, "tokens.css"), ("report.css", REPORT_STATIC, "report.css"),
    ("page.js", REPORT_STATIC, "page.js"), ("studio.css", HERE / "static", "studio.css"),
    ("studio.js", HERE / "static", "studio.js"), ("playground.js", HERE / "static", "playground.js"),
    ("charts.js", HERE / "static", "charts.js"), ("htmx.min.js", HERE / "static", "vendor/htmx.min.js"),
    ("uplot.min.js", HERE / "static", "vendor/uplot.min.js"),
    ("uplot.min.css", HERE / "static", "vendor/uplot.min.css"))}
"""Every file that is served, by name: nothing else on the disk can be asked for."""

MEDIA = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
PAGE = 50
MAX_ASKED = 200
TEXT = {"route": 200, "user": 200, "query": 500, "before": 64}
"""Longest filter of each kind, in characters."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def router(source: StudioSource, hosts: Sequence[str]) -> APIRouter:
    """The routes of `studio_router`."""
    env = environment([HERE / "templates"], [HERE / "locales"])
    versions = {name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for name, path in STATIC.items()}
    env.filters["readable"] = lambda text: readable("converse", text) if text.startswith("[{") else text
    env.globals["asset"] = lambda name: f"/studio/static/{name}?v={versions[name]}"

    def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
        html = env.get_template(template).render(language=values.pop("language", "es"), **values)
        return HTMLResponse(html, status_code=status, headers=HEADERS)

    class Guarded(APIRoute):
        """Refuses other host names, and shows what went wrong as a page."""

        def get_route_handler(self) -> Handler:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                if not host_allowed(request.headers.get("host", ""), hosts):
                    return Response("this host name is not served; use localhost\n", status_code=403, headers=HEADERS,
                                    media_type="text/plain")
                try:
                    return await inner(request)
                except BucleError as error:
                    status = 404 if isinstance(error, NotFound) else 400 if isinstance(error, BadInput) else 503
                    part = "hx-request" in request.headers
                    return page("_problem.html" if part else "problem.html", status, message=error.message,
                                hint=error.hint)

            return handle

    routes = APIRouter(route_class=Guarded, include_in_schema=False)

    latest: list[tuple[Any, Story]] = []
    reports: list[tuple[Any, dict[str, str]]] = []  # the last story, and its report in each language

    def told() -> Story:
        """The source's story; read again only when the source gives another."""
        raw = source.story()
        held = next(iter(latest), None)
        if held is None or held[0] is not raw:
            held = (raw, read_story(raw))
            latest[:] = [held]
        return held[1]

    @lru_cache(maxsize=2)
    def drawn_from(text: str) -> dict[str, Any]:
        shown = Story.model_validate_json(text)
        return figures(shown, env.globals["t"])

    def drawn(story: Story) -> dict[str, Any]:
        """The figures of the comparisons, drawn once while these stay the same."""
        return drawn_from(Story(comparisons=story.comparisons).model_dump_json())

    def language() -> str:
        asked = told().project.language
        return asked if asked in LANGUAGES else "es"

    def traces(asked: dict[str, str | None], limit: int = PAGE) -> dict[str, Any]:
        kept = {name: (value or "").strip() for name, value in asked.items()}
        for name, value in kept.items():
            if len(value) > TEXT[name]:
                raise BadInput(f"{name} is longer than {TEXT[name]} characters", "use a shorter filter")
        found = list(source.traces(kept["route"] or None, kept["user"] or None, kept["query"] or None, limit + 1,
                                   kept["before"] or None))
        return {"traces": found[:limit], "more": len(found) > limit, "asked": kept}

    @routes.get("/")
    def start() -> Response:
        return RedirectResponse("/studio", status_code=307, headers=HEADERS)

    @routes.get("/studio")
    def home() -> Response:
        story = told()
        blank: dict[str, str | None] = dict.fromkeys(TEXT)
        names = sorted({row.route for row in story.serve.by_route} if story.serve else set())
        return page("home.html", language=story.project.language if story.project.language in LANGUAGES else "es",
                    **story_context(story, env.globals["t"]), figures=drawn(story),
                    models=list(source.models())[:MAX_ASKED], routes=names, **traces(blank))

    @routes.get("/studio/live")
    def live() -> Response:
        story = told()
        return page("_live.html", **story_context(story, env.globals["t"]))

    @routes.get("/studio/traces")
    def trace_rows(route: str | None = None, user: str | None = None, query: str | None = None,
                   before: str | None = None) -> Response:
        return page("_traces.html", **traces({"route": route, "user": user, "query": query, "before": before}))

    @routes.get("/studio/traces/{trace_id}")
    def trace(request: Request, trace_id: str) -> Response:
        if len(trace_id) > MAX_ASKED:
            raise NotFound("no trace has so long a name", "choose one from the list at /studio")
        found = source.trace(trace_id)
        chain = [Link.model_validate(clean(link)) for link in source.why(trace_id)]
        part = "hx-request" in request.headers
        return page("_trace.html" if part else "trace.html", trace=found, chain=chain, language=language())

    @routes.get("/studio/windows.json")
    def windows() -> Response:
        story = told()
        rows = [window.model_dump() for window in story.monitor.windows] if story.monitor else []
        spans = [alert.model_dump(include={"kind", "route", "start", "end"}) for alert in story.monitor.alerts] \
            if story.monitor else []
        return JSONResponse({"windows": rows, "alerts": spans}, headers=HEADERS)

    @routes.get("/studio/report")
    def report(lang: str | None = None) -> Response:
        raw, shown = source.story(), lang if lang in LANGUAGES else language()
        held = next(iter(reports), None)
        if held is None or held[0] is not raw:
            held = (raw, {})
            reports[:] = [held]
        html = held[1].get(shown) or render_report(raw, language=shown)
        held[1][shown] = html
        headers = {name: value for name, value in HEADERS.items() if name != "content-security-policy"}
        return HTMLResponse(html, headers=headers)  # its own, stricter policy stands in the page

    @routes.get("/studio/patterns")
    def patterns() -> Response:
        from bucle.web.patterns import sample

        story = read_story(sample())
        return page("patterns.html", **story_context(story, env.globals["t"]), figures=figures(story, env.globals["t"]))

    @routes.get("/studio/static/{name}")
    def static(request: Request, name: str) -> Response:
        path = STATIC.get(name)
        if path is None:
            raise NotFound("this file is not served", "go to /studio")
        tag = f'"{versions[name]}"'
        pinned = request.query_params.get("v") == versions[name]
        headers = {**HEADERS, "etag": tag, "cache-control": "max-age=31536000, immutable" if pinned else "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(path.read_bytes(), media_type=MEDIA[path.suffix], headers=headers)

    @routes.get("/studio/{rest:path}")
    def nothing(rest: str) -> Response:
        raise NotFound("there is no such page", "go to /studio")

    return routes
