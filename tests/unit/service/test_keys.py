"""API keys: their spelling, their file while it changes, and what is never shown."""

import hashlib
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import keys as module
from service.keys import Key, Keyring, KeysError, find, read_keys
from service.settings import Settings

ROOT = Path(__file__).parents[3]
OLD, NEW = "the-old-key-of-the-dome", "the-new-key-of-the-dome"
HEX = hashlib.sha256(OLD.encode()).hexdigest()


class Clock:
    """Goes on by two seconds whenever it is read: every look is due."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 2.0
        return self.now


def opens(ring: Keyring, key: str) -> bool:
    """Whether a key is known now, as a request finds it."""
    if ring.is_due():
        ring.look()
    return find(ring.keys, key) is not None


def ring_of(file: Path, on_failure: Callable[[], None] = lambda: None) -> Keyring:
    return Keyring((), file, on_failure, Clock())


def test_keys_are_read_plain_or_hashed_with_and_without_a_rate() -> None:
    text = f"# the dome\n\ndome {OLD}\n  pipeline\tsha256:{'AB' * 32}   600\r\n;backup {NEW} 0.5"
    dome, pipeline, backup = read_keys(text)
    assert dome == Key("dome", hashlib.sha256(OLD.encode()).digest())
    assert pipeline == Key("pipeline", b"\xab" * 32, 600.0)
    assert (backup.name, backup.rate) == ("backup", 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no API key"),
        ("# nobody\n", "no API key"),
        (f"dome {OLD}\nsecret-alone-on-a-line", "line 2"),
        (f"dome {OLD} 10 more", "line 1"),
        (f"do/me {OLD}", "line 1"),
        ("dome tooshort", "16 to 512"),
        (f"dome {'é' * 20}", "ASCII"),
        (f"dome sha256:{'ab' * 31}", "64"),
        (f"dome {OLD} many", "above 0"),
        (f"dome {OLD} 0", "above 0"),
        (f"dome {OLD} nan", "above 0"),
        (f"dome {OLD} inf", "above 0"),
        (f"dome {OLD}\nother sha256:{HEX}", "twice"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_line(text: str, words: str) -> None:
    with pytest.raises(KeysError, match=words) as caught:
        read_keys(text)
    assert OLD not in str(caught.value)
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_keys_or_a_refusal(text: str) -> None:
    with suppress(KeysError):
        assert read_keys(text)


@given(st.lists(st.from_regex(r"[!-~]{16,40}", fullmatch=True), unique=True, min_size=1, max_size=5), st.data())
def test_a_key_opens_as_the_one_it_is_and_nothing_else_does(plain: list[str], data: st.DataObject) -> None:
    keys = [Key(f"key{index}", hashlib.sha256(one.encode()).digest()) for index, one in enumerate(plain)]
    presented = data.draw(st.sampled_from(plain) | st.text())
    found = find(keys, presented)
    assert (found and found.name) == (f"key{plain.index(presented)}" if presented in plain else None)


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(known: bytes, presented: bytes) -> bool:
        compared.append(known)
        return known == presented

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    keys = read_keys(f"one {OLD}\ntwo {NEW}\nthree {'x' * 20}")
    for presented in (OLD, NEW, "x" * 20, "nobody", ""):
        compared.clear()
        find(keys, presented)
        assert compared == [key.digest for key in keys]


def test_a_changed_file_is_taken_up(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"dome {OLD}")
    ring = ring_of(file)
    assert [opens(ring, OLD), opens(ring, NEW)] == [True, False]
    file.write_text(f"dome {OLD}\ndome {NEW}\n")  # both, while the dome changes over
    assert [opens(ring, OLD), opens(ring, NEW)] == [True, True]
    file.write_text(f"dome {NEW}\n")
    assert [opens(ring, OLD), opens(ring, NEW)] == [False, True]


def test_a_change_in_place_of_the_same_size_and_time_is_taken_up(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"dome {OLD}")
    ring, stated = ring_of(file), file.stat()
    file.write_text(f"dome {NEW}")
    os.utime(file, ns=(stated.st_atime_ns, stated.st_mtime_ns))
    assert [opens(ring, OLD), opens(ring, NEW)] == [False, True]


def test_the_swapped_link_of_a_kubernetes_secret_is_taken_up(tmp_path: Path) -> None:
    for version, key in (("..1", OLD), ("..2", NEW)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text(f"dome {key}")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    ring = ring_of(tmp_path / "keys")
    assert opens(ring, OLD)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert [opens(ring, OLD), opens(ring, NEW)] == [False, True]


@pytest.mark.parametrize("broken", [b"", b"dome short", b"dome \xff\xfe", b"x" * (1 << 21), None])
def test_a_broken_file_leaves_the_keys_as_they_were(
    tmp_path: Path, broken: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[None] = []
    file = tmp_path / "keys"
    file.write_text(f"dome {OLD}")
    ring = ring_of(file, lambda: failures.append(None))
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(broken)
    with caplog.at_level(logging.INFO):
        assert [opens(ring, OLD) for _ in range(3)] == [True] * 3
    assert (len(failures), len(caplog.records)) == (1, 1)  # said once, not at every look
    file.write_text(f"dome {NEW}")
    assert [opens(ring, OLD), opens(ring, NEW)] == [False, True]


def test_a_file_is_read_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"dome {OLD}")
    times = iter([0.0, 0.5, 0.9, 1.0, 1.5, 2.0])
    ring = Keyring((), file, clock=lambda: next(times))
    assert [ring.is_due() for _ in range(5)] == [False, False, True, False, True]


def test_without_its_file_the_server_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot be read"):
        Keyring((), tmp_path / "keys")
    (tmp_path / "keys").write_text("# nobody")
    with pytest.raises(KeysError, match="no API key"):
        Keyring(read_keys(f"dome {OLD}"), tmp_path / "keys")


def test_keys_of_the_environment_stay_beside_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"dome {NEW}")
    ring = Keyring(read_keys(f"night {OLD}"), tmp_path / "keys", clock=Clock())
    assert [opens(ring, OLD), opens(ring, NEW)] == [True, True]


def test_no_key_is_kept_or_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LYNCEUS_API_KEYS", f"night {OLD}")
    file = tmp_path / "keys"
    file.write_text(f"dome {NEW}")
    settings = Settings()
    ring = Keyring(settings.api_keys, file, clock=Clock())
    file.write_text(f"dome {NEW} 60")
    with caplog.at_level(logging.INFO):
        assert opens(ring, NEW)
    shown = repr(settings) + repr(ring.keys) + repr(vars(ring)) + settings.model_dump_json() + caplog.text
    assert OLD not in shown
    assert NEW not in shown
    assert "night" in caplog.text


@pytest.mark.parametrize("given", ["dome short", f"{OLD}", "dome"])
def test_bad_keys_in_the_environment_stop_the_server_and_are_not_shown(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LYNCEUS_API_KEYS", given)
    with pytest.raises(KeysError) as caught:
        Settings()
    assert given not in str(caught.value)


def test_without_keys_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYNCEUS_API_KEYS", " ")  # as an empty variable of a compose file
    assert Settings().api_keys == ()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_the_commands_in_the_docs_make_a_key_that_opens(tmp_path: Path) -> None:
    [commands] = re.findall(r"```sh\n(key=.*?)```", (ROOT / "docs" / "security.md").read_text(), re.DOTALL)
    script = commands + '\nprintf %s "$key"'
    done = subprocess.run(["sh", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    [key] = read_keys((tmp_path / "keys").read_text())
    assert find([key], done.stdout.strip().splitlines()[-1]) == key
    assert key.rate is not None
