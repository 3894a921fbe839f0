"""The studio of a project that has released nothing yet: its labelling API, and a page that says what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BucleError
from bucle.loop.label import Labelling
from bucle.loop.workspace import Workspace
from bucle.web.guard import HEADERS

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Unreleased", "unreleased_app"]


class Unreleased:
    """Knows the tasks of a workspace: the LabelSource before the first release."""

    def __init__(self, ws: Workspace) -> None:
        self.ws = ws
        self._labelling: dict[str, Labelling] = {}

    def labelling(self, task: str) -> Labelling:
        """The labelling of a task; the same object each time. Raises NotFound."""
        return self._labelling.setdefault(task, Labelling(self.ws, task))

    def tasks(self) -> list[Mapping[str, Any]]:
        """Each task: name, rows, left (to label), or error."""
        told: list[Mapping[str, Any]] = []
        for name in self.ws.config.tasks:
            try:
                status = self.labelling(name).status()
                told.append({"name": name, "rows": status["rows"], "left": status["left"], "error": ""})
            except BucleError as error:
                told.append({"name": name, "rows": 0, "left": 0, "error": f"{error.message} {error.hint}"})
        return told


def unreleased_app(source: Unreleased, *, hosts: Sequence[str] = ()) -> FastAPI:
    """`/api/label/…` and one page under `/studio`, behind the same door as the gateway: a key where BUCLE_API_KEYS are
    set, else loopback names only. `app.state.api_keys` are the keys in force."""
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, RedirectResponse, Response

    from bucle.loop.report.render import environment
    from bucle.serve.access import Access, keys_from_environment, studio_keys_from_environment
    from bucle.web.guard import host_allowed
    from bucle.web.label_routes import label_router
    from bucle.web.routes import HERE, MEDIA, STATIC

    env = environment([HERE / "templates"], [HERE / "locales"])
    env.globals["asset"] = lambda name: f"/studio/static/{name}"
    keys = keys_from_environment()  # nobody asks anything here yet: every key is the team's
    keys = (*keys, *studio_keys_from_environment())
    app = FastAPI(title="Bucle studio", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(label_router(source, hosts=hosts))

    def page(request: Request) -> Response:
        if not host_allowed(request.headers.get("host", ""), hosts):
            return Response("this host name is not served; use localhost\n", 403, HEADERS, "text/plain")
        project = source.ws.config
        html = env.get_template("unreleased.html").render(
            language=project.language, project=project.project, tasks=source.tasks()
        )
        return HTMLResponse(html, headers=HEADERS)

    def static(request: Request) -> Response:
        path = STATIC.get(str(request.path_params["name"]))
        if path is None:
            return Response("not served\n", 404, HEADERS, "text/plain")
        return Response(path.read_bytes(), 200, HEADERS, MEDIA[path.suffix])

    def home(request: Request) -> Response:
        return RedirectResponse("/studio", status_code=307, headers=HEADERS)

    app.add_route("/", home, methods=["GET"])
    app.add_route("/studio", page, methods=["GET"])
    app.add_route("/studio/static/{name}", static, methods=["GET"])
    app.add_middleware(Access, team=keys)
    app.state.api_keys = keys
    return app
