"""Lists a page at a time, by keyset: a page begins after the last row of the one before, wherever that is by now.

    @router.get("")
    async def list_invoices(user: CurrentUser, resources: AppResources, paging: Paging) -> Page[InvoiceOut]:
        query = select(Invoice).where(Invoice.owner_id == user.id)
        async with resources.db.read() as session:
            found = await fetch(session, query, paging, by=(Invoice.created_at, Invoice.id))
        return paging.page(found, InvoiceOut.model_validate)

What is added or deleted meanwhile neither repeats a row nor skips one, and the last page costs what the first one does,
given an index on the columns of `by`. These columns must tell any two rows apart and must not change; ids sort by the
time they were made, so `by=(Invoice.id,)` is newest first too.

A cursor is for the list it came from. It is not signed: it holds nothing but the place, and whose rows are listed is
decided anew by every request.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import orjson
from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.core.errors import UnprocessableContent

T = TypeVar("T")
R = TypeVar("R")

LARGEST_PAGE = 100
LONGEST_CURSOR = 400


class BadCursor(UnprocessableContent):
    """Not made here, cut off, or of another list."""

    detail = "This cursor does not belong to this list. Begin with the first page."


class Page(BaseModel, Generic[T]):
    """A page of a list."""

    items: list[T]
    next: str | None = Field(
        description="Give this as `cursor` to get the next page; null on the last one.",
        examples=["WyIwMTkzNGYyYy03YTFlLTdjNDMtOWQxYi01YjBmNmEyZThjMTEiXQ"],  # pragma: allowlist secret
    )


@dataclass(frozen=True, slots=True)
class Rows(Generic[R]):
    """The rows of a page, and the cursor of the next one."""

    rows: Sequence[R]
    next: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Which page: at most `limit` rows after `cursor`, or from the beginning."""

    limit: int = 20
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Pager(Place):
    """What a route knows of the page it was asked for."""

    request: Request | None = None
    response: Response | None = None

    def page(self, found: Rows[R], item: Callable[[R], T]) -> Page[T]:
        """The page as an answer, with a Link header (RFC 8288) to the next one.

        Args:
            found: what `fetch` gave.
            item: makes an entry of a row.
        """
        if found.next and self.request and self.response:
            url = self.request.url.include_query_params(cursor=found.next)
            # Relative: what name and scheme this service has for its clients is known to the proxy, not here.
            self.response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        return Page(items=[item(row) for row in found.rows], next=found.next)


async def _pager(
    request: Request,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="At most so many.")] = 20,
    cursor: Annotated[
        str | None,
        Query(max_length=LONGEST_CURSOR, description="The `next` of the page before. Empty: the first page."),
    ] = None,
) -> Pager:
    return Pager(limit, cursor, request, response)


Paging = Annotated[Pager, Depends(_pager)]


async def fetch(
    session: AsyncSession,
    query: Select[R],
    place: Place,
    *,
    by: Sequence[InstrumentedAttribute[Any]],
    ascending: bool = False,
) -> Rows[R]:
    """A page of what `query` selects.

    Args:
        session: for reading.
        query: of one entity, without an order and a limit.
        place: which page.
        by: the columns to sort by, which tell any two rows apart.
        ascending: smallest first, instead of largest.

    Raises:
        BadCursor: the cursor is not of this list.
    """
    if place.cursor:
        last = tuple_(*_read(place.cursor, by))
        query = query.where(tuple_(*by) > last if ascending else tuple_(*by) < last)
    order = [column.asc() if ascending else column.desc() for column in by]
    found = (await session.scalars(query.order_by(*order).limit(place.limit + 1))).all()
    rows = found[: place.limit]
    return Rows(rows, _write(rows[-1], by) if len(found) > place.limit else None)


def _write(row: object, by: Sequence[InstrumentedAttribute[Any]]) -> str:
    values = orjson.dumps([_list_of(by), *(getattr(row, column.key) for column in by)], default=str)
    return base64.urlsafe_b64encode(values).rstrip(b"=").decode()


def _read(cursor: str, by: Sequence[InstrumentedAttribute[Any]]) -> list[Any]:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values = orjson.loads(base64.b64decode(padded, b"-_", validate=True))
        if not isinstance(values, list) or len(values) != len(by) + 1 or values[0] != _list_of(by):
            raise BadCursor
        return [_parsed(value, column.type.python_type) for value, column in zip(values[1:], by, strict=True)]
    except (ValueError, TypeError, binascii.Error) as error:  # the first is UnicodeEncodeError and JSONDecodeError too
        raise BadCursor from error


def _list_of(by: Sequence[InstrumentedAttribute[Any]]) -> str:
    return ",".join(f"{column.class_.__tablename__}.{column.key}" for column in by)


def _parsed(value: Any, kind: type[Any]) -> Any:
    """A value as its column has it.

    Raises:
        ValueError, TypeError: it is something else.
    """
    if kind in (UUID, datetime) and not isinstance(value, str):
        raise TypeError(value)
    if kind is UUID:
        return UUID(value)
    if kind is datetime:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None:
            raise ValueError("a moment without a zone is none")
        return found
    if type(value) is not kind or (kind is str and "\x00" in value):
        raise TypeError(value)
    return value
