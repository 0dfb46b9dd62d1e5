"""`/api/lora/blends`: a blend of active adapters saved as an adapter of its own. Operators only, as for uploads."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal, Self

from django.utils.translation import gettext as _
from pydantic import AfterValidator, Field, model_validator
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import IsOperator
from adapters import services
from adapters.blending.saving import Part, Saved, save
from adapters.failures import BusyError
from adapters.formats.config import MAX_RANK
from adapters.models import LoraAdapter
from adapters.uploads import finishing
from common.answers import Answer
from common.api import ApiError
from common.parsers import BoundedJSONParser
from common.shapes import Id, NotEmpty, Shape, Str, read, refuse
from common.turns import Turns

from .present import Adapter, adapter_json
from .uploads import account, upload_errors
from .views import actor

MOST = 8  # adapters, as a blend that is asked may have (inference/engine/recipes.py)
MAX_WEIGHT = 2.0
turns = Turns(each=2, most=4)  # each has a process and a module's tensors in memory


class BlendPart(Shape):
    id: Id
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0


def _a_blend(parts: list[BlendPart]) -> list[BlendPart]:
    if len({part.id for part in parts}) != len(parts):
        raise refuse("targets_twice")
    if not any(part.weight for part in parts):
        raise refuse("weights_zero")
    return parts


def _no_blank(value: str) -> str:
    return value.strip()


class NewBlend(Shape):
    """Active adapters of one base model. `concatenate` is exact, its rank the sum of theirs; `svd` has the rank that is
    given, and the error is told."""

    name: Annotated[Str, Field(max_length=100), AfterValidator(_no_blank), NotEmpty]
    adapters: Annotated[list[BlendPart], Field(max_length=MOST), NotEmpty, AfterValidator(_a_blend)]
    method: Literal["concatenate", "svd"] = "concatenate"
    rank: Annotated[int | None, Field(ge=1, le=MAX_RANK, description="Of svd alone.")] = None

    @model_validator(mode="after")
    def _rank_of_svd_alone(self) -> Self:
        if (self.method == "svd") != (self.rank is not None):
            raise refuse("rank_of_svd", param="rank")
        return self


class BlendError(Answer):
    """Relative Frobenius norms of what a smaller rank leaves out."""

    overall: float
    worst: float
    layer: str = Field(description="The layer with the largest.")


class SavedBlend(Answer):
    folder: str = Field(description="Where it lies now, below UPLOADS_DIR, with recipe.json.")
    method: str
    rank: int = Field(description="The largest of its layers.")
    size: int = Field(description="Bytes of the weights.")
    error: BlendError | None = Field(description="Null where it is exact.")
    scanned: bool = Field(description="False where a scan was running already; the next one finds the adapter.")
    adapter: Adapter | None


class BlendsView(APIView):
    permission_classes = [IsOperator]
    parser_classes = [BoundedJSONParser]

    def post(self, request: Request) -> Response:
        """Write the blend and scan it; it is then activated and proven as any other adapter."""
        asked = read(NewBlend, request.data)
        parts = [Part(_active(part.id, index), part.weight) for index, part in enumerate(asked.adapters)]
        with turns.turn(account(request)), upload_errors():
            saved = save(account(request), asked.name, parts, asked.rank)
        try:
            services.scan(actor(request))
            scanned = True
        except BusyError:
            scanned = False
        row = LoraAdapter.objects.filter(path=finishing.path_of(saved.folder)).first()
        if row is not None:
            services.edit(row.pk, actor(request), notes=_notes(parts, saved))
            base = parts[0].adapter.base
            if base is not None and row.base_id != base.pk:  # the name that training recorded leads elsewhere
                with suppress(BusyError):
                    services.set_base(row.pk, base, actor(request), remember=False)
            row = LoraAdapter.objects.select_related("base").prefetch_related("tags").get(pk=row.pk)
        answer = SavedBlend.of(
            saved, method=asked.method, scanned=scanned, adapter=adapter_json(row) if row is not None else None
        )
        return Response(answer, status=status.HTTP_201_CREATED)


def _active(pk: int, index: int) -> LoraAdapter:
    adapter = LoraAdapter.objects.active().select_related("base").filter(pk=pk).first()
    if adapter is None:
        text = _("There is no active adapter with the ID %(id)s.") % {"id": pk}
        raise ApiError("adapter_inactive", text, 409, f"adapters.{index}.id")
    return adapter


def _notes(parts: list[Part], saved: Saved) -> str:
    """The recipe for people, where every adapter's page shows its notes and a search finds them."""
    recipe = " + ".join(f"{part.weight:g} × {part.adapter.name}" for part in parts if part.weight)
    values: dict[str, Any] = {"recipe": recipe, "rank": saved.rank}
    if saved.error is None:
        return _("Blend: %(recipe)s. Exact, with rank %(rank)s.") % values
    values |= {"overall": f"{saved.error.overall:.2%}", "worst": f"{saved.error.worst:.2%}", "layer": saved.error.layer}
    text = _(
        "Blend: %(recipe)s. Reduced to rank %(rank)s; relative error %(overall)s, in the worst layer %(worst)s "
        "(%(layer)s)."
    )
    return text % values
