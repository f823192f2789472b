"""Who is speaking: a token -> an `Identity`, or a refusal.

token -> `TokenCheck` (remembers what it has checked) -> `check_token` (pure: keys, rules and the time are passed in)
             ^ `Keys` (when to look for them anew) <- `KeySource` (an engine's: a folder, or an issuer on the network)

Rule: the key fixes the algorithm. What the token says of itself chooses one of our keys by its `kid`, and nothing else.
Rule: one spelling only: base64url without padding or stray bits, JSON that passes `strict_json.scan`.
Rule: no token, and nothing out of one, stands in a refusal or a log.

Long because who may sign, what a token must say and what is remembered of it are one decision, read in one place.
JWT is RFC 7519, JWS RFC 7515, JWK RFC 7517, the three algorithms RFC 7518 and 8037; RFC 8725 says what goes wrong.
"""

import asyncio
from binascii import a2b_base64, b2a_base64
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol, Self, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tocsin import strict_json
from tocsin.errors import Refusal
from tocsin.message import is_user_id

T = TypeVar("T")

#: What a token may allow beyond its user's own permissions. A scope that is not listed allows nothing.
SCOPES: Final = frozenset({"publish:any", "permissions:write", "messages:read", "connections:manage", "dlq:admin"})
MAX_TOKEN: Final = 8 * 1024

_TYPES: Final = ("jwt", "at+jwt", "application/jwt", "application/at+jwt")
#: The end of the year 9999. An `exp` beyond it was meant in milliseconds, and would never come.
_LAST_SECOND: Final = 253_402_300_799
#: From one look for newer keys to the next.
_PAUSE_MS: Final = 10_000
_RSA_BITS: Final = range(2048, 8192 + 1)


class Identity(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whom a credential speaks for, until when, and what it may do beyond the user's own permissions.

    `expires_at` is in milliseconds since the epoch, leeway included; `chat_ids` is a ticket's limit, None without one.
    """

    user_id: str
    scopes: frozenset[str] = frozenset()
    expires_at: int
    chat_ids: frozenset[str] | None = None


class TokenRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a token must say to count here.

    `audiences` must hold one of the token's `aud`, or its `client_id` if it has no `aud` (Cognito's access tokens).
    The user is the first of `user_claims` that the token has. Only scopes that begin with `scope_prefix` count,
    without it: another service's `publish:any` is not ours.
    """

    issuer: str
    audiences: frozenset[str]
    user_claims: tuple[str, ...] = ("sub",)
    scope_prefix: str = ""
    leeway_s: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationKey:
    """A public key and the one algorithm that it verifies. Made by `verification_key`, which keeps the two together."""

    kid: str
    alg: str
    public_key: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


def verification_key(kid: str, public_key: PublicKeyTypes) -> VerificationKey:
    """Fix the key's algorithm. Raises `ValueError` if this service verifies nothing with such a key."""
    match public_key:
        case RSAPublicKey(key_size=bits) if bits in _RSA_BITS:
            return VerificationKey(kid=kid, alg="RS256", public_key=public_key)
        case EllipticCurvePublicKey(curve=SECP256R1()):
            return VerificationKey(kid=kid, alg="ES256", public_key=public_key)
        case Ed25519PublicKey():
            return VerificationKey(kid=kid, alg="EdDSA", public_key=public_key)
    raise ValueError("it is neither RSA of 2048 to 8192 bits, nor EC on P-256, nor Ed25519")


class KeysUnusable(Exception):
    """Keys cannot be had as things stand. The sentence is for the operator, and never goes to a client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """The keys that count, by `kid`; for how many seconds to believe it; a sentence about each key that is not used."""

    keys: Mapping[str, VerificationKey]
    fresh_for_s: int
    skipped: tuple[str, ...] = ()


class KeySource(Protocol):
    """Where an engine keeps keys: a folder, or an issuer on the network."""

    async def load(self) -> KeySet:
        """All keys that count at this moment. Raises `KeysUnusable`."""
        ...


class Keys:
    """A source's keys, looked for anew when a token names an unknown one, and when they have grown old.

    At most one look in 10 s, and one for all who ask meanwhile: a stranger who makes up key ids costs the source next
    to nothing. While the source fails, the keys that are known go on counting (an issuer that is down must not shut
    everybody out), and `report`, which takes a sentence for the operator, hears of it.
    """

    __slots__ = ("_due_at", "_failed", "_keyset", "_look", "_looked_at", "_report", "_source")

    def __init__(self, source: KeySource, keyset: KeySet, report: Callable[[str], object], now: int) -> None:
        self._source = source
        self._report = report
        self._look: asyncio.Task[None] | None = None
        self._keyset = keyset
        self._looked_at = now
        self._settle(keyset.fresh_for_s, failed=False)
        self._tell_skipped()

    @classmethod
    async def open(cls, source: KeySource, report: Callable[[str], object], now: int) -> Self:
        """Raises `KeysUnusable` if not one key can be had."""
        keyset = await source.load()
        if not keyset.keys:
            raise KeysUnusable(" ".join(["There is not one key that can verify a token.", *keyset.skipped]))
        return cls(source, keyset, report, now)

    def current(self, now: int) -> KeySet:
        """The same object until the keys change. Never waits: old ones are looked for anew in the background.

        Call it on the event loop.
        """
        if not self._looked_at <= now < self._due_at and self._look is None:
            self._look = asyncio.create_task(self._load(now))
        return self._keyset

    async def refresh(self, now: int) -> None:
        """Look for newer keys, unless that was done less than 10 s ago.

        Refuses with `unavailable` if they could not be had: whether the key exists is unknown then, and a client
        must not throw away a token that may be good.
        """
        if self._look is None and not self._looked_at <= now < self._looked_at + _PAUSE_MS:
            self._look = asyncio.create_task(self._load(now))
        if self._look is not None:
            await asyncio.shield(self._look)  # one who gives up must not end it for the others
        if self._failed:
            raise Refusal(
                "unavailable", "The keys that verify tokens cannot be had just now.", retry_after=_PAUSE_MS / 1000
            )

    async def _load(self, now: int) -> None:
        self._looked_at = now
        try:
            keyset = await self._source.load()
        except KeysUnusable as error:
            self._report(f"The known keys stay in use: {error}")
            self._settle(0, failed=True)
        else:
            self._settle(keyset.fresh_for_s, failed=False)
            if keyset.keys != self._keyset.keys:
                self._keyset = keyset
                self._tell_skipped()
        finally:
            self._look = None

    def _settle(self, fresh_for_s: int, *, failed: bool) -> None:
        self._failed = failed
        self._due_at = self._looked_at + max(fresh_for_s * 1000, _PAUSE_MS)

    def _tell_skipped(self) -> None:
        for sentence in self._keyset.skipped:
            self._report(sentence)


class UnknownKey(Refusal):
    """The token names a key that is not in the set: `invalid_token`, unless newer keys have it."""

    def __init__(self) -> None:
        super().__init__("invalid_token", "The token is signed with a key that is not known here.")


class TokenCheck:
    """`check_token` with a memory, and with a second look at the keys when one is unknown.

    Remembered is who presented a good token, by the token's SHA-256: the `capacity` used last, and nothing of the
    token itself. `exp` is checked each time, and all is forgotten when the keys change. Bad tokens are not
    remembered: a forger would only have to change a letter, and would push out those who are welcome.
    """

    __slots__ = ("_capacity", "_checked", "_keys", "_keyset", "_rules")

    def __init__(self, keys: Keys, rules: TokenRules, *, capacity: int = 100_000) -> None:
        self._keys = keys
        self._rules = rules
        self._capacity = capacity
        self._checked: OrderedDict[bytes, Identity] = OrderedDict()
        self._keyset: KeySet | None = None

    async def check(self, token: str, now: int) -> Identity:
        """Refuses with `invalid_token`, `token_expired`, or `unavailable` if a new key could not be looked for."""
        try:
            return self.check_now(token, now)
        except UnknownKey:
            await self._keys.refresh(now)
            return self.check_now(token, now)

    def check_now(self, token: str, now: int) -> Identity:
        """As `check`, without waiting: a key that may merely be new is refused with `UnknownKey`."""
        keyset = self._keys.current(now)
        if keyset is not self._keyset:
            self._checked.clear()
            self._keyset = keyset
        digest = sha256(_ascii(token)).digest()
        identity = self._checked.get(digest)
        if identity is None:
            identity = check_token(token, keyset.keys, self._rules, now)
            self._checked[digest] = identity
            if len(self._checked) > self._capacity:
                self._checked.popitem(last=False)
        elif now >= identity.expires_at:
            del self._checked[digest]
            raise _expired()
        else:
            self._checked.move_to_end(digest)
        return identity


def _invalid(sentence: str) -> Refusal:
    return Refusal("invalid_token", sentence)


def _malformed() -> Refusal:
    return _invalid("The token is not a well-formed JWT.")


def _expired() -> Refusal:
    return Refusal("token_expired", "The token has expired.")


class _Header(msgspec.Struct):
    # `jku`, `x5u`, `jwk` and `x5c` are ignored: they are lawful hints (RFC 7515 section 4.1), some issuers send
    # `x5c` with every token, and a hint that nobody reads cannot mislead.
    alg: str
    kid: str
    typ: str = "JWT"
    crit: msgspec.Raw = msgspec.Raw()


_header: Final = msgspec.json.Decoder(_Header)
_claims: Final[msgspec.json.Decoder[Mapping[str, object]]] = msgspec.json.Decoder(dict[str, object])


def check_token(token: str, keys: Mapping[str, VerificationKey], rules: TokenRules, now: int) -> Identity:
    """Refuses with `invalid_token`, with `UnknownKey`, or with `token_expired` if there is nothing else to object to.

    `now` is in milliseconds since the epoch. About 35 µs with RS256, nearly all of it the signature.
    """
    signed, header_part, claims_part, signature = _split(token)
    header = _json(header_part, _header)
    if header.crit:
        raise _invalid("The token demands an extension (crit), and none is known here.")
    if header.typ.lower() not in _TYPES:
        raise _invalid("The token's type is neither JWT nor at+jwt.")
    key = keys.get(header.kid)
    if key is None:
        raise UnknownKey
    if header.alg != key.alg:
        raise _invalid("The token's algorithm is not its key's.")
    if not _is_signed(key, signature, signed):
        raise _invalid("The token's signature is wrong.")
    return identify(_json(claims_part, _claims), rules, now)


def _ascii(token: str) -> bytes:
    if len(token) > MAX_TOKEN or not token.isascii():
        raise _malformed()
    return token.encode()


def _split(token: str) -> tuple[bytes, bytes, bytes, bytes]:
    """What is signed, then the three parts decoded: header, claims, signature (RFC 7515 section 7.1)."""
    signed, _, signature = _ascii(token).rpartition(b".")
    header, _, claims = signed.partition(b".")
    try:
        return signed, from_base64url(header), from_base64url(claims), from_base64url(signature)
    except ValueError:
        raise _malformed() from None


def _json(part: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return strict_json.decode(part, decoder)
    except Refusal:  # its sentence is about the JSON inside; to the client the token is one thing
        raise _malformed() from None


_URL_ALPHABET: Final = bytes.maketrans(b"+/", b"-_")
_BASE64_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")


def base64url(data: bytes) -> bytes:
    """RFC 7515 section 2: the URL-safe alphabet, no padding."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_URL_ALPHABET)


def from_base64url(text: bytes) -> bytes:
    """Strictly: what is decoded must encode to the same text again. Raises `ValueError` (padding, stray bits, …)."""
    data = a2b_base64(text.translate(_BASE64_ALPHABET) + b"==")
    if base64url(data) != text:
        raise ValueError("it is not base64url")
    return data


_PKCS1V15: Final = PKCS1v15()
_SHA256: Final = SHA256()
_ECDSA: Final = ECDSA(_SHA256)


def _is_signed(key: VerificationKey, signature: bytes, signed: bytes) -> bool:
    public_key = key.public_key
    try:
        if isinstance(public_key, RSAPublicKey):
            public_key.verify(signature, signed, _PKCS1V15, _SHA256)
        elif isinstance(public_key, Ed25519PublicKey):
            public_key.verify(signature, signed)
        elif len(signature) == 64:  # RFC 7518 section 3.4: r and s, 32 bytes each
            r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
            public_key.verify(encode_dss_signature(r, s), signed, _ECDSA)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def identify(claims: Mapping[str, object], rules: TokenRules, now: int) -> Identity:
    """Whom the claims of a token speak for, once its signature is known to be good. Refuses as `check_token` does."""
    if claims.get("iss") != rules.issuer:
        raise _invalid("The token is from another issuer.")
    if not _is_meant_for(claims, rules.audiences):
        raise _invalid("The token is meant for another audience.")
    if claims.get("token_use", "access") not in ("access", "id"):
        raise _invalid("The token is neither an access token nor an id token.")
    user_id = _user(claims, rules)
    scopes = _scopes(claims, rules.scope_prefix)

    leeway_ms = rules.leeway_s * 1000
    expires_ms = _time(claims, "exp")
    if expires_ms is None:
        raise _invalid("The token has no exp.")
    _time(claims, "iat")
    not_before_ms = _time(claims, "nbf")
    if not_before_ms is not None and now < not_before_ms - leeway_ms:
        raise _invalid("The token is not valid yet.")
    if now >= expires_ms + leeway_ms:
        raise _expired()
    return Identity(user_id=user_id, scopes=scopes, expires_at=expires_ms + leeway_ms)


def _is_meant_for(claims: Mapping[str, object], audiences: frozenset[str]) -> bool:
    named = claims["aud"] if "aud" in claims else claims.get("client_id")
    return any(isinstance(name, str) and name in audiences for name in (named if isinstance(named, list) else [named]))


def _user(claims: Mapping[str, object], rules: TokenRules) -> str:
    subject = claims.get("sub")
    user = next((claims[name] for name in rules.user_claims if name in claims), None)
    if user is None and subject == claims.get("client_id"):
        user = subject  # a service's own token (client credentials) names no person
    if not isinstance(subject, str) or not isinstance(user, str) or not is_user_id(user):
        raise _invalid("The token names no user that this service can know.")
    return user


def _scopes(claims: Mapping[str, object], prefix: str) -> frozenset[str]:
    scope, groups = claims.get("scope", ""), claims.get("cognito:groups", [])
    if not isinstance(scope, str) or not isinstance(groups, list):
        raise _invalid("The token's scopes are malformed.")
    named = {*scope.split(" "), *(group for group in groups if isinstance(group, str))}
    return SCOPES & {name.removeprefix(prefix) for name in named if name.startswith(prefix)}


def _time(claims: Mapping[str, object], name: str) -> int | None:
    """A NumericDate (RFC 7519 section 2: seconds, perhaps a fraction) in milliseconds; None if there is none."""
    if name not in claims:
        return None
    seconds = claims[name]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LAST_SECOND:
        raise _invalid(f"The token's {name} is not a time in seconds.")
    return int(seconds * 1000)
