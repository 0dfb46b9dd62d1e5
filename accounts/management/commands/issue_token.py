from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from accounts.models import Scope
from accounts.tokens import issue_token


class Command(BaseCommand):
    help = "Issue an API token and print it (and nothing else) on standard output. It cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--name", default="command line", help="what the token is for")
        parser.add_argument(
            "--scope",
            action="append",
            choices=Scope.values,
            help="can be given twice; by default infer, and for operators also operate",
        )
        parser.add_argument("--days", type=int, help="days until it expires; by default never")

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model()
        user = users.objects.filter(**{users.USERNAME_FIELD: options["username"]}).first()
        if user is None:
            raise CommandError(f"There is no user {options['username']!r}: add one on the page “People” first.")
        if not user.is_active:
            raise CommandError(
                f"The account {options['username']!r} is disabled: reactivate it on the page “People” first."
            )
        try:
            _token, secret = issue_token(user, options["name"], options["scope"], options["days"])
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        self.stdout.write(secret)
