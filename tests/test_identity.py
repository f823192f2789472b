"""Tokens as a forger would write them: each stands one step beside a good one, and is signed by whom it needs to be."""

import asyncio
import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import Refusal
from tocsin.identity import (
    MAX_TOKEN,
    Identity,
    Keys,
    KeySet,
    KeysUnusable,
    TokenCheck,
    TokenRules,
    UnknownKey,
    check_token,
    from_base64url,
    verification_key,
)

Sign = Callable[[bytes], bytes]

NOW = 1_800_000_000_000
ISSUER = "https://issuer.example/pool"
RULES = TokenRules(issuer=ISSUER, audiences=frozenset({"web", "mobile"}))
CLAIMS = {"iss": ISSUER, "aud": "web", "sub": "alice", "iat": NOW // 1000 - 60, "exp": NOW // 1000 + 3600}

RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def rs256(signed: bytes) -> bytes:
    return RSA_KEY.sign(signed, padding.PKCS1v15(), SHA256())


def other_rs256(signed: bytes) -> bytes:
    return OTHER_RSA_KEY.sign(signed, padding.PKCS1v15(), SHA256())


def ps256(signed: bytes) -> bytes:
    return RSA_KEY.sign(signed, padding.PSS(padding.MGF1(SHA256()), 32), SHA256())


def rs384(signed: bytes) -> bytes:
    return RSA_KEY.sign(signed, padding.PKCS1v15(), SHA384())


def es256_der(signed: bytes) -> bytes:
    return EC_KEY.sign(signed, ec.ECDSA(SHA256()))


def es256(signed: bytes) -> bytes:
    r, s = decode_dss_signature(es256_der(signed))
    return r.to_bytes(32) + s.to_bytes(32)


def es256_with_a_zero_between(signed: bytes) -> bytes:
    signature = es256(signed)
    return signature[:32] + b"\0" + signature[32:]


def eddsa(signed: bytes) -> bytes:
    return ED_KEY.sign(signed)


def hs256_with_the_public_key(signed: bytes) -> bytes:
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hmac.digest(pem, signed, hashlib.sha256)


def unsigned(_signed: bytes) -> bytes:
    return b""


KEYS = {
    "rsa": verification_key("rsa", RSA_KEY.public_key()),
    "ec": verification_key("ec", EC_KEY.public_key()),
    "ed": verification_key("ed", ED_KEY.public_key()),
}
HEADER = {"alg": "RS256", "kid": "rsa", "typ": "JWT"}


def part(content: object) -> bytes:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return urlsafe_b64encode(raw).rstrip(b"=")


def seal(signed: bytes, sign: Sign = rs256) -> str:
    return (signed + b"." + part(sign(signed))).decode()


def token(header: object = HEADER, claims: object = CLAIMS, sign: Sign = rs256) -> str:
    return seal(part(header) + b"." + part(claims), sign)


def check(presented: str, rules: TokenRules = RULES, now: int = NOW) -> Identity:
    return check_token(presented, KEYS, rules, now)


def without(*names: str) -> dict[str, object]:
    return {name: value for name, value in CLAIMS.items() if name not in names}


def refused_as(presented: str, rules: TokenRules = RULES, now: int = NOW) -> str:
    with pytest.raises(Refusal) as refused:
        check(presented, rules, now)
    return refused.value.code


# -- who signed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alg", "kid", "sign"), [("RS256", "rsa", rs256), ("ES256", "ec", es256), ("EdDSA", "ed", eddsa)]
)
def test_a_good_token_says_who_and_until_when(alg: str, kid: str, sign: Sign) -> None:
    identity = check(token({"alg": alg, "kid": kid}, sign=sign))
    assert identity == Identity(user_id="alice", expires_at=NOW + 3_600_000 + 30_000)


@pytest.mark.parametrize(
    ("header", "sign"),
    [
        ({"alg": "none", "kid": "rsa"}, unsigned),
        ({"alg": "None", "kid": "rsa"}, unsigned),
        ({"alg": "none"}, unsigned),
        ({"alg": "", "kid": "rsa"}, rs256),
        ({"alg": "rs256", "kid": "rsa"}, rs256),
        ({"alg": "HS256", "kid": "rsa"}, hs256_with_the_public_key),
        ({"alg": "RS256", "kid": "rsa"}, hs256_with_the_public_key),
        ({"alg": "PS256", "kid": "rsa"}, ps256),
        ({"alg": "RS256", "kid": "rsa"}, ps256),
        ({"alg": "RS384", "kid": "rsa"}, rs384),
        ({"alg": "RS256", "kid": "rsa"}, rs384),
        ({"alg": "RS256", "kid": "rsa"}, other_rs256),
        ({"alg": "RS256", "kid": "rsa"}, unsigned),
        ({"alg": "RS256", "kid": "rsa"}, lambda signed: rs256(signed)[:-1]),
        ({"alg": "RS256", "kid": "rsa"}, lambda signed: rs256(signed) + b"\0"),
        ({"alg": "RS256", "kid": "rsa"}, lambda signed: b"\0" + rs256(signed)),
        ({"alg": "RS256", "kid": "rsa"}, lambda _signed: bytes(256)),
        ({"alg": "RS256", "kid": "ec"}, rs256),
        ({"alg": "ES256", "kid": "rsa"}, es256),
        ({"alg": "ES256", "kid": "ec"}, es256_der),
        ({"alg": "ES256", "kid": "ec"}, lambda signed: es256(signed)[:-1]),
        ({"alg": "ES256", "kid": "ec"}, lambda signed: es256(signed) + b"\0"),
        ({"alg": "ES256", "kid": "ec"}, es256_with_a_zero_between),
        ({"alg": "ES256", "kid": "ec"}, lambda _signed: bytes(64)),
        ({"alg": "ES256", "kid": "ec"}, lambda _signed: b"\xff" * 64),
        ({"alg": "ES256", "kid": "ec"}, unsigned),
        ({"alg": "ES384", "kid": "ec"}, lambda signed: P384_KEY.sign(signed, ec.ECDSA(SHA384()))),
        ({"alg": "EdDSA", "kid": "ed"}, lambda signed: eddsa(signed)[:-1]),
        ({"alg": "EdDSA", "kid": "ed"}, lambda _signed: bytes(64)),
        ({"alg": "EdDSA", "kid": "ed"}, es256),
        ({"alg": "Ed25519", "kid": "ed"}, eddsa),
    ],
)
def test_a_signature_that_is_not_the_keys_own_is_refused(header: object, sign: Sign) -> None:
    assert refused_as(token(header, sign=sign)) == "invalid_token"


@pytest.mark.parametrize("kid", ["", "RSA", "rsa ", "../../dev/null", "' OR 1=1 --", "rsa\0", "é"])
def test_a_key_that_is_not_known_is_told_apart(kid: str) -> None:
    with pytest.raises(UnknownKey) as refused:
        check(token({"alg": "RS256", "kid": kid}))
    assert refused.value.code == "invalid_token"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"RS256"',
        {"alg": "RS256"},
        {"kid": "rsa"},
        {"alg": "RS256", "kid": None},
        {"alg": "RS256", "kid": ["rsa"]},
        {"alg": ["RS256"], "kid": "rsa"},
        {"alg": "RS256", "kid": "rsa", "typ": "JWE"},
        {"alg": "RS256", "kid": "rsa", "typ": None},
        {"alg": "RS256", "kid": "rsa", "crit": ["exp"], "exp": 1},
        {"alg": "RS256", "kid": "rsa", "crit": ["b64"], "b64": False},
        {"alg": "RS256", "kid": "rsa", "crit": []},
        {"alg": "RS256", "kid": "rsa", "crit": None},
        b'{"alg":"none","kid":"rsa","alg":"RS256"}',
        b'{"alg":"RS256","kid":"rsa","\\u0061lg":"RS256"}',
        b'\xef\xbb\xbf{"alg":"RS256","kid":"rsa"}',
        b'{"alg":"RS256","kid":"rsa","x":NaN}',
        b'{"alg":"RS256","kid":"rsa","x":"\\ud800"}',
        b'{"alg":"RS256","kid":"rsa","x":"\xff"}',
        b'{"alg":"RS256","kid":"rsa"}{}',
        b'{"alg":"RS256","kid":"rsa","x":' + b"[" * 33 + b"]" * 33 + b"}",
        b'{"alg":"RS256","kid":"rsa"' + b"\0",
    ],
)
def test_a_header_that_can_be_read_in_two_ways_or_in_none_is_refused(header: object) -> None:
    assert refused_as(token(header)) == "invalid_token"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", "application/jwt"])
def test_the_types_of_an_access_token_are_known_in_any_case(typ: str) -> None:
    assert check(token({**HEADER, "typ": typ})).user_id == "alice"


def test_keys_and_addresses_that_the_token_brings_along_are_never_followed() -> None:
    numbers = OTHER_RSA_KEY.public_key().public_numbers()
    brought = {
        "jku": "https://attacker.example/keys",
        "x5u": "https://attacker.example/chain",
        "x5c": ["MIIB"],
        "jwk": {"kty": "RSA", "n": part(numbers.n.to_bytes(256)).decode(), "e": "AQAB"},
    }
    assert check(token({**HEADER, **brought})).user_id == "alice"
    assert refused_as(token({**HEADER, **brought}, sign=other_rs256)) == "invalid_token"
    assert refused_as(token({**HEADER, **brought, "kid": "new"}, sign=other_rs256)) == "invalid_token"


# -- how it is written -------------------------------------------------------------------------------------------------


def stray_bits(text: bytes) -> bytes:
    """The same bytes by a lenient decoder, in another spelling."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(text) % 4 in (2, 3)
    return text[:-1] + bytes([alphabet[alphabet.index(text[-1]) + 1]])


#: Claims whose base64url ends in two, three and four characters of a group.
UNEVEN = [{**CLAIMS, "x": "y" * size} for size in range(3)]


RESPELT: dict[str, Callable[[bytes], bytes]] = {
    "padding": lambda text: text + b"=",
    "double padding": lambda text: text + b"==",
    "one letter more": lambda text: text + b"A",
    "one letter less": lambda text: text[:-1],
    "a newline": lambda text: text[:8] + b"\n" + text[8:],
    "a space": lambda text: text[:8] + b" " + text[8:],
    "padding within": lambda text: text[:8] + b"=" + text[8:],
    "a foreign letter": lambda text: text[:8] + b"!" + text[8:],
    "percent encoding": lambda text: b"%65" + text[1:],
    "nothing": lambda text: b"",
    "stray bits": lambda text: stray_bits(text) if len(text) % 4 else text + b"=",
}


@pytest.mark.parametrize("claims", UNEVEN, ids=["0", "1", "2"])
@pytest.mark.parametrize("respell", RESPELT.values(), ids=RESPELT.keys())
def test_base64url_has_one_spelling(claims: object, respell: Callable[[bytes], bytes]) -> None:
    # Signed as it is spelt, so that only the spelling is wrong.
    assert check(seal(part(HEADER) + b"." + part(claims))).user_id == "alice"
    assert refused_as(seal(part(HEADER) + b"." + respell(part(claims)))) == "invalid_token"
    assert refused_as(seal(respell(part({**HEADER, "x": claims})) + b"." + part(CLAIMS))) == "invalid_token"
    signed = part(HEADER) + b"." + part(claims)
    assert refused_as((signed + b"." + respell(part(rs256(signed)))).decode()) == "invalid_token"


def test_the_other_alphabet_of_base64_is_refused() -> None:
    claims = part({**CLAIMS, "x": "\u00ff???>>>~~~"})
    signed = part(HEADER) + b"." + claims.replace(b"-", b"+").replace(b"_", b"/")
    assert signed != part(HEADER) + b"." + claims
    assert refused_as(seal(signed)) == "invalid_token"


@given(st.binary(max_size=12))
def test_from_base64url_takes_exactly_what_an_encoder_writes(data: bytes) -> None:
    text = urlsafe_b64encode(data).rstrip(b"=")
    assert from_base64url(text) == data


@given(st.binary(max_size=6) | st.text(alphabet="AQZz09-_+/= ", max_size=6).map(str.encode))
def test_from_base64url_takes_nothing_else(text: bytes) -> None:
    try:
        data = from_base64url(text)
    except ValueError:
        return
    assert urlsafe_b64encode(data).rstrip(b"=") == text


MISSHAPEN: dict[str, Callable[[str], str]] = {
    "nothing": lambda good: "",
    "one dot": lambda good: ".",
    "two dots": lambda good: "..",
    "three dots": lambda good: "...",
    "dots": lambda good: "." * MAX_TOKEN,
    "a dot behind": lambda good: good + ".",
    "a dot before": lambda good: "." + good,
    "twice": lambda good: good + "." + good,
    "without signature": lambda good: good.rpartition(".")[0],
    "with an empty signature": lambda good: good.rpartition(".")[0] + ".",
    "without header": lambda good: good.partition(".")[2],
    "an empty part": lambda good: good.replace(".", "..", 1),
    "another dot": lambda good: good.replace(".", "\u2024"),
    "a space before": lambda good: " " + good,
    "a newline behind": lambda good: good + "\n",
    "with its scheme": lambda good: "Bearer " + good,
    "a null behind": lambda good: good + "\0",
    "a letter beyond ASCII": lambda good: good + "\u00e9",
    "half a surrogate pair": lambda good: good + "\ud800",
    "another case": lambda good: good.swapcase(),
    "too long": lambda good: "A" * (MAX_TOKEN + 1),
    "as JSON": lambda good: json.dumps({"payload": good.split(".")[1], "signature": good.split(".")[2]}),
}


@pytest.mark.parametrize("respell", MISSHAPEN.values(), ids=MISSHAPEN.keys())
def test_what_is_not_three_parts_of_ascii_is_refused(respell: Callable[[str], str]) -> None:
    assert refused_as(respell(token())) == "invalid_token"


def test_a_token_may_have_8_kib_and_not_a_byte_more() -> None:
    def padded(length: int) -> str:
        return token(claims={**CLAIMS, "x": "y" * length})

    largest = next(length for length in range(5500, 6000) if len(padded(length + 1)) > MAX_TOKEN)
    assert len(padded(largest)) <= MAX_TOKEN
    assert check(padded(largest)).user_id == "alice"
    assert refused_as(padded(largest + 1)) == "invalid_token"
    assert refused_as(padded(6500)) == "invalid_token"


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("where", [0, 5, -3])
def test_a_changed_letter_is_noticed_anywhere(position: int, where: int) -> None:
    parts = [bytearray(text, "ascii") for text in token().split(".")]
    parts[position][where] = ord("A") if parts[position][where] != ord("A") else ord("B")
    assert refused_as(b".".join(parts).decode()) == "invalid_token"


# -- what it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claims",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        without("iss"),
        without("exp"),
        without("sub"),
        without("aud"),
        {**CLAIMS, "iss": ISSUER + "/"},
        {**CLAIMS, "iss": ISSUER.upper()},
        {**CLAIMS, "iss": [ISSUER]},
        {**CLAIMS, "iss": None},
        {**CLAIMS, "aud": "WEB"},
        {**CLAIMS, "aud": ""},
        {**CLAIMS, "aud": []},
        {**CLAIMS, "aud": None},
        {**CLAIMS, "aud": {"web": 1}},
        {**CLAIMS, "aud": [["web"]]},
        {**CLAIMS, "aud": "other", "client_id": "web"},
        {**without("aud"), "client_id": "other"},
        {**without("aud"), "client_id": {"web": 1}},
        {**CLAIMS, "token_use": "refresh"},
        {**CLAIMS, "token_use": None},
        {**CLAIMS, "token_use": ["access"]},
        {**CLAIMS, "sub": ""},
        {**CLAIMS, "sub": None},
        {**CLAIMS, "sub": 7},
        {**CLAIMS, "sub": "a b"},
        {**CLAIMS, "sub": "alice\n"},
        {**CLAIMS, "sub": "älice"},
        {**CLAIMS, "sub": "a/b"},
        {**CLAIMS, "sub": "a" * 121},
        {**CLAIMS, "scope": ["publish:any"]},
        {**CLAIMS, "scope": None},
        {**CLAIMS, "cognito:groups": "publish:any"},
        {**CLAIMS, "exp": None},
        {**CLAIMS, "exp": str(CLAIMS["exp"])},
        {**CLAIMS, "exp": True},
        {**CLAIMS, "exp": [CLAIMS["exp"]]},
        {**CLAIMS, "exp": 10**12 * 2},
        {**CLAIMS, "exp": 10**400},
        {**CLAIMS, "exp": -1},
        {**CLAIMS, "nbf": "0"},
        {**CLAIMS, "nbf": False},
        {**CLAIMS, "nbf": None},
        {**CLAIMS, "nbf": NOW // 1000 + 31},
        {**CLAIMS, "iat": "yesterday"},
        json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "1e400").encode(),
        json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "NaN").encode(),
        json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "Infinity").encode(),
        json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "0x7fffffff").encode(),
        json.dumps(CLAIMS).replace("{", '{"sub":"admin",', 1).encode(),
        json.dumps(CLAIMS).replace("{", '{"\\u0073ub":"admin",', 1).encode(),
        json.dumps(CLAIMS).replace("{", '{"x":{"y":1,"y":1},', 1).encode(),
        json.dumps(CLAIMS).replace("{", '{"x":' + "[" * 2000 + "]" * 2000 + ",", 1).encode(),
        json.dumps(CLAIMS).replace("{", '{"x":"\\ud83d",', 1).encode(),
        b"\xef\xbb\xbf" + json.dumps(CLAIMS).encode(),
        json.dumps(CLAIMS).encode() + b"x",
        json.dumps(CLAIMS).encode("utf-16"),
    ],
)
def test_a_claim_that_is_missing_wrong_or_ambiguous_is_refused(claims: object) -> None:
    assert refused_as(token(claims=claims)) == "invalid_token"


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({**CLAIMS, "aud": ["other", "mobile"]}, "alice"),
        ({**CLAIMS, "aud": [7, "mobile"]}, "alice"),
        ({**without("aud"), "client_id": "web", "token_use": "access"}, "alice"),
        ({**CLAIMS, "token_use": "id"}, "alice"),
        ({**CLAIMS, "sub": "auth0|A.b_c:d@e+f=g~h-1"}, "auth0|A.b_c:d@e+f=g~h-1"),
        ({**CLAIMS, "sub": "a" * 120}, "a" * 120),
        ({**CLAIMS, "exp": NOW / 1000 + 0.5, "nbf": NOW // 1000 + 30, "iat": NOW / 1000}, "alice"),
    ],
)
def test_what_an_issuer_may_say_is_understood(claims: object, user: str) -> None:
    assert check(token(claims=claims)).user_id == user


def test_a_token_ends_at_its_exp_and_30_seconds() -> None:
    end = (NOW // 1000 + 3600 + 30) * 1000
    assert check(token(), now=end - 1).expires_at == end
    assert refused_as(token(), now=end) == "token_expired"
    assert refused_as(token(claims={**CLAIMS, "exp": 0}), now=NOW) == "token_expired"
    assert check(token(claims={**CLAIMS, "exp": NOW / 1000 + 0.25})).expires_at == NOW + 250 + 30_000


def test_only_a_token_without_any_other_fault_is_called_expired() -> None:
    expired = {**CLAIMS, "exp": 1}
    assert refused_as(token(claims=expired, sign=other_rs256)) == "invalid_token"
    assert refused_as(token(claims={**expired, "aud": "other"})) == "invalid_token"
    assert refused_as(token(claims={**expired, "sub": "not a user"})) == "invalid_token"


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({**CLAIMS, "cognito:username": "ann"}, "ann"),
        ({**CLAIMS, "username": "ann"}, "ann"),
        ({**CLAIMS, "username": "bob", "cognito:username": "ann"}, "ann"),
        ({**CLAIMS, "sub": "backend", "client_id": "backend"}, "backend"),
    ],
)
def test_the_user_is_the_claim_that_was_configured_and_a_services_own_token_its_client(
    claims: object, user: str
) -> None:
    rules = TokenRules(
        issuer=ISSUER, audiences=frozenset({"web", "backend"}), user_claims=("cognito:username", "username")
    )
    assert check(token(claims=claims), rules).user_id == user


@pytest.mark.parametrize(
    "claims",
    [
        CLAIMS,
        {**CLAIMS, "client_id": "web"},
        {**CLAIMS, "username": ""},
        {**CLAIMS, "username": 7},
        {**CLAIMS, "username": "not a user"},
        {**without("sub"), "username": "ann"},
    ],
)
def test_a_person_without_the_configured_claim_is_nobody(claims: object) -> None:
    rules = TokenRules(issuer=ISSUER, audiences=frozenset({"web"}), user_claims=("username",))
    assert refused_as(token(claims=claims), rules) == "invalid_token"


@pytest.mark.parametrize(
    ("claims", "prefix", "scopes"),
    [
        ({"scope": "publish:any messages:read"}, "", {"publish:any", "messages:read"}),
        ({"scope": "openid  email publish:anything"}, "", set()),
        ({"scope": "tocsin/publish:any openid"}, "tocsin/", {"publish:any"}),
        ({"scope": "publish:any other/publish:any"}, "tocsin/", set()),
        ({"scope": "tocsin/tocsin/publish:any"}, "tocsin/", set()),
        ({"cognito:groups": ["permissions:write", "staff", 7]}, "", {"permissions:write"}),
        (
            {"cognito:groups": ["tocsin/dlq:admin"], "scope": "tocsin/messages:read"},
            "tocsin/",
            {"dlq:admin", "messages:read"},
        ),
        ({"cognito:groups": ["connections:manage publish:any"]}, "", set()),
        ({}, "", set()),
    ],
)
def test_scopes_come_from_scope_and_groups_and_only_with_the_prefix(
    claims: dict[str, object], prefix: str, scopes: set[str]
) -> None:
    rules = TokenRules(issuer=ISSUER, audiences=frozenset({"web"}), scope_prefix=prefix)
    assert check(token(claims={**CLAIMS, **claims}), rules).scopes == scopes


@pytest.mark.parametrize(
    "presented",
    [
        token(sign=other_rs256),
        token(claims={**CLAIMS, "sub": "s3cret user"}),
        token(claims={**CLAIMS, "exp": "s3cret"}),
    ],
    ids=["signature", "sub", "exp"],
)
def test_a_refusal_repeats_nothing_of_the_token(presented: str) -> None:
    with pytest.raises(Refusal) as refused:
        check(presented)
    said = f"{refused.value!r} {refused.value.__cause__!r} {refused.value.__context__!r}"
    assert not any(piece in said for piece in [*presented.split("."), "s3cret", "alice"])


@pytest.mark.parametrize(
    "public_key",
    [
        rsa.generate_private_key(65537, 1024).public_key(),
        P384_KEY.public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
    ],
    ids=["rsa 1024", "p-384", "secp256k1"],
)
def test_a_weak_key_or_another_curve_verifies_nothing(public_key: PublicKeyTypes) -> None:
    with pytest.raises(ValueError, match="neither RSA of 2048 to 8192 bits"):
        verification_key("weak", public_key)


# -- what is remembered, and when keys are looked for anew -------------------------------------------------------------


@dataclass
class Shelf:
    """A source of keys in memory, that can be broken, and closed for a while."""

    keyset: KeySet
    loads: int = 0
    broken: bool = False
    opened: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    reports: list[str] = field(default_factory=list)

    async def load(self) -> KeySet:
        self.loads += 1
        self.asked.set()
        if self.opened is not None:
            await self.opened.wait()
        if self.broken:
            raise KeysUnusable("The shelf is broken.")
        return self.keyset

    async def keys(self, now: int = NOW) -> Keys:
        return await Keys.open(self, self.reports.append, now)


async def asked_again(shelf: Shelf) -> None:
    shelf.asked.clear()
    async with asyncio.timeout(5):
        await shelf.asked.wait()


def keyset(*kids: str) -> KeySet:
    return KeySet(keys={kid: KEYS[kid] for kid in kids}, fresh_for_s=600)


async def test_a_token_is_verified_once_and_remembered_until_it_ends() -> None:
    shelf = Shelf(keyset("rsa"))
    tokens = TokenCheck(await shelf.keys(), RULES)
    first = await tokens.check(token(), NOW)
    assert await tokens.check(token(), NOW) is first
    assert tokens.check_now(token(), first.expires_at - 1) is first
    for _ in range(2):
        with pytest.raises(Refusal) as refused:
            await tokens.check(token(), first.expires_at)
        assert refused.value.code == "token_expired"


async def test_those_who_came_last_are_remembered_and_no_more_than_the_capacity() -> None:
    tokens = TokenCheck(await Shelf(keyset("rsa")).keys(), RULES, capacity=2)
    ann, bob, cat = (token(claims={**CLAIMS, "sub": name}) for name in ("ann", "bob", "cat"))
    known = {presented: tokens.check_now(presented, NOW) for presented in (ann, bob)}
    assert tokens.check_now(ann, NOW) is known[ann]
    tokens.check_now(cat, NOW)
    assert tokens.check_now(ann, NOW) is known[ann]
    assert tokens.check_now(bob, NOW) is not known[bob]


async def test_bad_tokens_push_nobody_out() -> None:
    tokens = TokenCheck(await Shelf(keyset("rsa")).keys(), RULES, capacity=1)
    known = tokens.check_now(token(), NOW)
    for name in ("eve", "mallory"):
        with pytest.raises(Refusal):
            await tokens.check(token(claims={**CLAIMS, "sub": name}, sign=other_rs256), NOW)
    assert tokens.check_now(token(), NOW) is known


async def test_a_new_key_is_found_by_the_first_token_that_names_it() -> None:
    shelf = Shelf(keyset("rsa"))
    tokens = TokenCheck(await shelf.keys(), RULES)
    shelf.keyset = keyset("rsa", "ec")
    identity = await tokens.check(token({"alg": "ES256", "kid": "ec"}, sign=es256), NOW + 10_000)
    assert identity.user_id == "alice"
    assert shelf.loads == 2


async def test_a_key_that_is_gone_takes_what_was_remembered_with_it() -> None:
    shelf = Shelf(keyset("rsa", "ec"))
    tokens = TokenCheck(await shelf.keys(), RULES)
    await tokens.check(token(), NOW)
    shelf.keyset = keyset("ec")
    with pytest.raises(UnknownKey):
        await tokens.check(token({**HEADER, "kid": "new"}), NOW + 10_000)
    with pytest.raises(UnknownKey):
        await tokens.check(token(), NOW + 10_000)


async def test_keys_that_turn_out_the_same_forget_nobody() -> None:
    shelf = Shelf(keyset("rsa"))
    keys = await shelf.keys()
    tokens = TokenCheck(keys, RULES)
    known = await tokens.check(token(), NOW)
    shelf.keyset = keyset("rsa")
    await keys.refresh(NOW + 10_000)
    assert shelf.loads == 2
    assert await tokens.check(token(), NOW + 10_000) is known


async def test_made_up_keys_cost_one_look_in_ten_seconds() -> None:
    shelf = Shelf(keyset("rsa"))
    tokens = TokenCheck(await shelf.keys(), RULES)
    for after_ms in (0, 9_999, 10_000, 10_001, 19_999, 20_000):
        with pytest.raises(UnknownKey):
            await tokens.check(token({**HEADER, "kid": f"made up {after_ms}"}), NOW + after_ms)
    assert shelf.loads == 3


async def test_all_who_wait_for_a_key_share_one_look_even_if_one_gives_up() -> None:
    shelf = Shelf(keyset("rsa"))
    tokens = TokenCheck(await shelf.keys(), RULES)
    shelf.keyset, shelf.opened = keyset("rsa", "ec"), asyncio.Event()
    presented = token({"alg": "ES256", "kid": "ec"}, sign=es256)
    waiting = [asyncio.create_task(tokens.check(presented, NOW + 10_000)) for _ in range(20)]
    await asked_again(shelf)
    waiting[0].cancel()
    shelf.opened.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert [result.user_id for result in results[1:] if isinstance(result, Identity)] == ["alice"] * 19
    assert shelf.loads == 2


async def test_while_keys_cannot_be_had_the_known_ones_count_and_an_unknown_one_is_left_open() -> None:
    shelf = Shelf(keyset("rsa"))
    tokens = TokenCheck(await shelf.keys(), RULES)
    shelf.broken = True
    for after_ms in (10_000, 15_000):
        with pytest.raises(Refusal) as refused:
            await tokens.check(token({**HEADER, "kid": "new"}), NOW + after_ms)
        assert (refused.value.code, refused.value.retry_after) == ("unavailable", 10)
        assert "shelf" not in refused.value.message
        assert (await tokens.check(token(), NOW + after_ms)).user_id == "alice"
    assert shelf.loads == 2
    assert shelf.reports == ["The known keys stay in use: The shelf is broken."]

    shelf.broken = False
    with pytest.raises(UnknownKey):
        await tokens.check(token({**HEADER, "kid": "new"}), NOW + 20_000)


async def test_keys_that_have_grown_old_are_looked_for_anew_without_anybody_waiting() -> None:
    shelf = Shelf(keyset("rsa"))
    keys = await shelf.keys()
    tokens = TokenCheck(keys, RULES)
    tokens.check_now(token(), NOW + 599_999)
    assert shelf.loads == 1
    shelf.keyset, shelf.opened = keyset("ec"), asyncio.Event()
    tokens.check_now(token(), NOW + 600_000)  # still with the old keys
    shelf.opened.set()
    await keys.refresh(NOW + 600_000)
    assert shelf.loads == 2
    with pytest.raises(UnknownKey):
        tokens.check_now(token(), NOW + 600_000)


async def test_a_failed_look_is_repeated_after_ten_seconds_and_a_clock_set_back_stops_nothing() -> None:
    shelf = Shelf(keyset("rsa"))
    keys = await shelf.keys()
    shelf.broken = True
    with pytest.raises(Refusal):
        await keys.refresh(NOW + 10_000)
    keys.current(NOW + 19_999)
    keys.current(NOW + 20_000)
    with pytest.raises(Refusal):
        await keys.refresh(NOW + 20_000)
    assert shelf.loads == 3
    with pytest.raises(Refusal):
        await keys.refresh(NOW - 3_600_000)
    assert shelf.loads == 4
    keys.current(NOW - 7_200_000)
    await asked_again(shelf)


async def test_without_one_key_nothing_starts() -> None:
    with pytest.raises(KeysUnusable, match=r"There is not one key .* Key 0 is bad\."):
        await Shelf(KeySet(keys={}, fresh_for_s=60, skipped=("Key 0 is bad.",))).keys()


async def test_what_was_skipped_is_reported_when_it_is_new() -> None:
    shelf = Shelf(KeySet(keys={"rsa": KEYS["rsa"]}, fresh_for_s=60, skipped=("Key 1 is bad.",)))
    keys = await shelf.keys()
    await keys.refresh(NOW + 10_000)
    assert shelf.reports == ["Key 1 is bad."]
