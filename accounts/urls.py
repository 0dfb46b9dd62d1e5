from __future__ import annotations

from django.contrib.auth.views import LogoutView

from common.routes import optional_slash

from . import pages
from .views import SignIn

urlpatterns = [
    *optional_slash("login", SignIn.as_view(), name="login"),
    *optional_slash("logout", LogoutView.as_view(), name="logout"),
    *optional_slash("account", pages.account, name="account"),
    *optional_slash("tokens", pages.tokens, name="tokens"),
    *optional_slash("tokens/<int:pk>/revoke", pages.revoke_token, name="token-revoke"),
]
