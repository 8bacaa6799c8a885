import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gigaseg.manifests import read_manifest
from gigaseg.stages import fetch


class Quiet(SimpleHTTPRequestHandler):
    requests: list[str] = []  # noqa: RUF012  one server per test, emptied by the fixture

    def log_message(self, *_):
        self.requests.append(self.path)


@pytest.fixture
def server(tmp_path):
    """Serve a folder on this machine; return the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    Quiet.requests.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))  # s between polls
        thread.start()
        yield folder, f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()
        thread.join()


@pytest.fixture
def case(tmp_path, server):
    """Make a registry of two files; return a function that fetches them."""
    folder, address = server
    lines = ["path\tsha256\turl"]
    for name in ("a.png", "b.png"):
        (folder / name).write_text(name)
        digest = hashlib.sha256(name.encode()).hexdigest()
        lines.append(f"cells/{name}\t{digest}\t{address}/{name}")
    (tmp_path / "registry.tsv").write_text("\n".join(lines) + "\n")

    def run(*files: str):
        fetch.run(
            manifest=tmp_path / "fetch.json",
            registry=tmp_path / "registry.tsv",
            settings={"dataset": "cells", "data_root": str(tmp_path), "files": list(files)},
        )
        return read_manifest(tmp_path / "fetch.json")

    return run


def test_missing_files_are_fetched_and_listed(case, tmp_path):
    manifest = case("cells/a.png", "cells/b.png")
    assert (tmp_path / "cells" / "a.png").read_text() == "a.png"
    assert set(manifest["files"]) == {"cells/a.png", "cells/b.png"}
    assert manifest["dataset"] == "cells"


def test_files_with_the_right_sum_are_left_alone(case, tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.png").write_text("a.png")
    case("cells/a.png", "cells/b.png")
    assert Quiet.requests == ["/b.png"]


def test_a_file_with_another_sum_is_an_error_and_stays(case, tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.png").write_text("changed")
    with pytest.raises(ValueError, match=r"a\.png has the sum .* says .*: move the file away"):
        case("cells/a.png", "cells/b.png")
    assert (tmp_path / "cells" / "a.png").read_text() == "changed"
    assert not (tmp_path / "fetch.json").exists()


def test_a_download_with_another_sum_is_an_error_that_names_the_file(case, server, tmp_path):
    (server[0] / "a.png").write_text("changed")
    with pytest.raises(ValueError, match=r"a\.png"):
        case("cells/a.png")
    assert not (tmp_path / "cells" / "a.png").exists()


def test_a_file_without_an_address_says_what_to_do(case, tmp_path):
    registry = tmp_path / "registry.tsv"
    registry.write_text(registry.read_text() + "cells/label.png\t00\t\n")
    with pytest.raises(FileNotFoundError, match=r"1 file is not below .*cells/label\.png.*README"):
        case("cells/a.png", "cells/label.png")
    assert Quiet.requests == []


def test_a_file_that_the_registry_does_not_list(case):
    with pytest.raises(ValueError, match=r"does not list cells/c\.png"):
        case("cells/c.png")


def test_a_table_of_another_form_is_refused(case, tmp_path):
    (tmp_path / "registry.tsv").write_text("file\tmd5\n")
    with pytest.raises(ValueError, match=r"has the columns \['file', 'md5'\], not path, sha256"):
        case("cells/a.png")
