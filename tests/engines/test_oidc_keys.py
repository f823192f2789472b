"""An outside issuer, played by a real HTTP server on loopback; once over TLS."""

import asyncio
import datetime
import ipaddress
import json
import ssl
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tocsin.engines.oidc_keys import MAX_BODY, OidcKeys, keys_from_jwks
from tocsin.errors import Refusal
from tocsin.identity import Keys, KeysUnusable, TokenCheck, TokenRules, UnknownKey

NOW = 1_800_000_000_000
DISCOVERY = "/pool/.well-known/openid-configuration"

RSA_KEY = rsa.generate_private_key(65537, 2048)
WEAK_RSA_KEY = rsa.generate_private_key(65537, 1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8))


def rsa_jwk(kid: str = "rsa", key: rsa.RSAPrivateKey = RSA_KEY, **more: object) -> dict[str, object]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "kid": kid, "n": number(numbers.n), "e": number(numbers.e), **more}


def ec_jwk(**more: object) -> dict[str, object]:
    numbers = EC_KEY.public_key().public_numbers()
    point = {"x": b64(numbers.x.to_bytes(32)), "y": b64(numbers.y.to_bytes(32))}
    return {"kty": "EC", "kid": "ec", "crv": "P-256", **point, **more}


def ed_jwk(**more: object) -> dict[str, object]:
    return {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": b64(ED_KEY.public_key().public_bytes_raw()), **more}


def jwks(*entries: object) -> bytes:
    return json.dumps({"keys": entries}).encode()


class Issuer:
    """A server with an answer for each path, that remembers who asked for what."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                issuer.answers[self.path](self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.origin = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.origin}/pool"
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.01])
        self.thread.start()
        self.publish(rsa_jwk())
        self.answer(DISCOVERY, json.dumps({"issuer": self.url, "jwks_uri": f"{self.origin}/keys", "more": []}).encode())

    def answer(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        def respond(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = respond

    def publish(self, *entries: object, cache_control: str = "") -> None:
        self.answer("/keys", jwks(*entries), 200, Cache_Control=cache_control)

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.stop()


def token(issuer: Issuer, kid: str = "rsa") -> str:
    claims = {"iss": issuer.url, "aud": "web", "sub": "alice", "exp": NOW // 1000 + 3600}
    signed = f"{b64(json.dumps({'alg': 'RS256', 'kid': kid}).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{signed}.{b64(RSA_KEY.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"


async def token_check(issuer: Issuer, reports: list[str]) -> TokenCheck:
    keys = await Keys.open(OidcKeys(issuer=issuer.url), reports.append, NOW)
    return TokenCheck(keys, TokenRules(issuer=issuer.url, audiences=frozenset({"web"})))


# -- fetching ----------------------------------------------------------------------------------------------------------


async def test_the_discovery_document_leads_to_the_keys(issuer: Issuer) -> None:
    keyset = await OidcKeys(issuer=issuer.url).load()
    assert list(keyset.keys) == ["rsa"]
    assert issuer.asked == [DISCOVERY, "/keys"]


async def test_a_slash_at_the_issuers_end_is_kept_in_the_comparison_only(issuer: Issuer) -> None:
    issuer.answer(DISCOVERY, json.dumps({"issuer": f"{issuer.url}/", "jwks_uri": f"{issuer.origin}/keys"}).encode())
    assert list((await OidcKeys(issuer=f"{issuer.url}/").load()).keys) == ["rsa"]
    with pytest.raises(KeysUnusable, match="belongs to another issuer"):
        await OidcKeys(issuer=issuer.url).load()


async def test_a_given_address_of_the_keys_needs_no_discovery(issuer: Issuer) -> None:
    await OidcKeys(issuer="https://issuer.example", jwks_url=f"{issuer.origin}/keys").load()
    assert issuer.asked == ["/keys"]


@pytest.mark.parametrize(
    ("cache_control", "fresh_for_s"),
    [
        ("public, max-age=1200", 1200),
        ("Max-Age=0", 60),
        ("max-age=86400, must-revalidate", 3600),
        ("s-maxage=1200", 600),
        ("no-store", 600),
        ("max-age=soon", 600),
        (f"max-age={'9' * 30}", 3600),
    ],
)
async def test_keys_are_believed_as_long_as_their_answer_says_within_limits(
    issuer: Issuer, cache_control: str, fresh_for_s: int
) -> None:
    issuer.publish(rsa_jwk(), cache_control=cache_control)
    assert (await OidcKeys(issuer=issuer.url).load()).fresh_for_s == fresh_for_s


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example",
        "http://10.0.0.1/pool",
        "http://127.0.0.1.example/pool",
        "http://localhost.example",
        "ftp://127.0.0.1/keys",
        "file:///etc/passwd",
        "data:application/json,{}",
        "issuer.example",
        "//127.0.0.1/keys",
        "https://",
        "https://[::1",
        "https://issuer.example:port/",
        "https://user:password@issuer.example",
        "https://issuer.example/#fragment",
        "",
    ],
)
def test_an_address_that_could_be_anybodys_is_refused(url: str) -> None:
    with pytest.raises(KeysUnusable) as unusable:
        OidcKeys(issuer=url)
    assert "password@" not in str(unusable.value)
    with pytest.raises(KeysUnusable):
        OidcKeys(issuer="https://issuer.example", jwks_url=url)


@pytest.mark.parametrize(
    "url", ["https://issuer.example/pool", "http://127.8.9.10:1", "http://[::1]:1", "http://localhost"]
)
def test_https_and_http_on_loopback_are_taken(url: str) -> None:
    OidcKeys(issuer=url)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (b"<html>", "is not a discovery document: This is not JSON"),
        (b"[]", "is not a discovery document"),
        (b"{}", "is not a discovery document"),
        (b'{"issuer":"x","issuer":"x","jwks_uri":"https://x"}', "stands more than once"),
        (b'{"issuer":"https://issuer.example","jwks_uri":"https://issuer.example/keys"}', "belongs to another issuer"),
        (b'{"issuer":"ISSUER","jwks_uri":"http://issuer.example/keys"}', "must be https, or http on loopback"),
        (b'{"issuer":"ISSUER","jwks_uri":"file:///etc/passwd"}', "must be https, or http on loopback"),
        (b'{"issuer":"ISSUER","jwks_uri":"https://issuer.example/keys"}', "not fetched over the same scheme"),
    ],
)
async def test_a_discovery_document_that_cannot_be_trusted_is_refused(
    issuer: Issuer, document: bytes, sentence: str
) -> None:
    issuer.answer(DISCOVERY, document.replace(b"ISSUER", issuer.url.encode()))
    with pytest.raises(KeysUnusable, match=sentence):
        await OidcKeys(issuer=issuer.url).load()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(issuer: Issuer, status: int) -> None:
    issuer.answer("/keys", b"", status, Location=f"{issuer.origin}/elsewhere")
    with pytest.raises(KeysUnusable, match=f"answers with status {status}"):
        await OidcKeys(issuer=issuer.url).load()
    assert issuer.asked[-1] == "/keys"


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"gone", 404, "answers with status 404"),
        (b"oops", 503, "answers with status 503"),
        (b"", 204, "is not a JWK set"),
        (b"{}", 200, "is not a JWK set"),
        (b'{"keys":{}}', 200, "is not a JWK set"),
        (b'{"keys":[' + b"[" * 40 + b"]" * 40 + b"]}", 200, "is not a JWK set"),
        (b'{"keys":[]', 200, "is not a JWK set"),
        (b" " * (MAX_BODY + 1), 200, "answers with more than 1048576 bytes"),
    ],
    ids=["404", "503", "204", "no keys", "an object", "deep", "cut", "huge"],
)
async def test_an_answer_that_is_no_key_set_is_refused(issuer: Issuer, body: bytes, status: int, sentence: str) -> None:
    issuer.answer("/keys", body, status)
    with pytest.raises(KeysUnusable, match=sentence):
        await OidcKeys(issuer=issuer.url).load()


async def test_an_issuer_that_hangs_is_given_up(issuer: Issuer) -> None:
    given_up = threading.Event()
    issuer.answers["/keys"] = lambda handler: cast(None, given_up.wait(10))
    with pytest.raises(KeysUnusable, match="it takes too long"):
        await OidcKeys(issuer=issuer.url, timeout_s=0.05).load()
    given_up.set()


@pytest.mark.parametrize("begins", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "], ids=["body", "head"])
async def test_an_issuer_that_drips_is_given_up(issuer: Issuer, begins: bytes) -> None:
    given_up = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(begins)
        for _ in range(500):
            if given_up.wait(0.01):
                return
            handler.wfile.write(b" ")

    issuer.answers["/keys"] = drip
    with pytest.raises(KeysUnusable, match="it takes too long"):
        await OidcKeys(issuer=issuer.url, timeout_s=0.2).load()
    given_up.set()


async def test_an_issuer_that_is_not_there_is_named(issuer: Issuer) -> None:
    issuer.stop()
    with pytest.raises(KeysUnusable, match=rf"^{issuer.url}/.* cannot be fetched: .*refused"):
        await Keys.open(OidcKeys(issuer=issuer.url), pytest.fail, NOW)


async def test_an_answer_that_is_not_http_is_refused(issuer: Issuer) -> None:
    issuer.answers["/keys"] = lambda handler: cast(None, handler.wfile.write(b"220 smtp ready\r\n"))
    with pytest.raises(KeysUnusable, match="cannot be fetched: "):
        await OidcKeys(issuer=issuer.url).load()


async def test_a_proxy_never_hears_what_stays_on_this_machine(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert list((await OidcKeys(issuer=issuer.url).load()).keys) == ["rsa"]


async def test_over_tls_the_certificate_must_be_signed_by_whom_this_machine_trusts(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    chain = tmp_path / "issuer.pem"
    chain.write_bytes(
        certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(chain)
    issuer = Issuer(server_side)
    try:
        with pytest.raises(KeysUnusable, match="certificate verify failed"):
            await OidcKeys(issuer=issuer.url).load()
        trusting = ssl.create_default_context(cafile=str(chain))
        assert list((await OidcKeys(issuer=issuer.url, tls=trusting).load()).keys) == ["rsa"]
    finally:
        issuer.stop()


# -- in a running service ----------------------------------------------------------------------------------------------


async def test_a_token_signed_by_a_key_that_the_issuer_has_just_begun_to_use_passes(issuer: Issuer) -> None:
    tokens = await token_check(issuer, [])
    issuer.publish(rsa_jwk("old", WEAK_RSA_KEY), rsa_jwk("new"))
    assert (await tokens.check(token(issuer, "new"), NOW + 10_000)).user_id == "alice"
    with pytest.raises(UnknownKey):  # the issuer has withdrawn it
        await tokens.check(token(issuer, "rsa"), NOW + 10_000)


async def test_a_crowd_with_a_new_key_asks_the_issuer_once(issuer: Issuer) -> None:
    tokens = await token_check(issuer, [])
    issuer.publish(rsa_jwk(), rsa_jwk("new"))
    crowd = await asyncio.gather(*(tokens.check(token(issuer, "new"), NOW + 10_000) for _ in range(50)))
    assert {identity.user_id for identity in crowd} == {"alice"}
    assert issuer.asked == [DISCOVERY, "/keys"] * 2


async def test_when_the_issuer_goes_down_known_keys_count_and_unknown_ones_are_left_open(issuer: Issuer) -> None:
    reports: list[str] = []
    tokens = await token_check(issuer, reports)
    issuer.answer("/keys", b"", 500)
    with pytest.raises(Refusal) as refused:
        await tokens.check(token(issuer, "new"), NOW + 10_000)
    assert refused.value.code == "unavailable"
    assert issuer.origin not in refused.value.message
    assert (await tokens.check(token(issuer), NOW + 10_000)).user_id == "alice"
    assert len(reports) == 1
    assert "answers with status 500" in reports[0]


# -- JWK sets ----------------------------------------------------------------------------------------------------------


def test_keys_of_the_three_algorithms_are_read() -> None:
    entries = [
        rsa_jwk(use="sig", alg="RS256", key_ops=["verify"], x5c=["ignored"], x5u="https://ignored.example"),
        ec_jwk(alg="ES256"),
        ed_jwk(alg="EdDSA"),
    ]
    keyset = keys_from_jwks(jwks(*entries))
    assert {kid: key.alg for kid, key in keyset.keys.items()} == {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}
    assert keyset.keys["rsa"].public_key == RSA_KEY.public_key()
    assert keyset.keys["ec"].public_key == EC_KEY.public_key()
    assert keyset.keys["ed"].public_key == ED_KEY.public_key()
    assert keyset.skipped == ()


EC_NUMBERS = EC_KEY.public_key().public_numbers()
P384_NUMBERS = P384_KEY.public_key().public_numbers()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (7, "it is not a JWK"),
        ({}, "it is not a JWK"),
        (rsa_jwk(kid=7), "it is not a JWK"),  # type: ignore[arg-type]  # an issuer's mistake
        (rsa_jwk(kid=""), "it has no kid"),
        (rsa_jwk(kid="good"), "an earlier one has the same kid"),
        (rsa_jwk(use="enc"), "it is not meant for verifying signatures"),
        (rsa_jwk(use=""), "it is not meant for verifying signatures"),
        (rsa_jwk(key_ops=["sign"]), "it is not meant for verifying signatures"),
        (rsa_jwk(key_ops=[]), "it is not meant for verifying signatures"),
        (rsa_jwk(use="sig", key_ops=["encrypt"]), "it is not meant for verifying signatures"),
        (rsa_jwk(key_ops="verify"), "it is not a JWK"),
        (rsa_jwk(alg="RS512"), "its alg is not RS256"),
        (rsa_jwk(alg="PS256"), "its alg is not RS256"),
        (rsa_jwk(alg="RSA-OAEP"), "its alg is not RS256"),
        (rsa_jwk(alg="HS256"), "its alg is not RS256"),
        (ec_jwk(alg="ES384"), "its alg is not ES256"),
        (ed_jwk(alg="ES256"), "its alg is not EdDSA"),
        (rsa_jwk(d="AQAB"), "it is a private key, and known to everybody now"),
        (rsa_jwk(key=WEAK_RSA_KEY), "it is neither RSA of 2048 to 8192 bits"),
        (rsa_jwk(n=number((1 << 8192) + 1)), "it is neither RSA of 2048 to 8192 bits"),
        (rsa_jwk(e="AQ"), "e must be"),
        (rsa_jwk(e=""), "e must be"),
        (rsa_jwk(e="AQAB="), "it is not base64url"),
        (rsa_jwk(n=""), ""),
        (rsa_jwk(n="ü"), ""),
        ({"kty": "oct", "kid": "oct", "k": "c2VjcmV0"}, "it is neither RSA, nor EC on P-256, nor Ed25519"),
        (ec_jwk(crv="P-384"), "it is neither RSA, nor EC on P-256, nor Ed25519"),
        (ec_jwk(crv="secp256k1"), "it is neither RSA, nor EC on P-256, nor Ed25519"),
        (ec_jwk(x=b64(P384_NUMBERS.x.to_bytes(48))), "a coordinate does not have 32 bytes"),
        (ec_jwk(x=b64(EC_NUMBERS.y.to_bytes(32))), ""),
        (ec_jwk(x=b64(bytes(32)), y=b64(bytes(32))), ""),
        (ed_jwk(crv="X25519"), "it is neither RSA, nor EC on P-256, nor Ed25519"),
        (ed_jwk(x=b64(bytes(31))), "a coordinate does not have 32 bytes"),
    ],
)
def test_a_key_that_cannot_be_used_is_skipped_with_its_reason_and_the_others_count(entry: object, reason: str) -> None:
    keyset = keys_from_jwks(jwks(rsa_jwk("good"), entry, ed_jwk()))
    assert list(keyset.keys) == ["good", "ed"]
    assert len(keyset.skipped) == 1
    assert keyset.skipped[0].startswith(f"Key 1 of the issuer's set is not used: {reason}")


@pytest.mark.parametrize("document", [b"", b"null", b"[]", b"{}", b'{"keys":null}', b'{"keys":[],"keys":[]}', b"\xff"])
def test_what_is_no_jwk_set_is_refused_whole(document: bytes) -> None:
    with pytest.raises(Refusal):
        keys_from_jwks(document)
