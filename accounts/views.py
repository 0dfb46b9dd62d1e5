"""Sign in and out."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .browsers import remember
from .forms import SignInForm
from .throttle import Failures


class SignIn(LoginView):
    template_name = "accounts/login.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        response = super().form_valid(form)
        remember(self.request, response, form.get_user())
        if isinstance(form, SignInForm) and form.failures is not None:
            messages.warning(self.request, told(form.failures))
        return response

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        response = super().form_invalid(form)
        if isinstance(form, SignInForm) and form.retry_after is not None:
            response.status_code = 429
            response.headers["Retry-After"] = str(form.retry_after)
        return response


def told(failures: Failures) -> str:
    text = ngettext(
        "%(count)d failed sign-in attempt since your last sign-in, on %(time)s from %(address)s.",
        "%(count)d failed sign-in attempts since your last sign-in, the latest on %(time)s from %(address)s.",
        failures.count,
    )
    time = date_format(localtime(failures.at), "DATETIME_FORMAT")
    return text % {"count": failures.count, "address": failures.address or _("an unknown address"), "time": time}


def admins_door(request: HttpRequest, extra_context: object = None) -> HttpResponse:
    """The admin has no sign-in page of its own: there is one door. Raises PermissionDenied for users."""
    if request.user.is_authenticated and not request.user.is_staff:
        raise PermissionDenied
    return redirect_to_login(request.GET.get("next") or reverse("admin:index"))


def own_password(request: HttpRequest, extra_context: object = None) -> HttpResponse:
    """The account page counts how often the present password is tried; the admin's own page does not."""
    return redirect("account")
