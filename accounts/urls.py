from __future__ import annotations

from django.contrib.auth.views import LogoutView

from common.routes import both

from . import pages
from .views import SignIn

urlpatterns = [
    *both("login", SignIn.as_view(), name="login"),
    *both("logout", LogoutView.as_view(), name="logout"),
    *both("account", pages.account, name="account"),
    *both("tokens", pages.tokens, name="tokens"),
    *both("tokens/<int:pk>/revoke", pages.revoke_token, name="token-revoke"),
]
