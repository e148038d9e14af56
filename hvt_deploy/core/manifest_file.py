"""`manifest.json` as it is read: checked before anything follows what it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import MANIFEST_SCHEMA, Artifact, Manifest
from hvt_deploy.core.records import check_version, parse_fields
from hvt_deploy.core.serialization import from_plain


def parse_manifest(content: bytes, where: str, slug: str) -> Manifest:
    """The manifest in a file's bytes; `where` names the file in error messages.

    Raises BadInput, naming the command that remakes the artifacts, for another schema version and
    for a damaged record: names that lead outside its folder, a main file that is not listed,
    parents in a cycle, another number of class names than of classes.
    """
    advice = f"Make it again: hvt-deploy export {slug}"
    data = parse_fields(content, where, advice)
    remake = f"Make it again: hvt-deploy export {data.get('model', slug)} --as {slug}"
    check_version(data, where, MANIFEST_SCHEMA, remake)
    try:
        manifest = from_plain(Manifest, data, where)
    except BadInput as error:
        raise BadInput(error.message, error.hint or advice) from None
    for fault in _find_faults(manifest):
        raise BadInput(f"{where} is damaged: {fault}.", advice)
    return manifest


def is_plain_name(name: str) -> bool:
    """Whether `name` is a file or folder in the folder it is looked up in, and no other."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _find_faults(manifest: Manifest) -> Iterator[str]:
    names = [manifest.slug, *manifest.artifacts]
    for artifact in manifest.artifacts.values():
        names += [artifact.folder, artifact.main, *artifact.files]
    for name in names:
        if not is_plain_name(name):
            yield f"it names {name[:80]!r}, which is or may be outside its folder"
    for key, artifact in manifest.artifacts.items():
        if artifact.main not in artifact.files:
            yield f"the main file of its '{key}' artifact, {artifact.main}, is not in its files"
    if cycle := _find_cycle(manifest.artifacts):
        yield f"its '{cycle}' artifact was made from itself"
    classes = manifest.signature.num_classes
    for what, given in (("class names", manifest.class_names), ("wnids", manifest.wnids)):
        if given is not None and len(given) != classes:
            yield f"it has {len(given)} {what} and {classes} classes"


def _find_cycle(artifacts: Mapping[str, Artifact]) -> str:
    """An artifact that is one of its own ancestors, "" where there is none."""
    remaining = {key: set(artifact.parents) for key, artifact in artifacts.items()}
    while free := [key for key, parents in remaining.items() if not parents & remaining.keys()]:
        for key in free:
            del remaining[key]
    return next(iter(remaining), "")
