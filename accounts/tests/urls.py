"""Addresses that the authentication tests call: each kind of protection once."""

from __future__ import annotations

from adrf.views import APIView as AsyncAPIView
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.decorators import operator_required
from accounts.permissions import CanInfer, IsOperator
from common.routes import optional_slash


class Who(APIView):
    permission_classes = [IsAuthenticated]

    def get(self, request: Request) -> Response:
        return Response({"user": request.user.username, "token": getattr(request.auth, "name", None)})

    post = get


class WhoAsync(AsyncAPIView):
    permission_classes = [IsAuthenticated]

    async def get(self, request: Request) -> Response:
        return Response({"user": request.user.username})

    post = get


class Operate(Who):
    permission_classes = [IsOperator]


class Infer(Who):
    permission_classes = [CanInfer]


@operator_required
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("operators only")


@operator_required
async def async_page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("operators only")


urlpatterns = [
    *optional_slash("api/who", Who.as_view(), "who"),
    *optional_slash("api/who-async", WhoAsync.as_view()),
    *optional_slash("api/operate", Operate.as_view()),
    *optional_slash("api/infer", Infer.as_view()),
    path("page", page),
    path("async-page", async_page),
    path("models", page, name="models"),
    path("admin/", admin.site.urls),
    path("", include("accounts.urls")),
]
handler403 = "accounts.tests.urls.plain_forbidden"


def plain_forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse("no", status=403)
