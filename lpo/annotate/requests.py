"""What pages may ask for: JSON of these shapes and sizes, nothing else."""

from __future__ import annotations

import json
import unicodedata
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from lpo.annotate.scripts import as_typed
from lpo.errors import DataError
from lpo.storage import clean_values

MAX_BODY_BYTES = 4 * 2**20
MAX_NAME = 40


class NotJsonError(DataError):
    """The body is not declared as JSON."""


class TooLargeError(DataError):
    """The body is larger than `MAX_BODY_BYTES`."""


def clean_name(name: str) -> str:
    """A person's name as it is stored.

    Raises:
        ValueError: It is empty, too long, or holds what cannot be seen.
    """
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"a name has 1 to {MAX_NAME} visible characters")
    return name


Name = Annotated[str, AfterValidator(clean_name)]
Text = Annotated[str, Field(max_length=1_000_000), AfterValidator(as_typed)]
Remark = Annotated[str, Field(max_length=4_000), AfterValidator(as_typed)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Body(BaseModel):
    """Base of everything a page sends."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Person(Body):
    """Somebody who wants a script."""

    annotator: Name


class Version(Body):
    """An annotator's version of a script, as the page saw it."""

    annotator: Name
    script: Count
    version: Count


class Opened(Body):
    """A script that an annotator has before them."""

    annotator: Name
    script: Count


class SaveBody(Body):
    """A segment as it stands in the box; see `lpo.annotate.work.Edit`."""

    annotator: Name
    script: Count
    segment: Count
    text: Text
    note: Remark
    done: bool
    base: Count
    tab: Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9-]+$")]
    sequence: Count
    seconds: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


class Mark(Version):
    """An inspector rejects a segment, or withdraws that (`reason` null)."""

    inspector: Name
    segment: Count
    reason: Annotated[Remark, Field(min_length=1)] | None


class Decision(Version):
    """An inspector accepts a script or sends it back."""

    inspector: Name
    accept: bool
    reason: Remark


Kind = TypeVar("Kind", bound=Body)


async def read_body(request: Request, kind: type[Kind]) -> Kind:
    """The body of a request.

    Raises:
        NotJsonError: It is not declared as JSON: a form of another site could send that.
        TooLargeError: It is too large.
        DataError: It is not JSON of this shape.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise NotJsonError("the body is not declared as application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLargeError(f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        values, _ = clean_values(json.loads(body))
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise DataError(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise DataError("the body is not JSON") from None
