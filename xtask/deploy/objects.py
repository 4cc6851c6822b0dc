"""What has to hold for every rendered object, beyond what the API's schemas say."""

import re

WORKLOADS = {"Deployment", "StatefulSet", "Job", "CronJob", "Pod"}
ENUMS = {
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "whenUnsatisfiable": {"ScheduleAnyway", "DoNotSchedule"},
    "pathType": {"Prefix", "Exact", "ImplementationSpecific"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "dnsPolicy": {"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"},
}
PORT_NAME = re.compile(r"^(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$")
QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
CRON_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
CRON_NAMES = ({}, {}, {},
              {n: i + 1 for i, n in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split())},
              {n: i for i, n in enumerate("sun mon tue wed thu fri sat".split())})


def cron_error(schedule):
    """Why a schedule is none; robfig/cron's standard parser is what Kubernetes uses."""
    if schedule in {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}:
        return None
    fields = schedule.split()
    if len(fields) != 5:
        return f"{len(fields)} fields instead of 5"
    for field, (low, high), names in zip(fields, CRON_BOUNDS, CRON_NAMES):
        for part in field.split(","):
            span, slash, step = part.partition("/")
            if slash and not (step.isdigit() and int(step) > 0):
                return f"`{part}` has no step"
            if span in {"*", "?"}:
                continue
            ends = [names.get(end.lower(), end) for end in span.split("-")]
            if len(ends) > 2 or not all(str(end).isdigit() for end in ends):
                return f"`{part}` is no number"
            ends = [int(end) for end in ends]
            if not all(low <= end <= high for end in ends) or ends != sorted(ends):
                return f"`{part}` is outside {low}-{high}"
    return None


def walk(value, path=""):
    """Every (path, key, value) of an object."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}", key, inner
            yield from walk(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, f"{path}[{index}]")


def pod_of(obj):
    """The pod template of a workload: (labels, spec)."""
    kind = obj["kind"]
    if kind == "Pod":
        return obj["metadata"].get("labels", {}), obj["spec"]
    template = obj["spec"]["jobTemplate"]["spec"]["template"] if kind == "CronJob" else obj["spec"]["template"]
    return template["metadata"].get("labels", {}), template["spec"]


def values(obj):
    """What single values get wrong."""
    for path, key, value in walk({k: v for k, v in obj.items() if k not in {"data", "stringData"}}):
        if key in ENUMS and isinstance(value, str) and value not in ENUMS[key]:
            yield f"{path}: `{value}` is none of {sorted(ENUMS[key])}"
        if key in {"requests", "limits"} and isinstance(value, dict):
            for name, amount in value.items():
                if not QUANTITY.match(str(amount)):
                    yield f"{path}.{name}: `{amount}` is no quantity"
        if key == "policyTypes" and not set(value) <= {"Ingress", "Egress"}:
            yield f"{path}: {value}"
    if not NAME.match(obj["metadata"].get("name", "")):
        yield f"metadata.name: `{obj['metadata'].get('name')}` is no name"
    if obj["kind"] == "Service" and obj["spec"].get("type", "ClusterIP") not in {
            "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}:
        yield f"spec.type: `{obj['spec']['type']}`"
    if obj["kind"] == "HorizontalPodAutoscaler":
        spec = obj["spec"]
        if spec["minReplicas"] > spec["maxReplicas"]:
            yield "spec: minReplicas is greater than maxReplicas"
        for metric in spec["metrics"]:
            if metric["type"] not in {"Resource", "External", "Pods", "Object", "ContainerResource"}:
                yield f"spec.metrics: `{metric['type']}`"
            target = metric.get("resource", {}).get("target", {})
            if target.get("type") not in {"Utilization", "Value", "AverageValue"}:
                yield f"spec.metrics.resource.target: `{target.get('type')}`"


def workload(obj):
    """What a workload gets wrong."""
    kind = obj["kind"]
    _, pod = pod_of(obj)
    restart = pod.get("restartPolicy", "Always")
    if kind in {"Job", "CronJob"} and restart == "Always":
        yield "a Job's restartPolicy is Never or OnFailure"
    if kind in {"Deployment", "StatefulSet"} and restart != "Always":
        yield f"a {kind}'s restartPolicy is Always"
    if pod.get("automountServiceAccountToken") is not False:
        yield "the pod gets a token of the Kubernetes API, and needs none"
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True:
        yield "the pod may run as root"
    if security.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "no seccomp profile"
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in obj["spec"].get("volumeClaimTemplates", [])}
    bundled = "bundled" in obj["metadata"]["name"]
    for container in pod["containers"]:
        name = container["name"]
        inner = container.get("securityContext", {})
        if inner.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: may escalate privileges"
        if "ALL" not in inner.get("capabilities", {}).get("drop", []):
            yield f"{name}: keeps capabilities"
        if not bundled and inner.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: its root file system can be written"
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield f"{name}: no limit of memory"
        ports = {port["name"] for port in container.get("ports", [])}
        for port in ports:
            if not PORT_NAME.match(port):
                yield f"{name}: `{port}` is no name of a port"
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            if probe in container:
                asked = container[probe].get("httpGet", container[probe].get("tcpSocket", {})).get("port")
                if isinstance(asked, str) and asked not in ports:
                    yield f"{name}: {probe} asks the port `{asked}`, which is not there"
            elif kind == "Deployment":
                yield f"{name}: no {probe}"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{name}: mounts `{mount['name']}`, which is no volume"
    if kind == "CronJob":
        spec = obj["spec"]
        error = cron_error(spec["schedule"])
        if error:
            yield f"spec.schedule: {error}"
        if spec.get("concurrencyPolicy") != "Forbid":
            yield "the dispatcher's runs may overlap"
        if spec.get("startingDeadlineSeconds", 0) < 10:
            yield "startingDeadlineSeconds is missing or shorter than the controller's own period"
        if not spec["jobTemplate"]["spec"].get("activeDeadlineSeconds"):
            yield "a run that hangs keeps all later ones away: activeDeadlineSeconds is missing"


def matches(selector, labels):
    wanted = selector.get("matchLabels", {}) if "matchLabels" in selector or "matchExpressions" in selector else selector
    if not all(labels.get(key) == value for key, value in wanted.items()):
        return False
    return all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []) if e["operator"] == "In")


def together(objects, given):
    """What objects get wrong about each other; `given` are names that exist beside them."""
    names = {(obj["kind"], obj["metadata"]["name"]) for obj in objects}
    seen = set()
    for obj in objects:
        key = (obj["kind"], obj["metadata"]["name"])
        if key in seen:
            yield f"{key} is there twice"
        seen.add(key)
    pods = [pod_of(obj) for obj in objects if obj["kind"] in WORKLOADS]
    for labels, pod in pods:
        for path, key, value in walk(pod):
            if key in {"configMapRef", "secretRef", "secretKeyRef", "configMapKeyRef", "configMap"} and "name" in value:
                kind = "Secret" if key.startswith("secret") else "ConfigMap"
                if (kind, value["name"]) not in names and value["name"] not in given:
                    yield f"{path}: there is no {kind} `{value['name']}`"
    for obj in objects:
        kind, spec = obj["kind"], obj.get("spec", {})
        where = f"{kind}/{obj['metadata']['name']}"
        if kind == "Service":
            found = [pod for labels, pod in pods if matches(spec["selector"], labels)]
            if not found:
                yield f"{where}: selects no pod"
            ports = {port["name"] for pod in found for c in pod["containers"] for port in c.get("ports", [])}
            for port in spec["ports"]:
                if isinstance(port.get("targetPort"), str) and port["targetPort"] not in ports:
                    yield f"{where}: no pod has the port `{port['targetPort']}`"
        elif kind == "PodDisruptionBudget" and not any(matches(spec["selector"], labels) for labels, _ in pods):
            yield f"{where}: selects no pod"
        elif kind == "NetworkPolicy" and spec["podSelector"] and not any(
                matches(spec["podSelector"], labels) for labels, _ in pods):
            yield f"{where}: selects no pod"
        elif kind in {"HorizontalPodAutoscaler", "ScaledObject"}:
            if ("Deployment", spec["scaleTargetRef"]["name"]) not in names:
                yield f"{where}: there is no Deployment `{spec['scaleTargetRef']['name']}`"
        elif kind == "Deployment" and not matches(spec["selector"], spec["template"]["metadata"]["labels"]):
            yield f"{where}: its selector does not match its own pods"
        if kind == "Deployment":
            labels, pod = pod_of(obj)
            for constraint in pod.get("topologySpreadConstraints", []):
                if not matches(constraint["labelSelector"], labels):
                    yield f"{where}: spreads other pods than its own"


def graces(objects):
    """A worker's pod outlives the worker's own grace."""
    settings = {}
    for obj in objects:
        if obj["kind"] == "ConfigMap" and obj["metadata"]["name"].split("-settings")[0] != obj["metadata"]["name"]:
            settings.update(obj.get("data", {}))
    grace = int(settings.get("PENSTOCK_GRACE_SECONDS", 25))
    for obj in objects:
        if obj["kind"] == "Deployment" and obj["metadata"]["name"].endswith("-worker"):
            given = pod_of(obj)[1].get("terminationGracePeriodSeconds", 30)
            if given <= grace:
                yield f"the worker is killed after {given} s, and asks for {grace} s"


def faults(objects, given=frozenset()):
    """All of it, as sentences that name the object."""
    for obj in objects:
        where = f"{obj['kind']}/{obj['metadata'].get('name')}"
        for fault in values(obj):
            yield f"{where}: {fault}"
        if obj["kind"] in WORKLOADS:
            for fault in workload(obj):
                yield f"{where}: {fault}"
    yield from together(objects, given)
    yield from graces(objects)
