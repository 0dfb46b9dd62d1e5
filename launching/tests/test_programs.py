"""Child processes: what they are told, what is kept of what they say, and their end."""

from __future__ import annotations

import os
import sys
import tempfile

import pytest

import launching


def python(code: str, timeout: float = 30.0, **options: object) -> launching.Ended:
    return launching.run([sys.executable, "-I", "-S", "-c", code], {}, timeout=timeout, **options)  # type: ignore[arg-type]


def test_what_it_says_and_how_it_ends_is_kept() -> None:
    done = python("import sys; print(sys.stdin.read()[::-1]); print('no', file=sys.stderr); sys.exit(3)", stdin=b"abc")
    assert done == launching.Ended(3, b"cba\n", b"no\n")


def test_an_open_file_is_its_input_from_where_it_stands() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"skipped-read")
        file.seek(8)
        assert python("import sys; print(sys.stdin.read())", stdin=file).output == b"read\n"


def test_more_than_the_bound_is_dropped_and_holds_nothing_up() -> None:
    code = "import sys; sys.stdout.write('a' * 3_000_000); sys.stderr.write('b' * 3_000_000); sys.exit(4)"
    assert python(code, longest=1000) == launching.Ended(4, b"a" * 1000, b"b" * 1000)


def test_one_that_takes_too_long_is_killed() -> None:
    read, write = os.pipe()
    with pytest.raises(launching.TookTooLongError):
        python(f"import time; time.sleep(60)  # {write}", timeout=0.3, descriptors=[write])
    os.close(write)
    assert os.read(read, 1) == b"", "nobody else holds the pipe's other end: the program is gone"
    os.close(read)


def test_one_that_closes_its_outputs_and_goes_on_is_killed_as_well() -> None:
    with pytest.raises(launching.TookTooLongError):
        python("import os, time; os.close(1); os.close(2); time.sleep(60)", timeout=0.3)


def test_its_input_stays_open_while_it_runs() -> None:
    code = (
        "import select, sys; ready = select.select([sys.stdin], [], [], 0.2)[0]; print('closed' if ready else 'open')"
    )
    assert python(code).output == b"open\n"


def test_it_has_no_files_but_those_passed() -> None:
    with tempfile.TemporaryFile() as ours, tempfile.TemporaryFile() as passed:
        os.set_inheritable(ours.fileno(), True)
        code = (
            "import os\n"
            f"for descriptor in ({ours.fileno()}, {passed.fileno()}):\n"
            "    try: os.fstat(descriptor); print('open')\n"
            "    except OSError: print('closed')\n"
        )
        assert python(code, descriptors=[passed.fileno()]).output == b"closed\nopen\n"


def test_the_environment_is_what_its_caller_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    monkeypatch.setenv("OURS", "kept")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    told = launching.without_secrets(MORE="1")
    assert "SECRET_KEY" not in told
    assert (told["OURS"], told["HF_HUB_OFFLINE"], told["MORE"]) == ("kept", "1", "1")
    assert launching.of_these("OURS", "NOT_SET", MORE="1") == {"OURS": "kept", "MORE": "1"}
    words = [sys.executable, "-I", "-S", "-c", "import os; print(sorted(os.environ))"]
    assert b"OURS" not in launching.run(words, {"LANG": "C"}, timeout=30).output


def test_a_program_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        launching.run(["/nowhere/to/be/found"], {}, timeout=1)


def test_what_it_has_said_is_heard_while_it_runs_and_whoever_hears_may_end_it() -> None:
    class EnoughError(Exception):
        pass

    said: list[bytes] = []

    def heard(output: bytes) -> None:
        said.append(output)
        if b"second" in output:
            raise EnoughError

    with pytest.raises(EnoughError):
        python("import time; print('first', flush=True); print('second', flush=True); time.sleep(60)", heard=heard)
    assert said[-1].startswith(b"first\n")
