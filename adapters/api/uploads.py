"""`/api/lora/uploads`: announce files, send them in pieces, finish. Operators only, each sees the own uploads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from django.db.models import Q
from django.http import Http404
from django.utils.translation import gettext as _
from pydantic import Field
from rest_framework import status
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import IsOperator
from adapters import services
from adapters.failures import BusyError
from adapters.models import LoraAdapter
from adapters.uploads import arriving, finishing, naming, refusals
from common.answers import Answer
from common.api import ApiError
from common.parsers import BoundedJSONParser
from common.shapes import MAX_ID, Shape, Str, read

from .present import Adapter, adapter_json
from .views import actor

SHOWN = 100  # adapters of one upload that an answer lists


class SentFile(Shape):
    path: Annotated[Str, Field(max_length=naming.MAX_PATH)] = Field(
        description="Relative, with “/”: pirate/adapter_config.json."
    )
    size: Annotated[int, Field(ge=0, le=MAX_ID)] = Field(description="Bytes.")
    modified: Annotated[int, Field(ge=-MAX_ID, le=MAX_ID)] = Field(
        0, description="Time of its last change, any unit; tells two versions of a file apart when an upload goes on."
    )


class NewUpload(Shape):
    """Either one archive (.zip, .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz), or files: .safetensors, .json, .jsonl, .jinja
    and README.md."""

    files: list[SentFile]
    name: Annotated[Str, Field(max_length=100)] = Field(
        "", description="Of the new folder; else made of the files' own."
    )


class UploadFile(Answer):
    path: str
    size: int
    received: int = Field(description="Bytes that have arrived; the next piece begins here.")


class Upload(Answer):
    id: str
    name: str
    files: list[UploadFile]
    size: int
    received: int
    piece_bytes: int = Field(description="The most that one piece may have.")


class Uploads(Answer):
    results: list[Upload]
    max_bytes: int = Field(description="Of one upload.")
    quota_bytes: int = Field(description="Of all uploads of one account.")
    max_files: int
    piece_bytes: int


class Piece(Answer):
    received: int = Field(description="Bytes of this file that have arrived.")


class FinishedUpload(Answer):
    folder: str = Field(description="Where it lies now, below UPLOADS_DIR.")
    files: int
    left_out: list[str] = Field(description="Some of the archive's files that are not kept.")
    left_out_count: int
    scanned: bool = Field(description="False where a scan was running already; the next one finds the adapters.")
    adapters: list[Adapter]


def upload_json(upload: arriving.Upload) -> dict[str, Any]:
    files = [
        UploadFile.of(file, received=received) for file, received in zip(upload.files, upload.received, strict=True)
    ]
    return Upload.of(
        id=upload.id, name=upload.name, files=files, size=upload.size, received=sum(upload.received),
        piece_bytes=arriving.limits()["piece_bytes"],
    )  # fmt: skip


class RawParser(BaseParser):
    """The bytes of a piece as they are."""

    media_type = "application/octet-stream"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        limit = arriving.limits()["piece_bytes"]
        data: bytes = stream.read(limit + 1)
        if len(data) > limit:
            raise refusals.too_large(limit)
        return data


@contextmanager
def upload_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Http404 from None
    except OSError as error:
        if error.errno in refusals.FULL:
            raise refusals.no_space() from None
        raise


def account(request: Request) -> int:
    return actor(request).pk  # type: ignore[no-any-return]


class UploadsView(APIView):
    permission_classes = [IsOperator]
    parser_classes = [BoundedJSONParser]

    def get(self, request: Request) -> Response:
        """One's uploads under way, and the limits."""
        with upload_errors():
            found = [upload_json(upload) for upload in arriving.of_user(account(request))]
        return Response(Uploads.of(results=found, **arriving.limits()))

    def post(self, request: Request) -> Response:
        """201 with the new upload; 200 with the one of the same files that is under way, to go on with."""
        body = read(NewUpload, request.data)
        files = _judged(body.files)
        with upload_errors():
            upload, new = arriving.begin(account(request), body.name.strip(), files)
        return Response(upload_json(upload), status=status.HTTP_201_CREATED if new else status.HTTP_200_OK)


def _judged(files: list[SentFile]) -> list[tuple[str, int, int]]:
    """Raises ApiError for what is refused before a byte of it is sent."""
    if not files:
        raise ApiError("empty", _("%(param)s must not be empty.") % {"param": "files"}, 400, "files")
    if len(files) > naming.MAX_FILES:
        raise refusals.refused("too_many", limit=naming.MAX_FILES, param="files")
    if sum(file.size for file in files) > (limit := arriving.limits()["max_bytes"]):
        raise refusals.too_large(limit)
    alone = len(files) == 1 and naming.is_archive(files[0].path)
    judged: list[tuple[str, int, int]] = []
    seen: set[str] = set()
    for index, file in enumerate(files):
        param = f"files[{index}].path"
        parts = naming.parts_of(file.path)
        if isinstance(parts, str):
            raise refusals.refused(parts, file.path, param=param)
        if not alone and not naming.is_kept(parts[-1]):
            raise refusals.refused("pickle" if naming.is_pickle(parts[-1]) else "kind", file.path, param=param)
        path = "/".join(parts)
        if path.casefold() in seen:
            raise refusals.refused("twice", file.path, param=param)
        seen.add(path.casefold())
        judged.append((path, file.size, file.modified))
    return judged


class UploadView(APIView):
    permission_classes = [IsOperator]

    def get(self, request: Request, key: str) -> Response:
        with upload_errors():
            return Response(upload_json(arriving.find(account(request), key)))

    def delete(self, request: Request, key: str) -> Response:
        with upload_errors():
            arriving.cancel(account(request), key)
        return Response(status=status.HTTP_204_NO_CONTENT)


class PieceView(APIView):
    permission_classes = [IsOperator]
    parser_classes = [RawParser]

    def put(self, request: Request, key: str, index: int) -> Response:
        """The bytes of a file from `?offset=` on; 409 with `received` where it continues elsewhere."""
        offset = request.query_params.get("offset", "0")
        if not offset.isdecimal() or len(offset) > 18:
            raise ApiError("invalid", _("A number of bytes."), 400, "offset")
        data = request.data
        with upload_errors():
            received = arriving.write(
                account(request), key, index, int(offset), data if isinstance(data, bytes) else b""
            )
        return Response(Piece.of(received=received))


class FinishView(APIView):
    permission_classes = [IsOperator]

    def post(self, request: Request, key: str) -> Response:
        """Unpack, move to its place and scan; the adapters that came with it."""
        with upload_errors():
            done = finishing.finish(account(request), key)
        try:
            services.scan(actor(request))
            scanned = True
        except BusyError:
            scanned = False
        path = finishing.path_of(done.folder)
        rows = LoraAdapter.objects.filter(Q(path=path) | Q(path__startswith=f"{path}/"))
        found = rows.select_related("base").prefetch_related("tags").order_by("path")[:SHOWN]
        return Response(
            FinishedUpload.of(done, scanned=scanned, adapters=[adapter_json(adapter) for adapter in found]),
            status=status.HTTP_201_CREATED,
        )
