"""The installer of Detectron2, on small made-up source trees; nothing is downloaded."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from tcm_d2.cli import detectron2_edits as edits
from tcm_d2.cli import install_detectron2 as installer
from tcm_d2.cli.main import run_command


def make_source(folder: Path) -> Path:
    """Write a source tree that holds just the text the edits look for."""
    for edit in edits.EDITS:
        path = folder / edit.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write((edit.old + "\n") * edit.times)
    (folder / "detectron2" / "__init__.py").write_text('__version__ = "0.6"\n')
    return folder


def make_archive(path: Path, members: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_edits_replace_every_occurrence_and_add_the_new_files(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    edits.apply_edits(source)
    everything = "".join(path.read_text() for path in source.rglob("*.py"))
    for removed in ("np.bool)", "np.float)", "np.str)", "pkg_resources", "Image.LINEAR"):
        assert removed not in everything
    for new in edits.NEW_FILES:
        compile((source / new.file).read_text(), new.file, "exec")


def test_an_edit_that_does_not_apply_names_itself_and_changes_nothing(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    changed = source / "detectron2/utils/visualizer.py"
    changed.write_text("np.bool)\n")  # once, where 3 times are expected
    before = {path: path.read_bytes() for path in source.rglob("*.py")}
    with pytest.raises(
        edits.EditError, match=r"visualizer\.py: expected 3 x 'np\.bool\)', found 1"
    ):
        edits.apply_edits(source)
    assert {path: path.read_bytes() for path in source.rglob("*.py")} == before


def test_a_missing_file_and_an_existing_new_file_are_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    (source / "detectron2/layers/nms.py").unlink()
    (source / edits.NEW_FILES[0].file).write_text("")
    with pytest.raises(edits.EditError) as error:
        edits.apply_edits(source)
    assert "detectron2/layers/nms.py: file not found" in str(error.value)
    assert "to be added, but exists" in str(error.value)


def test_every_edit_gives_its_reason() -> None:
    assert all(edit.reason and edit.times > 0 and edit.old != edit.new for edit in edits.EDITS)
    assert len(edits.describe_edits().splitlines()) == len(edits.EDITS) + len(edits.NEW_FILES)


def test_missing_extension_raises_an_error_that_names_the_operator() -> None:
    namespace: dict[str, type] = {}
    exec(edits.NEW_FILES[0].text, namespace)
    missing = namespace["MissingExtension"]()
    with pytest.raises(RuntimeError, match=r"detectron2\._C\.deform_conv_forward .* tcm_d2\.ops"):
        _ = missing.deform_conv_forward
    with pytest.raises(RuntimeError, match=r"detectron2\._C\.__wrapped__ "):
        _ = missing.__wrapped__


def test_missing_extension_passes_on_what_torch_has() -> None:
    namespace: dict[str, type] = {}
    exec(edits.NEW_FILES[0].text, namespace)
    library = torch.library.Library("detectron2", "FRAGMENT")
    library.define("lent_by_a_test(Tensor boxes) -> Tensor")
    assert namespace["MissingExtension"]().lent_by_a_test is torch.ops.detectron2.lent_by_a_test


def test_a_file_with_another_hash_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_archive(tmp_path / "pb1-detectron2-0.6.tar.gz", {"a/detectron2/x.py": ""})
    monkeypatch.setattr(installer, "find_detectron2", lambda: None)
    monkeypatch.setattr(installer, "unpack_source", lambda *_: pytest.fail("was unpacked"))
    with pytest.raises(installer.InstallError, match="expected SHA-256 5d2e9e51"):
        installer.install(sdist=archive, force=False)


def test_a_found_detectron2_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = installer.FoundDetectron2("0.6+main", "/somewhere/detectron2", "")
    monkeypatch.setattr(installer, "find_detectron2", lambda: found)
    monkeypatch.setattr(installer, "run_pip", lambda *_, **__: pytest.fail("pip was run"))
    assert run_command("install-detectron2", []) == 0
    assert (
        "found Detectron2 0.6+main in /somewhere/detectron2: left alone" in capsys.readouterr().out
    )


def test_a_broken_detectron2_is_reported_not_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = installer.FoundDetectron2("0.6", "/x/detectron2", "AttributeError: LINEAR")
    monkeypatch.setattr(installer, "find_detectron2", lambda: found)
    monkeypatch.setattr(installer, "run_pip", lambda *_, **__: pytest.fail("pip was run"))
    assert run_command("install-detectron2", []) == 1
    message = capsys.readouterr().err
    assert "AttributeError: LINEAR" in message
    assert "--force" in message


@pytest.mark.parametrize(("error", "has_current_edits"), [("ImportError: x", True), ("", False)])
def test_its_own_installation_is_renewed_when_broken_or_made_with_other_edits(
    monkeypatch: pytest.MonkeyPatch,
    error: str,
    has_current_edits: bool,
) -> None:
    digest = edits.edits_digest() if has_current_edits else "0123456789abcdef"
    found = installer.FoundDetectron2("0.6", "/x/detectron2", error, digest)

    def refuse(path: Path) -> None:
        raise installer.InstallError(f"would install {path}")

    monkeypatch.setattr(installer, "find_detectron2", lambda: found)
    monkeypatch.setattr(installer, "verify_sha256", refuse)
    with pytest.raises(installer.InstallError, match=r"would install a\.tar\.gz"):
        installer.install(sdist=Path("a.tar.gz"), force=False)


def test_a_member_outside_the_target_folder_is_refused(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", {"a/detectron2/x.py": "", "../evil.py": ""})
    with pytest.raises(installer.InstallError, match=r"'\.\./evil\.py' leaves the target folder"):
        installer.unpack_source(archive, tmp_path / "target")
    assert not (tmp_path / "evil.py").exists()


def test_the_wheel_holds_the_edited_files_projects_and_their_record(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    edits.apply_edits(source)
    config = source / "detectron2/model_zoo/configs/a.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("A: 1\n")
    project = source / "projects/PointRend/point_rend/__init__.py"
    project.parent.mkdir(parents=True)
    project.write_text("")
    wheel = installer.build_wheel(source, tmp_path)
    assert wheel.name == "detectron2-0.6-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        record = archive.read("detectron2-0.6.dist-info/RECORD").decode().splitlines()
        edits_text = archive.read("detectron2-0.6.dist-info/TCM_D2_EDITS").decode()
        metadata = archive.read("detectron2-0.6.dist-info/METADATA").decode()
    assert {
        "detectron2/__init__.py",
        "detectron2/_missing_extension.py",
        "detectron2/model_zoo/configs/a.yaml",
        "detectron2/projects/point_rend/__init__.py",
    } <= names
    assert {row.split(",")[0] for row in record} == names
    assert installer.SOURCE_SHA256 in metadata
    assert edits.edits_digest() == edits_text.splitlines()[0]
    assert "black" not in [row for row in metadata.splitlines() if row.startswith("Requires-Dist")]


def test_verify_sha256_accepts_the_right_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"text")
    installer.verify_sha256(path, hashlib.sha256(b"text").hexdigest())
    with pytest.raises(installer.InstallError):
        installer.verify_sha256(path, hashlib.sha256(b"other").hexdigest())


def test_the_installed_detectron2_imports_without_its_extension() -> None:
    pytest.importorskip("detectron2")
    from detectron2 import model_zoo
    from detectron2.layers import rotated_boxes  # noqa: F401

    assert Path(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")).is_file()
