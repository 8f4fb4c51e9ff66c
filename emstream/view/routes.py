"""The addresses that the page's server answers."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from emstream import __version__
from emstream.errors import BadRule, EmstreamError
from emstream.metrics import CONTENT_TYPE
from emstream.view.alarms import MOST, Alarms
from emstream.view.latest import Latest
from emstream.view.line import Line
from emstream.view.rules import QUANTITIES
from emstream.view.scrape import Scrape
from emstream.view.shown import Shown
from emstream.view.socket import Feed
from emstream.view.wire import pack

LONGEST_BODY = 4096  # bytes of what is sent to set an alarm
_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


class Shelf(Protocol):
    """Frames that are stored: what the page asks for when somebody looks back."""

    def frame(self, run: str, index: int, size: int = 512) -> Shown:
        """One stored frame, of a level that is fine enough for a picture of `size` px. Raises FrameOutOfRange, NotARun."""
        ...

    def curves(self, run: str, version: int = 0, stride: int = 0) -> dict[str, Any]:
        """The curves of a stored run, as `History.since`. Raises NotARun."""
        ...

    def distribution(self, run: str) -> dict[str, Any]:
        """How the sizes of a stored run change, as `History.distribution`. Raises NotARun."""
        ...

    def line(self, run: str, line: Line) -> dict[str, Any]:
        """A kymograph of a stored run. Raises NotARun."""
        ...

    def labels(self, run: str) -> list[str]:
        """Names of the label images of a stored run. Raises NotARun."""
        ...

    def version(self, run: str, name: str, index: int, size: int = 512) -> np.ndarray | None:
        """Labels of a stored frame in one of them; None when it has none for this frame. Raises NotARun."""
        ...

    def events(self, run: str, track: int | None = None) -> list[dict[str, Any]]:
        """The last events of a stored run, or those of one track. Raises NotARun."""
        ...

    def track(self, run: str, number: int, points: bool = True) -> dict[str, Any] | None:
        """One particle through time; None when there is no such track. Raises NotARun."""
        ...


class Routes:
    """All answers; nothing here changes anything but the alarms."""

    def __init__(
        self,
        latest: Latest,
        scrape: Scrape,
        runs: Callable[[], list[dict[str, Any]]],
        ready: Callable[[], tuple[bool, list[str]]],
        shelf: Shelf | None,
        feed: Feed,
        alarms: Alarms | None = None,
    ) -> None:
        self.latest, self.scrape, self.all_runs, self.ready, self.shelf = latest, scrape, runs, ready, shelf
        self.feed, self.alarms = feed, alarms

    def app(self) -> Starlette:
        """The application, without its gate."""
        return Starlette(
            routes=[
                Route("/", self.page, methods=["GET"]),
                Route("/static/{name}", self.static, methods=["GET"]),
                Route("/api/status", self.status, methods=["GET"]),
                Route("/api/latest", self.newest, methods=["GET"]),
                Route("/api/runs", self.runs, methods=["GET"]),
                Route("/api/history", self.history, methods=["GET"]),
                Route("/api/distribution", self.distribution, methods=["GET"]),
                Route("/api/runs/{run}/frame/{index:int}", self.frame, methods=["GET"]),
                Route("/api/runs/{run}/line", self.line, methods=["GET"]),
                Route("/api/runs/{run}/labels", self.labels, methods=["GET"]),
                Route("/api/runs/{run}/tracks/{track:int}", self.track, methods=["GET"]),
                Route("/api/events", self.events, methods=["GET"]),
                Route("/api/alarms", self.watched, methods=["GET"]),
                Route("/api/alarms", self.watch, methods=["POST"]),
                Route("/api/alarms/seen", self.saw, methods=["POST"]),
                Route("/api/alarms/{name:path}", self.unwatch, methods=["DELETE"]),
                Route("/metrics", self.exposition, methods=["GET"]),
                Route("/healthz", self.healthz, methods=["GET"]),
                Route("/readyz", self.readyz, methods=["GET"]),
                WebSocketRoute("/ws", self.feed.serve),
            ]
        )

    async def page(self, request: Request) -> Response:
        return _file("index.html")

    async def static(self, request: Request) -> Response:
        return _file(request.path_params["name"])

    async def status(self, request: Request) -> Response:
        daemon = asdict(self.latest.daemon())
        return JSONResponse(
            {"version": __version__, "clients": self.feed.clients, "run": self.latest.current, **daemon}
        )

    async def newest(self, request: Request) -> Response:
        run = request.query_params.get("run") or None
        seen = self.latest.look(run)
        if seen is None:
            return JSONResponse({"run": run, "frame": None})
        _, shown, labelled = seen
        numbers = shown.numbers()
        numbers["segmented"] = None if labelled is None else labelled.numbers()
        return JSONResponse(numbers)

    async def runs(self, request: Request) -> Response:
        runs = await run_in_threadpool(
            self.all_runs
        )  # first: a run that is listed may be live by now, never the reverse
        live = self.latest.runs()
        shelf = self.shelf is not None
        return JSONResponse({"current": self.latest.current, "live": live, "shelf": shelf, "runs": runs})

    async def history(self, request: Request) -> Response:
        run = request.query_params.get("run") or None
        version, stride = (_whole(request.query_params, key) for key in ("version", "stride"))
        curves = self.latest.curves(run, version, stride)
        if curves is None and self.shelf is not None and run:
            try:
                curves = await run_in_threadpool(self.shelf.curves, run, version, stride)
            except EmstreamError as err:
                return JSONResponse({"error": str(err)}, status_code=404)
        return JSONResponse(curves or {"run": run, "version": 0, "stride": 1, "reset": True, "frame": []})

    async def distribution(self, request: Request) -> Response:
        """How many particles of each size there were, over the time of a run."""
        run = request.query_params.get("run") or None
        found = await run_in_threadpool(self.latest.distribution, run)
        if found is None and self.shelf is not None and run:
            try:
                found = await run_in_threadpool(self.shelf.distribution, run)
            except EmstreamError as err:
                return JSONResponse({"error": str(err)}, status_code=404)
        return JSONResponse(found or {"run": run, "edges": [], "frame": [], "time_s": [], "counts": []})

    async def frame(self, request: Request) -> Response:
        if self.shelf is None:
            return JSONResponse({"error": "no stored runs here"}, status_code=404)
        try:
            message = await run_in_threadpool(
                self._stored,
                request.path_params["run"],
                request.path_params["index"],
                request.query_params.get("over", ""),
            )
        except EmstreamError as err:
            return JSONResponse({"error": str(err)}, status_code=404)
        return Response(message, media_type="application/octet-stream")

    def _stored(self, run: str, index: int, over: str) -> bytes:
        assert self.shelf is not None
        size = self.feed.size
        other = self.shelf.version(run, over, index, size) if over else None
        return pack(self.shelf.frame(run, index, size), size=size, over=other)[0]

    async def line(self, request: Request) -> Response:
        """A kymograph: ?from=Y,X&to=Y,X as shares 0..1 of the frame; ask again until it is `complete`."""
        ends = [request.query_params.get(key, "").split(",") for key in ("from", "to")]
        try:
            (y0, x0), (y1, x1) = ([round(float(v), 4) for v in end] for end in ends)
        except ValueError:
            return JSONResponse({"error": "?from=Y,X&to=Y,X, shares 0..1 of the frame"}, status_code=400)
        if not all(0 <= v <= 1 for v in (y0, x0, y1, x1)) or (y0, x0) == (y1, x1):
            return JSONResponse({"error": "a line lies within the frame, 0..1, and has a length"}, status_code=400)
        return await self._shelved(lambda shelf, run: shelf.line(run, (y0, x0, y1, x1)), request)

    async def labels(self, request: Request) -> Response:
        """The label images of a run: `frame/N?over=NAME` lays one over the particles."""
        return await self._shelved(lambda shelf, run: {"run": run, "labels": shelf.labels(run)}, request)

    async def _shelved(self, ask: Callable[[Shelf, str], dict[str, Any]], request: Request) -> Response:
        if self.shelf is None:
            return JSONResponse({"error": "no stored runs here"}, status_code=404)
        try:
            return JSONResponse(await run_in_threadpool(ask, self.shelf, request.path_params["run"]))
        except EmstreamError as err:
            return JSONResponse({"error": str(err)}, status_code=404)

    async def events(self, request: Request) -> Response:
        """Of a run whose events are in memory those, else what its table has."""
        run = request.query_params.get("run") or None
        track = _whole(request.query_params, "track") if "track" in request.query_params else None
        known = self.latest.events(run, _whole(request.query_params, "since"), track)
        if known is None and self.shelf is not None and run:
            try:
                found = await run_in_threadpool(self.shelf.events, run, track)
            except EmstreamError as err:
                return JSONResponse({"error": str(err)}, status_code=404)
            known = {"run": run, "version": 0, "events": found}
        return JSONResponse(known or {"run": run, "version": 0, "events": []})

    async def track(self, request: Request) -> Response:
        """One particle through time, from the tables; `?points=0` leaves its curve out."""
        run, number = request.path_params["run"], request.path_params["track"]
        if self.shelf is None:
            return JSONResponse({"error": "no stored runs here"}, status_code=404)
        points = request.query_params.get("points") != "0"
        try:
            found = await run_in_threadpool(self.shelf.track, run, number, points) if number < 2**63 else None
        except EmstreamError as err:
            return JSONResponse({"error": str(err)}, status_code=404)
        if found is None:
            return JSONResponse({"error": f"the run {run} knows no track {number} (yet)"}, status_code=404)
        return JSONResponse({"run": run, **found})

    async def watched(self, request: Request) -> Response:
        """The alarms, and the numbers that one may watch; `alarms` is None where nothing is watched."""
        quantities = [{"name": q.name, "meaning": q.meaning, "units": [u for u in q.units if u[:2] not in ("um", "/u")
                       and u[-1:] != "2"]} for q in QUANTITIES]  # fmt: skip
        known = None if self.alarms is None else self.alarms.all()
        return JSONResponse({"alarms": known, "most": MOST, "quantities": quantities})

    async def watch(self, request: Request) -> Response:
        """Set an alarm: {"rule": "count fell 30 % in 5 s"}."""
        asked = await _body(request)
        if self.alarms is None or asked is None or not isinstance(asked.get("rule"), str):
            return JSONResponse({"error": 'send {"rule": "count fell 30 % in 5 s"} to a daemon'}, status_code=400)
        try:
            return JSONResponse(await run_in_threadpool(self.alarms.add, asked["rule"]), status_code=201)
        except BadRule as err:
            return JSONResponse({"error": err.what, "hint": err.hint}, status_code=400)

    async def saw(self, request: Request) -> Response:
        """Somebody saw that an alarm fired: {"name": …}, or {} for all."""
        asked = await _body(request)
        if self.alarms is None or asked is None:
            return JSONResponse({"error": 'send {"name": …} or {} to a daemon'}, status_code=400)
        self.alarms.seen(str(asked["name"]) if "name" in asked else None)
        return JSONResponse({"alarms": self.alarms.all()})

    async def unwatch(self, request: Request) -> Response:
        """Take an alarm away that was set on the page."""
        name = request.path_params["name"]
        try:
            known = self.alarms is not None and await run_in_threadpool(self.alarms.remove, name)
        except BadRule as err:
            return JSONResponse({"error": err.what, "hint": err.hint}, status_code=409)
        return JSONResponse(
            {} if known else {"error": f"there is no alarm {name!r}"}, status_code=200 if known else 404
        )

    async def exposition(self, request: Request) -> Response:
        text = self.scrape.at_hand() or await run_in_threadpool(self.scrape.now)
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"ok": True})

    async def readyz(self, request: Request) -> Response:
        ok, reasons = await run_in_threadpool(self.ready)
        return JSONResponse({"ready": ok, "reasons": reasons}, status_code=200 if ok else 503)


async def _body(request: Request) -> dict[str, Any] | None:
    """The JSON object that was sent; None for anything else. Forms of other sites cannot send JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return None
    chunks, size = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > LONGEST_BODY:
            return None
    try:
        asked = json.loads(b"".join(chunks) or b"{}")
    except ValueError:
        return None
    return asked if isinstance(asked, dict) else None


def _whole(params: Mapping[str, str], key: str) -> int:
    text = params.get(key, "")
    return int(text) if text.isdigit() and len(text) < 16 else 0


@lru_cache(maxsize=32)
def _read(name: str) -> bytes | None:
    """A file of the page, from inside the package (or plotly's own script); None when there is no such name."""
    if name == "plotly.min.js":
        return importlib.resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    known = {entry.name: entry for entry in importlib.resources.files("emstream.view").joinpath("static").iterdir()}
    return known[name].read_bytes() if name in known else None


def _file(name: str) -> Response:
    content = _read(name)
    kind = _KINDS.get(name.rpartition(".")[2])
    if content is None or kind is None:
        return Response("no such file\n", status_code=404, media_type="text/plain")
    caching = "private, max-age=86400" if name == "plotly.min.js" else "no-cache"
    return Response(content, headers={"content-type": kind, "cache-control": caching})
