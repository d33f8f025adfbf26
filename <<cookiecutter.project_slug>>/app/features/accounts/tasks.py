"""Background work of accounts. Each task calls its service; arguments are ids."""

from datetime import timedelta
from uuid import UUID

from app.core.resources import Resources
from app.core.tasks import Periodic, Queue, task
from app.features.accounts import mails, service


@task("accounts.mail", queue=Queue.HIGH)
async def mail(resources: Resources, request_id: str) -> None:
    """Send a mail that somebody asked for."""
    await mails.deliver(resources, UUID(request_id))


@task("accounts.sweep", queue=Queue.LOW, durable=False)
async def sweep(resources: Resources) -> None:
    """Delete sessions and tokens that have expired."""
    await service.sweep(resources)


SCHEDULE = {"accounts.sweep": Periodic(sweep, timedelta(hours=1))}
