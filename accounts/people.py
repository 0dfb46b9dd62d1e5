"""What administrators do to accounts: each change is guarded, noted, and ends the access that it takes away.

Nobody takes away their own rights, so one administrator is always left: whoever acts is looked at again under the lock
that two of them share.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.tokens import default_token_generator
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.urls import reverse
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from django.utils.translation import gettext as _

from .decorators import AdministratorsOnlyError
from .models import AccountEvent, AccountEventKind, ApiToken, Role
from .tokens import revoke

logger = logging.getLogger(__name__)

SESSIONS_AT_ONCE = 500  # rows that are read, or removed, by one statement


class RefusedError(Exception):
    """A change that must not happen; the message is a sentence for whoever wanted it."""


def note(kind: AccountEventKind, account: Any, actor: Any, **details: Any) -> None:
    AccountEvent.objects.create(
        kind=kind,
        account=account,
        account_name=account.get_username(),
        actor=actor,
        actor_name=actor.get_username() if actor else "",
        details=details,
    )
    logger.info("account %s: %s by user %s", account.pk, kind.value, actor.pk if actor else "-")


@contextmanager
def changing(actor: Any, pk: int) -> Iterator[User]:
    """The account with this id, as it is now and locked together with all administrators, in a transaction.

    Raises AdministratorsOnlyError where `actor` is none any more, User.DoesNotExist.
    """
    with transaction.atomic():
        wanted = models.Q(pk=pk) | models.Q(is_superuser=True)
        locked = {user.pk: user for user in User.objects.select_for_update().filter(wanted).order_by("pk")}
        acting = locked.get(actor.pk)
        if acting is None or not (acting.is_superuser and acting.is_active):
            raise AdministratorsOnlyError
        if pk not in locked:
            raise User.DoesNotExist
        yield locked[pk]


def refuse_own(actor: Any, user: User, sentence: str) -> None:
    if user.pk == actor.pk:
        raise RefusedError(sentence)


def create(actor: Any, username: str, role: Role, password: str | None) -> User:
    """A new account; without a password nobody can sign in to it until a link has set one. Raises ValidationError."""
    new = User(username=username)
    if password:
        validate_password(password, new)
    new.set_password(password or None)
    new.is_superuser, new.is_staff = role == Role.ADMIN, role != Role.USER
    taken = ValidationError(_("There already is an account with this name."), "taken")
    with changing(actor, actor.pk):
        # Spellings that a database or a reader takes for the same name are one name.
        if User.objects.filter(username__iexact=username).exists():
            raise taken
        try:
            with transaction.atomic():
                new.save()
        except IntegrityError:
            raise taken from None
        note(AccountEventKind.CREATED, new, actor, to=role.value)
    return new


def set_role(actor: Any, pk: int, role: Role) -> bool:
    """False where the account had it. Raises RefusedError."""
    with changing(actor, pk) as user:
        before = Role.of(user)
        refuse_own(actor, user, _("You cannot change your own role. Another administrator can."))
        flags = (role == Role.ADMIN, role != Role.USER)
        if (user.is_superuser, user.is_staff) == flags:
            return False
        user.is_superuser, user.is_staff = flags
        user.save(update_fields=["is_superuser", "is_staff"])
        note(AccountEventKind.ROLE, user, actor, **{"from": before.value, "to": role.value})
    return True


def deactivate(actor: Any, pk: int) -> bool:
    """No signing in and no token works from now on; what runs ends. Raises RefusedError."""
    with changing(actor, pk) as user:
        refuse_own(actor, user, _("You cannot deactivate your own account. Another administrator can."))
        if not user.is_active:
            return False
        user.is_active = False
        user.save(update_fields=["is_active"])
        note(AccountEventKind.DEACTIVATED, user, actor)
    end_sessions(pk)
    return True


def reactivate(actor: Any, pk: int) -> bool:
    with changing(actor, pk) as user:
        if user.is_active:
            return False
        user.is_active = True
        user.save(update_fields=["is_active"])
        note(AccountEventKind.REACTIVATED, user, actor)
    return True


def set_password(actor: Any, pk: int, password: str) -> None:
    """Ends the account's sessions, and links to set a password. Raises RefusedError, ValidationError."""
    with changing(actor, pk) as user:
        refuse_own(actor, user, _("Change your own password on the page “Account”."))
        validate_password(password, user)
        user.set_password(password)
        user.save(update_fields=["password"])
        note(AccountEventKind.PASSWORD_SET, user, actor)
    end_sessions(pk)


def make_link(actor: Any, pk: int) -> str:
    """The path at which the account's owner sets a password, once, within PASSWORD_RESET_TIMEOUT; nothing is stored.

    Of an account that has no password yet, earlier links end. Raises RefusedError.
    """
    with changing(actor, pk) as user:
        refuse_own(actor, user, _("Change your own password on the page “Account”."))
        if not user.is_active:
            raise RefusedError(_("Reactivate the account first."))
        if not user.has_usable_password():
            user.set_unusable_password()  # another random mark: it is part of what a link is signed with
            user.save(update_fields=["password"])
        note(AccountEventKind.LINK_MADE, user, actor)
    uid = urlsafe_base64_encode(force_bytes(user.pk))
    return reverse("set-password", args=[uid, default_token_generator.make_token(user)])


def use_link(user: Any, password: str) -> bool:
    """Set the password that the owner of `user` chose at a link; False where the link has ended meanwhile."""
    before = user.password
    user.set_password(password)
    with transaction.atomic():
        if not User.objects.filter(pk=user.pk, password=before, is_active=True).update(password=user.password):
            return False
        note(AccountEventKind.LINK_USED, user, user)
    end_sessions(user.pk)
    return True


def sign_out(actor: Any, pk: int, with_tokens: bool, keep: str | None = None) -> tuple[int, int]:
    """End the account's sessions but `keep`, and revoke its tokens: how many of each there were."""
    with changing(actor, pk) as user:
        note(AccountEventKind.SIGNED_OUT, user, actor)
    sessions = end_sessions(pk, keep)
    tokens = sum(revoke(token) for token in ApiToken.objects.unended().filter(user=pk)) if with_tokens else 0
    return sessions, tokens


def revoke_token(actor: Any, pk: int, token_pk: int) -> ApiToken | None:
    """None where the account has no such token, or it had ended."""
    with changing(actor, pk) as user:
        token = ApiToken.objects.filter(user=user, pk=token_pk).first()
        if token is None or not revoke(token):
            return None
        note(AccountEventKind.TOKEN_REVOKED, user, actor, name=token.name)
        return token


def delete(actor: Any, pk: int, typed: str) -> str:
    """The account and what belongs to it (`belongings`); its name. Raises RefusedError."""
    with changing(actor, pk) as user:
        refuse_own(actor, user, _("You cannot delete your own account. Another administrator can."))
        name = user.get_username()
        if typed.strip() != name:
            raise RefusedError(_("The name that was typed is not the account's. Nothing was deleted."))
        note(AccountEventKind.DELETED, user, actor)
        user.delete()
    end_sessions(pk)
    return name


def belongings(user: User) -> list[tuple[str, int]]:
    """What is deleted together with an account: (kind of things, how many), where there are some."""
    found = []
    for relation in get_user_model()._meta.related_objects:
        if relation.on_delete is models.CASCADE and isinstance(relation, models.ManyToOneRel):
            kind: Any = relation.related_model
            count = kind._base_manager.filter(**{relation.field.name: user}).count()
            if count:
                found.append((str(kind._meta.verbose_name_plural), count))
    return found


def end_sessions(pk: int, keep: str | None = None) -> int:
    """Sessions do not say whose they are until they are read: one after another, without a lock."""
    living = Session.objects.filter(expire_date__gt=timezone.now()).exclude(session_key=keep or "")
    own = [
        session.session_key
        for session in living.iterator(chunk_size=SESSIONS_AT_ONCE)
        if session.get_decoded().get(SESSION_KEY) == str(pk)
    ]
    for start in range(0, len(own), SESSIONS_AT_ONCE):
        Session.objects.filter(session_key__in=own[start : start + SESSIONS_AT_ONCE]).delete()
    return len(own)
