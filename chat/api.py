"""`/api/chat/...`: one's own conversations."""

from __future__ import annotations

from typing import Any, cast

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Q
from django.db.models.functions import Lower
from django.http import Http404, HttpResponse
from django.utils.text import slugify
from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import CanInfer
from common.api import ApiError, Pagination

from .assistants import talk, visible
from .markdown import markdown
from .models import Conversation, ConversationQuerySet, Message
from .present import conversation_json, import_json, whole_json

MOST_CONVERSATIONS = 10_000


class ConversationBody(serializers.Serializer[Any]):
    title = serializers.CharField(max_length=200, required=False, allow_blank=True)
    system = serializers.CharField(
        max_length=settings.MAX_PROMPT_CHARS, required=False, allow_blank=True, trim_whitespace=False
    )
    target = serializers.CharField(max_length=128, required=False, allow_blank=True)
    leaf = serializers.IntegerField(min_value=1, required=False)  # of a change
    assistant = serializers.IntegerField(min_value=1, required=False)  # of a beginning


def own(request: Request, pk: int) -> Conversation:
    found = Conversation.objects.of(request.user).filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def having(rows: ConversationQuerySet, text: str) -> set[int]:
    """Ids of the conversations with `text` in their title or a message; letters' case aside, whatever the collation."""
    messages = Message.objects.filter(conversation__in=rows)
    lower = text.lower()
    found: set[int] = set()
    for queryset, field, key in ((rows, "title", "pk"), (messages, "content", "conversation_id")):
        same = Q(**{f"{field}__icontains": text}) | Q(lowered__contains=lower)
        found.update(queryset.annotate(lowered=Lower(field)).filter(same).order_by().values_list(key, flat=True))
    return found


class ConversationsView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        rows = Conversation.objects.of(request.user)
        if search := request.query_params.get("search", "").strip()[:200].replace("\0", ""):
            rows = rows.filter(pk__in=having(rows, search))
        pages = Pagination()
        page = pages.paginate_queryset(rows, request, view=self)
        return pages.get_paginated_response([conversation_json(row) for row in page or []])

    def post(self, request: Request) -> Response:
        body = ConversationBody(data=request.data)
        body.is_valid(raise_exception=True)
        self.check_room(request)
        given = {key: value for key, value in body.validated_data.items() if key != "leaf"}
        begun = self.begin(request, given.pop("assistant", None))
        for name, value in given.items():
            setattr(begun, name, value)
        begun.save()
        return Response(conversation_json(begun), status=201)

    def begin(self, request: Request, assistant_id: int | None) -> Conversation:
        """A conversation that is not saved yet. Raises ApiError 404."""
        if assistant_id is None:
            return Conversation(user=cast(User, request.user))
        try:
            return talk(visible(assistant_id, request.user.pk or 0), request.user)
        except Http404:
            raise ApiError("not_found", _("There is no such thing."), 404, "assistant") from None

    def check_room(self, request: Request) -> None:
        if Conversation.objects.of(request.user).count() >= MOST_CONVERSATIONS:
            raise ApiError("too_many", _("You have too many conversations. Delete some first."), 409)


class ConversationImportView(ConversationsView):
    http_method_names = ["post", "options"]

    def post(self, request: Request) -> Response:
        self.check_room(request)
        return Response(conversation_json(import_json(request.user, request.data)), status=201)


class ConversationView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        return Response(whole_json(own(request, pk)))

    def patch(self, request: Request, pk: int) -> Response:
        conversation = own(request, pk)
        body = ConversationBody(data=request.data)
        body.is_valid(raise_exception=True)
        changes = dict(body.validated_data)
        leaf = changes.pop("leaf", None)
        changes.pop("assistant", None)
        if leaf is not None:
            if not conversation.messages.filter(pk=leaf).exists():
                raise ApiError("invalid", _("There is no such message."), 400, "leaf")
            changes["leaf_id"] = leaf
        if changes:
            Conversation.objects.filter(pk=conversation.pk).update(**changes)
        return Response(conversation_json(own(request, pk)))

    def delete(self, request: Request, pk: int) -> Response:
        own(request, pk).delete()
        return Response(status=204)


class ConversationExportView(APIView):
    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int, kind: str) -> HttpResponse:
        conversation = own(request, pk)
        name = slugify(conversation.title)[:60] or f"conversation-{conversation.pk}"
        if kind == "md":
            response = HttpResponse(markdown(conversation), content_type="text/markdown; charset=utf-8")
        else:
            response = Response(whole_json(conversation))  # type: ignore[assignment]
        response["Content-Disposition"] = f'attachment; filename="{name}.{kind}"'
        return response
