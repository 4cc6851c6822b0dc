"""What an installation has to have. A list, because a check of what is there notices nothing that is missing."""

import copy

POD = "spec.template.spec"
CONTAINER = [
    "image", "command", "envFrom", "resources.requests.cpu", "resources.requests.memory", "resources.limits.memory",
    "securityContext.allowPrivilegeEscalation", "securityContext.readOnlyRootFilesystem", "securityContext.capabilities.drop",
]
SECURE = ["automountServiceAccountToken", "securityContext.runAsNonRoot", "securityContext.runAsUser", "securityContext.seccompProfile.type"]
SERVICE = [*(f"{POD}.containers.0.{path}" for path in [*CONTAINER, "ports", "livenessProbe", "readinessProbe", "startupProbe", "volumeMounts"]),
           *(f"{POD}.{path}" for path in [*SECURE, "serviceAccountName", "terminationGracePeriodSeconds", "topologySpreadConstraints", "volumes"])]
RUN = "spec.jobTemplate.spec"
# Kind and component: the fields without which it is not what it is there for.
CORE = {
    ("ServiceAccount", None): ["automountServiceAccountToken"],
    ("Deployment", "api"): [*SERVICE, f"{POD}.containers.0.lifecycle.preStop", "spec.strategy.rollingUpdate.maxUnavailable"],
    ("Deployment", "worker"): SERVICE,
    ("Service", "api"): ["spec.selector", "spec.ports"],
    ("Service", "worker"): ["spec.selector", "spec.ports"],
    ("CronJob", "dispatcher"): [
        "spec.schedule", "spec.concurrencyPolicy", "spec.startingDeadlineSeconds", "spec.successfulJobsHistoryLimit",
        "spec.failedJobsHistoryLimit", "spec.jobTemplate.metadata.labels", f"{RUN}.backoffLimit", f"{RUN}.activeDeadlineSeconds",
        *(f"{RUN}.template.spec.{path}" for path in [*SECURE, "restartPolicy", "terminationGracePeriodSeconds", "volumes"]),
        *(f"{RUN}.template.spec.containers.0.{path}" for path in [*CONTAINER, "volumeMounts"])],
    ("Job", "migrate"): ["spec.backoffLimit", "spec.activeDeadlineSeconds", *(f"{POD}.{path}" for path in [*SECURE, "restartPolicy"]),
                         *(f"{POD}.containers.0.{path}" for path in CONTAINER)],
    ("PodDisruptionBudget", "api"): ["spec.maxUnavailable", "spec.selector"],
    ("PodDisruptionBudget", "worker"): ["spec.maxUnavailable", "spec.selector"],
    ("NetworkPolicy", None): ["spec.podSelector", "spec.policyTypes", "spec.egress"],
    ("ConfigMap", "-settings"): ["data.ROWS_PER_OWNER"],
    ("ConfigMap", "-pipelines"): ["data"],
}
SCALED = {
    ("HorizontalPodAutoscaler", "api"): ["spec.minReplicas", "spec.maxReplicas", "spec.metrics", "spec.scaleTargetRef"],
    ("HorizontalPodAutoscaler", "worker"): ["spec.minReplicas", "spec.maxReplicas", "spec.metrics", "spec.scaleTargetRef"],
}
EXTRAS = {
    ("Ingress", "api"): ["spec.rules", "spec.tls"],
    ("ScaledObject", "worker"): ["spec.minReplicaCount", "spec.maxReplicaCount", "spec.triggers"],
    ("HTTPRoute", "api"): ["spec.parentRefs", "spec.hostnames", "spec.rules"],
    ("Job", "check"): ["spec.backoffLimit", "spec.activeDeadlineSeconds", "metadata.annotations", *(f"{POD}.{path}" for path in [*SECURE, "restartPolicy", "volumes"]),
                       *(f"{POD}.containers.0.{path}" for path in [*CONTAINER, "volumeMounts"])],
    ("ServiceMonitor", None): ["spec.selector", "spec.endpoints", "spec.targetLabels"],
    ("PrometheusRule", None): ["spec.groups"],
    ("Pod", "smoke"): [f"spec.{path}" for path in SECURE] + [f"spec.containers.0.{path}" for path in CONTAINER],
}


def step(node, key):
    if isinstance(node, list):
        return node[int(key)] if int(key) < len(node) else None
    return node.get(key) if isinstance(node, dict) else None


def at(obj, path):
    for key in path.split("."):
        obj = step(obj, key)
    return obj


def find(objects, kind, component):
    """The object of a kind for a component; ConfigMaps are told apart by their names."""
    for obj in objects:
        if obj["kind"] != kind:
            continue
        if kind == "ConfigMap":
            if component in obj["metadata"]["name"]:
                return obj
        elif component is None or obj["metadata"].get("labels", {}).get("app.kubernetes.io/component") == component:
            return obj
    return None


def faults(objects, wanted):
    for (kind, component), paths in wanted.items():
        obj = find(objects, kind, component)
        where = f"{kind} of {component}" if component else kind
        if obj is None:
            yield f"there is no {where}"
            continue
        yield from (f"{where}: {path} is missing" for path in paths if at(obj, path) is None)


def holes(objects, wanted):
    """The same objects again and again, each time without one that is required, or one's field: (what, objects)."""
    for (kind, component), paths in wanted.items():
        there = find(objects, kind, component)
        yield f"{kind} of {component}", [obj for obj in objects if obj is not there]
        for path in paths:
            less = copy.deepcopy(there)
            *parents, last = path.split(".")
            node = at(less, ".".join(parents)) if parents else less
            del node[last]
            yield f"{kind} of {component}: {path}", [less if obj is there else obj for obj in objects]
