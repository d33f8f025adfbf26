"""Commands of documents: `python -m app.cli documents --help`."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from app.core.resources import Resources

cli = typer.Typer(no_args_is_help=True, help="The documents' vectors and the models that make them.")


@cli.command()
def models(context: typer.Context) -> None:
    """Print the models that have vectors, and how far each has come."""

    async def show(resources: "Resources") -> None:
        from app.features.documents.service import reembedding

        for found in await reembedding.progress(resources):
            print(f"{found.name}  {found.state} since {found.since:%Y-%m-%d %H:%M}  {found.done} of {found.documents}")
        print(f"AI_EMBEDDING_MODEL is {resources.embedder.model}")

    context.obj("documents", show)


@cli.command()
def reembed(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="The new model; AI_EMBEDDING_MODEL unless given.")] = "",
    cancel: Annotated[bool, typer.Option("--cancel", help="Give up the model that is coming.")] = False,
) -> None:
    """Have workers embed everything by a new model, while the search goes on with the old one, and then switch over."""

    async def act(resources: "Resources") -> None:
        from app.features.documents.service import reembedding

        if cancel:
            given_up = await reembedding.cancel(resources)
            print(f"{given_up} is given up" if given_up else "no model is coming")
            return
        name = model or resources.embedder.model
        try:
            state = await reembedding.begin(resources, name)
        except reembedding.ModelBusy as error:
            typer.echo(f"reembed: {error.detail}", err=True)
            raise typer.Exit(1) from error
        print(f"{name} is {state}; see: documents models" if state else "there is nothing to embed yet")

    context.obj("documents", act)
