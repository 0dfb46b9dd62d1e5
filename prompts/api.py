"""`/api/prompts`: one's own saved prompts and those that others share."""

from __future__ import annotations

from typing import cast

from django.contrib.auth.models import User
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import CanInfer
from common.api import Pagination
from inference.params import body

from .answers import listed, whole
from .flows import PromptBody, change, new, own, visible, wanted


class PromptsView(APIView):
    """`?search= ?part= ?whose=`; one's own first, by name."""

    permission_classes = [CanInfer]

    def get(self, request: Request) -> Response:
        user_id = request.user.pk or 0
        pages = Pagination()
        page = pages.paginate_queryset(wanted(user_id, request.query_params), request, view=self) or []
        return pages.get_paginated_response([listed(row, user_id) for row in page])

    def post(self, request: Request) -> Response:
        made = new(cast(User, request.user), request.data)
        return Response(whole(made, made.owner_id), status=201)


class PromptView(APIView):
    """Everybody reads a shared one; only its owner changes and deletes it."""

    permission_classes = [CanInfer]

    def get(self, request: Request, pk: int) -> Response:
        user_id = request.user.pk or 0
        return Response(whole(visible(user_id, pk), user_id))

    def patch(self, request: Request, pk: int) -> Response:
        changed = change(own(request.user, pk), body(PromptBody, request.data))
        return Response(whole(changed, changed.owner_id))

    def delete(self, request: Request, pk: int) -> Response:
        own(request.user, pk).delete()
        return Response(status=204)
