"""What has to hold for every rendered object, beyond what the API's schemas say."""

import re

import network
import sources

WORKLOADS = {"Deployment", "StatefulSet", "Job", "CronJob", "Pod"}
ENUMS = {
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "whenUnsatisfiable": {"ScheduleAnyway", "DoNotSchedule"},
    "unhealthyPodEvictionPolicy": {"IfHealthyBudget", "AlwaysAllow"},
    "pathType": {"Prefix", "Exact", "ImplementationSpecific"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "restartPolicy": {"Always", "OnFailure", "Never"},
    "dnsPolicy": {"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"},
}
PORT_NAME = re.compile(r"^(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$")
QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
# A Service's name is a label of DNS, and until 1.33 one that begins with a letter.
SERVICE_NAME = re.compile(r"^[a-z]([a-z0-9-]*[a-z0-9])?$")
HOST = re.compile(r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
LABEL = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")
IMAGE = re.compile(r"^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
                   r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$")
# Where the controllers put a name into a label, or add to it: a CronJob's Jobs get a time, a StatefulSet's pods a hash.
LONGEST = {"CronJob": 52, "StatefulSet": 52, "Service": 63, "Job": 63, "Pod": 63, "Deployment": 63, "ScaledObject": 63}
# robfig/cron, which Kubernetes uses, knows no Sunday 7.
CRON_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
CRON_NAMES = ({}, {}, {},
              {n: i + 1 for i, n in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split())},
              {n: i for i, n in enumerate("sun mon tue wed thu fri sat".split())})
# The volumes that the `restricted` profile of the Pod Security Standards allows.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
# The containers that run programs of ours; others come with `sidecars` and `initContainers`.
OURS = {"api", "worker", "dispatcher", "migrate", "check", "smoke"}
# What lists of a container or a pod are told apart by; server-side apply refuses one that is there twice.
KEYS = {"env": "name", "volumeMounts": "mountPath", "ports": "name", "volumes": "name", "containers": "name"}
KNOWN = {"settings": sources.settings(), "words": sources.words(), "programs": sources.programs(sources.read("Dockerfile")),
         "grace": sources.default_of("PENSTOCK_GRACE_SECONDS"),
         "shutdown": sources.constant("crates/api/src/server.rs", "SHUTDOWN_SECONDS")}


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
                return f"`{part}` is not a number"
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


def component(obj):
    return obj["metadata"].get("labels", {}).get("app.kubernetes.io/component", "")


def pod_of(obj):
    """The pod template of a workload: (labels, spec)."""
    kind = obj["kind"]
    if kind == "Pod":
        return obj["metadata"].get("labels", {}), obj["spec"]
    template = obj["spec"]["jobTemplate"]["spec"]["template"] if kind == "CronJob" else obj["spec"]["template"]
    return template["metadata"].get("labels", {}), template["spec"]


def containers(pod):
    return [*pod.get("initContainers", []), *pod["containers"]]


def published(path):
    if any(private.startswith(path.rstrip("/")) for private in ("/metrics", "/readyz")):
        yield f"spec.rules: `{path}` publishes what asks for no key"


def values(obj):
    """What single values get wrong."""
    kind, name = obj["kind"], obj["metadata"].get("name", "")
    for path, key, value in walk({k: v for k, v in obj.items() if k not in {"data", "stringData"}}):
        if key in ENUMS and isinstance(value, str) and value not in ENUMS[key]:
            yield f"{path}: `{value}` is none of {sorted(ENUMS[key])}"
        if key in {"requests", "limits"} and isinstance(value, dict):
            for of, amount in value.items():
                if not QUANTITY.match(str(amount)):
                    yield f"{path}.{of}: `{amount}` is no quantity"
        if key == "policyTypes" and not set(value) <= {"Ingress", "Egress"}:
            yield f"{path}: {value}"
        if key in {"labels", "matchLabels"} and isinstance(value, dict):
            for label, text in value.items():
                if not LABEL.match(str(text)):
                    yield f"{path}.{label}: `{text}` is no label"
        if key in KEYS and isinstance(value, list):
            ids = [item[KEYS[key]] for item in value if isinstance(item, dict) and KEYS[key] in item]
            for twice in sorted({i for i in ids if ids.count(i) > 1}):
                yield f"{path}: `{twice}` is there twice"
    if not NAME.match(name) or (kind == "Service" and not SERVICE_NAME.match(name)):
        yield f"metadata.name: `{name}` is no name"
    if len(name) > LONGEST.get(kind, 253):
        yield f"metadata.name: {len(name)} characters, and a {kind} may have {LONGEST.get(kind, 253)}"
    if kind == "Service" and obj["spec"].get("type", "ClusterIP") not in {"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}:
        yield f"spec.type: `{obj['spec']['type']}`"
    if kind == "Ingress":
        for rule in obj["spec"]["rules"]:
            if not HOST.match(rule.get("host", "")):
                yield f"spec.rules: `{rule.get('host')}` is no host"
            for path in rule["http"]["paths"]:
                yield from published(path["path"])
    if kind == "HTTPRoute":
        yield from (f"spec.hostnames: `{host}` is no host" for host in obj["spec"].get("hostnames", []) if not HOST.match(host))
        for match in (match for rule in obj["spec"]["rules"] for match in rule["matches"]):
            yield from published(match["path"]["value"])
    if kind == "HorizontalPodAutoscaler":
        spec = obj["spec"]
        if spec.get("minReplicas", 1) > spec["maxReplicas"]:
            yield "spec: minReplicas is greater than maxReplicas"
        for metric in spec["metrics"]:
            if metric["type"] not in {"Resource", "External", "Pods", "Object", "ContainerResource"}:
                yield f"spec.metrics: `{metric['type']}`"
            target = metric.get("resource", {}).get("target", {})
            if target.get("type") not in {"Utilization", "Value", "AverageValue"}:
                yield f"spec.metrics.resource.target: `{target.get('type')}`"


def restricted(pod, own):
    """What the `restricted` profile forbids; for our own pods, what they do without besides."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"the pod has {key}"
    for volume in pod.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"the volume `{volume['name']}` is of a kind that is not allowed"
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
        yield "the pod may run as root"
    if security.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "no seccomp profile"
    # Without a user it is the image's own, which is this one, or one that the cluster gives (OpenShift).
    if own and security.get("runAsUser", 65532) != 65532:
        yield "the pod does not run as the image's user"
    for container in containers(pod):
        name, inner = container["name"], container.get("securityContext", {})
        if inner.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: may escalate privileges"
        if inner.get("privileged") or inner.get("runAsUser") == 0 or inner.get("runAsNonRoot") is False:
            yield f"{name}: may run as root"
        capabilities = inner.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
            yield f"{name}: keeps capabilities"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name}: takes a port of the node"
        if own and name in OURS and inner.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: its root file system can be written"


def workload(obj):
    """What a workload gets wrong."""
    kind = obj["kind"]
    _, pod = pod_of(obj)
    own = not component(obj).startswith("bundled")
    restart = pod.get("restartPolicy", "Always")
    if kind in {"Job", "CronJob"} and restart == "Always":
        yield "a Job's restartPolicy is Never or OnFailure"
    if kind in {"Deployment", "StatefulSet"} and restart != "Always":
        yield f"a {kind}'s restartPolicy is Always"
    if pod.get("automountServiceAccountToken") is not False:
        yield "the pod gets a token of the Kubernetes API, and needs none"
    yield from restricted(pod, own)
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in obj["spec"].get("volumeClaimTemplates", [])}
    for container in containers(pod):
        name = container["name"]
        ours = own and name in OURS
        if not IMAGE.match(container["image"]):
            yield f"{name}: `{container['image']}` is no image"
        resources = container.get("resources", {})
        for part, what in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if what not in resources.get(part, {}):
                yield f"{name}: no {part}.{what}"
        ports = {port["name"] for port in container.get("ports", [])}
        for port in ports:
            if not PORT_NAME.match(port):
                yield f"{name}: `{port}` is no name of a port"
        # Alive before the schema is there; ready once the services answer.
        for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz"), ("startupProbe", "/livez")):
            if probe in container:
                asked = container[probe].get("httpGet", container[probe].get("tcpSocket", {}))
                if isinstance(asked.get("port"), str) and asked["port"] not in ports:
                    yield f"{name}: {probe} asks the port `{asked['port']}`, which is not there"
                if ours and asked.get("path", "").split("?")[0] != path:
                    yield f"{name}: {probe} does not ask {path}"
            elif kind == "Deployment" and ours:
                yield f"{name}: no {probe}"
        for hook, does in container.get("lifecycle", {}).items():
            if "sleep" in does:
                yield f"{name}: {hook}.sleep is off on 1.29"
            if ours and "exec" in does:
                yield from filter(None, [sources.command_fault(does["exec"]["command"], KNOWN["programs"], KNOWN["words"])])
        mounts = container.get("volumeMounts", [])
        for mount in mounts:
            if mount["name"] not in volumes:
                yield f"{name}: mounts `{mount['name']}`, which is no volume"
        if ours:
            if "command" not in container:
                yield f"{name}: no command, and the image's own is the API"
            else:
                yield from filter(None, [sources.command_fault(container["command"], KNOWN["programs"], KNOWN["words"])])
            for variable in container.get("env", []):
                if variable["name"] == "PENSTOCK_ALERTS" and not any(
                        variable["value"].startswith(mount["mountPath"] + "/") for mount in mounts):
                    yield f"{name}: PENSTOCK_ALERTS names a file that is mounted nowhere"
    if kind == "CronJob":
        yield from cron_job(obj["spec"])
    if kind in {"Job", "CronJob"}:
        spec = obj["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else obj["spec"]
        if "backoffLimit" not in spec:
            yield "backoffLimit is missing: a Job that fails is tried again six times"
        if not spec.get("activeDeadlineSeconds"):
            yield "a Job that hangs never ends: activeDeadlineSeconds is missing"
    if kind == "Job":
        hook = obj["metadata"].get("annotations", {})
        if "helm.sh/hook" in hook and "before-hook-creation" not in hook.get("helm.sh/hook-delete-policy", ""):
            yield "the hook's Job is in the way of the next one"
        if "helm.sh/hook" not in hook and "ttlSecondsAfterFinished" not in obj["spec"]:
            yield "the Job stays without end: ttlSecondsAfterFinished is missing"
        if component(obj) == "migrate" and "post-" in hook.get("helm.sh/hook", ""):
            yield "services wait for the schema, and Helm (--wait) for the services before it makes the schema"


def cron_job(spec):
    error = cron_error(spec["schedule"])
    if error:
        yield f"spec.schedule: {error}"
    if spec.get("concurrencyPolicy") != "Forbid":
        yield "the dispatcher's runs may overlap"
    if spec.get("startingDeadlineSeconds", 0) < 10:
        yield "startingDeadlineSeconds is missing or shorter than the controller's own period"
    for key in ("successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        if key not in spec:
            yield f"{key} is missing"
    of_jobs = spec["jobTemplate"].get("metadata", {}).get("labels", {})
    of_pods = spec["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    if of_jobs.get("app.kubernetes.io/component") != of_pods.get("app.kubernetes.io/component"):
        yield "its Jobs are not found by their component: jobTemplate.metadata has no labels"


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
    # Every namespace has it; and a Job makes the bundled services' Secret before the install.
    names.add(("ConfigMap", "kube-root-ca.crt"))
    names |= {("Secret", variable["value"]) for labels, pod in pods for c in pod["containers"]
              for variable in c.get("env", []) if variable["name"] == "SECRET" and c["name"] == "keys"}
    for labels, pod in pods:
        account = pod.get("serviceAccountName", "default")
        if account != "default" and ("ServiceAccount", account) not in names and account not in given:
            yield f"there is no ServiceAccount `{account}`"
        for path, key, value in walk(pod):
            if key in {"configMapRef", "secretRef", "secretKeyRef", "configMapKeyRef", "configMap", "secret"} \
                    and isinstance(value, dict):
                kind = "Secret" if key.startswith("secret") else "ConfigMap"
                name = value.get("name", value.get("secretName"))
                if name and (kind, name) not in names and name not in given:
                    yield f"{path}: there is no {kind} `{name}`"
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
        elif kind == "HTTPRoute":
            services = {o["metadata"]["name"]: [port["port"] for port in o["spec"]["ports"]] for o in objects if o["kind"] == "Service"}
            for backend in (backend for rule in spec["rules"] for backend in rule.get("backendRefs", [])):
                if backend["port"] not in services.get(backend["name"], []):
                    yield f"{where}: there is no Service `{backend['name']}` with the port {backend['port']}"
        elif kind == "RoleBinding":
            if (role := obj["roleRef"]) and (role["kind"], role["name"]) not in names:
                yield f"{where}: there is no {role['kind']} `{role['name']}`"
            yield from (f"{where}: there is no ServiceAccount `{subject['name']}`" for subject in obj["subjects"]
                        if ("ServiceAccount", subject["name"]) not in names)
        elif kind == "PodDisruptionBudget" and not any(matches(spec["selector"], labels) for labels, _ in pods):
            yield f"{where}: selects no pod"
        elif kind in {"HorizontalPodAutoscaler", "ScaledObject"}:
            target = next((o for o in objects if o["kind"] == "Deployment"
                           and o["metadata"]["name"] == spec["scaleTargetRef"]["name"]), None)
            if target is None:
                yield f"{where}: there is no Deployment `{spec['scaleTargetRef']['name']}`"
            elif "replicas" in target["spec"]:
                yield f"{where}: the Deployment has replicas of its own, which every apply would set again"
        elif kind == "Deployment" and not matches(spec["selector"], spec["template"]["metadata"]["labels"]):
            yield f"{where}: its selector does not match its own pods"
        if kind == "Deployment":
            labels, pod = pod_of(obj)
            for constraint in pod.get("topologySpreadConstraints", []):
                if not matches(constraint["labelSelector"], labels):
                    yield f"{where}: spreads other pods than its own"


def texts(objects, *parts):
    """Files in ConfigMaps whose names have one of these parts."""
    for obj in objects:
        if obj["kind"] == "ConfigMap" and any(part in obj["metadata"]["name"] for part in parts):
            yield from (text for key, text in obj.get("data", {}).items() if key.endswith((".yaml", ".yml")))


def variables(objects):
    """Variables that nobody reads: a misspelt one is a setting that silently is not set."""
    named = {name for text in texts(objects, "-pipelines", "-alerts") for name in sources.VARIABLE.findall(text)}
    given = {}
    for obj in objects:
        where = f"{obj['kind']}/{obj['metadata']['name']}"
        if obj["kind"] == "ConfigMap" and "-settings" in obj["metadata"]["name"]:
            given.update({name: where for name in obj.get("data", {})})
        if obj["kind"] in WORKLOADS and not component(obj).startswith("bundled"):
            own = [variable for c in containers(pod_of(obj)[1]) if c["name"] in OURS for variable in c.get("env", [])]
            given.update({variable["name"]: where for variable in own})
            # Kubernetes puts the one into the other.
            named.update(name for variable in own for name in re.findall(r"\$\(([A-Za-z_][\w.-]*)\)", variable.get("value", "")))
    for name, where in given.items():
        if name not in KNOWN["settings"] | named and not sources.ELSEWHERE.match(name):
            yield f"{where}: nothing reads {name}"


def graces(objects):
    """A pod outlives what it does after SIGTERM."""
    settings = {}
    for obj in objects:
        if obj["kind"] == "ConfigMap" and "-settings" in obj["metadata"]["name"]:
            settings.update(obj.get("data", {}))
    grace = int(settings.get("PENSTOCK_GRACE_SECONDS", KNOWN["grace"]))
    slowest = max(map(sources.slowest_call, texts(objects, "-pipelines")), default=0)
    if grace <= slowest:
        yield f"a worker gives calls {grace} s to end, and one may take {slowest} s"
    for obj in objects:
        if obj["kind"] != "Deployment":
            continue
        pod = pod_of(obj)[1]
        given = pod.get("terminationGracePeriodSeconds", 30)
        # Calls get the grace, and their settlement the same once more.
        if component(obj) == "worker" and given <= 2 * grace:
            yield f"the worker is killed after {given} s, and may take 2 × {grace} s"
        if component(obj) == "api":
            hooks = [c["lifecycle"]["preStop"]["exec"]["command"] for c in pod["containers"]
                     if "exec" in c.get("lifecycle", {}).get("preStop", {})]
            if not hooks:
                yield "the API stops listening while it still is in the Service: no preStop"
            before = sum(int(word) for command in hooks for word in command[1:] if word.isdigit())
            if given <= before + KNOWN["shutdown"]:
                yield f"the API is killed after {given} s, and may take {before} + {KNOWN['shutdown']} s"


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
    yield from variables(objects)
    yield from graces(objects)
    yield from network.faults(objects, [pod_of(obj)[0] for obj in objects if obj["kind"] in WORKLOADS], matches)
