"""Writes what the programs are made of as CycloneDX 1.5, from `cargo metadata` and Cargo.lock: sbom.py ROOT FILE.

The same sources give the same bytes: nothing in it is of the moment or of the machine.
"""

import json
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

PROGRAMS = ["penstock-cli", "penstock-api", "penstock-worker", "penstock-dispatcher"]
PLATFORM = "x86_64-unknown-linux-gnu"


def component(package, checksums):
    purl = f"pkg:cargo/{package['name']}@{package['version']}"
    made = {"type": "library", "bom-ref": purl, "name": package["name"], "version": package["version"], "purl": purl}
    if package["license"]:
        # Cargo once wrote `MIT/Apache-2.0`; SPDX has no slash.
        made["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
    if checksum := checksums.get((package["name"], package["version"])):
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def main(root, file):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", PLATFORM]
    metadata = json.loads(subprocess.run(command, cwd=root, check=True, capture_output=True).stdout)
    lock = tomllib.loads((root / "Cargo.lock").read_text())
    checksums = {(one["name"], one["version"]): one.get("checksum") for one in lock["package"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}

    def needs(node):
        # What only tests need is in no program.
        return [dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])]

    found, open_ones = set(), [one["id"] for one in metadata["packages"] if one["name"] in PROGRAMS]
    assert len(open_ones) == len(PROGRAMS), open_ones
    while open_ones:
        one = open_ones.pop()
        if one not in found:
            found.add(one)
            open_ones.extend(needs(nodes[one]))
    made = sorted(
        ((component(packages[one], checksums), one) for one in found), key=lambda pair: pair[0]["bom-ref"])
    refs = {one: made_one["bom-ref"] for made_one, one in made}
    version = next(package["version"] for package in packages.values() if package["name"] == PROGRAMS[0])
    body = {
        "metadata": {"component": {"type": "application", "bom-ref": "penstock", "name": "penstock", "version": version}},
        "components": [made_one for made_one, _ in made],
        "dependencies": [{"ref": "penstock", "dependsOn": sorted(
            refs[one] for one in refs if packages[one]["name"] in PROGRAMS)}] + [
            {"ref": refs[one], "dependsOn": sorted({refs[dep] for dep in needs(nodes[one])})} for _, one in made],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}", "version": 1, **body}
    unhashed = [one["name"] for one in bom["components"] if "hashes" not in one and not one["name"].startswith("penstock")]
    assert not unhashed, f"Cargo.lock has no checksum of {unhashed}"
    file.write_text(json.dumps(bom, indent=1) + "\n")
    print(f"{file}: {len(bom['components'])} components")


main(Path(sys.argv[1]), Path(sys.argv[2]))
