"""The examples of docs/clients.md run as they stand, but for the server's address."""

from __future__ import annotations

import re
import shutil
import subprocess

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_example_runs(server, repo_root, scenes, tmp_path, monkeypatch, capsys):
    shutil.copy(scenes / "images" / "scene_02.jpg", tmp_path / "zoo.jpg")
    (tmp_path / "pictures").mkdir()
    script = repo_root / "deploy" / "tls" / "make_certificates.sh"
    subprocess.run([script, tmp_path / "tls"], check=True, capture_output=True, timeout=60)
    for number in range(3):
        shutil.copy(scenes / "images" / f"scene_0{number}.jpg", tmp_path / "pictures")
    (tmp_path / "pictures" / "zzz.jpg").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((repo_root / "docs" / "clients.md").read_text())
    assert len(blocks) == 4
    said = []
    for block in blocks:
        exec(compile(block.replace("grpc://127.0.0.1:8001", server.grpc_url), "docs/clients.md", "exec"), {})
        said.append(capsys.readouterr().out.splitlines())
    assert re.match(r"[a-z ]+ 0\.\d\d \[", said[0][0])
    assert len(said[1]) == 4
    assert said[1][3].startswith("zzz.jpg failed: ")
    assert len(said[2]) == 21
