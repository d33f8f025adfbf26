"""Tokens: ours are read, and nothing else is."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import SecretStr, ValidationError

from app.core.project import project
from app.core.security import InvalidToken, Principal, issue_token, read_token
from app.core.settings import Auth
from app.core.signing import NoSigningKey, keyring

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.settings import Settings
    from tests.core.conftest import OpenApp, SettingsWith

KEY = "k" * 16 + "0123456789abcdef" * 3
OTHER_KEY = "another key of 32 characters and more"
AUTH = Auth(secret_key=SecretStr(KEY))


def pem(private: Ed25519PrivateKey | RSAPrivateKey) -> str:
    """A private key as a file holds it."""
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(private: Ed25519PrivateKey | RSAPrivateKey) -> str:
    """Its public half."""
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


ED, OTHER_ED = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
RSA = generate_private_key(65537, 2048)
WITH_ED = Auth(algorithm="EdDSA", private_key=SecretStr(pem(ED)))
WITH_RSA = Auth(algorithm="RS256", private_key=SecretStr(pem(RSA)))


def claims(**changed: Any) -> dict[str, Any]:
    """Good claims, with some changed; None leaves one out."""
    now = int(time.time())
    good = {"sub": str(uuid4()), "iat": now, "exp": now + 60, "iss": project().name, "aud": "api", "roles": []}
    return {name: value for name, value in (good | changed).items() if value is not None}


def header(auth: Auth = AUTH, **changed: Any) -> dict[str, Any]:
    """A good header, with some of it changed; None leaves one out."""
    good = {"kid": keyring(auth).signing.id, "typ": "at+jwt"}
    return {name: value for name, value in (good | changed).items() if value is not None}


def signed(key: str = KEY, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changed: Any) -> str:
    """A token with those claims."""
    return jwt.encode(claims(**changed), key, algorithm=algorithm, headers=header() if headers is None else headers)


def part(value: Any) -> str:
    """A part of a token."""
    return (
        base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode())
        .rstrip(b"=")
        .decode()
    )


def unsigned(algorithm: str) -> str:
    """A token that says it needs no signature."""
    return f"{part({'alg': algorithm, **header()})}.{part(claims())}."


def with_public_key_as_secret(auth: Auth, public: str) -> str:
    """The classic confusion: a token signed by HMAC, with the public key that everybody has as its secret."""
    begin = f"{part({'alg': 'HS256', **header(auth)})}.{part(claims())}"
    return f"{begin}.{part(hmac.new(public.encode(), begin.encode(), hashlib.sha256).digest())}"


def believed(auth: Auth, token: str) -> bool:
    """Whether a process with these settings lets the token in."""
    try:
        read_token(auth, token)
    except InvalidToken:
        return False
    return True


@pytest.mark.parametrize("auth", [AUTH, WITH_ED, WITH_RSA], ids=["HS256", "EdDSA", "RS256"])
def test_there_and_back(auth: Auth) -> None:
    """Whoever a token was made for is whom it names, with roles; and it says how long it lives."""
    principal = Principal(uuid4(), frozenset({"staff", "admin"}))
    token, seconds = issue_token(auth, principal)
    assert seconds == auth.access_token_minutes * 60
    assert read_token(auth, token) == principal
    payload = jwt.decode(token, options={"verify_signature": False})
    assert payload["exp"] - payload["iat"] == seconds
    assert jwt.get_unverified_header(token) == {"alg": auth.algorithm, **header(auth)}
    assert issue_token(auth, principal)[0] != token, "each can be told apart"


def test_what_tests_forge_would_be_good_with_nothing_changed() -> None:
    """Or every test below would pass for the wrong reason."""
    principal = Principal(uuid4(), frozenset({"staff"}))
    assert read_token(AUTH, signed(sub=str(principal.id), roles=["staff"])) == principal
    assert believed(AUTH, signed(headers=header(typ="application/AT+JWT"))), "RFC 9068 allows both spellings"


BAD: "dict[str, Callable[[], str]]" = {
    "expired": lambda: signed(exp=int(time.time()) - 1),
    "issued in the future": lambda: signed(iat=int(time.time()) + 600),
    "not yet valid": lambda: signed(nbf=int(time.time()) + 600),
    "another audience": lambda: signed(aud="other"),
    "another issuer": lambda: signed(iss="other"),
    "another key": lambda: signed(key=KEY[::-1]),
    "an unknown key": lambda: signed(headers=header(kid="0123456789abcdef")),
    "no key named": lambda: signed(headers={"typ": "at+jwt"}),
    "a key that is a path": lambda: signed(headers=header(kid="../../dev/null")),
    "another kind of token": lambda: signed(headers=header(typ="refresh+jwt")),
    "no kind of token": lambda: signed(headers=header(typ="JWT")),
    "a key from the token itself": lambda: signed(
        key=OTHER_KEY, headers={**header(), "jwk": {"kty": "oct", "k": part(OTHER_KEY.encode())}}
    ),
    "another algorithm": lambda: signed(algorithm="HS512"),
    "no algorithm": lambda: unsigned("none"),
    "no algorithm, shouted": lambda: unsigned("NONE"),
    "no signature": lambda: unsigned("HS256"),
    "no expiry": lambda: signed(exp=None),
    "no subject": lambda: signed(sub=None),
    "no issuer": lambda: signed(iss=None),
    "no audience": lambda: signed(aud=None),
    "no time of issue": lambda: signed(iat=None),
    "a subject that is no id": lambda: signed(sub="ada"),
    "an expiry that is no time": lambda: signed(exp="tomorrow"),
    "roles that are none": lambda: signed(roles=5),
    "a changed claim": lambda: ".".join(
        [signed().split(".")[0], signed(roles=["staff"]).split(".")[1], signed().split(".")[2]]
    ),
    "garbage": lambda: "garbage",
    "dots": lambda: "..",
    "nothing": lambda: "",
    "no letters of ASCII": lambda: "ü.ü.ü",
    "an endless one": lambda: "a" * 100_000,
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_bad_tokens(make: "Callable[[], str]") -> None:
    """All are refused alike."""
    with pytest.raises(InvalidToken):
        read_token(AUTH, make())


@pytest.mark.parametrize(("auth", "private"), [(WITH_ED, ED), (WITH_RSA, RSA)], ids=["EdDSA", "RS256"])
def test_a_public_key_is_no_secret(auth: Auth, private: Ed25519PrivateKey | RSAPrivateKey) -> None:
    """Key confusion: neither as PEM nor as its plain bytes, and not when secrets are believed as well."""
    both = auth.model_copy(update={"further_secret_keys": SecretStr(OTHER_KEY)})
    for public in (public_pem(private), public_pem(private).strip()):
        for settings in (auth, both):
            with pytest.raises(InvalidToken):
                read_token(settings, with_public_key_as_secret(auth, public))
    with pytest.raises(InvalidToken):
        read_token(auth, unsigned("none"))


@pytest.mark.parametrize("auth", [Auth(), Auth(algorithm="EdDSA"), Auth(algorithm="RS256")])
def test_an_empty_key_signs_nothing_and_believes_nothing(auth: Auth) -> None:
    """A token signed with the empty secret above all."""
    with pytest.raises(NoSigningKey):
        issue_token(auth, Principal(uuid4(), frozenset()))
    for kid in ("", hmac.new(b"", b"key id", hashlib.sha256).hexdigest()[:16]):
        begin = f"{part({'alg': 'HS256', **header(AUTH, kid=kid)})}.{part(claims())}"
        forged = f"{begin}.{part(hmac.new(b'', begin.encode(), hashlib.sha256).digest())}"
        with pytest.raises(InvalidToken):
            read_token(auth, forged)


# What a rotation sets, in the order of docs/runbook/rotate-signing-keys.md: before, then steps 1 to 3.
ROTATIONS = {
    "HS256": [
        Auth(secret_key=SecretStr(KEY)),
        Auth(secret_key=SecretStr(KEY), further_secret_keys=SecretStr(OTHER_KEY)),
        Auth(secret_key=SecretStr(OTHER_KEY), further_secret_keys=SecretStr(f" {KEY},")),
        Auth(secret_key=SecretStr(OTHER_KEY)),
    ],
    "EdDSA": [
        Auth(algorithm="EdDSA", private_key=SecretStr(pem(ED))),
        Auth(algorithm="EdDSA", private_key=SecretStr(pem(ED)), public_keys=public_pem(OTHER_ED)),
        Auth(algorithm="EdDSA", private_key=SecretStr(pem(OTHER_ED)), public_keys=public_pem(ED)),
        Auth(algorithm="EdDSA", private_key=SecretStr(pem(OTHER_ED))),
    ],
    "from HS256 to RS256": [
        Auth(secret_key=SecretStr(KEY)),
        Auth(secret_key=SecretStr(KEY), public_keys=public_pem(RSA)),
        Auth(algorithm="RS256", private_key=SecretStr(pem(RSA)), further_secret_keys=SecretStr(KEY)),
        Auth(algorithm="RS256", private_key=SecretStr(pem(RSA))),
    ],
}


@pytest.mark.parametrize("steps", ROTATIONS.values(), ids=ROTATIONS.keys())
def test_a_rotation_signs_nobody_out(steps: list[Auth]) -> None:
    """The steps of the runbook. While a deploy runs, processes before and after the step believe each other's tokens."""
    tokens = [issue_token(auth, Principal(uuid4(), frozenset()))[0] for auth in steps]
    for step, (before, after) in enumerate(pairwise(steps)):
        assert believed(before, tokens[step + 1]), f"during step {step + 1}"
        # Before the last step one waits for the life of a token: what the old key signed has expired by then.
        assert believed(after, tokens[step]), f"after step {step + 1}"
    assert not believed(steps[-1], tokens[0]), "the old key is gone"
    assert not believed(steps[0], tokens[-1]), "what one step fewer would do: signed out in the middle of the deploy"


def test_keys_have_lasting_names() -> None:
    """Every process gives a key the same name, and the name does not hold the key."""
    keyring.cache_clear()
    assert keyring(AUTH).signing.id == header()["kid"]
    assert KEY not in header()["kid"]
    assert keyring(WITH_ED).signing.id == keyring(Auth(public_keys=public_pem(ED))).public()[0]["kid"]


def test_an_outside_provider(settings: "Settings") -> None:
    """Its public keys as a JWKS document, its name, its idea of who people are; and nothing to sign with."""
    document = {"keys": [{**jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True), "kid": "theirs"}]}
    document["keys"].append({"kty": "oct", "k": part(b"no secret out of a public document"), "kid": "secret"})
    auth = Auth(
        public_keys=json.dumps(document),
        issuer="https://login.example.com/",
        audience="our-service",
        token_types=("JWT",),
        roles_claim="groups",
    )
    assert auth.outside

    def theirs(**changed: Any) -> str:
        given = {
            "iss": "https://login.example.com/",
            "aud": ["our-service"],
            "roles": None,
            "sub": "auth0|ada",
            **changed,
        }
        return jwt.encode(claims(**given), RSA, algorithm="RS256", headers={"kid": "theirs", "typ": "JWT"})

    ada = read_token(auth, theirs(groups=["staff"]))
    assert ada.roles == {"staff"}
    assert ada.id == read_token(auth, theirs()).id
    assert ada.id != read_token(auth, theirs(sub="auth0|bob")).id
    assert (
        ada.id
        != read_token(
            auth.model_copy(update={"issuer": "https://other.example.com/"}), theirs(iss="https://other.example.com/")
        ).id
    )
    identity = uuid4()
    assert read_token(auth, theirs(sub=str(identity))).id == identity
    for wrong in (theirs(iss=project().name), theirs(aud="another-service")):
        assert not believed(auth, wrong)
    assert not believed(
        auth, jwt.encode(claims(), "no secret out of a public document", headers={"kid": "secret", "typ": "JWT"})
    )
    with pytest.raises(NoSigningKey):
        issue_token(auth, Principal(identity, frozenset()))


SMALL_RSA = generate_private_key(65537, 1024)  # noqa: S505  # to be refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"algorithm": "EdDSA", "private_key": "not a key"}, "no private key in PEM"),
        ({"algorithm": "EdDSA", "private_key": pem(RSA)}, "no key for EdDSA"),
        ({"algorithm": "RS256", "private_key": pem(SMALL_RSA)}, "2048 bits"),
        ({"public_keys": "not a key"}, "neither PEM nor"),
        ({"public_keys": pem(ED)}, "no public key"),
        ({"public_keys": "{}"}, "no JWKS document"),
        ({"public_keys": json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]})}, "no JWKS document"),
        (
            {"public_keys": json.dumps({"keys": [jwt.algorithms.OKPAlgorithm.to_jwk(ED.public_key(), as_dict=True)]})},
            "without a kid",
        ),
        (
            {
                "public_keys": json.dumps(
                    {"keys": [{**jwt.algorithms.OKPAlgorithm.to_jwk(ED, as_dict=True), "kid": "x"}]}
                )
            },
            "a private key",
        ),
    ],
)
def test_a_key_that_is_none_is_said_at_start_up(given: dict[str, Any], said: str) -> None:
    """And the message does not repeat it."""
    with pytest.raises(ValidationError, match=said) as caught:
        Auth(**given)
    assert "PRIVATE KEY-----" not in str(caught.value.errors(include_input=False))


def test_a_key_may_be_written_in_one_line() -> None:
    """Where a variable cannot hold a line break."""
    in_one_line = Auth(
        algorithm="EdDSA",
        private_key=SecretStr(pem(ED).replace("\n", "\\n")),
        public_keys=public_pem(OTHER_ED).replace("\n", "\\n") + public_pem(RSA).replace("\n", "\\n"),
    )
    assert keyring(in_one_line).signing.id == keyring(WITH_ED).signing.id
    assert len(keyring(in_one_line).known) == 3


async def test_public_keys_are_published(
    make_app: "Callable[[Settings], FastAPI]", settings_with: "SettingsWith", visit: "OpenApp"
) -> None:
    """Whoever fetches them can check our tokens without us; there is no secret among them, and none with HS256."""
    chosen = settings_with(AUTH_ALGORITHM="EdDSA", AUTH_PRIVATE_KEY=pem(ED), AUTH_PUBLIC_KEYS=public_pem(RSA))
    async with visit(make_app(chosen)) as client:
        response = await client.get("/.well-known/jwks.json")
        principal = Principal(uuid4(), frozenset({"staff"}))
        token, _ = issue_token(chosen.auth, principal)
        headers = {"Authorization": f"Bearer {token}"}
        assert (await client.get("/api/v1/probe/staff", headers=headers)).json() == {"id": str(principal.id)}
    document = response.json()
    assert all(set(key) <= {"kty", "crv", "x", "n", "e", "kid", "alg", "use"} for key in document["keys"])
    keys = jwt.PyJWKSet.from_dict(document)
    decoded = jwt.decode(token, keys[jwt.get_unverified_header(token)["kid"]], audience="api", algorithms=["EdDSA"])
    assert UUID(decoded["sub"]) == principal.id
    async with visit(make_app(settings_with(AUTH_ALGORITHM="HS256"))) as client:
        assert (await client.get("/.well-known/jwks.json")).status_code == 404


async def test_who_is_refused_is_told_how_to_sign_in(
    web: httpx.AsyncClient, settings: "Settings", auth_headers: dict[str, str]
) -> None:
    """401 without or with a bad token, 403 without the role, 200 with it."""
    path = "/api/v1/probe/staff"
    for headers in ({}, {"Authorization": "Basic eDp4"}, {"Authorization": "Bearer"}, {"Authorization": "Bearer x"}):
        response = await web.get(path, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    forbidden = await web.get(path, headers=auth_headers)
    assert (forbidden.status_code, forbidden.json()["code"]) == (403, "forbidden")
    principal = Principal(uuid4(), frozenset({"staff"}))
    token, _ = issue_token(settings.auth, principal)
    allowed = await web.get(path, headers={"Authorization": f"bearer {token}"})
    assert (allowed.status_code, allowed.json()) == (200, {"id": str(principal.id)})


async def test_odd_tokens_are_no_fault_of_ours(web: httpx.AsyncClient) -> None:
    """Any bytes in the header end as 401."""
    for make in BAD.values():
        header = f"Bearer {make()}".encode()
        response = await web.get("/api/v1/probe/staff", headers=[(b"Authorization", header)])
        assert response.status_code == 401
