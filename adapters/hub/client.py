"""What the hub is asked, by its own library: which files a repository has at a revision, and their bytes.

Imported when an import begins, not before: the library takes half a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from django.conf import settings
from huggingface_hub import HfApi, get_session, hf_hub_url, set_client_factory
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from adapters.failures import Refused

from . import hosts, names, reaching
from .reaching import LostError
from .snapshots import RemoteFile, Snapshot

AGENT = {"user-agent": "lora-portal"}  # and not what is installed here, which the library would tell
MOST_FILES = 20_000  # of a repository
SHA256, BLOB = 64, 40  # hexadecimal digits

set_client_factory(reaching.client)


def look(repo: str, revision: str) -> Snapshot:
    """The commit that a revision is now, and its files. Raises Refused, LostError."""
    api = HfApi(endpoint=settings.HF_ENDPOINT, token=settings.HUB_TOKEN or False, headers=AGENT)
    with _errors(repo=repo, revision=revision):
        info = api.model_info(repo, revision=revision, files_metadata=True)
    commit, siblings = info.sha, info.siblings or []
    if not isinstance(commit, str) or not names.COMMIT.match(commit):
        raise Refused("import_bad_answer", reason="sha")
    if len(siblings) > MOST_FILES:
        raise Refused("import_bad_answer", reason="siblings")
    return Snapshot(commit, tuple(_file(one) for one in siblings))


def _file(sibling: Any) -> RemoteFile:
    size = sibling.lfs.size if sibling.lfs is not None else sibling.size
    if not isinstance(sibling.rfilename, str) or type(size) is not int or size < 0:
        raise Refused("import_bad_answer", reason="size")
    if sibling.lfs is not None:
        return RemoteFile(sibling.rfilename, size, sha256=_digits(sibling.lfs.sha256, SHA256))
    return RemoteFile(sibling.rfilename, size, blob=_digits(sibling.blob_id, BLOB) if sibling.blob_id else "")


def _digits(value: Any, length: int) -> str:
    if not isinstance(value, str) or len(value) != length or not set(value.lower()) <= set("0123456789abcdef"):
        raise Refused("import_bad_answer", reason="oid")
    return value.lower()


@contextmanager
def reading(
    repo: str, commit: str, file: RemoteFile, offset: int, whole: float
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Where the bytes of a file begin, which is `offset` or 0, and the bytes. Raises Refused, LostError."""
    headers = build_hf_headers(token=settings.HUB_TOKEN or False, headers=AGENT)
    if offset:
        headers["range"] = f"bytes={offset}-"
    url = hf_hub_url(repo, file.path, revision=commit, endpoint=settings.HF_ENDPOINT)
    extensions = {"whole": max(1.0, whole), "most": file.size}
    with _errors(repo=repo, revision=commit, file=file.path):
        with get_session().stream("GET", url, headers=headers, extensions=extensions) as answer:
            hf_raise_for_status(answer)
            if answer.status_code not in (200, 206):
                raise Refused("import_bad_answer", reason=f"HTTP {answer.status_code}")
            start = 0
            if answer.status_code == 206:
                start = offset
                if not answer.headers.get("content-range", "").startswith(f"bytes {offset}-"):
                    raise Refused("import_bad_answer", reason="Content-Range")
            yield start, answer.iter_raw()


@contextmanager
def _errors(**details: str) -> Iterator[None]:
    """What the library raises, by what it means here. Its own sentences hold addresses and are not told."""
    try:
        yield
    except (Refused, LostError):
        raise
    except GatedRepoError:
        raise Refused("import_gated", **details) from None
    except RepositoryNotFoundError:
        raise Refused("import_repo_not_found", **details) from None
    except RevisionNotFoundError:
        raise Refused("import_revision_not_found", **details) from None
    except RemoteEntryNotFoundError:
        raise Refused("import_bad_answer", reason="404") from None
    except HfHubHTTPError as error:
        raise _refusal(error.response.status_code if error.response is not None else 0, details) from None
    except httpx2.TooManyRedirects:
        raise Refused("import_redirected", host=hosts.hub_name()) from None
    except httpx2.HTTPError:
        raise LostError from None
    except httpx2.InvalidURL:
        raise Refused("import_redirected", host="?") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError, RecursionError):
        raise Refused("import_bad_answer", reason="JSON") from None


def _refusal(status: int, details: dict[str, str]) -> Exception:
    if status in (401, 403):
        return Refused("import_denied", **details)
    if status == 404:
        return Refused("import_repo_not_found", **details)
    if status == 429:
        return Refused("import_rate_limited")
    if status >= 500 or status == 0:
        return LostError()
    return Refused("import_bad_answer", reason=f"HTTP {status}")
