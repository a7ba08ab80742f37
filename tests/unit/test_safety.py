"""What must not be in the code at all: pickle and its like, shells, and fetching what a caller names."""

import ast
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SERVED = sorted(path for package in ("lynceus", "service", "model_store") for path in (ROOT / package).rglob("*.py"))
# What turns bytes into code, or runs a shell.
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle", "code"}
CALLS = {
    "eval", "exec", "compile", "__import__", "breakpoint", "torch.load", "torch.jit.load", "torch.hub.load",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "np.load", "numpy.load", "pd.read_pickle", "os.system",
    "os.popen", "ElementTree.XMLParser", "tempfile.mktemp",
}  # fmt: skip
# What fetches. The S3 store goes where the settings point, the client where its user does.
FETCHES = {"urllib.request", "requests", "aiohttp", "ftplib", "telnetlib", "http.client", "fsspec", "httpx", "socket"}
MAY_FETCH = {"lynceus/call.py", "lynceus/client.py", "lynceus/key_file.py", "lynceus/tally.py"}
VOTABLE_READER = "astropy.io.votable"  # follows the addresses in a document


def imported(tree: ast.AST) -> set[str]:
    """Every module that a file imports, by its full name."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call by the name it is called by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def dangers(source: str) -> list[str]:
    """What a file does that it must not."""
    tree = ast.parse(source)
    roots = {name.split(".")[0] for name in imported(tree)}
    found = [*roots & MODULES, *(name for name, _ in called(tree) if name in CALLS)]
    for name, call in called(tree):
        options = {one.arg: ast.unparse(one.value) for one in call.keywords}
        found += [f"{name}({key}={text})" for key, text in options.items() if (key, text) == ("shell", "True")]
        found += [f"{name}({key}={text})" for key, text in options.items() if (key, text) == ("allow_pickle", "True")]
    return found


@pytest.mark.parametrize("path", SERVED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_and_no_shell(path: Path) -> None:
    assert dangers(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "torch.load('x')",
        "eval('1')",
        "yaml.load(text)",
        "np.load(file)",
        "subprocess.run('ls', shell=True)",
        "np.lib.format.read_array(f, allow_pickle=True)",
    ],
)
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert dangers(source)
    assert not dangers("network.eval()\nyaml.safe_load(text)\nsafetensors.torch.load_file(path)")


@pytest.mark.parametrize("path", SERVED, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_fetched_but_by_the_client_and_the_store(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    names = imported(ast.parse(path.read_text()))
    fetching = {one for one in FETCHES if any(name == one or name.startswith(f"{one}.") for name in names)}
    assert not fetching or name in MAY_FETCH
    if name != "lynceus/votable.py":  # which writes
        assert not [one for one in names if one.startswith(VOTABLE_READER)]


def test_no_shipped_version_holds_a_pickle() -> None:
    suffixes = {path.suffix for path in (ROOT / "model_store" / "bundles").rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".npy", ".npz", ".joblib"}


# --- The audit, against a database of ours


@contextmanager
def database(answer: dict[str, Any], status: int = 200) -> Iterator[str]:
    """An OSV server on loopback that knows something of one package."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(answer if asked["package"]["name"] == "holed" else {}).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


HOLE = {
    "id": "PYSEC-2026-1",
    "published": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "holed", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.3"}]}],
            "versions": ["1.2"],
        }
    ],
}


def audited(folder: Path, osv: str, *packages: str) -> subprocess.CompletedProcess[str]:
    (folder / "requirements.txt").write_text("\n".join(packages))
    command = [sys.executable, "-m", "tests.audit", str(folder / "requirements.txt"), "--osv", osv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_audit_names_what_is_vulnerable(tmp_path: Path) -> None:
    with database({"vulns": [HOLE]}) as osv:
        done = audited(tmp_path, osv, "holed==1.2", "sound==2.0")
        assert (done.returncode, done.stderr) == (1, "")
        assert "holed 1.2: PYSEC-2026-1, fixed in 1.3" in done.stdout
        assert "2 dependencies asked about, 1 with" in done.stdout
        assert audited(tmp_path, osv, "sound==2.0").returncode == 0


def test_the_audit_says_when_nobody_can_tell(tmp_path: Path) -> None:
    for osv in ("http://127.0.0.1:9/v1/query",):
        done = audited(tmp_path, osv, "sound==2.0")
        assert done.returncode == 2, done.stdout + done.stderr
        assert "nothing is known" in done.stderr
        assert "Traceback" not in done.stderr
    with database({}, status=503) as osv:
        assert audited(tmp_path, osv, "sound==2.0").returncode == 2


def test_every_dependency_is_pinned_to_one_version() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not re.fullmatch(r"[\w.-]+==[\w.!+]+", line)] == []
