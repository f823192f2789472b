"""A connection that speaks plain HTTP: uvicorn's protocol, with our limits and our errors.

    head_reader: the bytes of a head -> HttpConnection -> the ASGI app
                                        HttpConnection -> head_reader: what may be an upgrade, or has a strange method

Rules:
- An error is answered here only if nothing else is owed an answer: a 4xx says that nothing was done, and an earlier
  request on the same connection may be doing it.
- A connection is given back only between two requests, with nothing owed and nothing stuck: else it would be forgotten
  that the peer does not read.
"""

from collections.abc import Callable
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tocsin.errors import Refusal
from tocsin.gateways.handshake import render_refusal, requested_id
from tocsin.gateways.port import Port

MAX_PIPELINED: Final = 16
"""Requests that a client may send ahead of their answers."""
SMALL_BODY: Final = 128 * 1024
"""Bytes of a body that count for nothing."""
SERVED: Final = (b"GET ", b"POST ", b"DELETE ", b"HEAD ", b"OPTIONS ")
"""How requests begin that the parser reads as they are."""


class HttpConnection(HttpToolsProtocol):
    """`refusal` is what its first head is answered, whatever it asks; `method` is what that head's really is.

    The application must not act on a POST before it has the whole body: then a body that does not come is a 408.
    """

    def __init__(
        self, port: Port, peer: str, refusal: Refusal | None, method: str | None, read_anew: Callable[[bytes], None]
    ) -> None:
        super().__init__(port.config, port.uvicorn, {})
        self._port = port
        self._peer = peer
        self._refusal = refusal  # what the next head is answered, whatever it asks
        self._method = method  # the next request's, if the parser was told another
        self._since: float | None = port.now  # when the head or body began that is not whole yet
        self._read_anew = read_anew
        self._in_body = False
        self._head = 0  # bytes of an unfinished head, those of its first read left out
        self._body = 0  # bytes of an unfinished body
        self._running: RequestResponseCycle | None = None  # what is being answered; `cycle` is what was read last
        self._ended = False  # nothing more is read
        self._unsent = 0
        self._moved = port.now  # when the peer last took something, or nothing was to be taken

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None:  # uvicorn tells only who was read last that nobody is there any more
            self._running.disconnected = True
            self._running.message_event.set()
        self._unset_keepalive_if_required()
        self._port.unread.forget(self)
        self._port.bodies.forget(self)
        self._port.leave(self._peer)

    def pause_writing(self) -> None:
        super().pause_writing()
        for longest in self._port.unread.keep(self, self.transport.get_write_buffer_size()):
            longest.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._port.unread.forget(self)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._is_idle and (not data.startswith(SERVED) or self._port.may_be_upgrade(data)):
            self._give_back(data)
        else:
            self._parse(data)

    def _give_back(self, data: bytes) -> None:
        """Proxies keep connections, and upgrade any of them."""
        self.connections.discard(self)
        del self.parser  # which holds this object, too
        self._read_anew(data)

    def _parse(self, data: bytes) -> None:
        if not self._in_body:
            self._head += len(data)
        while data and not self._ended:
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]  # to what we do not speak: the request is answered like any other
            except httptools.HttpParserError:
                self._refuse(self._refusal or Refusal("bad_request", "This is not an HTTP/1.1 request."))
        if self._since is not None and not self._in_body and self._head > self._port.settings.max_head:
            self._refuse(head_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._since, self._head = self._port.now, 0

    def on_headers_complete(self) -> None:
        port, version = self._port, self.parser.get_http_version()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > port.settings.max_head:
            self._refusal = head_too_large()
        elif len(self.pipeline) >= MAX_PIPELINED:
            self._refusal = Refusal("rate_limited", "Too many requests ahead of their answers.", retry_after=1)
        elif version not in ("1.1", "1.0"):
            self._refusal = Refusal("bad_request", "HTTP/1.1 and HTTP/1.0 are spoken here, and no other version.")
        elif version == "1.1" and len(self._header_values(b"host")) != 1:
            self._refusal = Refusal("bad_request", "A request has one Host header.")  # RFC 9112 section 3.2
        if self._refusal is not None:
            raise httptools.HttpParserError  # stops the parser; `data_received` answers
        if self._peer and port.addresses.trusts(self._peer):
            self.scope["client"] = (port.addresses.peer(self._peer, self._header_values(b"x-forwarded-for")), 0)
        super().on_headers_complete()
        if self._method is not None:
            self.scope["method"], self._method = self._method, None
        if not self.pipeline:
            self._running = self.cycle
        self._since, self._in_body, self._body = port.now, True, 0

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._body += len(body)
        if self._body > SMALL_BODY:
            for longest in self._port.bodies.keep(self, self._body):
                longest.give_way()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._body > SMALL_BODY:
            self._port.bodies.forget(self)
        self._since, self._in_body = None, False

    def on_response_complete(self) -> None:
        self._running = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()

    @property
    def _is_idle(self) -> bool:
        """Whether nothing of a request is there, and nothing of an answer to one is owed or stuck."""
        return self._since is None and not self._ended and not self._owes_answer and not self.flow.write_paused

    @property
    def _owes_answer(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _header_values(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for header, value in self.headers or () if header == name]

    def _refuse(self, refusal: Refusal) -> None:
        """Read no more. Answer what was being read, if nothing else is owed an answer and nothing was done."""
        if self._ended:
            return
        self._ended, self._since = True, None
        if not self._in_body and not self._owes_answer:
            self._answer(refusal)
        elif not self._in_body:
            self.cycle.keep_alive = False  # the last answer that is owed closes the connection
        elif self.cycle.response_complete:
            self.transport.close()
        elif self.cycle.response_started or self.pipeline or self.scope["method"] != "POST":
            self.transport.abort()  # it may have been done: the peer must take it for unknown
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._answer(refusal)

    def abort(self) -> None:
        self.transport.abort()

    def give_way(self) -> None:
        """To other large bodies: this one is the longest under way."""
        self._refuse(Refusal("unavailable", "Too many large bodies are on their way.", retry_after=1))

    def _answer(self, refusal: Refusal) -> None:
        request_id = requested_id(self._header_values(b"x-request-id"), self._port.new_id)
        self._port.refused(refusal.code)
        self.transport.write(render_refusal(refusal, request_id))
        self.transport.close()

    def sweep(self, now: float) -> None:
        """Cut a head or body that takes too long, unless it is we who do not read; and who takes no answer."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._moved = now
        self._unsent = unsent
        if now - self._moved >= self._port.settings.websocket.stall_timeout:
            self.transport.abort()
        elif self._since is not None and self.flow.read_paused:
            self._since = now
        elif self._since is not None and now - self._since >= self._port.patience:
            self._refuse(too_slow())


def head_too_large() -> Refusal:
    return Refusal("bad_request", "The request head is too large.", status=431)


def too_slow() -> Refusal:
    return Refusal("bad_request", "The request took too long to come.", status=408)
