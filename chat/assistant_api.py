"""`/api/assistants`: one's own and the shared ones; made and changed by the rules of the page's form; asked."""

from __future__ import annotations

from typing import Annotated, Any, Self, cast

from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.db import transaction
from django.http import Http404
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from pydantic import AfterValidator, Field, model_validator
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.grants import Grant
from accounts.permissions import CanInfer
from common.api import ApiError, Pagination
from common.shapes import CHARACTERS, Id, Lenient, Shape, Str, refuse
from inference.api.doors import Door
from inference.api.rest import answer_json
from inference.engine.params import SamplingParams
from inference.errors import InferenceError
from inference.gateway.targets import Target, find, find_adapter
from inference.params import Prompt, body

from . import answers, flows
from .assistants import answer_of, problem_of, visible
from .forms import MAX_SAMPLE, NUMBERS, AssistantForm
from .models import Assistant, Conversation, State
from .runs import Run

TEXTS = ("name", "description", "icon", "system", "target")
FIELDS = {"sample_lines": "samples", **{name: f"params.{name}" for name in NUMBERS}}  # of the form: of the API
CODES = {"max_length": "too_long", "required": "required", "invalid_choice": "invalid_choice"}


def assistant_json(assistant: Assistant, user_id: int, problem: str) -> dict[str, Any]:
    """`problem`: why its model cannot answer now, as a code; "" where it can."""
    mine = assistant.owner_id == user_id
    return answers.Assistant.of(assistant, owner=assistant.owner.get_username(), mine=mine, problem=problem or None)


def _one_line(value: str) -> str:
    if len(value.splitlines()) > 1:
        raise refuse("one_line")
    return value


class AssistantBody(Shape):
    """Only types are looked at here; the page's form has the rules."""

    name: Str = ""
    description: Str = ""
    icon: Str = ""
    system: Str = ""
    target: Annotated[Str, Field(description="Slug of an adapter or a base.")] = ""
    shared: bool = False
    params: Annotated[SamplingParams, Field(description="Of max_tokens, temperature, top_p.")] = SamplingParams()
    samples: list[Annotated[str, Field(max_length=MAX_SAMPLE), CHARACTERS, AfterValidator(_one_line)]] = []

    @model_validator(mode="after")
    def _numbers_alone(self) -> Self:
        for name in self.params.given():
            if name not in NUMBERS:
                raise refuse("extra_forbidden", param=f"params.{name}")
        return self

    def form_data(self) -> dict[str, Any]:
        """What the page's form would send."""
        sent = {name: getattr(self, name) for name in (*TEXTS, "shared") if name in self.model_fields_set}
        if "samples" in self.model_fields_set:
            sent["sample_lines"] = "\n".join(self.samples)
        if "params" in self.model_fields_set:
            given = self.params.given()
            sent.update({name: given.get(name) for name in NUMBERS})
        return sent


class QuestionBody(Lenient, extra="forbid"):
    """`model` by slug, or an adapter by id; without one the assistant's own answers."""

    message: Prompt
    conversation: Id | None = None
    model: str | Id | None = None


def save(assistant: Assistant, data: Any) -> Assistant:
    """Raises ApiError 400 with the first field at fault."""
    before = AssistantForm(instance=assistant).initial
    form = AssistantForm({**before, **body(AssistantBody, data).form_data()}, instance=assistant)
    if not form.is_valid():
        name, problems = next(iter(form.errors.as_data().items()))
        problem = problems[0]
        message = str(next(iter(problem.messages)))
        raise ApiError(CODES.get(problem.code or "", "invalid"), message, 400, FIELDS.get(name, name))
    return form.save()


class AssistantsView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        user_id = request.user.pk or 0
        pages = Pagination()
        rows = Assistant.objects.visible_to(user_id).select_related("owner")
        page = pages.paginate_queryset(rows, request, view=self) or []
        problems = {target: problem_of(target) for target in {row.target for row in page}}
        return pages.get_paginated_response([assistant_json(row, user_id, problems[row.target]) for row in page])

    def post(self, request: Request) -> Response:
        made = save(Assistant(owner=cast(User, request.user)), request.data)
        return Response(assistant_json(made, made.owner_id, problem_of(made.target)), status=201)


class AssistantView(APIView):
    """Everybody reads a shared one; only its owner changes and deletes it."""

    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        user_id = request.user.pk or 0
        assistant = visible(pk, user_id)
        return Response(assistant_json(assistant, user_id, problem_of(assistant.target)))

    def patch(self, request: Request, pk: int) -> Response:
        changed = save(self.own(request, pk), request.data)
        return Response(assistant_json(changed, changed.owner_id, problem_of(changed.target)))

    def delete(self, request: Request, pk: int) -> Response:
        self.own(request, pk).delete()
        return Response(status=204)

    def own(self, request: Request, pk: int) -> Assistant:
        found = Assistant.objects.select_related("owner").filter(owner_id=request.user.pk, pk=pk).first()
        if found is None:
            raise Http404
        return found


class AssistantChatView(Door):
    """Ask an assistant and wait for the whole answer; in a conversation both are kept, without one nothing is."""

    permission_classes = [CanInfer]

    async def post(self, request: Request, pk: int) -> Response:
        grant = Grant.of_request(request)
        assistant = await database_sync_to_async(visible)(pk, grant.user_id)
        asked = body(QuestionBody, request.data)
        message = asked.message
        target = await database_sync_to_async(target_of)(asked.model, assistant)
        if asked.conversation is None:
            try:
                return Response(answer_json(target, await answer_of(assistant, target, message, grant)))
            except ApiError as refusal:
                if refusal.param == "messages":
                    refusal.param = "message"
                raise
        conversation, run = await database_sync_to_async(begin)(asked.conversation, assistant, target, message, grant)
        return Response(await to_the_end(run, target, conversation.pk))


def target_of(model: str | int | None, assistant: Assistant) -> Target:
    """The model named by slug, the adapter named by id, or the assistant's own. Raises ApiError."""
    if model is None:
        return find(assistant.target)
    if isinstance(model, str):
        return find(model)
    try:
        return find_adapter(model)
    except Http404:
        raise InferenceError("unknown_target", param="model", detail={"name": str(model)}) from None


@transaction.atomic
def begin(
    conversation_id: int, assistant: Assistant, target: Target, message: str, grant: Grant
) -> tuple[Conversation, Run]:
    """The question and its answer-to-be at the end of one's own conversation with this assistant. Raises ApiError."""
    own = Conversation.objects.filter(user_id=grant.user_id, assistant=assistant)
    # Locked: of two that ask at once the second sees what the first did.
    conversation = own.select_for_update().filter(pk=conversation_id).first()
    if conversation is None:
        raise ApiError("not_found", _("The requested object was not found."), 404, "conversation")
    if conversation.leaf is not None and conversation.leaf.live_state == State.RUNNING:
        raise ApiError("busy", _("This answer is already being generated."), 409, "conversation")
    question, answer = flows.ask(conversation, conversation.leaf_id, message, target.slug, target.name)
    prompt = flows.prompt_of(conversation, question.pk)
    language = get_language() or ""
    return conversation, Run(answer, prompt, SamplingParams.model_validate(conversation.params), grant, language)


async def to_the_end(run: Run, target: Target, conversation_id: int) -> dict[str, Any]:
    """Start the run and wait; a client that leaves ends it. Raises ApiError as the run did."""
    run.start()
    try:
        with run.reader() as news:
            while not run.ended:
                await news.wait()
                news.clear()
    finally:
        if not run.ended:
            run.stop()
    if run.error is not None:
        raise run.error
    if "finish_reason" not in run.info:  # its task was cancelled: the process ends
        raise InferenceError("shutting_down")
    said = {"model": target.slug, "response": run.text, "response_length": len(run.text), "digest": run.digest}
    return answers.AssistantAnswer.of(**run.info, **said, conversation=conversation_id, message=run.message_id)
