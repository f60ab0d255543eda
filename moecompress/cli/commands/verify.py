"""`moecompress verify ARTIFACT`: every hash, record header and checksum of an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moecompress.cli.console import print_json
from moecompress.cli.screen import terminal_progress


def COMMAND(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check that every byte of ARTIFACT is what its manifest promises."""
    from moecompress.artifact.reader import read_manifest
    from moecompress.artifact.verify import verify

    manifest = read_manifest(artifact)
    total = sum(file.bytes for file in manifest.files.values())
    with terminal_progress() as progress:
        progress.start("verify", total, "bytes")
        verify(artifact, progress.advance)
        progress.finish()
    if json:
        print_json({"ok": True, "files": len(manifest.files), "bytes": total, "artifact_hash": manifest.artifact_hash})
    else:
        print(f"ok: {len(manifest.files)} files, {total} bytes, artifact hash {manifest.artifact_hash[:16]}")
