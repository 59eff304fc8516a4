import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from suffice.data.store import fetch
from suffice.data.store.entry import CatalogEntry, Remote
from suffice.utils.progress import quiet

DATA = bytes(range(256)) * 20_000
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


class Server(BaseHTTPRequestHandler):
    """Serve DATA with range requests; `stop_after` interrupts the first response."""

    asked: list
    stop_after: int | None = None
    ranges = True

    def do_GET(self):
        asked = self.headers.get("Range")
        type(self).asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if start >= len(DATA):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        stop, type(self).stop_after = type(self).stop_after, None
        self.wfile.write(DATA[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"asked": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.handle_error = lambda *_: None  # clients disconnect on purpose
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    handler.url = f"http://127.0.0.1:{http.server_port}/things.bin"
    yield handler
    http.shutdown()
    thread.join()
    http.server_close()


def entry(url, checksum=SHA256):
    remote = Remote("things.bin", checksum, url)
    return CatalogEntry("things", "", "images", "", "https://example.org/terms", (remote,), lambda *_: None)


def test_a_file_is_downloaded_checked_and_not_downloaded_again(server):
    seen = []
    for _ in range(2):
        folder = fetch.fetch(entry(server.url), lambda *now: seen.append(now))
    assert (folder / "things.bin").read_bytes() == DATA
    assert [f.name for f in folder.iterdir()] == ["things.bin"]
    assert server.asked == [None]
    assert ("fetch things.bin", len(DATA), len(DATA)) in seen


def test_a_download_that_broke_off_is_resumed_where_it_stopped(server):
    server.stop_after = 1_500_000
    with pytest.raises(ConnectionError, match=r"connection broke|IncompleteRead.*run it again to resume"):
        fetch.fetch(entry(server.url), quiet)
    folder = fetch.fetch(entry(server.url), quiet)
    assert (folder / "things.bin").read_bytes() == DATA
    assert server.asked[0] is None
    assert 0 < int(server.asked[1].removeprefix("bytes=").removesuffix("-")) <= 1_500_000


def test_a_server_that_cannot_resume_starts_again(server):
    server.ranges = False
    fetch.downloads().mkdir(parents=True)
    (fetch.downloads() / "things.bin.part").write_bytes(b"old")
    folder = fetch.fetch(entry(server.url), quiet)
    assert (folder / "things.bin").read_bytes() == DATA


def test_a_part_that_is_whole_already_is_checked_and_taken(server):
    fetch.downloads().mkdir(parents=True)
    (fetch.downloads() / "things.bin.part").write_bytes(DATA)
    folder = fetch.fetch(entry(server.url), quiet)
    assert (folder / "things.bin").read_bytes() == DATA


def test_a_wrong_checksum_names_both_and_leaves_nothing(server):
    with pytest.raises(ValueError, match=rf"expected things.bin with md5:0000, got md5:[0-9a-f]{{32}} \({len(DATA):,}"):
        fetch.fetch(entry(server.url, "md5:0000"), quiet)
    assert list(fetch.downloads().iterdir()) == []


def test_without_a_network_the_error_names_the_file_and_what_to_do_with_it():
    with pytest.raises(ConnectionError) as caught:
        fetch.fetch(entry("http://127.0.0.1:9/things.bin"), quiet)
    for part in ("things.bin from http://127.0.0.1:9/things.bin", "suffice data import things things.bin"):
        assert part in str(caught.value)


def test_a_page_that_is_not_there_is_named(server):
    fetch.downloads().mkdir(parents=True)
    (fetch.downloads() / "things.bin.part").write_bytes(DATA + b"too much")
    with pytest.raises(ValueError, match="truncated or another file"):
        fetch.fetch(entry(server.url), quiet)


def test_a_file_whose_terms_must_be_accepted_is_to_be_got_by_hand():
    with pytest.raises(ValueError, match=r"https://example.org/terms.*suffice data import things things.bin"):
        fetch.fetch(entry(None), quiet)


def test_a_disk_that_is_too_full_is_refused_before_the_download(server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=r"0.01 GB on the disk of"):
        fetch.fetch(entry(server.url), quiet)


def test_a_file_without_a_known_checksum_gets_one_to_be_recorded(tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    assert fetch.check(tmp_path / "x", Remote("x", None, None), quiet) == SHA256


def test_of_two_downloads_of_a_file_at_once_the_second_is_refused(server):
    def second(what, done, total):
        if what.startswith("fetch"):
            with pytest.raises(BlockingIOError, match=r"another process or thread is writing .*/things.bin; wait"):
                fetch.fetch(entry(server.url), quiet)

    folder = fetch.fetch(entry(server.url), second)
    assert [f.name for f in folder.iterdir()] == ["things.bin"]
    assert server.asked == [None]
