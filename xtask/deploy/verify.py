"""Checks everything that installs Penstock: `cargo xtask verify-deploy` fetches the tools and runs this.

Arguments: the project's folder, helm, kubectl, docker-compose, hadolint, promtool.
"""

import copy
import json
import pathlib
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus

import objects as rules

ROOT, HELM, KUBECTL, COMPOSE, HADOLINT, PROMTOOL = (pathlib.Path(a) for a in sys.argv[1:7])
CHART = ROOT / "charts" / "penstock"
VERSIONS = [f"1.{minor}" for minor in range(29, 37)]
SECRET = ["--set", "existingSecret=given"]
MATRIX = {
    "defaults": SECRET,
    "everything": SECRET + ["--set", ",".join([
        "api.autoscaling.enabled=true", "worker.autoscaling.enabled=true", "worker.autoscaling.by=queue",
        "metrics.serviceMonitor.enabled=true", "alerts.enabled=true", "dashboard.enabled=true",
        "api.ingress.enabled=true", "api.ingress.host=penstock.example.com", "api.ingress.className=nginx",
        "api.ingress.tlsSecret=tls", "extraSecrets={given}", "existingPipelines=given", "image.tag=1.2.3",
        "imagePullSecrets[0].name=given", "settings.ROWS_PER_OWNER=250", "dispatcher.schedule=*/2 * * * *"])],
    "cpu": SECRET + ["--set", "worker.autoscaling.enabled=true,worker.autoscaling.by=cpu,image.digest=sha256:" + "0" * 64],
    "bundled": ["--set", "bundled.enabled=true"],
    "little": SECRET + ["--set", "smokePipeline=false,migration.enabled=false,podDisruptionBudget.enabled=false,"
                        "networkPolicy.enabled=false,serviceAccount.create=false"],
    "pipeline": SECRET + ["--set-file", f"pipelines.invite\\.yaml={ROOT / 'pipelines' / 'invite.yaml'}"],
}
# Values that the schema has to refuse.
REFUSED = {
    "a typing error in a key": ["--set", "worker.replica=3"],
    "a wrong type": ["--set-string", "worker.replicas=three"],
    "a wrong enum": ["--set", "image.pullPolicy=Sometimes"],
    "a wrong enum of ours": ["--set", "worker.autoscaling.by=mood"],
    "a schedule of four fields": ["--set", "dispatcher.schedule=* * * *"],
    "a setting in small letters": ["--set", "settings.rows_per_owner=3"],
    "no Secret": ["--set", "existingSecret="],
}
CRDS = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): prometheus.ServiceMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): prometheus.PrometheusRule,
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
}
failures = []


def check(name, found):
    """Notes what is wrong; says what is right."""
    found = list(found)
    print(f"   {'ok ' if not found else 'BAD'} {name}")
    failures.extend(f"{name}: {fault}" for fault in found)


def call(*command, stdin=None):
    done = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def strict(schema):
    """A model's JSON schema, with unknown fields refused."""
    for node in [schema, *schema.get("$defs", {}).values()]:
        if node.get("type") == "object" and "properties" in node and "additionalProperties" not in node:
            node["additionalProperties"] = False
    return schema


CRD_SCHEMAS = {key: strict(model.model_json_schema(by_alias=True)) for key, model in CRDS.items()}


def schema_faults(obj, version):
    key = (obj["apiVersion"], obj["kind"])
    where = f"{obj['kind']}/{obj['metadata'].get('name')}"
    if key in CRD_SCHEMAS:
        for error in jsonschema.Draft202012Validator(CRD_SCHEMAS[key]).iter_errors(obj):
            yield f"{where}: {error.json_path}: {error.message}"
        return
    try:
        kubernetes_validate.validate(obj, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{where}: {version} knows no {obj['kind']} of {obj['apiVersion']}"
    except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
        yield f"{where} on {version}: {getattr(error, 'message', error)}"


def all_faults(documents, given=frozenset()):
    for version in VERSIONS:
        for obj in documents:
            yield from schema_faults(obj, version)
    yield from rules.faults(documents, given)


def load(text):
    return [document for document in yaml.safe_load_all(text) if document]


def render(*arguments):
    code, out, error = call(HELM, "template", "release", CHART, "--kube-version", "1.31.0", *arguments)
    return (load(out), None) if code == 0 else (None, error.strip().splitlines()[-1])


def chart():
    code, out, error = call(HELM, "lint", "--strict", CHART, *SECRET)
    check("helm lint --strict", [] if code == 0 else [out + error])
    for name, arguments in MATRIX.items():
        documents, error = render(*arguments)
        check(f"helm template, {name}: strict for {VERSIONS[0]} to {VERSIONS[-1]}",
              [error] if error else all_faults(documents, {"given", "tls"}))
    for name, arguments in REFUSED.items():
        documents, _ = render(*SECRET, *arguments)
        check(f"the values' schema refuses {name}", ["it was accepted"] if documents is not None else [])


def kustomize():
    for folder in ("base", "overlays/example"):
        code, out, error = call(KUBECTL, "kustomize", ROOT / "k8s" / folder)
        check(f"k8s/{folder}: strict for {VERSIONS[0]} to {VERSIONS[-1]}",
              [error] if code else all_faults(load(out), {"penstock"}))
        if code == 0:
            check(f"k8s/{folder}: no Secret's content", [o["kind"] for o in load(out) if o["kind"] == "Secret"])
    _, out, _ = call(KUBECTL, "kustomize", ROOT / "k8s" / "base")
    plain = next(o for o in load(out) if o["kind"] == "CronJob")["spec"]
    helm = next(o for o in render(*SECRET)[0] if o["kind"] == "CronJob")["spec"]
    keys = ("schedule", "concurrencyPolicy", "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
    check("manifests and chart run the dispatcher alike", [key for key in keys if plain[key] != helm[key]])
    copies = {"k8s/overlays/example/pipelines/invite.yaml": "pipelines/invite.yaml",
              "k8s/base/pipelines/smoke.yaml": "charts/penstock/files/smoke.yaml",
              "deploy/compose/pipelines/smoke.yaml": "charts/penstock/files/smoke.yaml"}
    check("copies of pipelines are copies",
          [a for a, b in copies.items() if (ROOT / a).read_bytes() != (ROOT / b).read_bytes()])


def set_at(documents, kind, path, value, name=""):
    documents = copy.deepcopy(documents)
    node = next(o for o in documents if o["kind"] == kind and name in o["metadata"]["name"])
    *parents, last = path
    for step in parents:
        node = node[step]
    node[last] = value
    return documents


def broken():
    """Each variant has to be caught; one that passes is a hole in the checks above."""
    documents, _ = render(*MATRIX["everything"])
    pod = ("spec", "template", "spec")
    run = ("spec", "jobTemplate", "spec", "template", "spec")
    variants = {
        "a typing error in a key": set_at(documents, "Deployment", (*pod, "containers", 0, "imagePullPolicies"), "Always"),
        "a typing error deep inside": set_at(documents, "Deployment", (*pod, "containers", 0, "livenessProbe", "periodSecond"), 1),
        "a wrong type": set_at(documents, "Deployment", (*pod, "terminationGracePeriodSeconds"), "60"),
        "a number in a ConfigMap": set_at(documents, "ConfigMap", ("data", "ROWS_PER_OWNER"), 100),
        "a wrong enum": set_at(documents, "Deployment", (*pod, "containers", 0, "imagePullPolicy"), "Sometimes"),
        "a wrong concurrencyPolicy": set_at(documents, "CronJob", ("spec", "concurrencyPolicy"), "Forbidden"),
        "overlapping runs": set_at(documents, "CronJob", ("spec", "concurrencyPolicy"), "Allow"),
        "a bad minute": set_at(documents, "CronJob", ("spec", "schedule"), "60 * * * *"),
        "a schedule of six fields": set_at(documents, "CronJob", ("spec", "schedule"), "* * * * * *"),
        "a run without an end": set_at(documents, "CronJob", ("spec", "jobTemplate", "spec", "activeDeadlineSeconds"), 0),
        "a Job that restarts always": set_at(documents, "CronJob", (*run, "restartPolicy"), "Always"),
        "root": set_at(documents, "Deployment", (*pod, "securityContext", "runAsNonRoot"), False),
        "a root file system that can be written":
            set_at(documents, "Deployment", (*pod, "containers", 0, "securityContext", "readOnlyRootFilesystem"), False),
        "a probe of no port": set_at(documents, "Deployment", (*pod, "containers", 0, "livenessProbe", "httpGet", "port"), "web"),
        "a Service that selects nothing": set_at(documents, "Service", ("spec", "selector"), {"app": "other"}),
        "a Service to no port": set_at(documents, "Service", ("spec", "ports", 0, "targetPort"), "web"),
        "a grace shorter than the worker's": set_at(documents, "Deployment", (*pod, "terminationGracePeriodSeconds"), 10, "worker"),
        "a ConfigMap that is not there":
            set_at(documents, "Deployment", (*pod, "containers", 0, "envFrom", 0), {"configMapRef": {"name": "nowhere"}}),
        "a bad quantity": set_at(documents, "Deployment", (*pod, "containers", 0, "resources", "limits", "memory"), "192 MB"),
        "an unknown kind": set_at(documents, "Service", ("kind",), "Servise"),
        "a kind of a removed API": set_at(documents, "CronJob", ("apiVersion",), "batch/v1beta1"),
        "a typing error in a ServiceMonitor": set_at(documents, "ServiceMonitor", ("spec", "endpoint"), []),
        "a typing error in a PrometheusRule": set_at(documents, "PrometheusRule", ("spec", "groups", 0, "rule"), []),
        "a typing error in a ScaledObject": set_at(documents, "ScaledObject", ("spec", "maxReplicas"), 3),
        "an autoscaler of nothing": set_at(documents, "ScaledObject", ("spec", "scaleTargetRef", "name"), "nobody"),
    }
    for name, variant in variants.items():
        caught = next(iter(all_faults(variant, {"given", "tls"})), None)
        check(f"caught: {name}", [] if caught else ["it passed"])


def tools():
    code, out, error = call(HADOLINT, ROOT / "Dockerfile")
    check("hadolint", [] if code == 0 else [out + error])
    with tempfile.TemporaryDirectory() as folder:
        wrong = pathlib.Path(folder) / "Dockerfile"
        wrong.write_text("FROM debian\nRUN cd /tmp && sudo apt-get install curl\n")
        check("caught: a careless Dockerfile", ["it passed"] if call(HADOLINT, wrong)[0] == 0 else [])
        code, out, error = call(COMPOSE, "--env-file", ROOT / ".env.example", "-f", ROOT / "docker-compose.yml",
                                "--profile", "tools", "--profile", "sandbox", "config", "--format", "json")
        check("docker compose config", [] if code == 0 else [error])
        check("compose services", compose_faults(json.loads(out)) if code == 0 else [])
        code, _, _ = call("env", "-i", COMPOSE, "--env-file", "/dev/null", "-f", ROOT / "docker-compose.yml", "config", "-q")
        check("caught: compose without a .env", ["it passed"] if code == 0 else [])
        misspelt = pathlib.Path(folder) / "compose.yml"
        misspelt.write_text((ROOT / "docker-compose.yml").read_text().replace("depends_on:", "depend_on:"))
        code, _, _ = call(COMPOSE, "--env-file", ROOT / ".env.example", "-f", misspelt, "config", "-q")
        check("caught: a typing error in compose", ["it passed"] if code == 0 else [])
        prometheus_rules(pathlib.Path(folder))


def compose_faults(config):
    for name, service in config["services"].items():
        if not service.get("image", "").startswith("penstock"):
            continue
        if not service.get("read_only") or "ALL" not in service.get("cap_drop", []):
            yield f"{name}: not as locked as in a cluster"
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy" and other != "api" \
                    and not config["services"][other].get("healthcheck"):
                yield f"{name} waits for the health of {other}, which says nothing of it"


def prometheus_rules(folder):
    files = CHART / "files"
    code, out, error = call(PROMTOOL, "check", "rules", files / "alerts.yaml")
    check("promtool check rules", [] if code == 0 else [out + error])
    code, out, error = call(PROMTOOL, "test", "rules", files / "alerts_test.yaml")
    check("promtool test rules", [] if code == 0 else [out + error])
    alerts = [rule["alert"] for group in yaml.safe_load((files / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
    tested = (files / "alerts_test.yaml").read_text()
    check("every alert has a test", [alert for alert in alerts if f"alertname: {alert}\n" not in tested])
    runbooks = (ROOT / "docs" / "runbooks.md").read_text()
    for group in yaml.safe_load((files / "alerts.yaml").read_text())["groups"]:
        check("every alert has a part in the runbooks",
              [rule["alert"] for rule in group["rules"]
               if f"## {rule['annotations']['runbook_url'].split('#')[1]}\n" not in runbooks])
    loose = folder / "alerts.yaml"
    loose.write_text((files / "alerts.yaml").read_text().replace("> 300", "> 30000"))
    (folder / "alerts_test.yaml").write_text(tested)
    check("caught: an alert that never fires", ["it passed"] if call(PROMTOOL, "test", "rules", folder / "alerts_test.yaml")[0] == 0 else [])
    board = json.loads((files / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    plain = [e.replace("$pipeline", ".*").replace("$dependency", ".*") for e in expressions]
    written = folder / "dashboard.yaml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": [
        {"record": f"panel:{index}", "expr": expression} for index, expression in enumerate(plain)]}]}))
    code, out, error = call(PROMTOOL, "check", "rules", written)
    check("every query of the dashboard is valid", [] if code == 0 else [out + error])


for part in (chart, kustomize, broken, tools):
    print(f"-- {part.__name__}")
    part()
for failure in failures:
    print(f"BAD {failure}", file=sys.stderr)
sys.exit(1 if failures else 0)
