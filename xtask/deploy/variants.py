"""Values that have to render well, values that have to be refused, and broken objects that have to be caught."""

import copy

import sources

VALUES = sources.ROOT / "xtask" / "deploy" / "values"
SECRET = ["--set", "existingSecret=given"]
RULES = sources.ROOT / "k8s" / "components" / "alerts" / "alerts.yaml"
# The longest that Helm lets a release be named.
LONG = "release-" + "x" * 45
# Variables that the chart sets itself, and those that hold a secret.
OWN = ["PENSTOCK_CONCURRENCY", "PENSTOCK_GRACE_SECONDS", "PENSTOCK_PIPELINES", "PENSTOCK_ALERTS", "PENSTOCK_BIND", "PENSTOCK_HEALTH_BIND"]
SECRETS = ["DATABASE_URL", "REDIS_URL", "PENSTOCK_ENCRYPTION_KEYS", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
EVERYTHING = SECRET + ["--set", ",".join([
    "api.autoscaling.enabled=true", "worker.autoscaling.enabled=true", "worker.autoscaling.by=queue",
    "metrics.serviceMonitor.enabled=true", "alerts.enabled=true", "dashboard.enabled=true",
    "api.ingress.enabled=true", "api.ingress.host=penstock.example.com", "api.ingress.className=nginx",
    "api.ingress.tlsSecret=tls", "extraSecrets={given}", "existingPipelines=given", "image.tag=1.2.3",
    "imagePullSecrets[0].name=given", "settings.ROWS_PER_OWNER=250", "dispatcher.schedule=*/2 * * * *",
    "alerts.existingSecret=given", "api.httpRoute.enabled=true", "api.httpRoute.parentRefs[0].name=gateway",
    "api.httpRoute.hostnames={penstock.example.com}"])]
# Name: the release's name, and what `helm template` is told.
MATRIX = {
    "defaults": ("release", SECRET),
    "everything": ("release", EVERYTHING),
    "autoscaling by CPU": ("release", SECRET + ["--set", "api.autoscaling.enabled=true,worker.autoscaling.enabled=true,"
                                                "worker.autoscaling.by=cpu,image.digest=sha256:" + "0" * 64]),
    "bundled": ("release", ["--set", "bundled.enabled=true"]),
    "little": ("release", SECRET + ["--set", "smokePipeline=false,migration.enabled=false,podDisruptionBudget.enabled=false,"
                                    "networkPolicy.enabled=false,serviceAccount.create=false"]),
    "an account that exists": ("release", SECRET + ["--set", "serviceAccount.create=false,serviceAccount.name=given"]),
    "pipeline": ("release", SECRET + ["--set-file", f"pipelines.invite\\.yaml={sources.ROOT / 'pipelines' / 'invite.yaml'}"]),
    "large numbers": ("release", ["-f", VALUES / "large.yaml"]),
    "everywhere": ("release", ["-f", VALUES / "everywhere.yaml"]),
    "everywhere, bundled": ("release", ["-f", VALUES / "everywhere.yaml", "--set", "bundled.enabled=true"]),
    "alert rules as a file": ("release", SECRET + ["--set-file", f"alerts.hooks={RULES}"]),
    "a long name": (LONG, EVERYTHING),
    "a long name, bundled": (LONG, ["--set", "bundled.enabled=true"]),
    "a long name of one's own": ("release", SECRET + ["--set", "fullnameOverride=" + "a" * 40]),
    "a schedule with everything": ("release", SECRET + ["--set-string", "dispatcher.schedule=*/5\\,7-9\\,30-59/10 0 ? jan-MAR\\,12 Mon-5"]),
    "a dispatcher that comes rarely": ("release", SECRET + ["--set", "dispatcher.schedule=*/10 * * * *,alerts.enabled=true,"
                                                            "alerts.dispatcherLateSeconds=900,test.within=15m"]),
    "a secret of another Secret": ("release", SECRET + [
        "--set", "extraEnv[0].name=REDIS_PASSWORD,extraEnv[0].valueFrom.secretKeyRef.name=given,"
                 "extraEnv[0].valueFrom.secretKeyRef.key=password,extraEnv[1].name=REDIS_URL,"
                 "extraEnv[1].value=redis://:$(REDIS_PASSWORD)@redis:6379"]),
    "the API for some": ("release", SECRET + ["--set", "networkPolicy.apiFrom[0].namespaceSelector.matchLabels.a=b"]),
}
# Values that have to be refused, and a word of the sentence that says why.
REFUSED = {
    "a typing error in a key": (["--set", "worker.replica=3"], "replica"),
    "a wrong type": (["--set-string", "worker.replicas=three"], "worker/replicas"),
    "a wrong enum": (["--set", "image.pullPolicy=Sometimes"], "pullPolicy"),
    "a wrong enum of ours": (["--set", "worker.autoscaling.by=mood"], "autoscaling/by"),
    "a schedule of four fields": (["--set", "dispatcher.schedule=* * * *"], "schedule"),
    "a schedule at no time": (["--set", "dispatcher.schedule=99 99 * * *"], "`99` is no minute"),
    "a Sunday that Kubernetes has not": (["--set", "dispatcher.schedule=* * * * 7"], "`7` is no day of the week"),
    "a step of nothing": (["--set", "dispatcher.schedule=*/0 * * * *"], "`*/0` is no minute"),
    "a setting in small letters": (["--set", "settings.rows_per_owner=3"], "rows_per_owner"),
    "a setting that there is not": (["--set", "settings.PENSTOCK_CONCURENCY=3"], "PENSTOCK_CONCURENCY"),
    "a setting that is the chart's own": (["--set", "settings.PENSTOCK_GRACE_SECONDS=3"], "set worker.graceSeconds"),
    "a secret among the settings": (["--set", "settings.DATABASE_URL=postgres://a"], "put it into the Secret"),
    "Redis' password among the settings": (["--set", "settings.REDIS_URL=redis://:a@b"], "settings.REDIS_URL would be readable"),
    "no Secret": (["--set", "existingSecret="], "existingSecret is not set"),
    "more replicas at least than at most":
        (["--set", "api.autoscaling.enabled=true,api.autoscaling.minReplicas=5,api.autoscaling.maxReplicas=2"], "minReplicas (5)"),
    "more workers at least than at most, by KEDA":
        (["--set", "worker.autoscaling.enabled=true,worker.autoscaling.by=queue,worker.autoscaling.minReplicas=50"], "minReplicas (50)"),
    "autoscaling by a CPU that is not requested":
        (["--set", "worker.autoscaling.enabled=true,worker.resources.requests.cpu=null"], "requests.cpu"),
    "a grace that is shorter than the worker's": (["--set", "worker.terminationGracePeriodSeconds=60"], "it is 65 or more"),
    "a rollout that never moves": (["--set", "api.strategy.rollingUpdate.maxSurge=0"], "no rollout ever moves"),
    "a route for no Gateway": (["--set", "api.httpRoute.enabled=true"], "parentRefs is empty"),
    "a route that publishes everything": (["--set", "api.httpRoute.paths={/}"], "paths"),
    "an ingress that publishes metrics": (["--set", "api.ingress.paths={/metrics}"], "paths"),
    "a registry that is none": (["--set", "image.registry=https://mirror"], "registry"),
    "a container named as ours": (["--set", "worker.sidecars[0].name=worker,worker.sidecars[0].image=a"], "sidecars"),
    "a container without an image": (["--set", "dispatcher.initContainers[0].name=a"], "initContainers"),
    "a source of variables that is none": (["--set", "extraEnvFrom[0].prefix=A"], "extraEnvFrom"),
    "a time zone that is none": (["--set", "dispatcher.timeZone=CET +1"], "timeZone"),
    "a variable of one part that is the chart's own": (["--set", "api.extraEnv[0].name=PENSTOCK_BIND,api.extraEnv[0].value=a"],
                                                       "api.extraEnv: PENSTOCK_BIND is the chart's own"),
    "a secret of one part as an open text": (["--set", "worker.extraEnv[0].name=DATABASE_URL,worker.extraEnv[0].value=a"],
                                             "worker.extraEnv: DATABASE_URL would be readable"),
    "a Secret for some services only": (["--set", "existingSecret=,api.existingSecret=a,worker.existingSecret=b"], "existingSecret is not set"),
    "a strategy that is none": (["--set", "worker.strategy.type=Sometimes"], "strategy"),
    "a constraint that is none": (["--set", "topologySpreadConstraints[0].maxSkew=0"], "topologySpreadConstraints"),
    "a name that is none": (["--set", "fullnameOverride=My_Name"], "fullnameOverride"),
    "a name that a Service cannot have": (["--set", "fullnameOverride=1st"], "fullnameOverride"),
    "a host that is none": (["--set", "api.ingress.enabled=true,api.ingress.host=Bad_Host"], "host"),
    "an ingress without a host": (["--set", "api.ingress.enabled=true"], "api.ingress.host is not set"),
    "a repository that is none": (["--set", "image.repository=Bad Repo"], "repository"),
    "a tag within the repository": (["--set", "image.repository=penstock:1.0"], "repository"),
    "a tag that is none": (["--set", "image.tag=1 0"], "tag"),
    "a quantity that is none": (["--set", "worker.resources.limits.memory=192 MB"], "memory"),
    "a storage that is none": (["--set", "bundled.storage=5 GB"], "storage"),
    "a pipeline that the chart adds itself": (["--set", "pipelines.smoke\\.yaml=a"], "smoke.yaml"),
    "a Secret's name that is none": (["--set", "existingSecret=My_Secret"], "existingSecret"),
    "a variable twice": (["--set", "extraEnv[0].name=A,extraEnv[1].name=A"], "extraEnv has A twice"),
    **{f"{name}, which is the chart's own": (["--set-string", f"extraEnv[0].name={name},extraEnv[0].value=9"], f"{name} is the chart's own")
       for name in OWN},
    **{f"{name} as an open text": (["--set", f"extraEnv[0].name={name},extraEnv[0].value=open"], f"extraEnv: {name} would be readable")
       for name in SECRETS},
    "a secret variable of nothing": (["--set", "extraEnv[0].name=DATABASE_URL"], "extraEnv: DATABASE_URL would be readable"),
    "a bound that any run is late by": (["--set", "alerts.dispatcherLateSeconds=30"], "dispatcherLateSeconds"),
    "a bound that is not a number": (["--set-string", "alerts.dispatcherLateSeconds=5m"], "dispatcherLateSeconds"),
    "a volume that is the chart's own": (["--set", "extraVolumes[0].name=pipelines"], "extraVolumes"),
    "alert rules of two places": (["--set", "alerts.hooks=a,alerts.existingSecret=b"], "both set"),
    "alert rules without receivers": (["--set", "alerts.hooks.rules[0].rule=stuck_rows"], "hooks"),
    "an address that is no block": (["--set", "networkPolicy.blockedEgress={169.254.169.254}"], "blockedEgress"),
    "a toleration that is none": (["--set", "worker.tolerations[0].operator=Sometimes"], "tolerations"),
    "a percentage above all": (["--set", "podDisruptionBudget.maxUnavailable=150%"], "maxUnavailable"),
    "a label that is none": (["--set", "worker.nodeSelector.pool=a b"], "nodeSelector"),
}
POD = ("spec", "template", "spec")
RUN = ("spec", "jobTemplate", "spec", "template", "spec")


def set_at(documents, kind, path, value, name=""):
    documents = copy.deepcopy(documents)
    node = next(o for o in documents if o["kind"] == kind and name in o["metadata"]["name"])
    *parents, last = path
    for step in parents:
        node = node[step]
    node[last] = value
    return documents


def broken(documents):
    """Each variant has to be caught; one that passes is a hole in the checks."""
    def variant(kind, path, value, name=""):
        return set_at(documents, kind, path, value, name)

    first = (*POD, "containers", 0)
    egress = ("spec", "egress", 1, "to")
    return {
        "a typing error in a key": variant("Deployment", (*first, "imagePullPolicies"), "Always"),
        "a typing error deep inside": variant("Deployment", (*first, "livenessProbe", "periodSecond"), 1),
        "a wrong type": variant("Deployment", (*POD, "terminationGracePeriodSeconds"), "60"),
        "a number in a ConfigMap": variant("ConfigMap", ("data", "ROWS_PER_OWNER"), 100),
        "a wrong enum": variant("Deployment", (*first, "imagePullPolicy"), "Sometimes"),
        "a wrong concurrencyPolicy": variant("CronJob", ("spec", "concurrencyPolicy"), "Forbidden"),
        "overlapping runs": variant("CronJob", ("spec", "concurrencyPolicy"), "Allow"),
        "a bad minute": variant("CronJob", ("spec", "schedule"), "60 * * * *"),
        "a Sunday that Kubernetes has not": variant("CronJob", ("spec", "schedule"), "* * * * 7"),
        "a schedule of six fields": variant("CronJob", ("spec", "schedule"), "* * * * * *"),
        "a run without an end": variant("CronJob", ("spec", "jobTemplate", "spec", "activeDeadlineSeconds"), 0),
        "a Job that restarts always": variant("CronJob", (*RUN, "restartPolicy"), "Always"),
        "Jobs that are not found": variant("CronJob", ("spec", "jobTemplate", "metadata", "labels"), {}),
        "a CronJob's name that is too long": variant("CronJob", ("metadata", "name"), "a" * 53),
        "a Service's name that is too long": variant("Service", ("metadata", "name"), "a" * 64),
        "a Service's name that begins with a digit": variant("Service", ("metadata", "name"), "1a"),
        "a migration after the pods that wait for it":
            variant("Job", ("metadata", "annotations", "helm.sh/hook"), "post-install,pre-upgrade", "migrate"),
        "a hook's Job in the way of the next one":
            variant("Job", ("metadata", "annotations", "helm.sh/hook-delete-policy"), "hook-succeeded"),
        "root": variant("Deployment", (*POD, "securityContext", "runAsNonRoot"), False),
        "root in a Job": variant("Job", (*POD, "securityContext", "runAsUser"), 0),
        "a root file system that can be written": variant("Deployment", (*first, "securityContext", "readOnlyRootFilesystem"), False),
        "a capability": variant("Deployment", (*first, "securityContext", "capabilities", "add"), ["SYS_ADMIN"]),
        "privileges": variant("CronJob", (*RUN, "containers", 0, "securityContext", "privileged"), True),
        "the node's network": variant("Deployment", (*POD, "hostNetwork"), True),
        "a folder of the node": variant("Deployment", (*POD, "volumes", 0), {"name": "pipelines", "hostPath": {"path": "/"}}),
        "a probe of no port": variant("Deployment", (*first, "livenessProbe", "httpGet", "port"), "web"),
        "a start that waits for the schema": variant("Deployment", (*first, "startupProbe", "httpGet", "path"), "/readyz"),
        "a preStop that 1.29 drops": variant("Deployment", (*first, "lifecycle", "preStop"), {"sleep": {"seconds": 5}}, "api"),
        "a preStop by a shell": variant("Deployment", (*first, "lifecycle", "preStop", "exec", "command"), ["sh", "-c", "sleep 5"], "api"),
        "a program that the image has not": variant("Deployment", (*first, "command"), ["/usr/local/bin/penstock-server"]),
        "a command that there is not": variant("Job", (*first, "command"), ["/usr/local/bin/penstock", "migrations"], "migrate"),
        "a flag that there is not": variant("Pod", ("spec", "containers", 0, "command", 2), "--url=http://api"),
        "a variable that nobody reads": variant("ConfigMap", ("data", "PENSTOCK_CONCURENCY"), "9", "settings"),
        "a variable twice": variant("Deployment", (*first, "env"), [{"name": "RUST_LOG", "value": "a"}, {"name": "RUST_LOG", "value": "b"}]),
        "alert rules that are not mounted": variant("Deployment", (*first, "env", 0, "value"), "/etc/alerts.yaml", "worker"),
        "a Service that selects nothing": variant("Service", ("spec", "selector"), {"app": "other"}),
        "a Service to no port": variant("Service", ("spec", "ports", 0, "targetPort"), "web"),
        "a grace shorter than the worker's": variant("Deployment", (*POD, "terminationGracePeriodSeconds"), 45, "worker"),
        "a grace shorter than the API's": variant("Deployment", (*POD, "terminationGracePeriodSeconds"), 20, "api"),
        "a grace shorter than a call": variant("ConfigMap", ("data", "slow.yaml"), "dependencies: { a: { timeout: 2m } }", "pipelines"),
        "a ConfigMap that is not there": variant("Deployment", (*first, "envFrom", 0), {"configMapRef": {"name": "nowhere"}}),
        "an account that is not there": variant("Deployment", (*POD, "serviceAccountName"), "nobody"),
        "a bad quantity": variant("Deployment", (*first, "resources", "limits", "memory"), "192 MB"),
        "a bad image": variant("Deployment", (*first, "image"), "Bad Repo:1"),
        "an unknown kind": variant("Service", ("kind",), "Servise"),
        "a kind of a removed API": variant("CronJob", ("apiVersion",), "batch/v1beta1"),
        "a typing error in a ServiceMonitor": variant("ServiceMonitor", ("spec", "endpoint"), []),
        "a typing error in a PrometheusRule": variant("PrometheusRule", ("spec", "groups", 0, "rule"), []),
        "a typing error in a ScaledObject": variant("ScaledObject", ("spec", "maxReplicas"), 3),
        "a typing error in an HTTPRoute": variant("HTTPRoute", ("spec", "hostname"), "a"),
        "a route to no Service": variant("HTTPRoute", ("spec", "rules", 0, "backendRefs", 0, "port"), 80),
        "metrics for everybody by a route": variant("HTTPRoute", ("spec", "rules", 0, "matches", 0, "path", "value"), "/metrics"),
        "an autoscaler of nothing": variant("ScaledObject", ("spec", "scaleTargetRef", "name"), "nobody"),
        "an autoscaler and replicas": variant("Deployment", ("spec", "replicas"), 2),
        "more replicas at least than at most": variant("HorizontalPodAutoscaler", ("spec", "minReplicas"), 7),
        "metrics for everybody": variant("Ingress", ("spec", "rules", 0, "http", "paths", 0, "path"), "/"),
        "a host that is none": variant("Ingress", ("spec", "rules", 0, "host"), "Bad_Host"),
        "a policy for every pod of the namespace": variant("NetworkPolicy", ("spec", "podSelector"), {}),
        "a policy of nothing": variant("NetworkPolicy", ("spec", "podSelector", "matchLabels"), {"app": "other"}),
        "AWS' metadata address": variant("NetworkPolicy", (*egress, 0, "ipBlock", "except"), ["169.254.170.0/24"]),
        "AWS' metadata address by IPv6": variant("NetworkPolicy", (*egress, 1, "ipBlock"), {"cidr": "::/0"}),
        "a node's own resolver": variant("NetworkPolicy", ("spec", "egress"), [
            {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}]}]),
        "an exception that is no part": variant("NetworkPolicy", (*egress, 0, "ipBlock", "except", 0), "fd00:ec2::/32"),
        "no way out": variant("NetworkPolicy", ("spec", "egress"), [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}]),
    }


def broken_images(dockerfile):
    return {
        "a base image with a shell": dockerfile.replace("gcr.io/distroless/cc-debian12:nonroot", "docker.io/library/debian:12-slim"),
        "a base image for debugging": dockerfile.replace(":nonroot", ":debug-nonroot"),
        "a base image of no version": dockerfile.replace("rust:1.95.0-bookworm", "rust"),
        "an image that runs as root": dockerfile.replace("USER 65532:65532", "USER root"),
        "a command that needs a shell": dockerfile.replace('\nCMD ["/usr/local/bin/penstock-api"]', "\nCMD /usr/local/bin/penstock-api"),
        "a step in an image without a shell": dockerfile.replace("EXPOSE 8080 9090", "RUN true"),
        "no label of the revision": dockerfile.replace('org.opencontainers.image.revision="${REVISION}"', 'org.opencontainers.image.url="x"'),
        "dependencies without a layer": dockerfile.replace("COPY --from=manifests /src ./", "COPY . ."),
    }
