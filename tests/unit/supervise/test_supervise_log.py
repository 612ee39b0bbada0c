"""Logs stay bounded while a daemon writes."""

import os

from netplane.node.supervise.logs import open_for_append, rotate, tail


def test_rotation_empties_the_file_under_its_writer(tmp_path):
    path = tmp_path / "logs" / "proxy.log"
    writer = open_for_append(path)
    os.write(writer, b"old line\n" * 20)
    assert not rotate(path, limit=1000)
    assert rotate(path, limit=100)
    os.write(writer, b"new line\n")
    os.close(writer)
    assert path.read_bytes() == b"new line\n"
    assert path.with_name("proxy.log.1").read_bytes() == b"old line\n" * 20


def test_a_full_disk_costs_the_old_lines_only(tmp_path, monkeypatch):
    path = tmp_path / "proxy.log"
    path.write_bytes(b"old line\n" * 20)

    def fail(_source, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", fail)
    assert rotate(path, limit=100)
    assert path.read_bytes() == b""
    assert list(tmp_path.iterdir()) == [path]


def test_tail_reads_only_the_end(tmp_path):
    path = tmp_path / "x.log"
    assert tail(path, 3) == []
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    assert tail(path, 2, within=100) == ["line 998", "line 999"]
