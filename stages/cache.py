"""DVC's cache and the outputs, each byte against the hash that DVC knows it by; run by `make cache`, not a stage.

DVC trusts an object of its cache that is write-protected, and an output whose time and size are those it saw last: a
disk that lost a bit is not noticed. What is damaged in the cache is removed from it; of a damaged output the time is
changed, so that DVC looks at it anew. Then `dvc pull` or `dvc repro` brings back what is missing.
"""

from collections.abc import Iterator
from pathlib import Path

from dvc.repo import Repo
from dvc_data.hashfile.hash import hash_file
from tqdm import tqdm

from qc.settings import Settings
from stages.entry import run


def damaged_objects(repo: Repo) -> Iterator[str]:
    """Names of the objects in the cache whose bytes are not those of their name."""
    objects = repo.cache.local
    for name in tqdm(sorted(objects.all()), desc="cache", unit="object", leave=False, disable=None):
        _, found = hash_file(objects.oid_to_path(name), objects.fs, "md5")
        if found.value != name.removesuffix(".dir"):
            yield name


def damaged_outputs(repo: Repo) -> Iterator[Path]:
    """Files below the outputs whose bytes are not those that dvc.lock names; missing ones are DVC's to see."""
    for output in repo.index.outs:
        tree = output.get_obj() if output.use_cache else None
        for key, _, wanted in tree or ():
            path = Path(output.fs_path, *key)
            if path.is_file() and hash_file(str(path), output.fs, "md5")[1] != wanted:
                yield path.relative_to(repo.root_dir)


def main(_: Settings) -> None:
    """Look at every object and every output, say and mend what can be mended."""
    with Repo() as repo:
        outputs = list(damaged_outputs(repo))
        objects = list(damaged_objects(repo))
        for name in objects:
            repo.cache.local.delete(name)
            print(f"cache: {name} was damaged, and is removed")
        for path in outputs:
            Path(repo.root_dir, path).touch()
            print(f"{path}: other bytes than dvc.lock names")
    print("`dvc pull` or `dvc repro` brings back what is missing" if objects or outputs else "no byte is damaged")


if __name__ == "__main__":
    run(main)
