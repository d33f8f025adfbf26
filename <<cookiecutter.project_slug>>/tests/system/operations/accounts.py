"""What people do with their accounts."""

from uuid import uuid4

from tests.system.faults import Operation, World, answer_of, down

PASSWORD = "a long password of a test"


def prepare(world: World) -> None:
    """Somebody with an account, who is signed in."""
    email = register(world)
    with world.new_client() as client:
        signed_in = client.post("/api/v1/accounts/sign-in", json={"email": email, "password": PASSWORD})
        assert signed_in.status_code == 200, signed_in.text
    world.kept |= {"email": email, "access_token": signed_in.json()["access_token"]}


def register(world: World) -> str:
    """Somebody new; returns the address."""
    email = f"person-{uuid4().hex[:12]}@example.com"
    with world.new_client() as client:
        response = client.post("/api/v1/accounts/register", json={"email": email, "password": PASSWORD})
    assert response.status_code == 202, response.text
    return email


def sign_in(world: World) -> str:
    """With address and password."""
    with world.new_client() as client:
        body = {"email": world.kept["email"], "password": PASSWORD}
        return answer_of(client.post("/api/v1/accounts/sign-in", json=body))


def read(world: World) -> str:
    """Who am I?"""
    with world.new_client() as client:
        return answer_of(
            client.get("/api/v1/accounts/me", headers={"Authorization": f"Bearer {world.kept['access_token']}"})
        )


def write(world: World) -> str:
    """Somebody new registers."""
    body = {"email": f"person-{uuid4().hex[:12]}@example.com", "password": PASSWORD}
    with world.new_client() as client:
        return answer_of(client.post("/api/v1/accounts/register", json=body))


AWAY = down("503 database_unavailable", "PostgreSQL")
OPERATIONS = [
    Operation("sign-in", "`POST /api/v1/accounts/sign-in`", sign_in, "200", AWAY),
    Operation("read", "`GET /api/v1/accounts/me`", read, "200", AWAY),
    Operation("write", "`POST /api/v1/accounts/register`, which sends a mail", write, "202", AWAY),
]
