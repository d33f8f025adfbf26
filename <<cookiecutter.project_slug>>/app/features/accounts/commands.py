"""Commands of accounts, which `python -m app.cli` finds here."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

cli = typer.Typer()


@cli.command()
def create_superuser(
    email: Annotated[str, typer.Argument(help="Address to sign in with.")],
    password_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is the password; - is standard input. Asked for unless given."),
    ] = None,
) -> None:
    """Make somebody who may do everything. An account with this address is taken over: role, password, devices signed out.

    A password on the command line would stand in the list of processes and in the shell's history.
    """
    from pydantic import BaseModel, ValidationError

    from app.core.logging import configure_logging
    from app.core.resources import open_resources
    from app.core.settings import SettingsError, load_settings
    from app.features import settings_of_features
    from app.features.accounts import service
    from app.features.accounts.schemas import Email, NewPassword

    class Superuser(BaseModel):
        email: Email
        password: NewPassword

    try:
        given = Superuser.model_validate({"email": email, "password": _password(password_file)})
        settings = load_settings(settings_of_features())
    except (ValidationError, SettingsError, OSError) as error:
        lines = (
            [f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors()]
            if isinstance(error, ValidationError)
            else [str(error)]
        )
        typer.echo("create-superuser: " + "\n".join(lines), err=True)
        raise typer.Exit(1) from error
    configure_logging(settings, "create-superuser")

    async def make() -> bool:
        async with open_resources(settings) as resources:
            return await service.create_superuser(resources, given.email, given.password.get_secret_value())

    made = asyncio.run(make())
    typer.echo(f"create-superuser: {'made' if made else 'took over'} {given.email}")


def _password(file: Path | None) -> str:
    if file is None:
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8")
    return text.split("\n", 1)[0].removesuffix("\r")
