from __future__ import annotations

from django.contrib.auth.views import LogoutView

from common.routes import optional_slash

from . import pages, people_pages
from .views import SignIn

urlpatterns = [
    *optional_slash("login", SignIn.as_view(), name="login"),
    *optional_slash("logout", LogoutView.as_view(), name="logout"),
    *optional_slash("account", pages.account, name="account"),
    *optional_slash("tokens", pages.tokens, name="tokens"),
    *optional_slash("tokens/<int:pk>/revoke", pages.revoke_token, name="token-revoke"),
    *optional_slash("people", people_pages.listing, name="people"),
    *optional_slash("people/new", people_pages.new, name="person-new"),
    *optional_slash("people/<int:pk>", people_pages.person, name="person"),
    *optional_slash("people/<int:pk>/role", people_pages.change_role, name="person-role"),
    *optional_slash("people/<int:pk>/deactivate", people_pages.deactivate, name="person-deactivate"),
    *optional_slash("people/<int:pk>/reactivate", people_pages.reactivate, name="person-reactivate"),
    *optional_slash("people/<int:pk>/password", people_pages.set_password, name="person-password"),
    *optional_slash("people/<int:pk>/link", people_pages.make_link, name="person-link"),
    *optional_slash("people/<int:pk>/sign-out", people_pages.sign_out, name="person-sign-out"),
    *optional_slash("people/<int:pk>/revoke", people_pages.revoke_token, name="person-token-revoke"),
    *optional_slash("people/<int:pk>/delete", people_pages.delete, name="person-delete"),
    *optional_slash("set-password/<str:uidb64>/<str:token>", people_pages.SetPassword.as_view(), name="set-password"),
]
