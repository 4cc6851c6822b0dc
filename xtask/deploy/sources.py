"""What the sources say, for manifests to be held against: settings, programs and their words, times."""

import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Variables that are read by libraries, under the names that they have everywhere.
ELSEWHERE = re.compile(r"^(RUST_LOG|SSL_CERT_(FILE|DIR)|(OTEL|AWS|AZURE|GOOGLE)_[A-Z0-9_]+)$")
VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")
# What a dependency that names no timeout gets (docs/write-a-pipeline.md).
DEFAULT_TIMEOUT = 10.0


def read(path):
    return (ROOT / path).read_text()


def declarations():
    """Where our programs declare their settings."""
    return "".join(read(f"crates/app/src/{part}.rs") for part in ("settings", "surface", "oidc"))


def settings():
    """The variables that our programs read, by their own declarations."""
    return set(re.findall(r'\benv = "([A-Z0-9_]+)"', declarations()))


def default_of(variable):
    """A setting's default, as a number."""
    found = re.search(rf'env = "{variable}", default_value_t = (\d+)', declarations())
    return int(found.group(1))


def constant(path, name):
    return int(re.search(rf"const {name}: \w+ = ([0-9_]+);", read(path)).group(1).replace("_", ""))


def kebab(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def words():
    """For each program: its subcommands, each with its flags; `""` has those of the program itself."""
    common = {kebab(name).replace("_", "-") for name in
              re.findall(r"global = true[^\n]*\n\s*pub (\w+):", declarations())}
    known = {"sleep": {"": set()}}
    for program, crate in (("penstock", "cli"), ("penstock-api", "api"), ("penstock-worker", "worker"),
                           ("penstock-dispatcher", "dispatcher")):
        text = read(f"crates/{crate}/src/main.rs")
        own = re.search(r"struct Program \{(.*?)\n\}", text, re.S).group(1)
        known[program] = {"": common | long_flags(own)}
        command = re.search(r"\nenum Command \{(.*?)\n\}", text, re.S)
        for name, fields, module in variants(command.group(1) if command else ""):
            known[program][name] = known[program][""] | long_flags(fields)
            if module:
                inner = re.search(r"\npub enum Command \{(.*?)\n\}", read(module_file(crate, module)), re.S).group(1)
                known[program].update({f"{name} {of}": known[program][""] | long_flags(flags) for of, flags, _ in variants(inner)})
    return known


def module_file(crate, module):
    """A module of a crate is a file of its name, or `mod.rs` of a folder."""
    file = f"crates/{crate}/src/{module}.rs"
    return file if (ROOT / file).exists() else f"crates/{crate}/src/{module}/mod.rs"


def variants(body):
    """An enum's variants: the word, the fields, and the module of the words that follow it."""
    for name, fields, module in re.findall(r"^    ([A-Z]\w*)(?: \{(.*?)^    \}|\((\w+)::Command\))?", body, re.S | re.M):
        yield kebab(name), fields, module


def long_flags(text):
    return {name.replace("_", "-") for name in re.findall(r"#\[arg\(long\b[^\n]*\n\s*(?:pub )?(\w+):", text)}


def command_fault(command, programs, known):
    """Why a container's command would not run in the image, or None."""
    program, *rest = command
    folder, _, name = program.rpartition("/")
    if folder != "/usr/local/bin" or name not in programs:
        return f"`{program}` is not in the image"
    subcommand = next((words_ for words_ in (" ".join(rest[:2]), *rest[:1]) if words_ in known[name]), "")
    deeper = any(words_.startswith(f"{subcommand} ") for words_ in known[name])
    if name == "penstock" and (not subcommand or deeper):
        return f"`{' '.join(command)}`: penstock has no such command"
    for word in rest:
        if word.startswith("--") and word[2:].split("=")[0] not in known[name][subcommand]:
            return f"`{' '.join(command)}`: {name} has no flag `{word}`"
    return None


def seconds(text):
    """`10s`, `500ms`, `1m0s` in seconds."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", text))


def slowest_call(text):
    """The longest that a call of a pipeline's definition may take."""
    dependencies = (yaml.safe_load(text) or {}).get("dependencies", {})
    return max((seconds(str(of["timeout"])) if "timeout" in of else DEFAULT_TIMEOUT for of in dependencies.values()), default=0.0)


# -- the image

def stages(dockerfile):
    """The stages of a Dockerfile: for each its base, and its instructions."""
    joined = re.sub(r"\\\n\s*", " ", "\n".join(l for l in dockerfile.splitlines() if not l.lstrip().startswith("#")))
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            found.append((rest.split()[0], []))
        elif found:
            found[-1][1].append((instruction, rest.strip()))
    return found


def programs(dockerfile):
    """The programs that the image has."""
    _, instructions = stages(dockerfile)[-1]
    return {pathlib.PurePosixPath(word).name for instruction, rest in instructions if instruction == "COPY"
            for word in rest.split()[1:-1]}


def image_faults(dockerfile):
    """What the image gets wrong, beyond what hadolint says."""
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", dockerfile, re.M))
    for name in ("BUILD_IMAGE", "RUN_IMAGE"):
        _, _, tag = arguments.get(name, "").rpartition(":")
        if not tag or tag == "latest" or "/" in tag:
            yield f"{name} names no version"
    base, instructions = stages(dockerfile)[-1]
    base = arguments.get(base.strip("${}"), base)
    if not re.match(r"gcr\.io/distroless/[a-z0-9-]+:(?!.*debug)", base):
        yield f"{base} may have a shell"
    said = {}
    for instruction, rest in instructions:
        said.setdefault(instruction, []).append(rest)
    if "RUN" in said:
        yield "the last stage runs something, and has no shell for it"
    for instruction in ("CMD", "HEALTHCHECK"):
        words_ = said.get(instruction, [""])[-1]
        if not re.search(r'(^|CMD )\["/usr/local/bin/[a-z-]+"(, "[^"]*")*\]$', words_):
            yield f"{instruction} is no list of words that begins with a program's path"
    if said.get("USER", [""])[-1] != "65532:65532":
        yield "the image runs as somebody else than the manifests say"
    labels = " ".join(said.get("LABEL", []))
    for label, argument in (("source", "SOURCE"), ("revision", "REVISION"), ("version", "VERSION"), ("licenses", "LICENSES")):
        if f'org.opencontainers.image.{label}="${{{argument}}}"' not in labels or argument not in arguments:
            yield f"no label `{label}` that a build argument sets"
    first, *_ = [rest for base, inner in stages(dockerfile) for instruction, rest in inner if instruction == "COPY"
                 and "--from=manifests" in rest] or [None]
    if first is None:
        yield "dependencies have no layer of their own"
