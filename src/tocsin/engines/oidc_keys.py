"""An outside issuer's keys, fetched over HTTP: Cognito, Keycloak, Auth0, or any other that speaks OpenID Connect.

issuer -> /.well-known/openid-configuration (its `issuer` must be the same) -> `jwks_uri` -> JWK set -> `KeySet`
A JWKS URL that is given skips the discovery document.

Rule: https only; http where both ends are this machine (loopback). No redirect is followed: the operator names who
      may hand out keys, and nobody passes that on.
Rule: what is fetched is bounded, in time (5 s to connect, and as much for all of an answer) and in size (1 MiB), and
      read strictly.

Fetching is blocking code of the standard library in a thread; `identity.Keys` says when, and what if it fails:
known keys stay in use, a token with an unknown one is answered with `unavailable` and not with a refusal for good.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    getproxies,
)

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from tocsin import strict_json
from tocsin.errors import Refusal
from tocsin.identity import KeySet, KeysUnusable, VerificationKey, from_base64url, verification_key

MAX_BODY: Final = 1024 * 1024

#: How long a key set is believed: what `max-age` says, within limits, or the middle where it says nothing.
_SHORTEST_S, _DEFAULT_S, _LONGEST_S = 60, 600, 3600
_MAX_AGE: Final = re.compile(r"(?:^|,)\s*max-age=(\d{1,10})", re.ASCII | re.IGNORECASE)


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


_discovery: Final = msgspec.json.Decoder(_Discovery)


class OidcKeys:
    """A `KeySource`. Making one checks the URLs and fetches nothing; it raises `KeysUnusable`."""

    __slots__ = ("_issuer", "_jwks_url", "_opener", "_timeout_s")

    def __init__(
        self,
        *,
        issuer: str,
        jwks_url: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        _require_safe(issuer)
        if jwks_url is not None:
            _require_safe(jwks_url)
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._timeout_s = timeout_s
        self._opener = _opener(tls or ssl.create_default_context())

    async def load(self) -> KeySet:
        """The issuer's keys now."""
        return await asyncio.to_thread(self._load)

    def _load(self) -> KeySet:
        jwks_url = self._jwks_url or self._discover()
        body, headers = self._get(jwks_url)
        try:
            return keys_from_jwks(body, fresh_for_s=_fresh_for(headers))
        except Refusal as refusal:
            raise KeysUnusable(f"{jwks_url} is not a JWK set: {refusal.message}") from None

    def _discover(self) -> str:
        url = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        body, _ = self._get(url)
        try:
            found = strict_json.decode(body, _discovery)
        except Refusal as refusal:
            raise KeysUnusable(f"{url} is not a discovery document: {refusal.message}") from None
        if found.issuer != self._issuer:
            raise KeysUnusable(f"{url} belongs to another issuer, {found.issuer[:200]!r}; it must be the same text.")
        _require_safe(found.jwks_uri)
        if urlsplit(self._issuer).scheme != urlsplit(found.jwks_uri).scheme:
            raise KeysUnusable(f"{url} names a key set that is not fetched over the same scheme.")
        return found.jwks_uri

    def _get(self, url: str) -> tuple[bytes, HTTPMessage]:
        deadline = time.monotonic() + self._timeout_s
        # S310: `_require_safe` has seen the URL, and the opener knows https and http only.
        request = Request(url, headers={"Accept": "application/json", "User-Agent": "tocsin"})  # noqa: S310
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                body = bytearray()
                while piece := response.read1(65536):
                    body += piece
                    if len(body) > MAX_BODY:
                        raise KeysUnusable(f"{url} answers with more than {MAX_BODY} bytes.")
                if time.monotonic() > deadline:  # it was cut
                    raise TimeoutError
                return bytes(body), response.headers
        except HTTPError as error:
            error.close()
            raise KeysUnusable(
                f"{url} answers with status {error.code}; only 200 will do, and no redirect is followed."
            ) from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else str(error) or type(error).__name__
            if time.monotonic() > deadline:
                reason = "it takes too long"
            raise KeysUnusable(f"{url} cannot be fetched: {reason}.") from None


def _fresh_for(headers: HTTPMessage) -> int:
    found = _MAX_AGE.search(headers.get("Cache-Control", ""))
    return min(max(int(found[1]), _SHORTEST_S), _LONGEST_S) if found else _DEFAULT_S


# -- addresses ---------------------------------------------------------------------------------------------------------


def _require_safe(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise KeysUnusable(f"{url!r} is not a URL.") from None
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise KeysUnusable("An issuer's URL has no user, no password and no fragment.")  # and is not repeated here
    if not host or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not _is_loopback(host)):
        raise KeysUnusable(f"{url!r} cannot be trusted with keys: it must be https, or http on loopback.")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _opener(tls: ssl.SSLContext) -> OpenerDirector:
    """urllib without redirects, without `file`, `ftp` and `data`, and without a proxy for http, which stays here."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler({scheme: proxy for scheme, proxy in getproxies().items() if scheme == "https"}),
        _Http(),
        _Https(tls),
        HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


class _Bounded(HTTPConnection):
    """Is cut when its time is over. The standard library's time is for each read: who drips has for ever."""

    def connect(self) -> None:
        self._create_connection = _bounded
        super().connect()


class _BoundedTls(_Bounded, HTTPSConnection): ...


class _Http(HTTPHandler):
    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_Bounded, req)


class _Https(HTTPSHandler):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._tls = context

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(_BoundedTls, req, context=self._tls)


def _bounded(address: tuple[str, int], seconds: float, source: None = None) -> socket.socket:
    """Connects, and shuts the connection down after as many seconds: by a descriptor of its own, TLS or not."""
    connection = socket.create_connection(address, seconds, source)
    clock = threading.Timer(seconds, _cut, (connection.dup(),))
    clock.daemon = True
    clock.start()
    return connection


def _cut(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):  # it may have ended long ago
        connection.shutdown(socket.SHUT_RDWR)


# -- JWK sets ----------------------------------------------------------------------------------------------------------


class _JwkSet(msgspec.Struct):
    keys: list[msgspec.Raw]


class _Jwk(msgspec.Struct):
    kty: str
    kid: str = ""
    use: str = "sig"
    key_ops: tuple[str, ...] = ("verify",)
    alg: str | None = None
    crv: str = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""
    d: msgspec.Raw = msgspec.Raw()


_jwk_set: Final = msgspec.json.Decoder(_JwkSet)
_jwk: Final = msgspec.json.Decoder(_Jwk)


def keys_from_jwks(jwks: bytes, *, fresh_for_s: int = _DEFAULT_S) -> KeySet:
    """The usable keys of a JWK set (RFC 7517 section 5). One that is not usable is skipped with its reason.

    A key needs a `kid`, and is RSA (2048 to 8192 bits, RS256), EC on P-256 (ES256) or Ed25519 (EdDSA); its `use`,
    `key_ops` and `alg`, where it has them, must allow just that. Refuses what is no JWK set at all (`invalid_json`,
    `invalid_argument`).
    """
    keys: dict[str, VerificationKey] = {}
    skipped: list[str] = []
    for position, entry in enumerate(strict_json.decode(jwks, _jwk_set).keys):
        try:
            key = _key(_jwk.decode(entry))
            if key.kid in keys:
                raise ValueError("an earlier one has the same kid")
            keys[key.kid] = key
        except msgspec.ValidationError:
            skipped.append(f"Key {position} of the issuer's set is not used: it is not a JWK.")
        except (ValueError, UnsupportedAlgorithm) as error:
            skipped.append(f"Key {position} of the issuer's set is not used: {error}.")
    return KeySet(keys=keys, fresh_for_s=fresh_for_s, skipped=tuple(skipped))


def _key(jwk: _Jwk) -> VerificationKey:
    if not jwk.kid:
        raise ValueError("it has no kid")
    if jwk.use != "sig" or "verify" not in jwk.key_ops:
        raise ValueError("it is not meant for verifying signatures")
    if jwk.d:
        raise ValueError("it is a private key, and known to everybody now")
    key = verification_key(jwk.kid, _public_key(jwk))
    if jwk.alg not in (None, key.alg):
        raise ValueError(f"its alg is not {key.alg}")
    return key


def _public_key(jwk: _Jwk) -> PublicKeyTypes:
    match jwk.kty, jwk.crv:
        case "RSA", _:
            n, e = from_base64url(jwk.n.encode()), from_base64url(jwk.e.encode())
            return RSAPublicNumbers(n=int.from_bytes(n), e=int.from_bytes(e)).public_key()
        case "EC", "P-256":
            return EllipticCurvePublicKey.from_encoded_point(
                SECP256R1(), b"\x04" + _coordinate(jwk.x) + _coordinate(jwk.y)
            )
        case "OKP", "Ed25519":
            return Ed25519PublicKey.from_public_bytes(_coordinate(jwk.x))
    raise ValueError("it is neither RSA, nor EC on P-256, nor Ed25519")


def _coordinate(text: str) -> bytes:
    value = from_base64url(text.encode())
    if len(value) != 32:
        raise ValueError("a coordinate does not have 32 bytes")
    return value
