"""What each value of the chart does: the value, and where it has to be found in what is rendered.

All are set at once, in as few renderings as contradictions allow. Each is then looked for, and must not be there with the
defaults: a value without an effect is caught, and so is one that this table forgets.
"""

import copy
import json

import objects as rules

PARTS = {"api": ("Deployment", "api"), "worker": ("Deployment", "worker"), "dispatcher": ("CronJob", "dispatcher"),
         "migration": ("Job", "migrate"), "pipelinesCheck": ("Job", "check"), "test": ("Pod", "smoke")}
# Values that hold a choice of one's own, and are one value.
WHOLE = {"settings", "resources", "labels", "annotations", "commonLabels", "commonAnnotations", "podSecurityContext",
         "securityContext", "strategy"}


class Rendered:
    """The objects of a rendering, and short ways to what values change in them."""

    def __init__(self, documents):
        self.documents = documents

    def all(self, kind, component=None):
        return [o for o in self.documents if o["kind"] == kind and component in (None, rules.component(o))]

    def one(self, kind, component=None):
        return (self.all(kind, component) or [{"metadata": {}, "spec": {}}])[0]

    def workload(self, part):
        return self.one(*PARTS[part])

    def spec(self, part):
        return self.workload(part)["spec"]

    def pod(self, part):
        obj = self.workload(part)
        return rules.pod_of(obj)[1] if "kind" in obj else {"containers": [{}]}

    def meta(self, part):
        """The metadata of a part's pods."""
        obj = self.workload(part)
        if "kind" not in obj or obj["kind"] == "Pod":
            return obj["metadata"]
        return (obj["spec"].get("jobTemplate") or obj)["spec"]["template"]["metadata"]

    def container(self, part):
        return self.pod(part)["containers"][0]

    def env(self, part):
        return {variable["name"]: variable.get("value") for variable in self.container(part).get("env", [])}

    def secrets(self, part):
        return [source.get("secretRef", {}).get("name") for source in self.container(part).get("envFrom", [])]

    def data(self, what):
        return next((o["data"] for o in self.all("ConfigMap") if f"-{what}-" in o["metadata"]["name"]), {})

    def policy(self, ending=""):
        return next((o["spec"] for o in self.all("NetworkPolicy") if o["metadata"]["name"].endswith(f"penstock{ending}")), {})

    def bundled(self, part):
        obj = self.one("StatefulSet", f"bundled-{part}")
        return obj, rules.pod_of(obj)[1] if "kind" in obj else {"containers": [{}]}


def has(whole, part):
    """Whether a map has what another one says, or a list the items of another one."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return part.items() <= whole.items()
    if isinstance(whole, list) and isinstance(part, list):
        return all(item in whole for item in part)
    return whole == part


# What a value is set to, and what is rendered then: a function of the rendering, and what it has (the value itself).
TAINT = [{"key": "example.com/batch", "operator": "Exists", "effect": "NoSchedule"}]
NEAR = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
    {"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}}]}}
RESOURCES = {"requests": {"cpu": "7m", "memory": "77Mi"}, "limits": {"memory": "777Mi"}}
SPREAD = [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}}}]
ADDED = {"name": "added", "image": "docker.io/library/added:1", "resources": RESOURCES, "securityContext": {
    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
SOURCES = [{"prefix": "A_", "configMapRef": {"name": "given"}}]
HOOK = {"helm.sh/hook": "pre-upgrade", "helm.sh/hook-delete-policy": "before-hook-creation", "helm.sh/hook-weight": "7"}

# For each part of the chart that has pods: `*` stands for its name.
OF_PARTS = {
    "podLabels": ({"own": "*"}, lambda r, p: r.meta(p).get("labels")),
    "podAnnotations": ({"example.com/own": "*"}, lambda r, p: r.meta(p).get("annotations", {})),
    "podSecurityContext": ({"fsGroupChangePolicy": "OnRootMismatch"}, lambda r, p: r.pod(p)["securityContext"]),
    "securityContext": ({"procMount": "Default"}, lambda r, p: r.container(p)["securityContext"]),
    "priorityClassName": ("own-*", lambda r, p: r.pod(p).get("priorityClassName")),
    "nodeSelector": ({"own": "*"}, lambda r, p: r.pod(p).get("nodeSelector", {})),
    "tolerations": (TAINT, lambda r, p: r.pod(p).get("tolerations", [])),
    "affinity": (NEAR, lambda r, p: r.pod(p).get("affinity")),
    "existingSecret": ("secret-*", lambda r, p: r.secrets(p)[0]),
    "extraSecrets": (["more-*"], lambda r, p: r.secrets(p)),
    "extraEnv": ([{"name": "OTEL_SERVICE_NAME", "value": "of-*"}], lambda r, p: r.container(p).get("env", [])),
    "extraEnvFrom": ([{"secretRef": {"name": "from-*"}}], lambda r, p: r.container(p).get("envFrom", [])),
    "extraVolumes": ([{"name": "of-*", "emptyDir": {}}], lambda r, p: r.pod(p).get("volumes", [])),
    "extraVolumeMounts": ([{"name": "of-*", "mountPath": "/of-*"}], lambda r, p: r.container(p).get("volumeMounts", [])),
    "initContainers": ([ADDED | {"restartPolicy": "Always"}], lambda r, p: r.pod(p).get("initContainers", [])),
    "resources": (RESOURCES, lambda r, p: r.container(p).get("resources")),
    "terminationGracePeriodSeconds": (777, lambda r, p: r.pod(p).get("terminationGracePeriodSeconds")),
    "annotations": ({"example.com/object": "*"}, lambda r, p: r.workload(p)["metadata"].get("annotations", {})),
    "sidecars": ([ADDED | {"name": "beside"}], lambda r, p: r.pod(p)["containers"]),
    "strategy": ({"rollingUpdate": {"maxUnavailable": "7%", "maxSurge": 0}}, lambda r, p: r.spec(p).get("strategy", {})),
    "topologySpreadConstraints": (SPREAD, lambda r, p: r.pod(p).get("topologySpreadConstraints", [])),
    "revisionHistoryLimit": (7, lambda r, p: r.spec(p).get("revisionHistoryLimit")),
    "activeDeadlineSeconds": (777, lambda r, p: (r.spec(p).get("jobTemplate") or {"spec": r.spec(p)})["spec"].get("activeDeadlineSeconds")),
}


def every(look):
    """What the parts have, each once."""
    return lambda r: {shown(look(r, part)) for part in PARTS}


def shown(value):
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else str(value)


ONCE = {
    "image.registry": ("mirror.example.com/a", every(lambda r, p: r.container(p).get("image")), {"mirror.example.com/a/b/c:1.2.3"}),
    "image.repository": ("example.com:5000/b/c", every(lambda r, p: r.container(p).get("image")), {"mirror.example.com/a/b/c:1.2.3"}),
    "image.tag": ("1.2.3", every(lambda r, p: r.container(p).get("image")), {"mirror.example.com/a/b/c:1.2.3"}),
    "image.pullPolicy": ("Always", every(lambda r, p: r.container(p).get("imagePullPolicy")), {"Always"}),
    "imagePullSecrets": ([{"name": "given"}], every(lambda r, p: r.pod(p).get("imagePullSecrets")), {shown([{"name": "given"}])}),
    "commonLabels": ({"team": "all"}, lambda r: {has(o["metadata"]["labels"], {"team": "all"}) for o in r.documents}
                     | {has(r.meta(p).get("labels", {}), {"team": "all"}) for p in PARTS}, {True}),
    "commonAnnotations": ({"example.com/all": "a"}, lambda r: {
        has(o["metadata"].get("annotations", {}), {"example.com/all": "a"}) for o in r.documents}, {True}),
    "extraEnv": ([{"name": "OTEL_RESOURCE_ATTRIBUTES", "value": "a=b"}], every(lambda r, p: r.env(p).get("OTEL_RESOURCE_ATTRIBUTES")), {"a=b"}),
    "extraEnvFrom": (SOURCES, every(lambda r, p: has(r.container(p).get("envFrom", []), SOURCES)), {"True"}),
    "extraSecrets": (["of-all"], every(lambda r, p: "of-all" in r.secrets(p)), {"True"}),
    "extraVolumes": ([{"name": "all", "emptyDir": {}}], every(lambda r, p: "all" in [v["name"] for v in r.pod(p).get("volumes", [])]), {"True"}),
    "extraVolumeMounts": ([{"name": "all", "mountPath": "/all"}],
                          every(lambda r, p: "/all" in [m["mountPath"] for m in r.container(p).get("volumeMounts", [])]), {"True"}),
    "settings": ({"ROWS_PER_OWNER": "7"}, lambda r: r.data("settings")),
    "pipelines": ({"own.yaml": "name: own\n"}, lambda r: r.data("pipelines")),
    "smokePipeline": (False, lambda r: "smoke.yaml" in r.data("pipelines")),
    "keepConfigMaps": (False, lambda r: any("helm.sh/resource-policy" in o["metadata"].get("annotations", {}) for o in r.all("ConfigMap"))),
    "existingPipelines": ("given", lambda r: [s["configMap"]["name"] for v in r.pod("api")["volumes"] if v["name"] == "pipelines"
                                              for s in v["projected"]["sources"]][1:], ["given"]),
    "serviceAccount.name": ("own", every(lambda r, p: r.pod(p).get("serviceAccountName", "own")), {"own"}),
    "serviceAccount.annotations": ({"example.com/role": "a"}, lambda r: r.one("ServiceAccount")["metadata"].get("annotations", {})),
    "serviceAccount.labels": ({"own": "a"}, lambda r: r.one("ServiceAccount")["metadata"].get("labels", {})),
    "api.service.type": ("LoadBalancer", lambda r: r.one("Service", "api")["spec"]["type"]),
    "api.service.port": (81, lambda r: r.one("Service", "api")["spec"]["ports"][0]["port"]),
    "api.service.annotations": ({"a": "b"}, lambda r: r.one("Service", "api")["metadata"].get("annotations", {})),
    "api.ingress.enabled": (True, lambda r: bool(r.all("Ingress"))),
    "api.ingress.className": ("own", lambda r: r.one("Ingress")["spec"].get("ingressClassName")),
    "api.ingress.annotations": ({"a": "b"}, lambda r: r.one("Ingress")["metadata"].get("annotations", {})),
    "api.ingress.host": ("a.example.com", lambda r: [rule["host"] for rule in r.one("Ingress")["spec"].get("rules", [])][:1], ["a.example.com"]),
    "api.ingress.hosts": ([{"host": "b.example.com", "tlsSecret": "tls"}, {"host": "c.example.com", "paths": ["/v2/c"]}],
                          lambda r: [(rule["host"], [p["path"] for p in rule["http"]["paths"]]) for rule in r.one("Ingress")["spec"].get("rules", [])][1:],
                          [("b.example.com", ["/v2/own"]), ("c.example.com", ["/v2/c"])]),
    "api.ingress.paths": (["/v2/own"], lambda r: [p["path"] for p in r.one("Ingress")["spec"].get("rules", [{"http": {"paths": []}}])[0]["http"]["paths"]]),
    "api.ingress.pathType": ("ImplementationSpecific", lambda r: {
        p["pathType"] for rule in r.one("Ingress")["spec"].get("rules", []) for p in rule["http"]["paths"]}, {"ImplementationSpecific"}),
    "api.ingress.tlsSecret": ("tls", lambda r: r.one("Ingress")["spec"].get("tls"), [{"hosts": ["a.example.com", "b.example.com"], "secretName": "tls"}]),
    "api.httpRoute.enabled": (True, lambda r: bool(r.all("HTTPRoute"))),
    "api.httpRoute.annotations": ({"a": "b"}, lambda r: r.one("HTTPRoute")["metadata"].get("annotations", {})),
    "api.httpRoute.parentRefs": ([{"name": "gateway", "namespace": "infra", "sectionName": "https"}], lambda r: r.one("HTTPRoute")["spec"].get("parentRefs")),
    "api.httpRoute.hostnames": (["d.example.com"], lambda r: r.one("HTTPRoute")["spec"].get("hostnames")),
    "api.httpRoute.paths": (["/v2/route"], lambda r: [m["path"]["value"] for m in r.one("HTTPRoute")["spec"].get("rules", [{"matches": []}])[0]["matches"]]),
    "api.httpRoute.filters": ([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["a"]}}],
                              lambda r: r.one("HTTPRoute")["spec"].get("rules", [{}])[0].get("filters")),
    "api.httpRoute.timeout": ("30m", lambda r: r.one("HTTPRoute")["spec"].get("rules", [{}])[0].get("timeouts"), {"request": "30m"}),
    "worker.concurrency": (7, lambda r: r.data("settings").get("PENSTOCK_CONCURRENCY"), "7"),
    "worker.graceSeconds": (77, lambda r: r.data("settings").get("PENSTOCK_GRACE_SECONDS"), "77"),
    "dispatcher.schedule": ("*/7 * * * *", lambda r: r.spec("dispatcher")["schedule"]),
    "dispatcher.timeZone": ("Europe/Berlin", lambda r: r.spec("dispatcher").get("timeZone")),
    "dispatcher.startingDeadlineSeconds": (77, lambda r: r.spec("dispatcher")["startingDeadlineSeconds"]),
    "dispatcher.suspend": (True, lambda r: r.spec("dispatcher")["suspend"]),
    "migration.hook.annotations": (HOOK, lambda r: r.workload("migration")["metadata"].get("annotations", {})),
    "pipelinesCheck.hook.annotations": (HOOK, lambda r: r.workload("pipelinesCheck")["metadata"].get("annotations", {})),
    "podDisruptionBudget.maxUnavailable": ("7%", lambda r: {o["spec"]["maxUnavailable"] for o in r.all("PodDisruptionBudget")}, {"7%"}),
    "networkPolicy.apiFrom": ([{"podSelector": {"matchLabels": {"a": "b"}}}], lambda r: r.policy("-api")["ingress"][0].get("from", [])),
    "networkPolicy.workerFrom": ([{"podSelector": {"matchLabels": {"c": "d"}}}], lambda r: r.policy("-worker")["ingress"][0].get("from", [])),
    "networkPolicy.blockedEgress": (["10.9.0.0/16"], lambda r: r.policy()["egress"][1]["to"][0]["ipBlock"].get("except")),
    "metrics.serviceMonitor.enabled": (True, lambda r: bool(r.all("ServiceMonitor"))),
    "metrics.serviceMonitor.interval": ("77s", lambda r: {e["interval"] for e in r.one("ServiceMonitor")["spec"].get("endpoints", [])}, {"77s"}),
    "metrics.serviceMonitor.labels": ({"own": "a"}, lambda r: r.one("ServiceMonitor")["metadata"].get("labels", {})),
    "alerts.enabled": (True, lambda r: bool(r.all("PrometheusRule"))),
    "alerts.labels": ({"own": "a"}, lambda r: r.one("PrometheusRule")["metadata"].get("labels", {})),
    "alerts.dispatcherLateSeconds": (777, lambda r: "> 777 or" in str(r.one("PrometheusRule")["spec"]), True),
    "alerts.existingSecret": ("given", lambda r: [v["secret"]["secretName"] for v in r.pod("worker")["volumes"] if v["name"] == "alerts"], ["given"]),
    "alerts.existingSecretKey": ("own.yaml", lambda r: [v["secret"]["items"][0]["key"] for v in r.pod("worker")["volumes"] if v["name"] == "alerts"], ["own.yaml"]),
    "dashboard.enabled": (True, lambda r: any(o["metadata"]["name"].endswith("-dashboard") for o in r.all("ConfigMap"))),
    "dashboard.labels": ({"own": "a"}, lambda r: next((o["metadata"]["labels"] for o in r.all("ConfigMap") if o["metadata"]["name"].endswith("-dashboard")), {})),
}
# A key of a value that is a map, which `null` takes out.
TAKEN_OUT = "podSecurityContext.runAsUser"
# A rendering for itself each: what the others would hide, or what turns them off.
APART = {
    "openshift": (True, every(lambda r, p: r.pod(p)["securityContext"]), {shown({"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}})}, {}),
    "podLabels": ({"a": "b"}, every(lambda r, p: r.meta(p).get("labels", {}).get("a")), {"b"}, {}),
    "podAnnotations": ({"a": "b"}, every(lambda r, p: r.meta(p).get("annotations", {}).get("a")), {"b"}, {}),
    "podSecurityContext": ({"fsGroup": 7}, every(lambda r, p: r.pod(p)["securityContext"].get("fsGroup")), {"7"}, {}),
    TAKEN_OUT: (None, every(lambda r, p: r.pod(p)["securityContext"].get("runAsUser", "none")), {"none"}, {}),
    "securityContext": ({"procMount": "Default"}, every(lambda r, p: r.container(p)["securityContext"].get("procMount")), {"Default"}, {}),
    "priorityClassName": ("own", every(lambda r, p: r.pod(p).get("priorityClassName")), {"own"}, {}),
    "nodeSelector": ({"a": "b"}, every(lambda r, p: r.pod(p).get("nodeSelector")), {shown({"a": "b"})}, {}),
    "tolerations": (TAINT, every(lambda r, p: r.pod(p).get("tolerations")), {shown(TAINT)}, {}),
    "affinity": (NEAR, every(lambda r, p: r.pod(p).get("affinity")), {shown(NEAR)}, {}),
    "topologySpreadConstraints": (SPREAD, lambda r: [r.pod(p).get("topologySpreadConstraints") for p in ("api", "worker")], [SPREAD, SPREAD], {}),
    "revisionHistoryLimit": (0, lambda r: [r.spec(p).get("revisionHistoryLimit") for p in ("api", "worker")], [0, 0], {}),
    "existingSecret": ("own", every(lambda r, p: r.secrets(p)), {shown(["own"]), shown(["own", None])}, {}),
    "api.replicas": (7, lambda r: r.spec("api").get("replicas"), 7, {}),
    "worker.replicas": (7, lambda r: r.spec("worker").get("replicas"), 7, {}),
    "image.digest": ("sha256:" + "7" * 64, every(lambda r, p: r.container(p)["image"]), {"ghcr.io/penstock/penstock@sha256:" + "7" * 64}, {}),
    "nameOverride": ("own", lambda r: r.one("Deployment")["metadata"]["labels"]["app.kubernetes.io/name"], "own", {}),
    "fullnameOverride": ("own", lambda r: r.one("Service", "api")["metadata"]["name"], "own-api", {}),
    "serviceAccount.create": (False, lambda r: bool(r.all("ServiceAccount")), False, {}),
    "migration.enabled": (False, lambda r: bool(r.all("Job", "migrate")), False, {}),
    "migration.hook.enabled": (False, lambda r: (r.workload("migration")["metadata"].get("annotations"),
                                                 r.spec("migration").get("ttlSecondsAfterFinished")), (None, 600), {}),
    "pipelinesCheck.enabled": (False, lambda r: bool(r.all("Job", "check")), False, {}),
    "podDisruptionBudget.minAvailable": ("70%", lambda r: {(o["spec"].get("minAvailable"), o["spec"].get("maxUnavailable"))
                                                           for o in r.all("PodDisruptionBudget")}, {("70%", None)}, {}),
    # What it replaces is gone: nothing but names and the release's own pods is left beside it.
    "networkPolicy.egress": ([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 5432}]}], lambda r: shown([
        peer for rule in r.policy()["egress"] for peer in rule.get("to", []) if "podSelector" not in peer]), shown([{"ipBlock": {"cidr": "10.0.0.0/8"}}]), {}),
    "podDisruptionBudget.enabled": (False, lambda r: bool(r.all("PodDisruptionBudget")), False, {}),
    "networkPolicy.enabled": (False, lambda r: bool(r.all("NetworkPolicy")), False, {}),
    "alerts.hooks": ({"receivers": [], "rules": []}, lambda r: r.data("alerts"), {"alerts.yaml": "receivers: []\nrules: []\n"}, {}),
    "test.within": ("7m", lambda r: "--within=7m" in r.container("test")["command"], True, {}),
    **{f"{part}.autoscaling.{key}": (value, look, wanted, {f"{part}.autoscaling.enabled": True}) for part in ("api", "worker")
       for key, value, look, wanted in (
           ("enabled", True, lambda r, p=part: bool(r.all("HorizontalPodAutoscaler", p)), True),
           ("minReplicas", 3, lambda r, p=part: r.one("HorizontalPodAutoscaler", p)["spec"].get("minReplicas"), 3),
           ("maxReplicas", 77, lambda r, p=part: r.one("HorizontalPodAutoscaler", p)["spec"].get("maxReplicas"), 77),
           ("targetCPU", 7, lambda r, p=part: "'averageUtilization': 7}" in str(r.one("HorizontalPodAutoscaler", p)["spec"]), True))},
    "worker.autoscaling.by": ("queue", lambda r: bool(r.all("ScaledObject")), True, {"worker.autoscaling.enabled": True}),
    "worker.autoscaling.targetRows": (77, lambda r: "'targetQueryValue': '77'" in str(r.one("ScaledObject")["spec"]), True,
                                      {"worker.autoscaling.enabled": True, "worker.autoscaling.by": "queue"}),
}
BUNDLED = {
    # They are pods of the release too: of policies about labels, of mirrors that ask for a password, of tainted nodes.
    "commonLabels": ({"team": "all"}, lambda r: {rules.pod_of(o)[0].get("team") for o in r.documents if o["kind"] in rules.WORKLOADS}, {"all"}),
    "imagePullSecrets": ([{"name": "given"}], lambda r: {
        shown(rules.pod_of(o)[1].get("imagePullSecrets")) for o in r.documents if o["kind"] in rules.WORKLOADS}, {shown([{"name": "given"}])}),
    "nodeSelector": ({"a": "b"}, lambda r: {
        shown(rules.pod_of(o)[1].get("nodeSelector")) for o in r.documents if o["kind"] in rules.WORKLOADS}, {shown({"a": "b"})}),
    "bundled.enabled": (True, lambda r: len(r.all("StatefulSet")), 3),
    "bundled.storage": ("7Gi", lambda r: {c["spec"]["resources"]["requests"]["storage"] for o in r.all("StatefulSet")
                                          for c in o["spec"].get("volumeClaimTemplates", [])}, {"7Gi"}),
    "bundled.storageClass": ("own", lambda r: {c["spec"].get("storageClassName") for o in r.all("StatefulSet")
                                               for c in o["spec"].get("volumeClaimTemplates", [])}, {"own"}),
    **{f"bundled.{part}Image": (f"example.com/{part}:7", lambda r, p=part: r.bundled(p)[1]["containers"][0].get("image"), f"example.com/{part}:7")
       for part in ("postgres", "redis", "objects")},
    "bundled.keysImage": ("example.com/keys:7", lambda r: rules.pod_of(r.one("Job", "bundled-keys"))[1]["containers"][0]["image"]
                          if r.all("Job", "bundled-keys") else None, "example.com/keys:7"),
}


def starred(value, part):
    """A value with the part's name in the place of `*`."""
    name = part.lower()
    if isinstance(value, str):
        return value.replace("*", name)
    if isinstance(value, list):
        return [starred(item, part) for item in value]
    if isinstance(value, dict):
        return {key: starred(item, part) for key, item in value.items()}
    return value


def put(values, path, value):
    *parents, last = path.split(".")
    for key in parents:
        values = values.setdefault(key, {})
    values[last] = copy.deepcopy(value)


def leaves(values, path=""):
    """Every key of the values with its default. What holds a choice of one's own is a leaf."""
    for key, value in values.items():
        name = f"{path}{key}"
        if isinstance(value, dict) and value and key not in WHOLE:
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def of_parts(defaults):
    """The entries of the parts: the value's name, what it is set to, and where that is found."""
    for part in PARTS:
        for key, (value, look) in OF_PARTS.items():
            if key in defaults[part]:
                yield f"{part}.{key}", starred(value, part), lambda r, look=look, part=part: look(r, part)


def table(defaults):
    """The renderings: for each its values, and the entries that are looked for."""
    together = {name: (value, look, wanted[0] if wanted else value) for name, (value, look, *wanted) in ONCE.items()}
    for name, value, look in of_parts(defaults):
        together[name] = (value, look, value)
    # The pod of `helm test` comes with the smoke pipeline, which one of the values takes away.
    yield {"existingSecret": "given"}, {k: v for k, v in together.items() if k != "smokePipeline"}
    base = {"existingSecret": "given", "pipelines": {"plain.yaml": "name: plain\n"}}
    yield copy.deepcopy(base), {"smokePipeline": together["smokePipeline"]}
    for name, (value, look, wanted, others) in APART.items():
        values = copy.deepcopy(base)
        for other, of in others.items():
            put(values, other, of)
        yield values, {name: (value, look, wanted)}
    yield {}, BUNDLED


def faults(defaults, render):
    """`render` makes objects of values."""
    known, plain = set(), Rendered(render({"existingSecret": "given", "pipelines": {"plain.yaml": "name: plain\n"}}))
    for values, entries in table(defaults):
        known |= entries.keys()
        for name, (value, _, _) in entries.items():
            put(values, name, value)
        rendered = Rendered(render(values))
        for name, (value, look, wanted) in entries.items():
            if not has(look(rendered), wanted):
                yield f"{name}: {wanted} is not what is rendered: {look(rendered)}"
            elif has(look(plain), wanted) and name != "existingSecret":
                yield f"{name}: {wanted} is there without it"
    yield from (f"{name}: nothing says what it does" for name in dict(leaves(defaults)).keys() - known)
    yield from (f"{name}: there is no such value" for name in known - dict(leaves(defaults)).keys() if name != TAKEN_OUT)
