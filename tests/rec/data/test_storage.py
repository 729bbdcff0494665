"""Logs that lie elsewhere: an object store, a web server, memory; and what cannot be reached."""

import functools
import gzip
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import polars as pl
import pyarrow.fs as pa_fs
import pytest
from moto.server import ThreadedMotoServer

from rec.data.cleaning import CleaningConfig
from rec.data.files import list_files, read_chunks
from rec.errors import DataError
from rec.stages.preparation import prepare

NOW_MS = 1_700_000_000_000
CSV = b"user_id,item_id,timestamp\nu,i1,1600000000\n"
JSONL = b'{"user_id":"v","item_id":"i2","timestamp":1600000001}\n'


def parquet(folder: Path) -> bytes:
    path = folder / "made.parquet"
    pl.DataFrame({"user_id": ["w"], "item_id": ["i1"], "timestamp": [1_600_000_002]}).write_parquet(
        path
    )
    return path.read_bytes()


def log_files(folder: Path) -> dict[str, bytes]:
    return {
        "a.csv": CSV,
        "b.jsonl.gz": gzip.compress(JSONL),
        "inner/c.parquet": parquet(folder),
        "_SUCCESS.csv": b"not a log",
        "read.me": b"not a log",
    }


class Server(http.server.SimpleHTTPRequestHandler):
    """Serve a folder; what is named so needs a key that nobody has."""

    def do_GET(self) -> None:
        if "secret" in self.path:
            self.send_error(403)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if "secret" in self.path:
            self.send_error(403)
        else:
            super().do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "web"
    write_local(folder, log_files(tmp_path))
    handler = functools.partial(Server, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store = pa_fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True)
    store.create_dir("shop")
    for name, content in log_files(tmp_path).items():
        with store.open_output_stream(f"shop/log/{name}", compression=None) as stream:
            stream.write(content)
    return "s3://shop/log"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for name, content in log_files(tmp_path).items():
        system.pipe(f"/log/{name}", content)
    yield "memory://log"
    system.rm("/log", recursive=True)


def write_local(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def stored_users(folder: Path, *events: str) -> list[str]:
    items = folder / "items.csv"
    items.write_text("item_id,title\ni1,tea\ni2,cup\n")
    prepared = prepare(
        folder / "workspace",
        events=events,
        items=[str(items)],
        config=CleaningConfig(pseudonymize_users=False),
        num_partitions=2,
        now_ms=NOW_MS,
    )
    log = pl.read_parquet(prepared.events.path / "part-*.parquet")
    return sorted(log["user_id"].to_list())


@pytest.mark.parametrize("place", ["bucket", "memory"])
def test_folder_glob_and_file_of_a_store(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(place)
    assert stored_users(tmp_path, root) == ["u", "v", "w"]
    assert stored_users(tmp_path, f"{root}/a*.csv", f"{root}/inner/c.parquet") == ["u", "w"]
    assert [name.rpartition("/")[2] for name in list_files([root])] == [
        "a.csv", "b.jsonl.gz", "c.parquet",
    ]  # fmt: skip


def test_files_and_a_folder_of_a_web_server(tmp_path: Path, web: str) -> None:
    assert stored_users(tmp_path, f"{web}/") == ["u", "v", "w"]
    signed = f"{web}/a.csv?signature=a.b"
    assert stored_users(tmp_path, signed, f"{web}/inner/c.parquet") == ["u", "w"]


def test_file_uri_is_the_local_file(tmp_path: Path) -> None:
    folder = tmp_path / "my log"
    write_local(folder, log_files(tmp_path))
    uri = (folder / "a.csv").as_uri()
    assert "%20" in uri
    assert list_files([uri, str(folder / "a.csv")]) == [str(folder / "a.csv")]
    assert stored_users(tmp_path, folder.as_uri()) == ["u", "v", "w"]


def test_object_that_was_replaced_is_read_again(tmp_path: Path, bucket: str, endpoint: str) -> None:
    assert stored_users(tmp_path, f"{bucket}/a.csv") == ["u"]
    store = pa_fs.S3FileSystem(endpoint_override=endpoint)
    with store.open_output_stream("shop/log/a.csv") as stream:
        stream.write(CSV + b"x,i1,1600000009\n")
    assert stored_users(tmp_path, f"{bucket}/a.csv") == ["u", "x"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("gopher://host/log.csv", "expected a local path or a URI such as s3://"),
        ("s3://key:secret@shop/log.csv", "expected no user or key in the s3 URI"),
        ("https://me:secret@host/log.csv", "expected no user or key in the https URI"),
        ("sftp://host/log.csv", "cannot read sftp://host/log.csv: .*paramiko"),
        ("memory://nothing/log.csv", "found nothing at 'memory://nothing/log.csv'"),
        ("file://elsewhere/log.csv", "expected file:///PATH"),
        ("http://127.0.0.1:1/log.csv?sign=secret", "cannot reach http://127.0.0.1:1/log.csv: "),
    ],
)
def test_place_that_cannot_be_read_is_one_line(uri: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected) as caught:
        list_files([uri])
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message


def test_what_a_server_refuses_is_one_line(web: str) -> None:
    with pytest.raises(DataError, match="found nothing at"):
        list_files([f"{web}/none.csv"])
    with pytest.raises(DataError, match=r"no access to .*secret\.csv: credentials come"):
        list_files([f"{web}/secret.csv?sign=x"])


def test_what_a_bucket_lacks_is_one_line(bucket: str) -> None:
    for uri in (f"{bucket}/none.csv", "s3://nobody/log.csv", f"{bucket}/*.jsonl"):
        with pytest.raises(DataError, match="found nothing at"):
            list_files([uri])


def test_connection_that_breaks_is_no_bad_file(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a moment without a network would make a release without half of the log."""
    [uri] = list_files([f"{bucket}/a.csv"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(DataError, match=r"cannot reach s3://shop/log/a\.csv") as caught:
        list(read_chunks(uri))
    assert type(caught.value) is DataError
    del tmp_path
