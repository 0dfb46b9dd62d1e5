from __future__ import annotations

from django.contrib.auth.views import LogoutView

from loraportal.routes import both

from .views import SignIn

urlpatterns = [
    *both("login", SignIn.as_view(), name="login"),
    *both("logout", LogoutView.as_view(), name="logout"),
]
