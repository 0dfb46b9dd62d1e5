"""`/api/chat/...`: one's own conversations."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

from django.conf import settings
from django.contrib.auth.models import User
from django.http import Http404, HttpResponse
from django.utils.text import slugify
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import CanInfer
from common.api import ApiError, Pagination
from common.shapes import MAX_ID
from common.turns import heavy

from . import answers
from .assistants import talk, visible
from .flows import edit_answer
from .markdown import markdown
from .models import Conversation
from .search import having, snippets
from .transfer import exported_json, import_file, whole_json
from .whole import delete

MOST_CONVERSATIONS = 10_000
MOST_DELETED = 200  # by one call


class ConversationBody(serializers.Serializer[Any]):
    title = serializers.CharField(max_length=200, required=False, allow_blank=True)
    system = serializers.CharField(
        max_length=settings.MAX_PROMPT_CHARS, required=False, allow_blank=True, trim_whitespace=False
    )
    target = serializers.CharField(max_length=128, required=False, allow_blank=True)
    leaf = serializers.IntegerField(min_value=1, required=False)  # of a change
    assistant = serializers.IntegerField(min_value=1, required=False)  # of a beginning


class VersionBody(serializers.Serializer[Any]):
    message = serializers.IntegerField(min_value=1, max_value=MAX_ID)
    content = serializers.CharField(max_length=settings.MAX_PROMPT_CHARS, trim_whitespace=False)


class ConversationChange(ConversationBody):
    title = serializers.CharField(max_length=200, required=False)
    pinned = serializers.BooleanField(required=False)
    folder = serializers.CharField(max_length=80, required=False, allow_blank=True)


class DeletionBody(serializers.Serializer[Any]):
    ids = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=MAX_ID), allow_empty=False, max_length=MOST_DELETED
    )


def own(request: Request, pk: int) -> Conversation:
    found = Conversation.objects.of(request.user).filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


class ConversationsView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        rows = Conversation.objects.of(request.user)
        if folder := request.query_params.get("folder", ""):
            rows = rows.filter(folder=folder[:80].replace("\0", ""))
        search = request.query_params.get("search", "").strip()[:200].replace("\0", "")
        if search:
            rows = rows.filter(pk__in=having(rows, search))
        pages = Pagination()
        page = pages.paginate_queryset(rows, request, view=self)
        found = snippets([row.pk for row in page or []], search) if search else {}
        more = [{"snippet": found.get(row.pk)} if search else {} for row in page or []]
        listed = [answers.ListedConversation.of(row, **also) for row, also in zip(page or [], more, strict=True)]
        return pages.get_paginated_response(listed)

    def post(self, request: Request) -> Response:
        body = ConversationBody(data=request.data)
        body.is_valid(raise_exception=True)
        self.check_room(request)
        given = {key: value for key, value in body.validated_data.items() if key != "leaf"}
        begun = self.begin(request, given.pop("assistant", None))
        for name, value in given.items():
            setattr(begun, name, value)
        begun.save()
        return Response(answers.Conversation.of(begun), status=201)

    def begin(self, request: Request, assistant_id: int | None) -> Conversation:
        """A conversation that is not saved yet. Raises ApiError 404."""
        if assistant_id is None:
            return Conversation(user=cast(User, request.user))
        try:
            return talk(visible(assistant_id, request.user.pk or 0), request.user)
        except Http404:
            raise ApiError("not_found", _("The requested object was not found."), 404, "assistant") from None

    def check_room(self, request: Request) -> int:
        """How many more this person may have. Raises ApiError 409 where that is none."""
        room = MOST_CONVERSATIONS - Conversation.objects.of(request.user).count()
        if room < 1:
            raise ApiError("too_many", _("You have too many conversations. Delete some first."), 409)
        return room


class FoldersView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        return Response(answers.Folders.of(results=Conversation.objects.of(request.user).folders()))


class ConversationDeletionView(APIView):
    permission_classes = [CanInfer]

    @heavy
    def post(self, request: Request) -> Response:
        """Whatever of these is one's own; what is gone already is no fault."""
        body = DeletionBody(data=request.data)
        body.is_valid(raise_exception=True)
        chosen = Conversation.objects.of(request.user).filter(pk__in=body.validated_data["ids"])
        return Response(answers.Deleted.of(deleted=delete(chosen)))


class ConversationImportView(ConversationsView):
    http_method_names = ["post", "options"]

    @heavy
    def post(self, request: Request) -> Response:
        made = import_file(request.user, request.data, self.check_room(request))
        return Response(answers.ImportedConversation.of(made[0], imported=len(made)), status=201)


class ConversationView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        return Response(whole_json(own(request, pk)))

    def patch(self, request: Request, pk: int) -> Response:
        conversation = own(request, pk)
        body = ConversationChange(data=request.data)
        body.is_valid(raise_exception=True)
        changes = dict(body.validated_data)
        leaf = changes.pop("leaf", None)
        changes.pop("assistant", None)
        if leaf is not None:
            if not conversation.messages.filter(pk=leaf).exists():
                raise ApiError("invalid", _("Message not found."), 400, "leaf")
            changes["leaf_id"] = leaf
        if changes:
            Conversation.objects.filter(pk=conversation.pk).update(**changes)
        return Response(answers.Conversation.of(own(request, pk)))

    def delete(self, request: Request, pk: int) -> Response:
        own(request, pk)
        delete(Conversation.objects.of(request.user).filter(pk=pk))
        return Response(status=204)


class VersionsView(APIView):
    permission_classes = [CanInfer]

    def post(self, request: Request, pk: int) -> Response:
        conversation = own(request, pk)
        body = VersionBody(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        version = edit_answer(conversation, given["message"], given["content"])
        return Response(answers.ChatMessage.of(version), status=201)


class ConversationShareView(APIView):
    permission_classes = [CanInfer]

    def post(self, request: Request, pk: int) -> Response:
        """A link of before stays the same as long as it is not revoked."""
        Conversation.objects.filter(pk=own(request, pk).pk, share=None).update(share=uuid4())
        return Response(answers.Conversation.of(own(request, pk)))

    def delete(self, request: Request, pk: int) -> Response:
        Conversation.objects.filter(pk=own(request, pk).pk).update(share=None)
        return Response(status=204)


class ConversationExportView(APIView):
    permission_classes = [CanInfer]

    @heavy
    def get(self, request: Request, pk: int, kind: str) -> HttpResponse:
        conversation = own(request, pk)
        name = slugify(conversation.title)[:60] or f"conversation-{conversation.pk}"
        if kind == "md":
            response = HttpResponse(markdown(conversation), content_type="text/markdown; charset=utf-8")
        else:
            response = Response(exported_json(conversation))  # type: ignore[assignment]
        response["Content-Disposition"] = f'attachment; filename="{name}.{kind}"'
        return response
