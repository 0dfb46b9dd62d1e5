"""Pages for administrators: who has an account here, what each may do, and since when nobody has seen them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.forms import SetPasswordForm, UsernameField
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import password_validators_help_texts
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.contrib.auth.views import INTERNAL_RESET_SESSION_TOKEN, PasswordResetConfirmView
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Case, Count, DateTimeField, F, Max, OuterRef, Q, QuerySet, Subquery, When
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from common.numbers import grouped

from . import people
from .decorators import administrator_required
from .models import AccountEvent, ApiToken, Role

PAGE_SIZE = 50
MOST_SEARCH_CHARS = 100
RECENT = 20  # events that a page shows; the administration has all
JUST_MADE = "made_link"  # a cookie: as with tokens, the database keeps no secret

ROLE_FLAGS = {
    Role.USER: Q(is_superuser=False, is_staff=False),
    Role.OPERATOR: Q(is_superuser=False, is_staff=True),
    Role.ADMIN: Q(is_superuser=True),
}
ORDERINGS = {
    "name": ("username",),
    "role": ("is_superuser", "is_staff", "username"),
    "seen": ("seen", "username"),
    "joined": ("date_joined", "pk"),
    "tokens": ("token_count", "username"),
}


class NewPersonForm(forms.Form):
    username = UsernameField(max_length=150, validators=[UnicodeUsernameValidator()])
    role = forms.ChoiceField(choices=Role.choices)
    password = forms.CharField(max_length=4096, required=False, strip=False)


class RoleForm(forms.Form):
    role = forms.ChoiceField(choices=Role.choices)


def with_facts(rows: QuerySet[User]) -> QuerySet[User]:
    """`token_count`: of those that have not ended; `seen`: when one last signed in or used a token, None: never."""
    tokens = ApiToken.objects.filter(user=OuterRef("pk")).order_by()
    own, left = tokens.values("user"), tokens.unended().values("user")
    return rows.annotate(
        token_count=Coalesce(Subquery(left.annotate(n=Count("pk")).values("n")), 0),
        used=Subquery(own.annotate(at=Max("last_used_at")).values("at")),
        seen=Case(
            When(Q(last_login=None) | Q(used__gt=F("last_login")), then=F("used")),
            default=F("last_login"),
            output_field=DateTimeField(),
        ),
    )


@administrator_required
@never_cache
@require_safe
def listing(request: HttpRequest) -> HttpResponse:
    """Everybody; `?search= ?show= ?ordering=` narrow and sort: `show` is a role, or `inactive`."""
    search = request.GET.get("search", "").replace("\0", "").strip()[:MOST_SEARCH_CHARS]
    found = User.objects.all()
    for word in search.split():
        named = Q(username__icontains=word) | Q(first_name__icontains=word) | Q(last_name__icontains=word)
        found = found.filter(named | Q(email__icontains=word))
    kinds = [
        ("", _("All"), Q()),
        (Role.ADMIN.value, _("Administrators"), ROLE_FLAGS[Role.ADMIN]),
        (Role.OPERATOR.value, _("Operators"), ROLE_FLAGS[Role.OPERATOR]),
        (Role.USER.value, _("Users"), ROLE_FLAGS[Role.USER]),
        ("inactive", _("Inactive"), Q(is_active=False)),
    ]
    counts = found.aggregate(**{f"n{index}": Count("pk", filter=rule) for index, (_v, _l, rule) in enumerate(kinds)})
    show = next((value for value, _label, _rule in kinds if value == request.GET.get("show")), "")
    rule = next(rule for value, _label, rule in kinds if value == show)
    ordering = request.GET.get("ordering", "")
    if ordering.removeprefix("-") not in ORDERINGS:
        ordering = "name"
    sign = "-" if ordering.startswith("-") else ""
    fields = [sign + field for field in ORDERINGS[ordering.removeprefix("-")]]
    page = Paginator(with_facts(found.filter(rule)).order_by(*fields), PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": [(user, Role.of(user)) for user in page],
        "kinds": [(value, label, counts[f"n{index}"]) for index, (value, label, _rule) in enumerate(kinds)],
        "show": show,
        "search": search,
        "ordering": ordering,
        "events": AccountEvent.objects.select_related("account")[:RECENT],
    }
    return render(request, "accounts/people.html", context)


@administrator_required
@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    """A POST makes an account; without a password the page after it shows a link at which its owner sets one."""
    form = NewPersonForm(request.POST if request.method == "POST" else None, initial={"role": Role.USER.value})
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        try:
            made = people.create(request.user, given["username"], Role(given["role"]), given["password"] or None)
        except ValidationError as error:
            form.add_error("username" if getattr(error, "code", "") == "taken" else "password", error)
        else:
            messages.success(request, _("The account “%(name)s” has been created.") % {"name": made.username})
            if given["password"]:
                return redirect("person", made.pk)
            return shown_once(request, made.pk, people.make_link(request.user, made.pk))
    context = {"form": form, "roles": role_choices(), "rules": password_validators_help_texts()}
    return render(request, "accounts/person_new.html", context, status=400 if form.errors else 200)


@administrator_required
@never_cache
@require_safe
def person(request: HttpRequest, pk: int) -> HttpResponse:
    return person_page(request, pk)


def person_page(request: HttpRequest, pk: int, status: int = 200, **more: Any) -> HttpResponse:
    user = get_object_or_404(with_facts(User.objects.all()), pk=pk)
    path = reverse("person", args=[pk])
    link = request.get_signed_cookie(JUST_MADE, "", max_age=60) or ""
    context = {
        "person": user,
        "role": Role.of(user),
        "own": user.pk == request.user.pk,
        "roles": role_choices(),
        "rules": password_validators_help_texts(),
        "link": request.build_absolute_uri(link) if link else "",
        "link_days": timedelta(seconds=settings.PASSWORD_RESET_TIMEOUT).days,
        "tokens": ApiToken.objects.unended().filter(user=user),
        "belongings": people.belongings(user),
        "events": AccountEvent.objects.filter(account=user)[:RECENT],
        **more,
    }
    response = render(request, "accounts/person.html", context, status=status)
    if link:
        response.delete_cookie(JUST_MADE, path=path, samesite="Strict")
    return response


def shown_once(request: HttpRequest, pk: int, link: str) -> HttpResponse:
    """To the person's page, which alone shows the link, once: the browser brings it along."""
    answer = redirect("person", pk)
    answer.set_signed_cookie(
        JUST_MADE,
        link,
        max_age=60,
        path=reverse("person", args=[pk]),
        secure=request.is_secure(),
        httponly=True,
        samesite="Strict",
    )
    return answer


def role_choices() -> list[tuple[Role, str]]:
    return [
        (Role.USER, _("Can use active adapters.")),
        (Role.OPERATOR, _("Can scan, activate and delete adapters, and use monitoring.")),
        (Role.ADMIN, _("Full access, including accounts.")),
    ]


# What its buttons do ------------------------------------------------------------------------------------------------


@administrator_required
@require_POST
def change_role(request: HttpRequest, pk: int) -> HttpResponse:
    form = RoleForm(request.POST)
    if not form.is_valid():
        return person_page(request, pk, 400)
    return done(
        request,
        pk,
        lambda: people.set_role(request.user, pk, Role(form.cleaned_data["role"])),
        _("The role has been changed."),
    )


@administrator_required
@require_POST
def deactivate(request: HttpRequest, pk: int) -> HttpResponse:
    told = _("The account has been deactivated. Its sessions were ended, and its API tokens do not work.")
    return done(request, pk, lambda: people.deactivate(request.user, pk), told)


@administrator_required
@require_POST
def reactivate(request: HttpRequest, pk: int) -> HttpResponse:
    told = _("The account has been reactivated. Its API tokens work again.")
    return done(request, pk, lambda: people.reactivate(request.user, pk), told)


@administrator_required
@sensitive_post_parameters()
@require_POST
def set_password(request: HttpRequest, pk: int) -> HttpResponse:
    user = get_object_or_404(User, pk=pk)
    form = SetPasswordForm(user, request.POST)
    if not form.is_valid():
        return person_page(request, pk, 400, form=form)
    told = _("The password has been set, and all sessions of the account were ended.")
    return done(request, pk, lambda: people.set_password(request.user, pk, form.cleaned_data["new_password1"]), told)


@administrator_required
@require_POST
def make_link(request: HttpRequest, pk: int) -> HttpResponse:
    try:
        return shown_once(request, pk, people.make_link(request.user, pk))
    except people.RefusedError as refusal:
        messages.error(request, str(refusal))
    except User.DoesNotExist:
        raise Http404 from None
    return redirect("person", pk)


@administrator_required
@require_POST
def sign_out(request: HttpRequest, pk: int) -> HttpResponse:
    own = request.session.session_key if pk == request.user.pk else None
    try:
        sessions, tokens = people.sign_out(request.user, pk, request.POST.get("tokens") == "on", own)
    except User.DoesNotExist:
        raise Http404 from None
    ended = ngettext("%(count)s session ended.", "%(count)s sessions ended.", sessions) % {"count": grouped(sessions)}
    revoked = ngettext("%(count)d token revoked.", "%(count)d tokens revoked.", tokens) % {"count": tokens}
    messages.success(request, ended)
    if tokens:
        messages.success(request, revoked)
    return redirect("person", pk)


@administrator_required
@require_POST
def revoke_token(request: HttpRequest, pk: int) -> HttpResponse:
    """Of the token whose id the body has; nothing where it names none of this account."""
    number = request.POST.get("token", "")
    wanted = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0
    try:
        token = people.revoke_token(request.user, pk, wanted)
    except User.DoesNotExist:
        raise Http404 from None
    if token is not None:
        messages.success(request, _("The token “%(name)s” has been revoked.") % {"name": token.name})
    return redirect("person", pk)


@administrator_required
@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    try:
        name = people.delete(request.user, pk, request.POST.get("confirm", ""))
    except people.RefusedError as refusal:
        messages.error(request, str(refusal))
        return redirect("person", pk)
    except User.DoesNotExist:
        raise Http404 from None
    messages.success(request, _("The account “%(name)s” has been deleted.") % {"name": name})
    return redirect("people")


def done(request: HttpRequest, pk: int, change: Any, told: str) -> HttpResponse:
    """Make a change and say so on the person's page, or why not; nothing where nothing had to change."""
    try:
        if change() is not False:
            messages.success(request, told)
    except people.RefusedError as refusal:
        messages.error(request, str(refusal))
    except User.DoesNotExist:
        raise Http404 from None
    return redirect("person", pk)


# The link's page ----------------------------------------------------------------------------------------------------


class SetPassword(PasswordResetConfirmView):
    """Whoever has the link of an active account sets its password, once. The secret leaves the address at once."""

    template_name = "accounts/set_password.html"

    def get_user(self, uidb64: str) -> Any:
        user = super().get_user(uidb64)
        return user if user is not None and user.is_active else None

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_context_data(**kwargs), "rules": password_validators_help_texts()}

    def render_to_response(self, context: dict[str, Any], **kwargs: Any) -> HttpResponse:
        status = 410 if not self.validlink else 400 if context["form"].errors else 200
        return super().render_to_response(context, status=status, **kwargs)

    def form_valid(self, form: Any) -> HttpResponse:
        if not people.use_link(self.user, form.cleaned_data["new_password1"]):
            self.validlink = False
            return self.render_to_response(self.get_context_data())
        del self.request.session[INTERNAL_RESET_SESSION_TOKEN]
        messages.success(self.request, _("Your password has been set. You can sign in with it now."))
        return redirect("login")
