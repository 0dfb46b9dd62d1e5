from __future__ import annotations

import secrets
from argparse import ArgumentParser
from string import ascii_letters, digits
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import IntegrityError, transaction

LETTERS = ascii_letters + digits


class Command(BaseCommand):
    help = "Create an admin with a random password if there is none, and print both once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--username", default="admin")

    def handle(self, *args: Any, **options: Any) -> None:
        users: Any = get_user_model()
        if users.objects.filter(is_superuser=True).exists():
            return
        username = options["username"]
        while users.objects.filter(username=username).exists():  # an ordinary account has taken the name
            username = f"{options['username']}-{secrets.token_hex(2)}"
        password = "".join(secrets.choice(LETTERS) for _ in range(16))  # about 95 bits
        try:
            with transaction.atomic():
                users.objects.create_superuser(username=username, password=password)
        except IntegrityError:  # a second start made it at the same moment, and printed it
            return
        self.stdout.write(
            f"Admin account created; the password is shown only once:  user {username}  password {password}"
        )
