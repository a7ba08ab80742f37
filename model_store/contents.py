"""What the folder of a version must hold before it may be published or used."""

import json
from pathlib import Path

from lynceus.errors import BundleError, StoreError
from lynceus.sums import MANIFEST, SUMS, WEIGHTS, read_file, verify
from model_store.refs import Ref
from model_store.store import check_pin


def verify_version(folder: Path, ref: Ref, pin: str | None = None) -> dict[str, str]:
    """Check every byte of a version that lies in `folder`; returns the sums of its files."""
    check_pin(ref, read_file(folder, SUMS), pin)
    sums = verify(folder)
    check_manifest(read_file(folder, MANIFEST), sums, ref)
    return sums


def ready_to_push(folder: Path, ref: Ref | None) -> tuple[Ref, dict[str, str]]:
    """Check a folder that shall be published; returns what it is a version of and the sums of its files."""
    if not folder.is_dir():
        raise StoreError(f"there is no folder {folder.name}")
    sums = verify(folder)
    for path in folder.iterdir():
        if path.name not in (*sums, SUMS):
            raise BundleError(f"{path.name} is not listed in {SUMS}: take it away, or seal the folder again")
    manifest = read_file(folder, MANIFEST)
    ref = ref or ref_of(manifest)
    check_manifest(manifest, sums, ref)
    return ref, sums


def ref_of(manifest: bytes) -> Ref:
    """The name and the version that a manifest states."""
    stated = _stated(manifest)
    return Ref(str(stated.get("name")), str(stated.get("version")))


def check_manifest(manifest: bytes, sums: dict[str, str], ref: Ref) -> None:
    """Raise BundleError if a manifest belongs to another version or to other weights."""
    stated = _stated(manifest)
    if (stated.get("name"), stated.get("version")) != (ref.name, ref.version):
        raise BundleError(f"the {MANIFEST} of {ref} is that of {stated.get('name')}/{stated.get('version')}")
    if stated.get("weights_sha256") != sums[WEIGHTS]:
        raise BundleError(f"{ref}: {WEIGHTS} is not the file that its {MANIFEST} names")


def _stated(manifest: bytes) -> dict[str, object]:
    """The top of a manifest; only `show` and the loader read the rest, because that needs torch."""
    try:
        stated = json.loads(manifest)
    except ValueError as error:
        raise BundleError(f"{MANIFEST} is not JSON") from error
    if not isinstance(stated, dict):
        raise BundleError(f"{MANIFEST} is not a JSON object")
    return stated
