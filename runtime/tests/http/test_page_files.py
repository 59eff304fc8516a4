import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from http_server import started
from suffice_runtime.http.routes import page
from suffice_runtime.http.transport import tokens

FOLDER = Path(page.__file__).parents[1] / "page"

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml; charset=utf-8",
}


def file_of(path):
    return FOLDER / ("index.html" if path == "/" else path.removeprefix("/page/"))


def test_all_files_of_the_page_are_served():
    assert {file_of(path) for path in page.FILES} == set(FOLDER.iterdir())


@pytest.mark.parametrize("path", page.FILES)
def test_files_have_their_types_and_strict_headers(server, path):
    status, headers, body = server.send("GET", path)
    file = file_of(path)
    assert (status, body) == (200, file.read_bytes())
    assert headers["content-type"] == TYPES[file.suffix[1:]]
    assert headers["cache-control"] == "no-cache"
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors", "trusted-types")} == {"'none'"}
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", page.FILES)
def test_a_file_that_has_not_changed_is_not_sent_again(server, path):
    tag = server.send("GET", path)[1]["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        status, headers, body = server.send("GET", path, if_none_match=given)
        assert (status, headers["etag"], body) == (304, tag, b"")
        assert "content-security-policy" in headers
    assert server.send("GET", path, if_none_match='"other"')[0] == 200


def test_tags_differ_between_files():
    assert len({headers["etag"] for _, headers in page.FILES.values()}) == len(page.FILES)


def test_heads_have_the_headers_alone(server):
    with server.connect() as opened:
        opened.sendall(b"HEAD / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        payload = b"".join(iter(lambda: opened.recv(4096), b""))
    assert payload.startswith(b"HTTP/1.1 200 ")
    assert payload.endswith(b"\r\n\r\n")
    assert b"text/html" in payload


def test_the_page_is_public_and_its_data_are_not(runner):
    with started(runner, token=b"token") as server:
        assert all(server.send("GET", path)[0] == 200 for path in page.FILES)
        assert server.send("GET", "/v1/models/net/state")[0] == 401
        assert server.send("POST", "/v2/repository/index")[0] == 401
        assert server.send("GET", "/page/other.js")[0] == 401
    assert set(page.FILES) <= tokens.OPEN


@pytest.mark.parametrize(
    "path", ["/page", "/page/", "/page/index.html", "/page/../app.py", "/page/%2e%2e/app.py", "//"]
)
def test_no_other_files_are_served(server, path):
    assert server.send("GET", path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_page_is_only_read(server, method):
    assert server.send(method, "/")[0] == 405


def test_the_page_names_no_other_server_and_has_nothing_inline():
    for file in FOLDER.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
    html = (FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=", html)
    assert not re.search(r"<script(?! type=\"module\" src=)", html)


def test_modules_import_each_other_by_names_that_are_there():
    for file in FOLDER.glob("*.js"):
        for names, other in re.findall(r'^import (.+?) from "\./([\w.]+)";$', file.read_text("utf-8"), re.MULTILINE):
            text = (FOLDER / other).read_text("utf-8")
            for name in re.findall(r"\w+", "" if names.startswith("*") else names):
                exported = rf"^export (?:async )?(?:function|class|const) {name}\b"
                assert re.search(exported, text, re.MULTILINE), (other, name)


def test_scripts_use_ids_that_the_page_has():
    html = (FOLDER / "index.html").read_text("utf-8")
    ids = re.findall(r'\sid="([\w-]+)"', html)
    assert len(ids) == len(set(ids))
    text = "".join(file.read_text("utf-8") for file in FOLDER.glob("*.js"))
    assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= set(ids)
    assert set(re.findall(r'figure\("([\w-]+)"', text)) == set(re.findall(r'data-value="([\w-]+)"', html))
    assert set(re.findall(r'(?:for|aria-labelledby|aria-describedby)="([\w-]+)"', html)) <= set(ids)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("hatchling"), reason="needs hatchling")
def test_a_wheel_has_the_page(tmp_path):
    root = Path(page.__file__).parents[4]
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=root, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"suffice_runtime/http/page/{file.name}" for file in FOLDER.iterdir()} <= names
