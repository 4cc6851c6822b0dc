"""Schemas of kinds that a cluster has by an extension, as strict as the API's own: an unknown field is refused.

The ones of Prometheus' operator and KEDA are derived from their models; those that no package carries are written here, with
the fields that we use.
"""

from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus


def strict(schema):
    """A model's JSON schema, with unknown fields refused."""
    for node in [schema, *schema.get("$defs", {}).values()]:
        if node.get("type") == "object" and "properties" in node and "additionalProperties" not in node:
            node["additionalProperties"] = False
    return schema


def fields(required=(), **properties):
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


def several(items):
    return {"type": "array", "items": items}


def kind(name, spec):
    return fields(["apiVersion", "kind", "metadata", "spec"], apiVersion=TEXT, kind={"const": name}, metadata={"type": "object"}, spec=spec)


TEXT, NUMBER, FLAG, FREE = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "object"}
TIME = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
# gateway.networking.k8s.io/v1
HTTP_ROUTE = kind("HTTPRoute", fields(
    parentRefs=several(fields(["name"], group=TEXT, kind=TEXT, namespace=TEXT, name=TEXT, sectionName=TEXT, port=NUMBER)),
    hostnames=several(TEXT),
    rules=several(fields(
        name=TEXT,
        matches=several(fields(
            path=fields(type={"enum": ["Exact", "PathPrefix", "RegularExpression"]}, value=TEXT),
            headers=several(FREE), queryParams=several(FREE), method=TEXT)),
        filters=several({"type": "object", "required": ["type"], "properties": {"type": {"enum": [
            "RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect", "URLRewrite", "ExtensionRef"]}}}),
        timeouts=fields(request=TIME, backendRequest=TIME),
        backendRefs=several(fields(["name"], group=TEXT, kind=TEXT, name=TEXT, namespace=TEXT, port=NUMBER, weight=NUMBER, filters=several(FREE)))))))
# argoproj.io/v1alpha1
SOURCE = fields(["repoURL"], repoURL=TEXT, targetRevision=TEXT, path=TEXT, chart=TEXT, ref=TEXT, helm=fields(
    releaseName=TEXT, valueFiles=several(TEXT), ignoreMissingValueFiles=FLAG, valuesObject=FREE, values=TEXT,
    parameters=several(fields(name=TEXT, value=TEXT, forceString=FLAG)), fileParameters=several(fields(name=TEXT, path=TEXT)),
    skipCrds=FLAG, skipTests=FLAG, namespace=TEXT))
APPLICATION = kind("Application", fields(
    ["project", "destination"], project=TEXT, source=SOURCE, sources=several(SOURCE),
    destination=fields(server=TEXT, name=TEXT, namespace=TEXT), revisionHistoryLimit=NUMBER,
    syncPolicy=fields(automated=fields(prune=FLAG, selfHeal=FLAG, allowEmpty=FLAG, enabled=FLAG), syncOptions=several(TEXT),
                      retry=fields(limit=NUMBER, backoff=fields(duration=TEXT, factor=NUMBER, maxDuration=TEXT))),
    ignoreDifferences=several(FREE)))
SCHEMAS = {
    **{key: strict(model.model_json_schema(by_alias=True)) for key, model in {
        ("monitoring.coreos.com/v1", "ServiceMonitor"): prometheus.ServiceMonitor,
        ("monitoring.coreos.com/v1", "PrometheusRule"): prometheus.PrometheusRule,
        ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject}.items()},
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): HTTP_ROUTE,
    ("argoproj.io/v1alpha1", "Application"): APPLICATION,
}
