"""One connection to a policy server: opened when it is needed, one question and one answer at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect

from failwise.errors import EpisodeError, WireError
from failwise.policies.remote.address import TOKEN_VARIABLE, Address
from failwise.wire import Limits, pack, unpack

BUSY = "busy: "
"""So begins what a server of ours says when its queue is full; the same question may be asked again."""

_AGAIN_S = 0.1


class Link:
    """A connection to one server.

    Args:
        address: of the server.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.metadata: dict[str, Any] = {}
        self._open: ExitStack | None = None
        self._connection: ClientConnection | None = None
        self._patience = address.connect

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as one knows before asking."""
        return self._connection is not None

    def connect(self) -> None:
        """Open a connection and read the server's metadata.

        Raises:
            EpisodeError: nobody answers, or somebody who does not speak the protocol.
        """
        self.close()
        until = time.monotonic() + self._patience
        while True:
            try:
                self._connect()
                self._patience = self.address.connect
                return
            except ConnectionRefusedError as error:
                if time.monotonic() + _AGAIN_S > until:
                    self._patience = 0.0  # who waited in vain once does not wait before every later episode, too
                    raise EpisodeError(
                        f"no policy server at {self.address.url}; start one with: failwise serve --policy FOLDER"
                    ) from error
                time.sleep(_AGAIN_S)

    def _connect(self) -> None:
        url, token = self.address.url, self.address.token()
        headers = {"Authorization": f"Api-Key {token}"} if token else None
        opening = ExitStack()
        try:
            # No pings: openpi's own server cannot answer them during an inference, which may last minutes.
            connection = opening.enter_context(
                connect(
                    url, additional_headers=headers, compression=None, max_size=Limits().nbytes, proxy=None,
                    ping_interval=None, open_timeout=max(5.0, self.address.connect), close_timeout=1,
                )
            )  # fmt: skip
            first = connection.recv(timeout=self.address.timeout)
            if isinstance(first, str):
                raise EpisodeError(f"the policy server at {url} refused: {_last_line(first)}")
            self.metadata = unpack(first)
        except ConnectionRefusedError:
            opening.close()
            raise
        except Exception as error:
            opening.close()
            raise _in_words(error, url) from error
        self._open, self._connection = opening, connection

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """One answer to one message.

        Raises:
            EpisodeError: the server refused it, is gone, or did not answer in time.
            ConnectionError: there was no connection any more, so that the message was not acted on by anybody we know.
        """
        if self._connection is None:
            raise ConnectionError(self.address.url)
        packed = pack(message)
        until = time.monotonic() + self.address.timeout
        while True:
            try:
                self._connection.send(packed)
                reply = self._connection.recv(timeout=max(0.0, until - time.monotonic()))
            except ConnectionClosed as error:
                self.close()
                if error.rcvd is not None and error.rcvd.code == CloseCode.MESSAGE_TOO_BIG:
                    raise EpisodeError(
                        f"the policy server at {self.address.url} takes no message of {len(packed)} bytes; "
                        "start it with a larger --max-message-mb, or send smaller images: ?resize=PIXELS"
                    ) from error
                raise ConnectionError(str(error)) from error
            except TimeoutError as error:
                self.close()  # its answer may still come, and would be taken for that of the next question
                raise EpisodeError(
                    f"the policy server at {self.address.url} did not answer in {self.address.timeout:g} s"
                ) from error
            if not isinstance(reply, str):
                return self._unpacked(reply)
            if not reply.startswith(BUSY) or time.monotonic() + _AGAIN_S > until:
                raise EpisodeError(f"the policy server at {self.address.url} refused: {_last_line(reply)}")
            time.sleep(_AGAIN_S)

    def _unpacked(self, reply: bytes) -> dict[str, Any]:
        try:
            return unpack(reply)
        except WireError as error:
            self.close()
            raise EpisodeError(f"the policy server at {self.address.url} sent no answer: {error}") from error

    def close(self) -> None:
        """End the connection, if there is one."""
        opened, self._open, self._connection = self._open, None, None
        if opened is not None:
            opened.close()


def _in_words(error: Exception, url: str) -> EpisodeError:
    if isinstance(error, EpisodeError):
        return error
    if isinstance(error, InvalidStatus):
        code = error.response.status_code
        why = {
            401: f"it wants a token: ...?token_file=FILE, or the environment variable {TOKEN_VARIABLE}",
            503: "it has as many clients as it takes",
        }.get(code, f"it answers with HTTP status {code}")
        return EpisodeError(f"the policy server at {url} refused: {why}")
    if isinstance(error, TimeoutError):
        return EpisodeError(f"the policy server at {url} does not answer")
    if isinstance(error, InvalidURI | InvalidHandshake | WebSocketException | WireError):
        return EpisodeError(f"what answers at {url} is no policy server ({error})")
    if isinstance(error, OSError):
        return EpisodeError(f"no policy server can be reached at {url} ({error})")
    return EpisodeError(f"no connection to {url}: {type(error).__name__}: {error}")


def _last_line(text: str) -> str:
    """What went wrong, out of a traceback."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["without a word"])[-1][:300]
