"""Pages about one's own account."""

from __future__ import annotations

from typing import cast

from django import forms
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import password_validators_help_texts
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from . import people
from .browsers import remember
from .forms import NewPasswordForm
from .models import AccountEventKind, ApiToken, Scope, digest_of
from .tokens import MAX_DAYS, default_scopes, issue_token, revoke

EXPIRIES = [
    ("30", gettext_lazy("in 30 days")),
    ("90", gettext_lazy("in 90 days")),
    ("365", gettext_lazy("in a year")),
    ("", gettext_lazy("never")),
]
SCOPE_HELP = {
    Scope.INFER: gettext_lazy("Send prompts to active adapters and base models."),
    Scope.OPERATE: gettext_lazy("Scan, activate, deactivate and delete adapters."),
}


JUST_MADE = "made_token"  # a cookie: the database keeps no secret, not even for a moment


class TokenForm(forms.Form):
    name = forms.CharField(max_length=100)
    scopes = forms.MultipleChoiceField(choices=Scope.choices)
    days = forms.IntegerField(min_value=1, max_value=MAX_DAYS, required=False)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def tokens(request: HttpRequest) -> HttpResponse:
    """One's own tokens. A POST makes one and redirects, so that a reload makes no other; the page after it alone shows
    the secret, which the browser brings along."""
    form = TokenForm(request.POST or None, initial={"scopes": default_scopes(request.user), "days": "90"})
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        try:
            _token, made = issue_token(request.user, given["name"], given["scopes"], given["days"])
        except ValidationError as error:
            form.add_error(None, error)
        else:
            answer = redirect("tokens")
            path, secure = reverse("tokens"), request.is_secure()
            answer.set_signed_cookie(
                JUST_MADE, made, max_age=60, path=path, secure=secure, httponly=True, samesite="Strict"
            )
            return answer
    own = ApiToken.objects.for_user(request.user)
    secret = request.get_signed_cookie(JUST_MADE, "", max_age=60) or ""
    response = render(
        request,
        "accounts/tokens.html",
        {
            "form": form,
            "issued": own.filter(digest=digest_of(secret)).first() if secret else None,
            "secret": secret,
            "usable": [token for token in own if token.state == "usable"],
            "ended": [token for token in own if token.state != "usable"][:20],
            "scopes": [
                (scope, SCOPE_HELP[scope]) for scope in Scope if scope != Scope.OPERATE or request.user.is_staff
            ],
            "expiries": EXPIRIES,
        },
        status=400 if form.errors else 200,
    )
    if secret:
        response.delete_cookie(JUST_MADE, path=reverse("tokens"), samesite="Strict")
    return response


@login_required
@require_POST
def revoke_token(request: HttpRequest, pk: int) -> HttpResponse:
    token = get_object_or_404(ApiToken.objects.for_user(request.user), pk=pk)
    if revoke(token):
        messages.success(request, _("The token “%(name)s” has been revoked.") % {"name": token.name})
    return redirect("tokens")


@login_required
@never_cache
@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
def account(request: HttpRequest) -> HttpResponse:
    """Who one is here; a POST changes the password and ends one's other sessions."""
    form = NewPasswordForm(cast(User, request.user), request.POST or None)
    if request.method == "POST" and form.is_valid():
        update_session_auth_hash(request, form.save())
        people.note(AccountEventKind.PASSWORD_CHANGED, request.user, request.user)
        messages.success(request, _("Your password has been changed. Your sessions in other browsers were signed out."))
        response: HttpResponse = redirect("account")
        remember(request, response, request.user)
        return response
    context = {"form": form, "rules": password_validators_help_texts()}
    response = render(request, "accounts/account.html", context, status=400 if form.errors else 200)
    if form.retry_after is not None:
        response.status_code = 429
        response.headers["Retry-After"] = str(form.retry_after)
    return response
