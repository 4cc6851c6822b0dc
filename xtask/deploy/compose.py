"""What has to hold for docker-compose.yml, beyond what `docker compose config` says."""

import base64
import os
import pathlib
import re
import subprocess

import objects as rules
import sources

SCRIPTS = sources.ROOT / "deploy" / "compose"
GIB = 1 << 30


def faults(config):
    named = set(sources.VARIABLE.findall(sources.read("pipelines/invite.yaml") + sources.read("k8s/components/alerts/alerts.yaml")))
    services = config["services"]
    for name, service in services.items():
        for port in service.get("ports", []):
            if port.get("host_ip") != "127.0.0.1":
                yield f"{name}: listens to the whole network"
        if not re.search(r":[^:/]+$", service.get("image", "")):
            yield f"{name}: its image has no version"
        if not service.get("logging", {}).get("options", {}).get("max-size"):
            yield f"{name}: its log grows without a limit"
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if not 0 < int(limits.get("memory", 0)) <= GIB or not limits.get("cpus") or not limits.get("pids"):
            yield f"{name}: may take the whole machine"
        yield from (f"{name}: {variable} is readable in `docker inspect`" for variable, value in (service.get("environment") or {}).items()
                    if value and name != "keys" and re.search("PASSWORD$|^DATABASE_URL$|^PENSTOCK_ENCRYPTION_KEYS$", variable))
        yield from waits(name, services)
        if not service.get("image", "").startswith("penstock"):
            continue
        if not service.get("read_only") or "ALL" not in service.get("cap_drop", []):
            yield f"{name}: not as locked as in a cluster"
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy" and other != "api" and not services[other].get("healthcheck"):
                yield f"{name} waits for the health of {other}, which says nothing of it"
        if name == "sandbox":
            continue
        commands = [service["command"]]
        # The image's own check is the API's.
        test = service.get("healthcheck", {}).get("test", [])
        commands += [test[1:]] if test[:1] == ["CMD"] else []
        for command in commands:
            yield from filter(None, [sources.command_fault(command, rules.KNOWN["programs"], rules.KNOWN["words"])])
        yield from (f"{name}: nothing reads {variable}" for variable in service["environment"]
                    if variable not in rules.KNOWN["settings"] | named and not sources.ELSEWHERE.match(variable))
    if missing := {"api", "worker", "dispatcher"} - services["first-batch"].get("depends_on", {}).keys():
        yield f"first-batch never ends without {sorted(missing)}"
    for name, least in (("worker", 2 * rules.KNOWN["grace"]), ("api", rules.KNOWN["shutdown"])):
        if sources.seconds(services[name].get("stop_grace_period", "10s")) <= least:
            yield f"{name} is killed before {least} s are over"


def waits(name, services):
    """
    How `docker compose up --wait` ends for a service. One that exits is waited for where another needs it to complete, and is
    otherwise an error. One whose health check is switched off is an error too, where the image has one; one that never had any
    has only to run.
    """
    service = services[name]
    if service.get("profiles"):
        return
    completes = any(of.get("depends_on", {}).get(name, {}).get("condition") == "service_completed_successfully" for of in services.values())
    if service.get("restart") == "no" and not completes:
        yield f"{name}: `--wait` fails when it ends, because nothing waits for its end"
    check = service.get("healthcheck", {})
    if not completes and (check.get("disable") or check.get("test") == ["NONE"]):
        yield f"{name}: `--wait` fails, because its health check is switched off"
    if not completes and not check and name not in {"api"}:
        yield f"{name}: nothing says whether it is healthy"


def told(text, guide):
    """The commands at the head of the file are those of the guide, and the first is all that a fresh clone needs."""
    commands = [line.split("  #")[0].strip() for line in re.findall(r"^#   (docker compose .*)", text, re.M)]
    if commands[:1] != ["docker compose up --build --wait"]:
        yield f"the first is {commands[:1]}"
    yield from (f"docs/operate.md has no `{command}`" for command in commands if command not in guide)
    for words in re.findall(r"docker compose (?:--profile \w+ )?(?:run --rm|stop|start|up --wait) ([a-z -]+)", guide):
        yield from (f"docs/operate.md: there is no service {word}" for word in words.split()
                    if not re.search(rf"^  {word}:$", text, re.M) and not word.startswith("-"))


def script(name, folder, arguments=(), **given):
    """A script as its service runs it, with folders and programs that take the place of the service's own."""
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", **{key: str(value) for key, value in given.items()}}
    return subprocess.run(["sh", "-eu", SCRIPTS / name, *arguments], env=environment, capture_output=True, text=True, timeout=60)


def stubs(folder, **programs):
    (folder / "bin").mkdir(parents=True)
    # Only root may give files away.
    for name, body in {"chown": "exit 0", **programs}.items():
        file = folder / "bin" / name
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)


def keys_faults(folder):
    stubs(folder)
    made = folder / "made"
    made.mkdir()
    read = lambda: {file.name: file.read_text().strip() for file in made.iterdir()}
    runs = []
    for given in ({}, {}, {"POSTGRES_PASSWORD": "abc", "PENSTOCK_ENCRYPTION_KEYS": "k2:x,k1:y"}, {"POSTGRES_PASSWORD": "", "PENSTOCK_ENCRYPTION_KEYS": ""}):
        done = script("keys.sh", folder, KEYS=made, **given)
        if done.returncode or done.stderr:
            yield f"it ends with {done.returncode}: {done.stderr}"
            return
        runs.append(read())
    first, again, given, after = runs
    if set(first) != {"postgres-password", "database-url", "encryption-keys"}:
        yield f"it makes {sorted(first)}"
    if not re.fullmatch(r"[0-9a-f]{48}", first["postgres-password"]) or f":{first['postgres-password']}@postgres:5432/" not in first["database-url"]:
        yield "the password is not hexadecimal, and becomes a part of a URL"
    name, _, key = first["encryption-keys"].partition(":")
    if not name or len(base64.b64decode(key)) != 32:
        yield "the key is not a name and 32 bytes"
    if again != first:
        yield "a second time, it puts another key in the place of the one that is in use"
    if (given["encryption-keys"], given["postgres-password"]) != ("k2:x,k1:y", "abc") or ":abc@" not in given["database-url"]:
        yield "what .env gives is not what is used"
    if after != given:
        yield "what .env gave is lost when it gives it no more"
    yield from (f"{file.name} has the mode {file.stat().st_mode & 0o777:o}" for file in made.iterdir() if file.stat().st_mode & 0o777 != 0o400)


def backup_faults(config, folder):
    """What the two scripts do, with a database that a file stands for."""
    stubs(folder, pg_dump='while [ "$1" != --file ]; do shift; done; cp "$DATABASE" "$2"',
          psql='case "$*" in *"DROP SCHEMA public CASCADE"*) rm "$DATABASE" ;; esac',
          pg_restore='[ ! -e "$DATABASE" ] || exit 1; for word; do last=$word; done; cp "$last" "$DATABASE"')
    places = {key: folder / key.lower() for key in ("KEYS", "OBJECTS", "BACKUP")}
    for place in places.values():
        place.mkdir()
    database = folder / "database"
    given = {**places, "DATABASE": database}
    held = {database: "rows", places["OBJECTS"] / "file": "sealed", places["KEYS"] / "encryption-keys": "k1:x"}
    (places["KEYS"] / "postgres-password").write_text("abc\n")
    for file, text in held.items():
        file.write_text(text)
    done = script("backup.sh", folder, **given)
    time = done.stdout.strip()
    if done.returncode or not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", time) or [p.name for p in places["BACKUP"].iterdir()] != [time]:
        yield f"the backup ends with {done.returncode}: {done.stdout}{done.stderr}"
        return
    for file in held:
        file.unlink()
        file.write_text("other")
    (places["OBJECTS"] / "newer").write_text("x")
    done = script("restore.sh", folder, [time], **given)
    if done.returncode or any(file.read_text() != text for file, text in held.items()) or (places["OBJECTS"] / "newer").exists():
        yield f"the restore ends with {done.returncode}: {done.stdout}{done.stderr}"
    database.unlink()
    done = script("backup.sh", folder, **given)
    if not done.returncode or [p.name for p in places["BACKUP"].iterdir() if p.name[0] != "."] != [time]:
        yield "a backup that breaks off counts as one"
    if not script("restore.sh", folder, ["nothing"], **given).returncode:
        yield "a backup that is not there is restored"
    for name in ("backup", "restore"):
        service = config["services"][name]
        if {volume["target"] for volume in service["volumes"]} != {"/keys", "/objects", "/backup"}:
            yield f"{name} has not the volumes that its script reads"


# `weed shell` as it is: it exits with 0 whatever became of its command. Here the filer is there from the third on.
WEED = """#!/bin/sh
read -r command
echo once >> "$0.asked"
[ "$(wc -l < "$0.asked")" -ge 3 ] || { echo "error: no filer" >&2; exit 0; }
case "$command" in
  "s3.bucket.create -name penstock") touch "$0.made" ;;
  s3.bucket.list) [ -e "$0.made" ] && printf '  penstock\\tsize:0\\tchunk:0\\n' ;;
esac
exit 0
"""


def bucket_faults(config, folder):
    services = config["services"]
    if not any(":8333" in word for word in services["objects"]["healthcheck"]["test"]):
        yield "the health of objects is not S3's"
    weed = folder / "weed"
    weed.write_text(WEED)
    weed.chmod(0o755)
    script = services["bucket"]["entrypoint"][-1].replace("$$", "$")
    done = subprocess.run(["sh", "-c", f'PATH="{folder}:$PATH"\n{script}'], capture_output=True, text=True, timeout=60)
    if done.returncode or not pathlib.Path(f"{weed}.made").exists():
        yield f"it ended with {done.returncode}, and there is no bucket: {done.stdout}{done.stderr}"


def broken(text):
    """Each has to be caught; one that passes is a hole in the checks."""
    return {
        "a typing error in compose": text.replace("depends_on:", "depend_on:"),
        "a first batch without a dispatcher": re.sub(r"      dispatcher:\n        condition: service_healthy\n", "", text),
        "an API for the whole network": text.replace("${PENSTOCK_ADDRESS:-127.0.0.1}:", ""),
        "a worker that is killed before its grace is over": text.replace("stop_grace_period: 60s", "stop_grace_period: 40s"),
        "a program that the image has not": text.replace("/usr/local/bin/penstock-dispatcher", "/usr/local/bin/dispatcher"),
        "a flag that there is not": text.replace('"--every"', '"--each"'),
        "a health check that there is not": text.replace('"--dry-run"', '"--health"'),
        "a variable that nobody reads": text.replace("ROWS_PER_OWNER:", "ROWS_PER_CLIENT:"),
        "an image of no version": text.replace("postgres:17.6", "postgres"),
        "a dispatcher for whose health nobody can wait": re.sub(
            r'    healthcheck:\n      test: \["CMD", "/usr/local/bin/penstock-dispatcher".*\n.*\n.*\n.*\n', "    healthcheck: { disable: true }\n", text),
        "a bucket whose end nobody waits for": re.sub(r"    bucket:\n      condition: service_completed_successfully\n", "", text),
        "a log without a limit": text.replace("max-size: 10m, ", ""),
        "a service that may take all memory": text.replace("memory: 1G", "memory: 64G"),
        "a password in the environment": text.replace("POSTGRES_PASSWORD_FILE: /run/penstock/postgres-password", "POSTGRES_PASSWORD: abc"),
    }
