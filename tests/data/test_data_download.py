"""Downloads: what Keras is asked for, what a failure leaves behind (nothing), and what kill -9 leaves (nothing or all).

No test uses the network. Most replace the one function that calls Keras; one program runs the real Keras against a
server on this machine, and one is killed at every step it takes in the file system.
"""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from bncourse.data import DataError, fashion_mnist, keras_files, load_fashion_mnist, load_mnist, mnist

ORIGIN = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
LOADERS = {"mnist": load_mnist, "fashion-mnist": load_fashion_mnist}


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


@pytest.fixture
def contents(write_mnist, fashion_files, tmp_path) -> dict[str, bytes]:
    """The files on the server."""
    return {"mnist.npz": write_mnist(tmp_path / "server").read_bytes(), **fashion_files}


@pytest.fixture
def fetched(contents, monkeypatch) -> list[tuple[str, str, str]]:
    """A download that works; what it was asked for is noted."""
    calls = []

    def fetch(url: str, target: Path, checksum: str, algorithm: str) -> None:
        calls.append((url, checksum, algorithm))
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(contents[target.name])

    monkeypatch.setattr(keras_files, "_fetch", fetch)
    return calls


def failing_fetch(monkeypatch, error: BaseException, after: int = 0) -> None:
    """A download that writes half a file and fails, after so many good ones."""
    done = []

    def fetch(url: str, target: Path, *_: str) -> None:
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"half a fi")
        if len(done) == after:
            raise error
        done.append(url)

    monkeypatch.setattr(keras_files, "_fetch", fetch)


# ---- what is asked for -----------------------------------------------------------------------------------------


def test_mnist_is_asked_for_with_the_official_checksum(fetched, cache):
    load_mnist(validation=5)
    checksum = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
    assert fetched == [(f"{ORIGIN}mnist.npz", checksum, "sha256")]


def test_fashion_mnist_is_asked_for_with_the_publishers_checksums(fetched, cache):
    load_fashion_mnist(validation=5)
    assert fetched == [
        (f"{ORIGIN}train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "md5"),
        (f"{ORIGIN}train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", "md5"),
        (f"{ORIGIN}t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", "md5"),
        (f"{ORIGIN}t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", "md5"),
    ]


@pytest.mark.parametrize(("module", "files"), [("mnist", mnist.FILES), ("fashion_mnist", fashion_mnist.FILES)])
def test_addresses_and_names_are_those_of_the_installed_keras(module, files):
    """Oracle: the source text of Keras's own loaders, read without importing Keras."""
    spec = importlib.util.find_spec("keras")
    text = (Path(spec.origin).parent / "src" / "datasets" / f"{module}.py").read_text()
    assert f'"{keras_files.ORIGIN}"' in text
    for name, checksum in files.checksums.items():
        assert name in text
        assert files.algorithm == "md5" or checksum in text
    if files.subfolder:
        assert f'os.path.join("datasets", "{files.subfolder}")' in text


# ---- how Keras is called, with another library in its place -------------------------------------------------------

REAL_FETCH = keras_files._fetch


@pytest.fixture
def keras_stub(monkeypatch):
    """Put a module with our own get_file in place of keras.utils, and say that TensorFlow is there already."""

    def install(get_file: object) -> None:
        utils = types.ModuleType("keras.utils")
        utils.get_file = get_file
        monkeypatch.setitem(sys.modules, "keras", types.ModuleType("keras"))
        monkeypatch.setitem(sys.modules, "keras.utils", utils)
        monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))

    return install


def test_keras_gets_the_checksum_and_the_temporary_folder(keras_stub, tmp_path):
    asked = {}
    keras_stub(lambda **options: asked.update(options))
    REAL_FETCH("http://here/a.gz", tmp_path / "fresh" / "a.gz", "abc", "md5")
    assert asked == {
        "fname": "a.gz",
        "origin": "http://here/a.gz",
        "file_hash": "abc",
        "hash_algorithm": "md5",
        "cache_dir": str(tmp_path),
        "cache_subdir": "fresh",
    }


def test_the_progress_bar_stays_out_of_notebooks(keras_stub, tmp_path, capsys):
    keras_stub(lambda **_: print("1/10 [====>"))
    REAL_FETCH("http://here/a.gz", tmp_path / "fresh" / "a.gz", "abc", "md5")
    assert capsys.readouterr().out == ""


def test_silent_servers_are_given_up_and_the_setting_is_put_back(keras_stub, tmp_path):
    seen = []

    def get_file(**_: str) -> None:
        seen.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    keras_stub(get_file)
    with pytest.raises(TimeoutError):
        REAL_FETCH("http://here/a.gz", tmp_path / "fresh" / "a.gz", "abc", "md5")
    assert seen == [30.0]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("loaded", [True, False])
def test_tensorflow_is_only_ever_loaded_through_tf_layers(keras_stub, monkeypatch, tmp_path, loaded):
    """Else tf.layers would be lost to the rest of the process; but a process that lost it may still download."""
    keras_stub(lambda **_: None)
    imported = []
    real_import = importlib.import_module
    monkeypatch.setattr(
        importlib,
        "import_module",
        lambda name: imported.append(name) or (real_import(name) if name.startswith("keras") else None),
    )
    if not loaded:
        monkeypatch.delitem(sys.modules, "tensorflow")
    REAL_FETCH("http://here/a.gz", tmp_path / "fresh" / "a.gz", "abc", "md5")
    assert imported == ([] if loaded else ["bncourse.tf_layers.runtime"]) + ["keras.utils"]


# ---- a download that works -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("mnist", ["mnist.npz"]),
        ("fashion-mnist", sorted(f"fashion-mnist/{file}" for file in fashion_mnist.FILES.checksums)),
    ],
)
def test_files_end_in_keras_cache_and_nothing_else_does(fetched, cache, name, left):
    data = LOADERS[name](validation=5)
    assert files_below(cache) == left
    assert [p.name for p in cache.iterdir()] == [left[0].split("/")[0]]
    assert data.source.endswith(f"from Keras's cache, downloaded from {ORIGIN}")


@pytest.mark.parametrize("name", LOADERS)
def test_the_second_time_nothing_is_downloaded(fetched, cache, name):
    LOADERS[name](validation=5)
    calls = len(fetched)
    assert LOADERS[name](validation=5).source.endswith("from Keras's cache")
    assert len(fetched) == calls


def test_folders_without_the_file_are_passed_over_and_left_empty(fetched, cache, tmp_path, monkeypatch):
    for folder in ("argument", "variable"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("BNCOURSE_DATA", str(tmp_path / "variable"))
    load_mnist(folder=tmp_path / "argument", validation=5)
    assert files_below(cache) == ["mnist.npz"]
    assert files_below(tmp_path / "argument") + files_below(tmp_path / "variable") == []


def test_other_files_in_the_cache_stay(fetched, cache):
    cache.mkdir(parents=True)
    (cache / "imdb.npz").write_bytes(b"other data")
    load_mnist(validation=5)
    load_fashion_mnist(validation=5)
    assert (cache / "imdb.npz").read_bytes() == b"other data"


def test_empty_subfolder_is_filled(fetched, cache):
    (cache / "fashion-mnist").mkdir(parents=True)
    assert len(load_fashion_mnist(validation=5).train) == 7


def test_empty_subfolder_is_filled_where_a_rename_needs_a_free_name(fetched, cache, monkeypatch):
    """As on Windows."""
    replace = Path.replace

    def strict(self: Path, target: Path) -> Path:
        if target.is_dir():
            raise PermissionError(f"{target} exists")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", strict)
    (cache / "fashion-mnist").mkdir(parents=True)
    assert len(load_fashion_mnist(validation=5).train) == 7


def test_another_process_was_quicker(fetched, cache, write_fashion, monkeypatch):
    publish = keras_files._publish

    def late(files: keras_files.FileSet, fresh: Path, home: Path) -> None:
        write_fashion(cache)
        publish(files, fresh, home)

    monkeypatch.setattr(keras_files, "_publish", late)
    assert len(load_fashion_mnist(validation=5).train) == 7


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_files_are_as_readable_as_any_other(fetched, cache, tmp_path):
    load_mnist(validation=5)
    load_fashion_mnist(validation=5)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    assert (cache / "fashion-mnist").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (cache / "mnist.npz").stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode


# ---- a download that fails -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "after"), [("mnist", 0), ("fashion-mnist", 0), ("fashion-mnist", 3)])
def test_offline_says_what_to_do(cache, tmp_path, monkeypatch, name, after):
    reason = Exception("no route to host")
    failing_fetch(monkeypatch, reason, after)
    with pytest.raises(DataError, match="was not found and could not be downloaded from") as caught:
        LOADERS[name](folder=tmp_path)
    message = str(caught.value)
    for part in (
        ORIGIN,
        "(no route to host)",
        f"the folder given as argument ({tmp_path})",
        f"Keras's cache ({cache})",
        "put what is missing there",
        "set BNCOURSE_DATA",
        "load_digits()",
    ):
        assert part in message
    assert caught.value.__cause__ is reason
    assert list(cache.iterdir()) == []


def test_interrupting_a_download_leaves_nothing(cache, monkeypatch):
    failing_fetch(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        load_mnist()
    assert list(cache.iterdir()) == []


def test_cache_that_cannot_be_made(fetched, tmp_path, monkeypatch):
    (tmp_path / "taken").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "taken"))
    with pytest.raises(DataError, match="could not be downloaded"):
        load_mnist()


def test_subfolder_with_other_contents_is_left_alone(fetched, cache):
    home = cache / "fashion-mnist"
    home.mkdir(parents=True)
    (home / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is in the way: it has other contents; move it away"):
        load_fashion_mnist()
    assert files_below(cache) == ["fashion-mnist/notes.txt"]
    assert fetched == []


def test_subfolder_filled_with_other_contents_during_the_download(fetched, cache, monkeypatch):
    publish = keras_files._publish

    def late(files: keras_files.FileSet, fresh: Path, home: Path) -> None:
        home.mkdir()
        (home / "notes.txt").write_text("mine")
        publish(files, fresh, home)

    monkeypatch.setattr(keras_files, "_publish", late)
    with pytest.raises(DataError, match="could not be downloaded"):
        load_fashion_mnist()
    assert files_below(cache) == ["fashion-mnist/notes.txt"]


# ---- killed at every step --------------------------------------------------------------------------------------

KILLED_AT_EVERY_STEP = r"""
import json, os, shutil, signal, sys
from pathlib import Path
from bncourse import data
from bncourse.data import keras_files

name, server, home = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
os.environ["KERAS_HOME"] = str(home)
cache = home / "datasets"

def fetch(url, target, checksum, algorithm):
    content = (server / target.name).read_bytes()
    target.parent.mkdir(exist_ok=True)
    with open(target, "wb") as file:
        file.write(content[: len(content) // 2])
    with open(target, "ab") as file:
        file.write(content[len(content) // 2 :])

def load(download):
    return data.load(name, validation=5, download=download)

def killed_at(step):
    "Load in a child that kills itself before its step in the cache; True if it was killed, False if it finished."
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == signal.SIGKILL
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        changes = event == "open" or event.startswith(("os.", "shutil."))
        if changes and any(str(a).startswith(str(home)) for a in arguments):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    try:
        load(download=True)
    finally:
        os._exit(0)

def state():
    try:
        return len(load(download=False).train)
    except data.DataError as error:
        return "absent" if "was not found, and download=False" in str(error) else str(error)

keras_files._fetch = fetch
states, again = [], []
step, killed = 0, True
while killed:
    step += 1
    shutil.rmtree(home, ignore_errors=True)
    killed = killed_at(step)
    states.append(state())
    again.append(len(load(download=True).train))
print(json.dumps({"states": states, "again": again}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("name", LOADERS)
def test_killed_at_any_step_leaves_nothing_or_all(contents, tmp_path, name):
    server = tmp_path / "server"
    for file, content in contents.items():
        (server / file).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", KILLED_AT_EVERY_STEP, name, str(server), str(tmp_path / "home")],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # forking is for processes of one thread
    )
    assert done.stderr == ""
    result = json.loads(done.stdout)
    states = result["states"]
    changes = states.index(7)  # 12 training images less 5 for validation
    assert states == ["absent"] * changes + [7] * (len(states) - changes)
    assert changes >= 5
    assert len(states) - changes >= 2
    assert set(result["again"]) == {7}


# ---- the real Keras, and a server on this machine --------------------------------------------------------------

REAL_KERAS = r"""
import dataclasses, json, socket, sys
from pathlib import Path
from bncourse import data
from bncourse.data import fashion_mnist, keras_files, mnist

url, cache, report, checksums = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
official = {"mnist": mnist.FILES, "fashion-mnist": fashion_mnist.FILES}
keras_files._PATIENCE = 1.0

def attempt(name, path, wrong=()):
    known = {file: checksums[file] for file in official[name].checksums}
    known.update({file: official[name].checksums[file] for file in wrong})
    files = dataclasses.replace(official[name], checksums=known)
    mnist.FILES = fashion_mnist.FILES = files
    keras_files.ORIGIN = url + path
    try:
        outcome = len(data.load(name, validation=5).train)
    except data.DataError as error:
        outcome = str(error)
    left = sorted(str(p.relative_to(cache)) for p in cache.rglob("*"))
    return {"outcome": outcome, "left": left}

results = {
    "absent": attempt("mnist", "absent/"),
    "wrong": attempt("mnist", "good/", wrong=["mnist.npz"]),
    "wrong-third": attempt("fashion-mnist", "good/", wrong=["t10k-images-idx3-ubyte.gz"]),
    "short": attempt("mnist", "short/"),
    "silent": attempt("mnist", "silent/"),
    "mnist": attempt("mnist", "good/"),
    "fashion-mnist": attempt("fashion-mnist", "good/"),
}
results["timeout"] = socket.getdefaulttimeout()
from bncourse.tf_layers import tf1
results["tf.layers"] = callable(tf1.layers.batch_normalization)
report.write_text(json.dumps(results))
"""


@pytest.fixture
def server(contents):
    """Serve /good/<file>; /short/ breaks off half-way, /silent/ never answers, the rest is 404."""
    released = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            _, kind, name = self.path.split("/")
            if kind == "silent":
                released.wait(20)
                return
            body = contents.get(name)
            if kind == "absent" or body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if kind == "short" else body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        released.set()
        running.shutdown()
        thread.join()


def test_with_the_real_keras(server, contents, tmp_path):
    """One program, because importing Keras takes seconds: each kind of answer, and what it leaves in the cache."""
    cache, report = tmp_path / "home" / "datasets", tmp_path / "report.json"
    checksums = {
        name: hashlib.new("sha256" if name == "mnist.npz" else "md5", body).hexdigest()
        for name, body in contents.items()
    }
    environment = {k: v for k, v in os.environ.items() if k not in ("BNCOURSE_DATA", "TF_USE_LEGACY_KERAS")}
    environment |= {"KERAS_HOME": str(cache.parent), "NO_PROXY": "*", "no_proxy": "*"}
    done = subprocess.run(
        [sys.executable, "-c", REAL_KERAS, server, str(cache), str(report), json.dumps(checksums)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    results = json.loads(report.read_text())
    for kind, reason in (
        ("absent", "404"),
        ("wrong", "Incomplete or corrupted file detected. The sha256 file hash does not match"),
        ("wrong-third", "Incomplete or corrupted file detected. The md5 file hash does not match"),
        ("short", "retrieval incomplete"),
        ("silent", "timed out"),
    ):
        assert reason in results[kind]["outcome"], kind
        assert "could not be downloaded" in results[kind]["outcome"]
        assert results[kind]["left"] == [], kind
    fashion = ["fashion-mnist", *sorted(f"fashion-mnist/{name}" for name in fashion_mnist.FILES.checksums)]
    assert results["mnist"] == {"outcome": 7, "left": ["mnist.npz"]}
    assert results["fashion-mnist"] == {"outcome": 7, "left": [*fashion, "mnist.npz"]}
    assert results["timeout"] is None
    assert results["tf.layers"] is True
