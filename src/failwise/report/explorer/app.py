"""The web application: lists, an episode, two side by side, labels. On localhost; it loads nothing from elsewhere."""

from __future__ import annotations

import io
import json
import secrets
import socket
import sys
from collections import OrderedDict
from dataclasses import asdict, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from failwise.errors import DataError, SetupError, StoreError
from failwise.report.explorer.catalogue import PAGE, SORTS, Catalogue, Filter
from failwise.report.explorer.curves import HEIGHT, WIDTH, curves
from failwise.report.templating import template_environment
from failwise.store import StoredEpisode
from failwise.store.naming import MANIFEST
from failwise.store.video import FPS, encode_video
from failwise.types import FailureEvent

HOSTS = ["localhost", "127.0.0.1", "[::1]"]
POLICY = "; ".join(
    ["default-src 'none'", "img-src 'self' data:"]
    + [f"{what} 'self'" for what in ("media-src", "style-src", "script-src", "form-action")]
    + ["frame-ancestors 'none'", "base-uri 'none'"]
)
VIDEOS_KEPT = 64
THUMBNAIL = 160  # pixels
MODES = (
    "misaligned grasp", "missed", "dropped", "slipped", "early release", "late close", "wrong object", "wrong place",
    "pushed away", "stuck", "collision", "false completion",
)  # fmt: skip


class Explorer:
    """The pages, made from a catalogue."""

    def __init__(self, root: Path) -> None:
        self.catalogue = Catalogue(root)
        self._token = secrets.token_urlsafe(16)  # of this process: a form on another site does not know it
        self._videos: OrderedDict[tuple[int, str, str, str], bytes] = OrderedDict()
        self._pages = template_environment()

    def index(self, request: Request) -> Response:
        """The list, filtered and sorted."""
        self.catalogue.refresh()
        wanted = _filter(request)
        rows = self.catalogue.select(wanted)
        pages = max(1, -(-len(rows) // PAGE))
        page = min(max(1, wanted.page), pages)
        return self._page(
            "index.html",
            wanted=wanted,
            rows=rows[(page - 1) * PAGE : page * PAGE],
            total=len(rows),
            page=page,
            pages=pages,
            link=lambda n: "?" + urlencode({k: v for k, v in asdict(replace(wanted, page=n)).items() if v}),
            choices=self.catalogue.choices(),
            sorts=SORTS,
            names=self.catalogue.names,
            unread=self.catalogue.unread,
        )

    def episode(self, request: Request) -> Response:
        """One episode: video beside its curves, labels, the same seed under other arms."""
        store, episode = self._episode(request)
        meta = episode.meta
        return self._page(
            "episode.html",
            view=self._view(store, episode),
            store=store,
            meta=meta,
            twins=self.catalogue.twins(store, meta),
            names=self.catalogue.names,
            labels=[(_name_of(label), label) for label in self.catalogue.stores[store].labels(meta.episode_id)],
            conditions=list(episode.conditions()),
            modes=sorted({*MODES, *(e.mode for e in meta.failure_events)}),
            token=self._token,
            said=request.query_params.get("said", ""),
        )

    def compare(self, request: Request) -> Response:
        """Two episodes side by side."""
        views = []
        for side in ("a", "b"):
            number, _, name = request.query_params.get(side, "").partition("/")
            try:
                store = int(number)
                views.append(self._view(store, self.catalogue.read(store, name)))
            except (ValueError, StoreError) as error:
                raise HTTPException(404, f"there is no such episode: {request.query_params.get(side, '')}") from error
        return self._page("compare.html", views=views)

    async def label(self, request: Request) -> Response:
        """Add a label, or take one back; then the episode again."""
        form = await request.form(max_files=0, max_fields=10)
        if not secrets.compare_digest(str(form.get("token", "")).encode(), self._token.encode()):
            raise HTTPException(403, "this form is of another session: open the episode again")
        store, episode = self._episode(request)
        name, own = episode.meta.episode_id, self.catalogue.stores[store]
        try:
            if "remove" in form:
                for event in own.labels(name):  # none of them where it was taken back already, in another tab
                    if _name_of(event) == str(form["remove"]):
                        own.unlabel(name, event)
                said = "taken back"
            else:
                onset = int(str(form.get("onset", "")))
                if not 0 <= onset <= episode.meta.n_steps:
                    raise ValueError(f"the onset must be a step from 0 to {episode.meta.n_steps}")
                mode = str(form.get("mode", "")).strip()[:80]
                if not mode:
                    raise ValueError("say what went wrong")
                event = FailureEvent(
                    mode=mode,
                    stage=str(form.get("stage", ""))[:80],
                    onset_step=onset,
                    source="labelled",
                    evidence=str(form.get("evidence", "")).strip()[:500],
                )
                own.label(name, event)
                said = "kept"
        except (ValueError, ValidationError) as error:
            raise HTTPException(400, f"not labelled: {str(error).splitlines()[0]}") from error
        return RedirectResponse(f"/episode/{store}/{name}?said={said}#labels", status_code=303)

    def video(self, request: Request) -> Response:
        """One camera as mp4, one video frame a recorded look; parts of it for players that seek."""
        store, episode = self._episode(request)
        camera = request.path_params["camera"]
        key = (store, episode.meta.episode_id, camera, _version(episode))
        content = self._videos.get(key)
        if content is None:
            try:
                content = encode_video(list(episode.frames(camera)))
            except DataError as error:
                raise HTTPException(404, str(error)) from error
            self._videos[key] = content
            while len(self._videos) > VIDEOS_KEPT:
                self._videos.popitem(last=False)
        return _ranged(request, content, "video/mp4", _version(episode))

    def thumbnail(self, request: Request) -> Response:
        """The last thing that the first camera saw, small."""
        _, episode = self._episode(request)
        if not episode.meta.n_frames or not episode.cameras():
            raise HTTPException(404, "no frames were recorded")
        image = Image.fromarray(episode.frames(episode.meta.cameras[0], [episode.meta.n_frames - 1])[0])
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        return Response(buffer.getvalue(), media_type="image/jpeg", headers={"cache-control": "no-store"})

    def static(self, request: Request) -> Response:
        """The style sheets and the script."""
        file = request.path_params["file"]
        kinds = {"report.css": "text/css", "explorer.css": "text/css", "explorer.js": "text/javascript"}
        if file not in kinds:
            raise HTTPException(404, f"there is no {file}")
        folder = Path(__file__).parent.parent / "templates"
        path = folder / file if file == "report.css" else folder / "explorer" / file
        return Response(path.read_text(encoding="utf-8"), media_type=kinds[file])

    def error(self, request: Request, error: Exception) -> Response:
        """What went wrong, as a page."""
        status = error.status_code if isinstance(error, HTTPException) else 404
        said = error.detail if isinstance(error, HTTPException) else str(error)
        return self._page("error.html", status=status, said=said, code=status)

    def _episode(self, request: Request) -> tuple[int, StoredEpisode]:
        store = int(request.path_params["store"])
        try:
            return store, self.catalogue.read(store, request.path_params["episode"])
        except StoreError as error:
            raise HTTPException(404, str(error)) from error

    def _view(self, store: int, episode: StoredEpisode) -> dict[str, Any]:
        """What the player of one episode needs."""
        meta = episode.meta
        looks = episode.look_steps().tolist()
        return {
            "store": store,
            "meta": meta,
            "where": self.catalogue.names[store],
            "cameras": list(meta.cameras) if looks else [],
            "curves": curves(episode),
            # For the script: which step each video frame shows.
            "timing": json.dumps({"looks": looks, "steps": meta.n_steps, "fps": FPS, "hz": meta.control_hz}),
        }

    def _page(self, template: str, code: int = 200, **values: Any) -> Response:
        text = self._pages.get_template(f"explorer/{template}").render(
            root=self.catalogue.root.resolve().name, width=WIDTH, height=HEIGHT, **values
        )
        headers = {
            "content-security-policy": POLICY,
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }
        return HTMLResponse(text, status_code=code, headers=headers)


def make_app(root: Path) -> Starlette:
    """The explorer of the episodes at or below a folder, as an ASGI application.

    Raises:
        StoreError: there are no episodes.
    """
    explorer = Explorer(root)
    episode = "/episode/{store:int}/{episode}"
    app = Starlette(
        routes=[
            Route("/", explorer.index),
            Route(episode, explorer.episode),
            Route(episode + "/label", explorer.label, methods=["POST"]),
            Route(episode + "/{camera}.mp4", explorer.video),
            Route(episode + "/thumbnail.jpg", explorer.thumbnail),
            Route("/compare", explorer.compare),
            Route("/static/{file}", explorer.static),
        ],
        # A page elsewhere that gets its name resolved to this machine must not reach the episodes.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
        exception_handlers={HTTPException: explorer.error, StoreError: explorer.error},
    )
    app.state.explorer = explorer
    return app


def serve(root: Path, port: int) -> None:
    """Serve the explorer on localhost until Ctrl-C.

    Raises:
        SetupError: the port is taken. StoreError: there are no episodes.
    """
    import uvicorn

    app = make_app(root)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            ours.bind(("127.0.0.1", port))
        except OSError as error:
            raise SetupError(
                f"port {port} is not free ({error.strerror}); give another --port, or 0 for any"
            ) from error
        print(f"explorer: http://127.0.0.1:{ours.getsockname()[1]}/  (Ctrl-C ends it)", file=sys.stderr, flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        try:
            server.run(sockets=[ours])
        except KeyboardInterrupt:
            pass  # what the line above said would end it
        finally:
            app.state.explorer.catalogue.close()


def _filter(request: Request) -> Filter:
    given = {f.name: request.query_params[f.name] for f in fields(Filter) if f.name in request.query_params}
    page = given.pop("page", "1")
    if given.get("sort", "risk") not in SORTS:
        del given["sort"]
    return Filter(**given, page=int(page) if page.isdecimal() and page.isascii() and len(page) < 10 else 1)


def _name_of(event: FailureEvent) -> str:
    """By which a form names a label: its place in the list changes when another one is taken back."""
    return sha256(event.model_dump_json().encode()).hexdigest()[:16]


def _version(episode: StoredEpisode) -> str:
    """Changes with what was recorded: the same address shows another episode once another run is served."""
    try:
        return sha256((episode.path / MANIFEST).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise HTTPException(404, f"{episode.id} has no manifest; see: failwise store check") from error


def _ranged(request: Request, content: bytes, kind: str, version: str) -> Response:
    """The whole content, or the one range of bytes that was asked for (RFC 9110)."""
    headers = {"accept-ranges": "bytes", "cache-control": "no-cache", "etag": f'"{version}"'}
    asked = request.headers.get("range", "")
    if not asked.startswith("bytes=") or "," in asked:
        return Response(content, media_type=kind, headers=headers)
    first, _, last = asked.removeprefix("bytes=").partition("-")
    try:
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last), len(content) - 1) if first and last else len(content) - 1
    except ValueError:
        return Response(content, media_type=kind, headers=headers)
    if not 0 <= start <= end:
        return Response(status_code=416, headers={"content-range": f"bytes */{len(content)}"})
    headers["content-range"] = f"bytes {start}-{end}/{len(content)}"
    return Response(content[start : end + 1], 206, media_type=kind, headers=headers)
