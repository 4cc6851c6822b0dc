"""The examples of values for clouds, and what a change of values does to names."""

import os
import re
import subprocess

import yaml

import objects as rules
import sources

FOLDER = sources.ROOT / "charts" / "penstock" / "examples"
# What has to exist beside a release of an example, by its own comments and docs/how-to/kubernetes.md.
BESIDE = {"penstock", "penstock-api", "penstock-worker", "penstock-dispatcher", "penstock-migrate", "mirror", "rows-tls", "rows-net-tls"}
# GKE's Workload Identity answers there, so its example opens them.
OPENED = {"gke": ("169.254.169.254", "fd20:ce::254")}
# What each example is there for: a text that is in what it renders.
WORDS = {
    "eks": ["eks.amazonaws.com/role-arn", "ingressClassName: alb", "topology.kubernetes.io/zone", "name: penstock-migrate", "dkr.ecr"],
    "gke": ["kind: HTTPRoute", "cloud-sql-proxy", "restartPolicy: Always", 'timeZone: "Europe/Brussels"', "name: external"],
    "aks": ["azure.workload.identity/use: \"true\"", "secrets-store.csi.k8s.io", "rows.example.net", "scalesetpriority"],
    "openshift": ["ingressClassName: openshift-default", "haproxy.router.openshift.io/timeout", "kind: ServiceMonitor"],
}
NO_USER = {"runAsUser", "runAsGroup", "fsGroup"}


def faults(name, text, documents, fault_of):
    """What the rendering of an example gets wrong."""
    opened = OPENED.get(name, ())
    for fault in fault_of(documents, BESIDE):
        if not fault.endswith(tuple(f"reaches the metadata address {address}" for address in opened)):
            yield fault
    yield from (f"`{word}` is not there" for word in WORDS[name] if word not in text)
    if name == "openshift":
        for obj in documents:
            if obj["kind"] in rules.WORKLOADS and NO_USER & rules.pod_of(obj)[1]["securityContext"].keys():
                yield f"{obj['kind']}/{obj['metadata']['name']}: names a user, which restricted-v2 refuses"


def application(found, render):
    """What Argo CD's Application says wrongly: its path, and its values, rendered as Argo CD does."""
    source = found["spec"]["source"]
    if not (sources.ROOT / source["path"] / "Chart.yaml").exists():
        yield f"there is no chart at {source['path']}"
    first, second = (render(source["helm"]["releaseName"], source["helm"]["valuesObject"]) for _ in range(2))
    if first != second:
        yield "two renderings of the same values differ: it would never be in sync"


def names(documents):
    """ConfigMaps that pods read, by what they hold."""
    return {rules.component(o): o["metadata"]["name"] for o in documents if o["kind"] == "ConfigMap"
            and rules.component(o) in {"settings", "pipelines", "alerts"}}


def renamed(render):
    """A change of content is another name, for what changed and nothing else; and what was comes back by its name."""
    base = {"existingSecret": "given", "pipelines": {"a.yaml": "name: a\n"}, "alerts": {"hooks": "receivers: []\nrules: []\n"}}
    before = names(render("release", base))
    for what, change in {"settings": {"settings": {"ROWS_PER_OWNER": "7"}}, "pipelines": {"pipelines": {"a.yaml": "name: a # b\n"}},
                         "alerts": {"alerts": {"hooks": "receivers: []\nrules: [] # b\n"}}}.items():
        documents = render("release", base | change)
        after = names(documents)
        if {key for key in before if before[key] != after[key]} != {what}:
            yield f"a change of {what} makes {after} of {before}"
        used = yaml.safe_dump([rules.pod_of(o)[1] for o in documents if o["kind"] in {"Deployment", "CronJob"}])
        yield from (f"nothing reads {name}" for name in after.values() if name not in used)
    if names(render("release", base)) != before:
        yield "the same values have another name a second time"
    if names(render("release", base | {"worker": {"replicas": 7}, "commonLabels": {"a": "b"}})) != before:
        yield "what is no content changes the name"
    if not all(o.get("immutable") for o in render("release", base) if o["kind"] == "ConfigMap" and o["metadata"]["name"] in before.values()):
        yield "a ConfigMap that is named by its content can be changed"


def lookups():
    """`lookup` finds nothing where the chart is rendered by somebody else, and random values differ each time."""
    for file in sorted((FOLDER.parent / "templates").rglob("*")):
        if file.is_file():
            text = re.sub(r"\{\{-? ?/\*.*?\*/ ?-?\}\}", "", file.read_text(), flags=re.S)
            yield from (f"{file.name}: {word}" for word in re.findall(r"\b(?:lookup|rand\w+|genPrivateKey|uuidv4|now)\b(?= )", "".join(re.findall(r"\{\{.*?\}\}", text, re.S))))


# The Kubernetes API as the Job of the bundled keys meets it: it notes the request, and answers with what is given.
CURL = """#!/bin/sh
for word; do case "$word" in https://*) echo "$word" >> "$0.asked" ;; esac; done
cat > "$0.body"
printf '%s' "$ANSWER"
"""


def keys(folder):
    """The script that makes the Secret of the bundled services: what it asks for, and how it ends."""
    folder.mkdir()
    curl = folder / "curl"
    curl.write_text(CURL)
    curl.chmod(0o755)
    for file in ("token", "ca.crt"):
        (folder / file).write_text("x")
    script = (FOLDER.parent / "files" / "keys.sh").read_text()
    made = []
    for answer, ends in (("201", 0), ("409", 0), ("403", 1), ("000", 1)):
        environment = {"PATH": f"{folder}:{os.environ['PATH']}", "ACCOUNT": str(folder), "ANSWER": answer,
                       "SECRET": "a-bundled", "NAMESPACE": "there", "INSTANCE": "a"}
        done = subprocess.run(["sh", "-euc", script], env=environment, capture_output=True, text=True)
        if done.returncode != ends:
            yield f"answered {answer}, it ends with {done.returncode}: {done.stdout}{done.stderr}"
        made.append(yaml.safe_load((folder / "curl.body").read_text()))
    asked = set((folder / "curl.asked").read_text().split())
    if asked != {"https://kubernetes.default.svc/api/v1/namespaces/there/secrets"}:
        yield f"it asks {asked}"
    data = made[0]["stringData"]
    if made[0]["metadata"]["name"] != "a-bundled" or f":{data['POSTGRES_PASSWORD']}@a-bundled-postgres:5432/" not in data["DATABASE_URL"]:
        yield "it is not the Secret that the services read"
    if not re.fullmatch(r"k1:[A-Za-z0-9+/]{43}=", data["PENSTOCK_ENCRYPTION_KEYS"]) or not re.fullmatch(r"[0-9a-f]{64}", data["AWS_SECRET_ACCESS_KEY"]):
        yield "a key is not 32 bytes"
    for key in ("POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PENSTOCK_ENCRYPTION_KEYS"):
        if len({secret["stringData"][key] for secret in made}) != len(made):
            yield f"{key} is the same twice"
