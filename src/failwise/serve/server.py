"""The sockets: who may connect, how much may be sent, and whose turn it is. What is answered is in ``session``."""

from __future__ import annotations

import asyncio
import hmac
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State

from failwise.errors import FailwiseError, SetupError, WireError
from failwise.policies.remote.link import BUSY
from failwise.wire import Limits, pack, unpack

if TYPE_CHECKING:
    from failwise.serve.served import Served
    from failwise.serve.session import Session

Result = TypeVar("Result")
log = logging.getLogger("failwise.serve")

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_PINGS_S = 60.0  # an inference holds up the answer to a ping, by seconds on a busy machine


@dataclass(frozen=True)
class ServerOptions:
    """Who may talk to a server, and how much of it.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        token: what clients must show as ``Authorization: Api-Key TOKEN``; "" asks for none.
        message_mb: of one message, in MiB.
        clients: at a time.
        queue: inferences that may be in line, the running one among them; None lets every client have one there.
        max_wait: seconds that an inference may wait for its turn; then its client is told that the server is busy.
        threads: of torch for an inference; 0 leaves it to torch.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    message_mb: float = 16.0
    clients: int = 64
    queue: int | None = None
    max_wait: float = 20.0
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise SetupError(f"--port {self.port} is no port: 0 to 65535")
        if not 0.001 <= self.message_mb <= 1024:
            raise SetupError(f"--max-message-mb {self.message_mb:g} must lie between 0.001 and 1024")
        for name, value in (("--clients", self.clients), ("--queue", self.places)):
            if not 1 <= value <= 10_000:
                raise SetupError(f"{name} {value} must be 1 to 10000")
        if not 0 <= self.max_wait <= 3600:
            raise SetupError(f"--max-wait {self.max_wait:g} must lie between 0 and 3600 seconds")
        if not 0 <= self.threads <= 1024:
            raise SetupError(f"--threads {self.threads} must be 0 to 1024")
        if any(c.isspace() or not c.isascii() for c in self.token):
            raise SetupError("a token is ASCII without spaces: it travels in an HTTP header")

    @property
    def places(self) -> int:
        """Inferences that may be in line. A client has one at a time, so that by default no line is too long."""
        return self.clients if self.queue is None else self.queue

    @property
    def nbytes(self) -> int:
        """Of one message."""
        return int(self.message_mb * 2**20)


@dataclass
class Counts:
    """What a server has done so far.

    Attributes:
        clients: that were let in.
        inferences: that were answered with actions.
        refused: connections and messages.
        busy: those of the refused messages whose turn did not come.
        waited_s: of all answered inferences together, for their turn.
        longest_wait_s: of any of them.
    """

    clients: int = 0
    inferences: int = 0
    refused: int = 0
    busy: int = 0
    waited_s: float = 0.0
    longest_wait_s: float = 0.0

    def answered(self, waited_s: float) -> None:
        """Count an inference that waited so long for its turn."""
        self.inferences += 1
        self.waited_s += waited_s
        self.longest_wait_s = max(self.longest_wait_s, waited_s)

    def summary(self) -> str:
        """One line on the waits."""
        mean_ms = 1000 * self.waited_s / max(1, self.inferences)
        longest_ms = 1000 * self.longest_wait_s
        return f"waits for a turn: {mean_ms:.0f} ms on average, {longest_ms:.0f} ms at most; told busy: {self.busy}"


class _ClientLeftError(Exception):
    """The client closed its connection while its inference was in line."""


class PolicyServer:
    """Serves one policy to several clients, an inference at a time.

    Args:
        served: the policy, and what every client gets of its own.
        options: who may talk to it.
    """

    def __init__(self, served: Served, options: ServerOptions | None = None) -> None:
        self.served, self.options = served, options or ServerOptions()
        self.counts = Counts()
        self._limits = Limits(nbytes=self.options.nbytes)
        self._connected = self._waiting = 0
        self._turn = asyncio.Lock()  # whose waiters get it in the order in which they came
        self._handled: list[signal.Signals] = []
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, started: Callable[[int], None] | None = None, signals: bool = False) -> None:
        """Warm up, then serve until ``stop`` is called, or, with ``signals``, until Ctrl-C or SIGTERM.

        The port is taken at once, so that one that is in use is told before the policy warms up, but nothing listens
        there until the policy is warm: the client in openpi's repository tries again at a server that refuses
        connections, and gives up at one that answers with an HTTP error.

        Args:
            started: called with the port once clients may connect.
            signals: whether to end at signals; only in the main thread.

        Raises:
            SetupError: the host or port cannot be listened on.
        """
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if signals:
            # One that is ignored stays so: a Ctrl-C is not meant for the background jobs of a shell.
            self._handled = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
            for number in self._handled:
                self._loop.add_signal_handler(number, self._interrupted)
        # One thread: an inference uses the cores as it is, and steering and policies are not made for two at once.
        self._thread = ThreadPoolExecutor(1, "inference", initializer=partial(_prepare, self.options.threads))
        try:
            async with await self._listen() as server:
                await self._loop.run_in_executor(self._thread, self.served.warm_up)
                if not self._stop.is_set():
                    await self._open(server)
                    if started is not None:
                        started(server.sockets[0].getsockname()[1])
                    await self._stop.wait()
        finally:
            self._thread.shutdown(cancel_futures=True)

    async def _listen(self) -> Server:
        o = self.options
        try:
            return await serve(
                self._talk, o.host, o.port, compression=None, max_size=o.nbytes, max_queue=2, close_timeout=2,
                process_request=self._admit, ping_timeout=_PINGS_S, start_serving=False,
                logger=logging.getLogger("failwise.serve.socket"),
                # A browser sends the origin of the page that it shows: no page may use a policy of its visitor's.
                origins=[None],
            )  # fmt: skip
        except OSError as error:
            raise self._taken(error) from error

    async def _open(self, server: Server) -> None:
        try:
            await server.start_serving()
        except OSError as error:  # another server took the port while this one warmed up
            raise self._taken(error) from error

    def _taken(self, error: OSError) -> SetupError:
        o = self.options
        return SetupError(f"cannot listen on {o.host} port {o.port} ({error}); choose another --port")

    def _interrupted(self) -> None:
        assert self._loop is not None
        for number in self._handled:  # a second Ctrl-C does not wait for the inference to end
            self._loop.remove_signal_handler(number)
        self.stop()

    def stop(self) -> None:
        """End ``run``; callable from any thread."""
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stop.set)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer health checks, and turn away whom the server does not take; None lets a client in."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if self.options.token:
            shown = " ".join(request.headers.get_all("Authorization")).encode()
            if not hmac.compare_digest(shown, f"Api-Key {self.options.token}".encode()):
                self.counts.refused += 1
                return connection.respond(HTTPStatus.UNAUTHORIZED, "this server wants a token\n")
        if self._connected >= self.options.clients:
            self.counts.refused += 1
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "this server has as many clients as it takes\n")
        return None

    async def _talk(self, connection: ServerConnection) -> None:
        """One client, from its metadata to its end. Whatever it does, it ends nothing but itself."""
        self._connected += 1
        number = self.counts.clients
        self.counts.clients += 1
        try:
            session, _ = await self._in_turn(partial(self.served.session, number), connection)
            try:
                await connection.send(pack(self.served.metadata()))
                await self._questions(connection, session)
            finally:
                self.served.over(session)
        except (ConnectionClosed, _ClientLeftError):
            log.info("client %d left", number)
        except Exception as error:
            log.exception("client %d met a fault of the server", number)
            await self._end(connection, f"{type(error).__name__}: {error}", CloseCode.INTERNAL_ERROR)
        finally:
            self._connected -= 1

    async def _questions(self, connection: ServerConnection, session: Session) -> None:
        max_wait = self.options.max_wait
        before: float | None = None
        async for packed in connection:
            start = time.monotonic()
            if isinstance(packed, str):
                return await self._end(connection, "a message must be binary msgpack, got text", CloseCode.INVALID_DATA)
            try:
                message = unpack(packed, self._limits)
            except WireError as error:
                return await self._end(connection, str(error), CloseCode.INVALID_DATA)
            try:
                reply, waited_s = await self._in_turn(partial(session.answer, message), connection, max_wait)
            except FailwiseError as error:  # the client may mend its question
                self.counts.refused += 1
                await connection.send(" ".join(str(error).split()))
                continue
            if "actions" in reply:
                self.counts.answered(waited_s)
                reply["server_timing"]["queue_ms"] = 1000 * waited_s
                if before is not None:
                    reply["server_timing"]["prev_total_ms"] = 1000 * before
            await connection.send(pack(reply))
            before = time.monotonic() - start

    async def _in_turn(
        self, call: Callable[[], Result], connection: ServerConnection, max_wait: float | None = None
    ) -> tuple[Result, float]:
        """Run something in the inference thread, after what came before, and tell how many seconds it waited for that.

        Raises:
            WireError: too many wait already, or ``max_wait`` seconds were too few. With None, it waits for ever.
            _ClientLeftError: the client has closed its connection while it waited.
        """
        assert self._loop is not None
        if max_wait is not None and self._waiting >= self.options.places:
            self.counts.busy += 1
            raise WireError(f"{BUSY}{self._waiting} inferences wait already (--queue {self.options.places}); ask again")
        start = self._loop.time()
        self._waiting += 1
        try:
            await self._wait(max_wait)
            waited_s = self._loop.time() - start
            try:
                if connection.state is not State.OPEN:
                    raise _ClientLeftError
                return await self._loop.run_in_executor(self._thread, call), waited_s
            finally:
                self._turn.release()
        finally:
            self._waiting -= 1

    async def _wait(self, max_wait: float | None) -> None:
        try:
            async with asyncio.timeout(max_wait):
                await self._turn.acquire()
        except TimeoutError:
            self.counts.busy += 1
            raise WireError(
                f"{BUSY}no turn within {max_wait:g} s (--max-wait), {self._waiting - 1} other inferences are in line; "
                "ask again, or use fewer clients at a time"
            ) from None

    async def _end(self, connection: ServerConnection, why: str, code: CloseCode) -> None:
        self.counts.refused += 1
        with suppress(ConnectionClosed):
            await connection.send(" ".join(why.split())[:1000])
            await connection.close(code, "see the text before")


def _prepare(threads: int) -> None:
    """In the inference thread, once."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def warning(options: ServerOptions) -> str:
    """What to say to a person who lets others in, or ""."""
    if options.host in LOCAL_HOSTS or options.token:
        return ""
    return (
        f"anybody who reaches {options.host or 'this machine'} can use this policy: "
        "set a token with --token-file, or leave --host at 127.0.0.1"
    )


def run_server(served: Served, options: ServerOptions, started: Callable[[int], None]) -> Counts:
    """Serve in this thread until Ctrl-C or SIGTERM; returns what was done.

    Raises:
        SetupError: the host or port cannot be listened on.
    """
    server = PolicyServer(served, options)
    asyncio.run(server.run(started, signals=True))
    return server.counts


def metadata_of(served: Served) -> dict[str, Any]:
    """The ``failwise`` part of what clients are told."""
    about: dict[str, Any] = served.metadata()["failwise"]
    return about
