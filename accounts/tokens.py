"""Issue, find and revoke API tokens. Pages, admin, API and commands all come through here."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext as _

from .models import SHOWN, ApiToken, Scope, digest_of, new_secret
from .signals import token_revoked

logger = logging.getLogger(__name__)

MAX_DAYS = 3650
MAX_SECRET = 200  # longer values are no tokens of ours and are not hashed


def default_scopes(user: Any) -> list[str]:
    return [Scope.INFER.value, Scope.OPERATE.value] if user.is_staff else [Scope.INFER.value]


def clean_scopes(user: Any, scopes: Iterable[str] | None) -> list[str]:
    """The scopes in a fixed order. Raises ValidationError for one that is unknown or above the user's rights."""
    if scopes is None:
        return default_scopes(user)
    wanted = set(scopes)
    unknown = sorted(wanted - set(Scope.values))
    if unknown:
        raise ValidationError(_("Unknown scope: %(scope)s.") % {"scope": ", ".join(unknown)}, "unknown_scope")
    if not wanted:
        raise ValidationError(_("A token needs at least one scope."), "no_scope")
    if Scope.OPERATE in wanted and not user.is_staff:
        raise ValidationError(_("Only operators can have tokens with the scope “operate”."), "scope_above_role")
    return [scope for scope in Scope.values if scope in wanted]


def issue_token(
    user: Any, name: str = "", scopes: Iterable[str] | None = None, days: int | None = None
) -> tuple[ApiToken, str]:
    """Make a token and return its row with the secret, which is nowhere kept and cannot be shown again.

    `days` until it expires; None: never. Raises ValidationError.
    """
    if days is not None and not 1 <= days <= MAX_DAYS:
        raise ValidationError(
            _("A token can be valid for 1 to %(limit)d days.") % {"limit": MAX_DAYS}, "days_out_of_range"
        )
    name = name.strip() or _("token")
    if len(name) > 100 or not name.isprintable():
        raise ValidationError(_("A name can have up to 100 printable characters."), "bad_name")
    secret = new_secret()
    token = ApiToken.objects.create(
        user=user,
        name=name,
        prefix=secret[:SHOWN],
        digest=digest_of(secret),
        scopes=" ".join(clean_scopes(user, scopes)),
        expires_at=None if days is None else timezone.now() + timedelta(days=days),
    )
    logger.info("token %s issued for user %s, scopes %s", token.pk, user.pk, token.scopes)
    return token, secret


def revoke(token: ApiToken) -> bool:
    """End a token now. False where it had ended already."""
    now = timezone.now()
    if not ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now):
        return False
    token.revoked_at = now
    logger.info("token %s of user %s revoked", token.pk, token.user_id)
    token_revoked.send(ApiToken, token=token)
    return True


def find_usable(secret: str) -> ApiToken | None:
    """The token of this secret with its user, and its use noted; None where there is no usable one."""
    if not secret or len(secret) > MAX_SECRET:
        return None
    # Every call of the API asks this: one row by its unique digest, judged here. The conditions and the order of
    # `usable().first()` would make Django compose a statement for longer than the database takes to answer it.
    found = ApiToken.objects.filter(digest=digest_of(secret)).select_related("user").order_by()
    token = next(iter(found), None)
    if token is None or token.state != "usable" or not token.user.is_active:
        return None
    token.touch()
    return token


def still_usable(token: ApiToken) -> bool:
    """Look again, for connections that outlive one request."""
    return ApiToken.objects.usable().filter(pk=token.pk).exists()
