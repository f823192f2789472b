"""The built-in issuer: its keys are files, and it mints tokens with the newest.

<data>/keys/  (0700)   signing-0001.pem, signing-0002.pem, …   every one verifies, the highest number signs
                       cursor.key                              32 random bytes that sign history's cursors

Rule: a file is complete before it has its name, and is never overwritten: two processes that start at once end up
      with the same keys. So `tocsin token` needs this folder and no running service.
Rule: a file that anybody else could read is not used.

To rotate: `rotate`, then delete the old file once the tokens that it signed have expired. A running service notices
within a minute or so, and within 10 s when a token comes that it cannot verify.
RS256 because it is the cheapest to verify: 20 µs with 2048 bits, where ES256 takes 65 and EdDSA 115.
"""

import asyncio
import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from tocsin.errors import invalid
from tocsin.identity import SCOPES, KeySet, KeysUnusable, TokenRules, VerificationKey, base64url, verification_key
from tocsin.message import is_user_id

ISSUER: Final = "tocsin"
#: What this issuer's tokens say.
RULES: Final = TokenRules(issuer=ISSUER, audiences=frozenset({ISSUER}))
MAX_TTL_S: Final = 10 * 366 * 24 * 3600

_CURSOR_BYTES: Final = 32
_SIGNING: Final = re.compile(r"signing-(\d{4}|[1-9]\d{4,8})\.pem", re.ASCII)
#: How long a deleted key file may go on counting.
_FRESH_FOR_S: Final = 60
#: Bytes; more than a PEM file with the largest key.
_MAX_FILE: Final = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _SigningKey:
    private: RSAPrivateKey
    verification: VerificationKey


class FileKeys:
    """A `KeySource` that mints as well.

    Opening it reads the folder and makes what is missing, which takes a moment; it raises `KeysUnusable`.
    """

    __slots__ = ("_folder", "_signing", "cursor_secret")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # By the file's content: to take a private key apart costs 36 ms, to see that it is the same one nothing.
        self._signing: dict[bytes, _SigningKey] = {}
        try:
            _make_folder(folder)
            if not self._numbers():
                _make(self._path(1), _new_key())
            cursor = folder / "cursor.key"
            if not cursor.exists():
                _make(cursor, secrets.token_bytes(_CURSOR_BYTES))
            self.cursor_secret: Final = _read(cursor)
        except OSError as error:
            raise _unusable(folder, error) from error
        if len(self.cursor_secret) != _CURSOR_BYTES:
            raise KeysUnusable(f"{cursor} does not have {_CURSOR_BYTES} bytes; delete it to have a new one made.")
        self._signing = self._read_signing()

    async def load(self) -> KeySet:
        """The keys in the folder now."""
        self._signing = await asyncio.to_thread(self._read_signing)
        return KeySet(
            keys={key.verification.kid: key.verification for key in self._signing.values()}, fresh_for_s=_FRESH_FOR_S
        )

    def mint(self, user: str, scopes: Iterable[str], ttl_s: int, now: int) -> str:
        """A token for `user` that ends `ttl_s` seconds after `now` (milliseconds since the epoch).

        Refuses with `invalid_argument` what the token check would refuse or ignore.
        """
        granted = sorted(set(scopes))
        if not is_user_id(user):
            raise invalid("user", "A userId is 1 to 120 of the characters A-Z a-z 0-9 . _ : @ | + = ~ -")
        if not SCOPES.issuperset(granted):
            raise invalid("scope", f"A scope is one of {', '.join(sorted(SCOPES))}.")
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise invalid("ttl", f"A token lives 1 to {MAX_TTL_S} seconds.")
        key = list(self._signing.values())[-1]
        issued = now // 1000
        header = {"alg": key.verification.alg, "kid": key.verification.kid, "typ": "JWT"}
        claims = {"iss": ISSUER, "aud": ISSUER, "sub": user, "iat": issued, "exp": issued + ttl_s}
        if granted:
            claims["scope"] = " ".join(granted)
        signed = base64url(msgspec.json.encode(header)) + b"." + base64url(msgspec.json.encode(claims))
        signature = key.private.sign(signed, PKCS1v15(), SHA256())
        return (signed + b"." + base64url(signature)).decode()

    def rotate(self) -> None:
        """Make a key, and mint with it from now on. Takes a moment. Raises `KeysUnusable`."""
        try:
            _make(self._path(max(self._numbers(), default=0) + 1), _new_key())
        except OSError as error:
            raise _unusable(self._folder, error) from error
        self._signing = self._read_signing()

    def _path(self, number: int) -> Path:
        return self._folder / f"signing-{number:04}.pem"

    def _numbers(self) -> list[int]:
        return sorted(int(match[1]) for path in self._folder.iterdir() if (match := _SIGNING.fullmatch(path.name)))

    def _read_signing(self) -> dict[bytes, _SigningKey]:
        signing: dict[bytes, _SigningKey] = {}
        try:
            for number in self._numbers():
                pem = _read(self._path(number))
                signing[pem] = self._signing.get(pem) or _parse(self._path(number), pem)
        except OSError as error:
            raise _unusable(self._folder, error) from error
        if not signing:
            raise KeysUnusable(f"No key is left in {self._folder}.")
        return signing


def _new_key() -> bytes:
    private = generate_private_key(public_exponent=65537, key_size=2048)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _parse(path: Path, pem: bytes) -> _SigningKey:
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        raise KeysUnusable(f"{path} is not a private key in PEM form without a password.") from None
    if not isinstance(private, RSAPrivateKey):
        raise KeysUnusable(f"{path} is not an RSA key.")
    try:
        verification = verification_key(_thumbprint(private.public_key()), private.public_key())
    except ValueError as error:
        raise KeysUnusable(f"{path} cannot be used: {error}.") from None
    return _SigningKey(private=private, verification=verification)


def _thumbprint(public: RSAPublicKey) -> str:
    """RFC 7638, of an RSA key: its `kid`, so that nobody has to choose one."""
    numbers = public.public_numbers()
    e, n = (base64url(number.to_bytes((number.bit_length() + 7) // 8)).decode() for number in (numbers.e, numbers.n))
    return base64url(sha256(msgspec.json.encode({"e": e, "kty": "RSA", "n": n})).digest()).decode()


# -- files -------------------------------------------------------------------------------------------------------------


def _make_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync(folder.parent)
    if (mode := S_IMODE(folder.stat().st_mode)) & 0o077:
        raise KeysUnusable(f"{folder} is open to others (mode {mode:04o}); run: chmod 700 {folder}")


def _make(path: Path, content: bytes) -> None:
    """A file with this content appears at `path`, durably and in one step, unless there is one: then that one stays."""
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # mode 0600, and not there before
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not S_ISREG(status.st_mode):
            raise KeysUnusable(f"{path} is not a file.")
        if (mode := S_IMODE(status.st_mode)) & 0o077:
            raise KeysUnusable(f"{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise KeysUnusable(f"{path} is too large for a key.")
    return content


def _unusable(folder: Path, error: OSError) -> KeysUnusable:
    return KeysUnusable(f"The keys in {folder} cannot be used: {error.strerror or error}.")
