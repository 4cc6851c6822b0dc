"""Checks everything that installs Penstock: `cargo xtask verify-deploy` fetches the tools and runs this.

Arguments: the project's folder, helm, kubectl, docker-compose, hadolint, promtool.
"""

import functools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml

import compose as compose_rules
import crds
import effects
import examples
import objects as rules
import required
import sources
import variants

ROOT, HELM, KUBECTL, COMPOSE, HADOLINT, PROMTOOL = (pathlib.Path(a).resolve() for a in sys.argv[1:7])
CHART = ROOT / "charts" / "penstock"
VERSIONS = [f"1.{minor}" for minor in range(29, 37)]
GIVEN = {"given", "tls"}
failures = []


def check(name, found):
    """Notes what is wrong; says what is right."""
    found = list(found)
    print(f"   {'ok ' if not found else 'BAD'} {name}", flush=True)
    failures.extend(f"{name}: {fault}" for fault in found)


def call(*command, stdin=None):
    done = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@functools.cache
def schema_faults_of(text, version):
    """What a schema says of one object. Most objects of two renderings are the same, and asked for once."""
    obj = json.loads(text)
    key = (obj["apiVersion"], obj["kind"])
    where = f"{obj['kind']}/{obj['metadata'].get('name')}"
    if key in crds.SCHEMAS:
        return [f"{where}: {error.json_path}: {error.message}"
                for error in jsonschema.Draft202012Validator(crds.SCHEMAS[key]).iter_errors(obj)]
    try:
        kubernetes_validate.validate(obj, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{where}: {version} knows no {obj['kind']} of {obj['apiVersion']}"]
    except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
        return [f"{where} on {version}: {getattr(error, 'message', error)}"]
    return []


def schema_faults(obj, version):
    return schema_faults_of(json.dumps(obj, sort_keys=True, default=str), version)


def all_faults(documents, given=frozenset()):
    for version in VERSIONS:
        for obj in documents:
            yield from schema_faults(obj, version)
    yield from rules.faults(documents, given)


# libyaml's own parser, where PyYAML was built with it: ten times as fast.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text):
    return [document for document in yaml.load_all(text, LOADER) if document]


def template(release, *arguments):
    return call(HELM, "template", release, CHART, "--kube-version", "1.31.0", *arguments)


def render(release, *arguments):
    code, out, error = template(release, *arguments)
    return (load(out), None) if code == 0 else (None, error.strip())


def chart():
    code, out, error = call(HELM, "lint", "--strict", CHART, *variants.SECRET)
    check("helm lint --strict", [] if code == 0 else [out + error])
    rendered = {}
    for name, (release, arguments) in variants.MATRIX.items():
        code, out, error = template(release, *arguments)
        rendered[name] = load(out) if code == 0 else []
        check(f"helm template, {name}: strict for {VERSIONS[0]} to {VERSIONS[-1]}",
              [error] if code else all_faults(rendered[name], GIVEN))
        check(f"helm template, {name}: no number is written as a float", set(re.findall(r".*\d[eE]\+\d.*", out)))
    check("large numbers are written as they were given", numbers_lost(rendered["large numbers"]))
    for name in ("everywhere", "everywhere, bundled"):
        check(f"{name}: every pod gets what the values give", not_everywhere(rendered[name]))
    check("the chart has everything", required.faults(rendered["autoscaling by CPU"], required.CORE | required.SCALED))
    check("the chart has every extra", required.faults(rendered["everything"], required.CORE | required.EXTRAS))
    for name in ("alert rules as a file", "everywhere", "everything"):
        check(f"{name}: the worker reads alert rules", alerts_missing(rendered[name]))
    late = [rules_file(rendered[name]) for name in ("everything", "a dispatcher that comes rarely", "large numbers")]
    plain = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    check("the alert rules are the file's, with the bound of the values", [
        f"with {seconds} s" for seconds, found in zip((300, 900, 1000000), late) if found != with_bound(plain, seconds)])
    for name, (arguments, reason) in variants.REFUSED.items():
        documents, error = render("release", *variants.SECRET, *arguments)
        check(f"the chart refuses {name}",
              ["it was accepted"] if documents is not None else [error] if reason not in error else [])
    for release, why in (("1st", "begins with a letter"), ("a.b", "begins with a letter")):
        documents, error = render(release, *variants.SECRET)
        check(f"the chart refuses the release's name {release}", ["it was accepted"] if documents else [error] if why not in error else [])
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    check("each value has its effect", effects.faults(defaults, of_values))
    settings = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]["propertyNames"]["then"]["enum"]
    check("the values' schema knows every setting",
          set(settings) ^ {name for name in sources.settings() if name.startswith("PENSTOCK_")})
    texts()


def of_values(values, release="release"):
    """What the chart makes of values, which have to render well."""
    code, out, error = call(HELM, "template", release, CHART, "-f", "-", stdin=json.dumps(values))
    assert code == 0, error
    return load(out)


def clouds():
    """The examples of values; names by content; the bundled services' keys."""
    for name in examples.WORDS:
        code, out, error = template("penstock", "-f", examples.FOLDER / f"{name}.yaml")
        check(f"the example for {name}: strict for {VERSIONS[0]} to {VERSIONS[-1]}",
              [error] if code else examples.faults(name, out, load(out), all_faults))
    check("every example is checked", {file.stem for file in examples.FOLDER.iterdir()} ^ {*examples.WORDS, "argocd"})
    application = yaml.safe_load((examples.FOLDER / "argocd.yaml").read_text())
    by_release = lambda release, values: of_values(values, release)
    check("the example for argocd", [*schema_faults(application, VERSIONS[0]), *examples.application(application, by_release),
                                     *all_faults(by_release("penstock", application["spec"]["source"]["helm"]["valuesObject"]), examples.BESIDE)])
    wrong = json.loads(json.dumps(application).replace("valuesObject", "valueObject"))
    check("caught: a typing error in an Application", [] if schema_faults(wrong, VERSIONS[0]) else ["it passed"])
    check("ConfigMaps are named by their content", examples.renamed(by_release))
    check("nothing is looked up or random when the chart is rendered", examples.lookups())
    with tempfile.TemporaryDirectory() as folder:
        check("the bundled services' keys are made once", examples.keys(pathlib.Path(folder) / "keys"))


def rules_file(documents):
    return next((o["spec"] for o in documents if o["kind"] == "PrometheusRule"), None)


def with_bound(plain, seconds):
    """The rules with another time after which a dispatcher is late."""
    late = plain["groups"][0]["rules"][0]
    assert late["alert"] == "PenstockDispatcherLate" and late["expr"].count("> 300 or") == 1
    return json.loads(json.dumps(plain).replace("> 300 or", f"> {seconds} or"))


def numbers_lost(documents):
    """Every whole number of the file has to be found in what it became; numbers that are added to others are not."""
    given = yaml.safe_load((variants.VALUES / "large.yaml").read_text())
    settings = next(o for o in documents if o["kind"] == "ConfigMap" and "-settings-" in o["metadata"]["name"])["data"]
    for name, value in given["settings"].items():
        if settings.get(name) != (value if isinstance(value, str) else json.dumps(value)):
            yield f"{name} became {settings.get(name)}"
    written = {str(value) for obj in documents for _, _, value in rules.walk(obj) if isinstance(value, (int, str))}
    for path, _, value in rules.walk({key: value for key, value in given.items() if key != "settings"}):
        if isinstance(value, int) and not isinstance(value, bool) and str(value) not in written:
            yield f"{path} is {value}, and is nowhere"


def not_everywhere(documents):
    given = yaml.safe_load((variants.VALUES / "everywhere.yaml").read_text())
    placed = given["api"]
    for obj in documents:
        if obj["kind"] not in rules.WORKLOADS or rules.component(obj).startswith("bundled"):
            continue
        where, (_, pod) = f"{obj['kind']} of {rules.component(obj)}", rules.pod_of(obj)
        template_ = obj if obj["kind"] == "Pod" else (obj["spec"].get("jobTemplate") or obj)["spec"]["template"]
        if not placed["podAnnotations"].items() <= template_["metadata"].get("annotations", {}).items():
            yield f"{where}: podAnnotations"
        for key in ("nodeSelector", "tolerations", "affinity"):
            if pod.get(key) != placed[key]:
                yield f"{where}: {key}"
        if pod.get("imagePullSecrets") != given["imagePullSecrets"]:
            yield f"{where}: imagePullSecrets"
        container = pod["containers"][0]
        # Without the bundled services' Secret, which comes with the release, definitions are checked without variables.
        if rules.component(obj) == "check" and "envFrom" not in container:
            continue
        for key, wanted, there in (("extraEnv", given["extraEnv"], container.get("env", [])),
                                   ("extraVolumeMounts", given["extraVolumeMounts"], container.get("volumeMounts", [])),
                                   ("extraVolumes", given["extraVolumes"], pod.get("volumes", [])),
                                   ("extraSecrets", [{"secretRef": {"name": "given"}}], container["envFrom"])):
            if not all(item in there for item in wanted):
                yield f"{where}: {key}"


def alerts_missing(documents):
    """The worker has the file that it is told of, and what is in a ConfigMap is a file of rules."""
    worker = rules.pod_of(required.find(documents, "Deployment", "worker"))[1]
    container = worker["containers"][0]
    file = next((v["value"] for v in container.get("env", []) if v["name"] == "PENSTOCK_ALERTS"), None)
    if file is None:
        yield "PENSTOCK_ALERTS is not set"
        return
    mount = next((m for m in container["volumeMounts"] if file.startswith(m["mountPath"] + "/")), None)
    volume = next((v for v in worker["volumes"] if mount and v["name"] == mount["name"]), {})
    if "configMap" in volume:
        held = next(o for o in documents if o["kind"] == "ConfigMap" and o["metadata"]["name"] == volume["configMap"]["name"])
        if not {"receivers", "rules"} <= yaml.safe_load(held["data"][pathlib.PurePosixPath(file).name]).keys():
            yield "the file has no receivers or no rules"
    elif [item["path"] for item in volume.get("secret", {}).get("items", [])] != [pathlib.PurePosixPath(file).name]:
        yield "no file of that name is mounted"


def texts():
    """What people copy: README.md and NOTES.txt."""
    readme = (CHART / "README.md").read_text()
    values = dict(effects.leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
    rows = {name: yaml.safe_load(default) for name, default in re.findall(r"^\| `([A-Za-z.*]+)` \| `(.*?)` \|", readme, re.M)}
    # A row that begins with `*` is about each part of the chart that has the value.
    starred = {f"{part}{name[1:]}": default for name, default in rows.items() if name[0] == "*" for part in effects.PARTS}
    table = {name: default for name, default in starred.items() if name in values} | {
        name: default for name, default in rows.items() if name[0] != "*"}
    check("the chart's README has every value with its default",
          [f"{name}: {table.get(name, 'nothing')} instead of {value}" for name, value in values.items()
           if name not in table or table[name] != value] + sorted(f"{name} is no value" for name in table.keys() - values.keys()))
    for block in re.findall(r"```yaml\n(.*?)```", readme, re.S):
        code, _, error = call(HELM, "template", "release", CHART, *variants.SECRET, "-f", "-", stdin=block)
        check(f"the chart's README: {block.split()[0]} renders", [error] if code else [])
    install = re.search(r"^helm install (?:.*\\\n)*.*", readme, re.M).group(0).replace("\\\n", " ")
    done = subprocess.run(install.replace("helm install", f"{HELM} install --dry-run=client").replace("--wait", ""),
                          shell=True, cwd=ROOT, capture_output=True, text=True)
    check("the chart's README: its install is one that Helm takes", [done.stderr] if done.returncode else [])
    told = [readme]
    for name in ("defaults", "everything", "bundled", "little", "a long name"):
        release, arguments = variants.MATRIX[name]
        code, out, error = call(HELM, "install", release, CHART, "--dry-run=client", "--namespace", "there", *arguments)
        notes = out.partition("\nNOTES:\n")[2]
        check(f"NOTES.txt, {name}", [error] if code else [] if "keys create" in notes and "%!" not in notes else [notes])
        told.append(notes)
    check("commands that are told of are there",
          filter(None, (sources.command_fault(words.split(), rules.KNOWN["programs"], rules.KNOWN["words"])
                        for text in told for words in re.findall(r"/usr/local/bin/penstock[-a-z]*(?: (?!\|)[-a-z]+)*", text))))


def kustomize():
    for folder in ("base", "overlays/example"):
        code, out, error = call(KUBECTL, "kustomize", ROOT / "k8s" / folder)
        documents = load(out) if code == 0 else []
        check(f"k8s/{folder}: strict for {VERSIONS[0]} to {VERSIONS[-1]}",
              [error] if code else all_faults(documents, {"penstock"}))
        check(f"k8s/{folder}: no Secret's content", [o["kind"] for o in documents if o["kind"] == "Secret"])
        check(f"k8s/{folder} has everything", required.faults(documents, required.CORE | required.SCALED))
    with tempfile.TemporaryDirectory() as copied:
        whole = pathlib.Path(copied) / "k8s"
        shutil.copytree(ROOT / "k8s", whole)
        overlay = whole / "overlays" / "example" / "kustomization.yaml"
        text, pipeline = overlay.read_text(), overlay.parent / "pipelines" / "invite.yaml"
        before, definition = migration(overlay.parent), pipeline.read_text()
        pipeline.write_text(definition + "# edited\n")
        overlay.write_text(text.replace("AWS_REGION=eu-central-1", "AWS_REGION=eu-west-1"))
        check("k8s/overlays/example: an edit of a pipeline or a setting leaves the migration's Job as it is",
              [] if before and before == migration(overlay.parent) else ["a Job cannot be changed"])
        pipeline.write_text(definition)
        overlay.write_text(uncommented(text))
        code, out, error = call(KUBECTL, "kustomize", overlay.parent)
        documents = load(out) if code == 0 else []
        check("k8s/overlays/example with its components: strict",
              [error] if code else all_faults(documents, {"penstock", "private-authorities"}))
        check("k8s/overlays/example with its components: the worker reads alert rules",
              ["it does not render"] if code else alerts_missing(documents))
    plain = load(call(KUBECTL, "kustomize", ROOT / "k8s" / "base")[1])
    helm, _ = render("release", *variants.SECRET)
    jobs = [next(o for o in documents if o["kind"] == "CronJob")["spec"] for documents in (plain, helm)]
    keys = ("schedule", "concurrencyPolicy", "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
    check("manifests and chart run the dispatcher alike", [key for key in keys if jobs[0][key] != jobs[1][key]])
    ways = [next(o for o in documents if o["kind"] == "NetworkPolicy")["spec"]["egress"] for documents in (plain, helm)]
    check("manifests and chart let out alike", [] if ways[0] == ways[1] else ways)
    copies = {"k8s/overlays/example/pipelines/invite.yaml": "pipelines/invite.yaml",
              "k8s/base/pipelines/smoke.yaml": "charts/penstock/files/smoke.yaml",
              "deploy/compose/pipelines/smoke.yaml": "charts/penstock/files/smoke.yaml"}
    check("copies of pipelines are copies",
          [a for a, b in copies.items() if (ROOT / a).read_bytes() != (ROOT / b).read_bytes()])
    version = re.search(r'^version = "(.*)"', sources.read("Cargo.toml"), re.M).group(1)
    named = {"charts/penstock/Chart.yaml": yaml.safe_load(sources.read("charts/penstock/Chart.yaml"))["appVersion"],
             "k8s/base/kustomization.yaml": yaml.safe_load(sources.read("k8s/base/kustomization.yaml"))["images"][0]["newTag"],
             "Dockerfile": re.search(r"^ARG VERSION=(.*)", sources.read("Dockerfile"), re.M).group(1)}
    check("all name one version", [f"{file}: {name}" for file, name in named.items() if name != version])


def migration(folder):
    return next((o for o in load(call(KUBECTL, "kustomize", folder)[1]) if o["kind"] == "Job"), None)


def uncommented(text):
    """YAML with the parts switched on that are commented out: without a space, or with the two of an indentation."""
    return re.sub(r"^( *)#(?=\S|  \S)", r"\1", text, flags=re.M)


def broken():
    documents, _ = render(*flat(variants.MATRIX["everything"]))
    found = variants.broken(documents)
    for name, variant in found.items():
        caught = next(iter([*rules_of(variant), *all_schemas(variant)]), None)
        check(f"caught: {name}", [] if caught else ["it passed"])
    sets = {"the chart": (render(*flat(variants.MATRIX["autoscaling by CPU"]))[0], required.CORE | required.SCALED),
            "the chart's extras": (documents, required.EXTRAS),
            "k8s/base": (load(call(KUBECTL, "kustomize", ROOT / "k8s" / "base")[1]), required.CORE | required.SCALED)}
    for name, (whole, wanted) in sets.items():
        missing = list(required.holes(whole, wanted))
        check(f"caught: each of {len(missing)} things that {name} may lack",
              [what for what, less in missing if not list(required.faults(less, wanted))])


def flat(entry):
    release, arguments = entry
    return [release, *arguments]


def rules_of(documents):
    """The rules' faults. What they cannot read at all is the schemas' to say."""
    found = []
    try:
        found.extend(rules.faults(documents, GIVEN))
    except (KeyError, TypeError, AttributeError):
        pass
    return found


def all_schemas(documents):
    return [fault for obj in documents for fault in schema_faults(obj, VERSIONS[0])]


def tools():
    dockerfile = sources.read("Dockerfile")
    code, out, error = call(HADOLINT, ROOT / "Dockerfile")
    check("hadolint", [] if code == 0 else [out + error])
    check("the image", sources.image_faults(dockerfile))
    for name, text in variants.broken_images(dockerfile).items():
        check(f"caught: {name}", [] if list(sources.image_faults(text)) else ["it passed"])
    with tempfile.TemporaryDirectory() as folder:
        wrong = pathlib.Path(folder) / "Dockerfile"
        wrong.write_text("FROM debian\nRUN cd /tmp && sudo apt-get install curl\n")
        check("caught: a careless Dockerfile", ["it passed"] if call(HADOLINT, wrong)[0] == 0 else [])
        compose(pathlib.Path(folder))
        prometheus_rules(pathlib.Path(folder))


def composed(file, environment):
    code, out, error = call("env", "-i", COMPOSE, "--project-directory", ROOT, "--env-file", environment, "-f", file,
                            "--profile", "tools", "--profile", "sandbox", "config", "--format", "json")
    return (json.loads(out), None) if code == 0 else (None, error)


def compose(folder):
    file = ROOT / "docker-compose.yml"
    text = file.read_text()
    config, error = composed(file, "/dev/null")
    check("docker compose config, without a .env", [error] if error else [])
    check("compose services", compose_rules.faults(config) if config else [])
    check("compose: keys are made once, and what .env gives wins", compose_rules.keys_faults(folder / "keys"))
    check("compose: a backup is whole, and comes back", compose_rules.backup_faults(config, folder / "backup") if config else [])
    check("compose: the bucket is made, however late the filer comes", compose_rules.bucket_faults(config, folder) if config else [])
    check("compose: its first lines are the guide's", compose_rules.told(text, sources.read("docs/operate.md")))
    config, error = composed(file, ROOT / ".env.example")
    check("docker compose config with .env.example as it is", [error] if error else compose_rules.faults(config))
    with_secrets = folder / "env"
    with_secrets.write_text("SLACK_WEBHOOK_URL=https://hooks.example.com\n")
    whole = folder / "whole.yml"
    whole.write_text(uncommented(text))
    config, error = composed(whole, with_secrets)
    check("compose with everything that is commented out", [error] if error else compose_rules.faults(config))
    worker = config["services"]["worker"] if config else {"environment": {}, "configs": []}
    check("compose with everything that is commented out: the worker reads alert rules",
          [] if worker["environment"].get("PENSTOCK_ALERTS") in [c["target"] for c in worker["configs"]] else ["it does not"])
    for name, wrong in compose_rules.broken(text).items():
        broken_file = folder / "compose.yml"
        broken_file.write_text(wrong)
        config, _ = composed(broken_file, "/dev/null")
        check(f"caught: {name}", ["it passed"] if wrong == text or (config and not list(compose_rules.faults(config))) else [])


def prometheus_rules(folder):
    files = CHART / "files"
    code, out, error = call(PROMTOOL, "check", "rules", files / "alerts.yaml")
    check("promtool check rules", [] if code == 0 else [out + error])
    code, out, error = call(PROMTOOL, "test", "rules", files / "alerts_test.yaml")
    check("promtool test rules", [] if code == 0 else [out + error])
    text, tested = (files / "alerts.yaml").read_text(), (files / "alerts_test.yaml").read_text()
    alerts = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    check("every alert has a test", [rule["alert"] for rule in alerts if f"alertname: {rule['alert']}\n" not in tested])
    runbooks = sources.read("docs/runbooks.md")
    check("every alert has a part in the runbooks",
          [rule["alert"] for rule in alerts if f"## {rule['annotations']['runbook_url'].split('#')[1]}\n" not in runbooks])
    (folder / "alerts_test.yaml").write_text(tested)
    of = "by (namespace, app_kubernetes_io_instance)"
    for name, wrong in {
        "an alert that never fires": text.replace("> 300", "> 30000"),
        "a living dispatcher that hides a dead one": text.replace(f"min {of}", f"max {of}"),
        "a dispatcher that never came and is not missed": re.sub(r" or \(max by \([^)]*\) \(penstock_rows.*Inf", "", text),
        "no worker, and nobody notices": text.replace(f"unless sum {of} (rate(penstock_settled_rows_total[10m])) > 0",
                                                      f"and sum {of} (rate(penstock_settled_rows_total[10m])) == 0"),
        "a batch that no worker extracts": re.sub(r" or \(max by \([^)]*\) \(penstock_batches\) > 0.*", "", text),
        "two installations in one": text.replace(f"{of} (penstock_dispatcher", "(penstock_dispatcher"),
        "nothing is told, and nobody notices": text.replace(" or absent_over_time(penstock_batches[6h])", ""),
    }.items():
        (folder / "alerts.yaml").write_text(wrong)
        passed = wrong == text or call(PROMTOOL, "test", "rules", folder / "alerts_test.yaml")[0] == 0
        check(f"caught: {name}", ["it passed"] if passed else [])
    board = json.loads((files / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    plain = [re.sub(r"\$\w+", ".*", expression) for expression in expressions]
    written = folder / "dashboard.yaml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": [
        {"record": f"panel:{index}", "expr": expression} for index, expression in enumerate(plain)]}]}))
    code, out, error = call(PROMTOOL, "check", "rules", written)
    check("every query of the dashboard is valid", [] if code == 0 else [out + error])


for part in (chart, clouds, kustomize, broken, tools):
    print(f"-- {part.__name__}", flush=True)
    part()
for failure in failures:
    print(f"BAD {failure}", file=sys.stderr)
sys.exit(1 if failures else 0)
