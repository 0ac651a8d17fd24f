"""The deploy files are read by their platforms' schemas and parsers, and name only what relay has."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from relay.cli import EXIT_CONFIG, group
from relay.metrics import METRICS
from relay.providers import PROVIDERS
from relay.settings import PROVIDER_SETTINGS, SETTINGS, load, secret_names, unknown
from tests.support import env_example

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KUBERNETES_VERSION = "1.29"
"""The oldest that the manifests are for: since then ReadWriteOncePod is stable."""
GITHUB = ROOT / ".github"
BY_SCHEMA = {
    "vendor.compose-spec": [DEPLOY / "compose.yaml"],
    "vendor.github-workflows": sorted((GITHUB / "workflows").glob("*.yml")),
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
    "vendor.github-issue-forms": sorted(p for p in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config"),
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
}
FILES = sorted(
    path
    for folder in (DEPLOY, GITHUB)
    for path in folder.rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc")
) + [ROOT / name for name in ("app.json", "Procfile", "docs/deploy.md", "docs/scaling.md")]
ROUTES = ("/healthz", "/readyz", "/metrics")
NO_METRICS = {"relay_data"}
"""Words of the files that look like a metric: the volume on Fly."""
PLATFORMS_OWN = {"RENDER_EXTERNAL_URL"}
# What the platforms' references list; they publish no schema in a package.
APP_JSON = {  # Heroku, app.json schema
    *("name", "description", "keywords", "website", "repository", "logo", "success_url", "scripts", "env"),
    *("formation", "addons", "buildpacks", "environments", "stack", "image"),
}
RAILWAY = {  # Railway, config as code
    "build": {"builder", "watchPatterns", "buildCommand", "dockerfilePath", "railpackVersion"},
    "deploy": {
        *("startCommand", "preDeployCommand", "multiRegionConfig", "numReplicas", "healthcheckPath", "cronSchedule"),
        *("healthcheckTimeout", "restartPolicyType", "restartPolicyMaxRetries", "overlapSeconds", "drainingSeconds"),
    },
}
RENDER_SERVICE = {  # Render, Blueprint reference
    *("type", "name", "runtime", "region", "plan", "branch", "rootDir", "buildCommand", "startCommand", "envVars"),
    *("preDeployCommand", "autoDeployTrigger", "maxShutdownDelaySeconds", "healthCheckPath", "domains", "disk"),
    *("buildFilter", "scaling", "numInstances", "dockerfilePath", "dockerContext", "dockerCommand"),
}
RENDER_DATABASE = {
    "name",
    "plan",
    "postgresMajorVersion",
    "databaseName",
    "user",
    "region",
    "diskSizeGB",
    "ipAllowList",
}
FLY = {  # Fly, fly.toml reference
    "": {"app", "primary_region", "kill_signal", "kill_timeout", "build", "env", "mounts", "http_service", "vm"},
    "build": {"dockerfile", "ignorefile", "build-target", "args", "image"},
    "mounts": {"source", "destination", "initial_size", "snapshot_retention"},
    "http_service": {
        *("internal_port", "force_https", "auto_stop_machines", "auto_start_machines", "min_machines_running"),
        *("concurrency", "checks", "processes"),
    },
}


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


def strings(value: Any) -> Iterator[str]:
    """Yield every command and text in a parsed file; a list of words is one command."""
    match value:
        case str():
            yield value
        case list() if value and all(isinstance(item, str) for item in value):
            yield shlex.join(value)
            yield from value
        case list():
            for item in value:
                yield from strings(item)
        case dict():
            for item in value.values():
                yield from strings(item)


def parsed(path: Path) -> Any:
    """Return a file's content as its format says, or its text."""
    match path.suffix:
        case ".yaml" | ".yml":
            return documents(path)
        case ".json":
            return json.loads(path.read_text())
        case ".toml":
            return tomllib.loads(path.read_text())
    return path.read_text()


def commands(text: str) -> list[list[str]]:
    """Return the words of each `python -m relay …` in a text, without what a shell would read behind them."""
    found = re.findall(r"python -m relay\b([^\n`\"'#;&|)]*)", text.replace('", "', " "))
    return [shlex.split(words) for words in found]


def test_the_example_of_the_settings_is_what_the_settings_say() -> None:
    """Write every setting with its meaning and its default; else: ./deploy/dev env."""
    assert (ROOT / ".env.example").read_text() == env_example.text(), "run: ./deploy/dev env"


def test_the_example_of_the_settings_is_read_as_the_defaults() -> None:
    """Read as the defaults, without any unknown name, if every line of the example is made one that counts."""
    lines = re.findall(r"^#((?:RELAY_|PORT|DATABASE_)[^=\s]*)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    environ = {name: value for name, value in lines if "<PROVIDER>" not in name}
    assert len(environ) == len(SETTINGS)
    assert load(environ, ()) == load({}, ())
    assert unknown(environ, ()) == []
    assert len(lines) - len(environ) == len(PROVIDER_SETTINGS)


@pytest.mark.parametrize("schema", BY_SCHEMA)
def test_its_schema_accepts_it(schema: str) -> None:
    """Accept the compose file and GitHub's files by the schemas that are published for them."""
    files = BY_SCHEMA[schema]
    assert files
    asked = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_accepts_its_manifests(path: Path) -> None:
    """Accept every manifest by the API server's own schema, which refuses a field that it does not know."""
    import kubernetes_validate  # noqa: PLC0415 - not every worker needs what takes so long to load

    manifests = documents(path)
    assert len(manifests) >= 3
    for manifest in manifests:
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_pods_run_without_root_and_without_a_writable_root(path: Path) -> None:
    """Run as 10001 with a read-only root, no capability, no token of the cluster, and a grace that covers a stop."""
    deployments = [manifest for manifest in documents(path) if manifest["kind"] == "Deployment"]
    assert deployments
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        assert pod["terminationGracePeriodSeconds"] > load({}, ()).shutdown_s + 5 + 1
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_one_file_is_never_written_by_two_pods() -> None:
    """On SQLite: one replica, the old pod ends before the new one starts, and one pod alone may mount the volume."""
    claim, deployment, _ = documents(DEPLOY / "kubernetes" / "sqlite.yaml")
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_web_and_work_pods_roll() -> None:
    """On PostgreSQL: two of each or more, the new pod before the old one, and the Service names web pods alone."""
    manifests = documents(DEPLOY / "kubernetes" / "postgres.yaml")
    deployments = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "Deployment"}
    (service,) = [one for one in manifests if one["kind"] == "Service"]
    for name in ("relay-web", "relay-work"):
        spec = deployments[name]["spec"]
        assert spec["replicas"] >= 2
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    labels = deployments["relay-web"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    assert deployments["relay-work"]["spec"]["template"]["metadata"]["labels"] != labels


def test_heroku_accepts_app_json() -> None:
    """Name only fields of app.json's schema, the process types of the Procfile, and secrets that Heroku makes."""
    manifest = json.loads((ROOT / "app.json").read_text())
    assert set(manifest) <= APP_JSON
    types = {line.partition(":")[0] for line in (ROOT / "Procfile").read_text().splitlines()}
    assert set(manifest["formation"]) == types - {"release"}
    assert manifest["formation"]["worker"]["quantity"] == 0
    made = {name for name, one in manifest["env"].items() if one.get("generator") == "secret"}
    assert made == {"RELAY_SECRET_KEYS", "RELAY_API_KEY"} <= set(secret_names(tuple(PROVIDERS)))
    assert all(set(one) <= {"description", "value", "required", "generator"} for one in manifest["env"].values())


def test_railway_accepts_its_file() -> None:
    """Name only fields of Railway's reference; seconds are numbers, and no two versions have the volume together."""
    manifest = json.loads((DEPLOY / "railway.json").read_text())
    assert set(manifest) == {"$schema", *RAILWAY}
    for part, fields in RAILWAY.items():
        assert set(manifest[part]) <= fields
    deploy = manifest["deploy"]
    assert all(isinstance(deploy[name], int) for name in ("overlapSeconds", "drainingSeconds", "healthcheckTimeout"))
    assert deploy["overlapSeconds"] == 0
    assert deploy["restartPolicyType"] in ("ON_FAILURE", "ALWAYS", "NEVER")
    assert (ROOT / manifest["build"]["dockerfilePath"]).exists()


@pytest.mark.parametrize("name", ["render.yaml", "render-postgres.yaml"])
def test_render_accepts_its_blueprints(name: str) -> None:
    """Name only fields of Render's reference; each variable has one origin, which the same file has."""
    (blueprint,) = documents(DEPLOY / name)
    assert set(blueprint) <= {"services", "databases", "envVarGroups", "projects", "previews"}
    services = {service["name"]: service for service in blueprint["services"]}
    databases = {database["name"] for database in blueprint.get("databases", [])}
    assert all(set(database) <= RENDER_DATABASE for database in blueprint.get("databases", []))
    for service in services.values():
        assert set(service) <= RENDER_SERVICE
        assert service["type"] in ("web", "worker")
        assert 1 <= service["maxShutdownDelaySeconds"] <= 300
        for variable in service["envVars"]:
            (origin,) = set(variable) - {"key"}
            if origin == "fromDatabase":
                assert variable[origin]["name"] in databases
            elif origin == "fromService":
                of = services[variable[origin]["name"]]
                key = variable[origin]["envVarKey"]
                assert variable[origin]["type"] == of["type"]
                assert key in PLATFORMS_OWN | {one["key"] for one in of["envVars"]}
            else:
                assert origin in ("value", "generateValue", "sync")


def test_a_disk_on_render_has_one_instance() -> None:
    """Put the database on the disk, four slashes deep, and start one instance."""
    (blueprint,) = documents(DEPLOY / "render.yaml")
    (service,) = blueprint["services"]
    environ = {one["key"]: one.get("value") for one in service["envVars"]}
    assert service["numInstances"] == 1
    assert environ["DATABASE_URL"].startswith(f"sqlite:///{service['disk']['mountPath']}/")


def test_fly_accepts_its_file() -> None:
    """Name only fields of fly.toml's reference; never stop a machine that waits, and end it by SIGTERM."""
    manifest = tomllib.loads((DEPLOY / "fly.toml").read_text())
    assert set(manifest) <= FLY[""]
    for table in ("build", "mounts", "http_service"):
        assert set(manifest[table]) <= FLY[table]
    assert (manifest["kill_signal"], manifest["kill_timeout"]) == ("SIGTERM", 30)
    assert manifest["http_service"]["auto_stop_machines"] == "off"
    assert str(manifest["http_service"]["internal_port"]) == manifest["env"]["PORT"]
    assert manifest["env"]["DATABASE_URL"].startswith(f"sqlite:///{manifest['mounts']['destination']}/")
    assert (DEPLOY / manifest["build"]["dockerfile"]).exists()
    assert (DEPLOY / manifest["build"]["ignorefile"]).exists()
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert manifest["build"]["build-target"] in stages


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_the_image_is_small_and_without_root() -> None:
    """Begin on a slim Python of .python-version, end as 10001, ask `relay healthcheck`, and declare no volume.

    Railway refuses a Dockerfile that has VOLUME.
    """
    found = instructions()
    known = {
        "ARG",
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
        "USER",
    }
    assert {word for word, _ in found} <= known
    assert ("ARG", f"PYTHON={(ROOT / '.python-version').read_text().strip()}") in found
    assert [rest for word, rest in found if word == "FROM" and "python:" in rest] == [
        "python:${PYTHON}-slim AS build",
        "python:${PYTHON}-slim AS relay",
    ]
    assert found[-1] == ("USER", "10001:10001")
    (check,) = [rest for word, rest in found if word == "HEALTHCHECK"]
    assert json.loads(check.partition(" CMD ")[2]) == ["python", "-m", "relay", "healthcheck"]


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    """Let through the ignore file exactly what COPY names, so that no key, database or .venv gets into an image."""
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    sources = {source.rstrip("/") for words in copied for source in words if not source.startswith("--")}
    allowed = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(sources) == sorted(allowed)
    assert (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()[1] == "*"
    assert all((ROOT / source).exists() for source in sources)


def test_compose_runs_relay_without_root_and_without_a_writable_root() -> None:
    """Give each of relay's services a read-only root, no capability, and a grace longer than the shutdown's limit."""
    (compose,) = documents(DEPLOY / "compose.yaml")
    own = [service for service in compose["services"].values() if service["image"] == "relay"]
    assert len(own) == 3
    for service in own:
        assert (service["read_only"], service["cap_drop"], service["tmpfs"]) == (True, ["ALL"], ["/tmp"])
        assert int(service["stop_grace_period"].removesuffix("s")) > load({}, ()).shutdown_s + 1
    profiles = {name: service.get("profiles", []) for name, service in compose["services"].items()}
    assert [name for name, found in profiles.items() if not found] == ["relay"]
    assert {name for names in profiles.values() for name in names} == {"postgres", "proxy"}


def test_nginx_accepts_its_file(tmp_path: Path) -> None:
    """Use directives of nginx alone, where nginx allows them, with limits above relay's own."""
    import crossplane  # noqa: PLC0415 - not every worker needs what takes so long to load

    whole = tmp_path / "nginx.conf"
    whole.write_text(f"events {{}}\nhttp {{ include {DEPLOY / 'nginx.conf'}; }}\n")
    found = crossplane.parse(str(whole), strict=True, catch_errors=True)
    assert found["status"] == "ok", found["errors"]
    text = (DEPLOY / "nginx.conf").read_text()
    (body_mb,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(body_mb) << 20 > load({}, ()).upload_max_bytes
    (idle_s,) = re.findall(r"keepalive_timeout (\d+)s;", text)
    assert int(idle_s) < load({}, ()).idle_s


def test_systemd_does_not_restart_wrong_settings() -> None:
    """Prevent a restart by the status for wrong settings, give a stop its time, and write in its own folder alone."""
    unit = (DEPLOY / "relay.service").read_text()
    values = dict(re.findall(r"^([A-Z]\w+)=(.*)$", unit, re.MULTILINE))
    assert values["RestartPreventExitStatus"] == str(EXIT_CONFIG)
    assert int(values["TimeoutStopSec"]) > load({}, ()).shutdown_s + 1
    assert (values["ProtectSystem"], values["StateDirectory"]) == ("strict", "relay")
    assert "sqlite:////var/lib/relay/" in values["Environment"]


ASKED = {
    "caddy": ["caddy", "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")],
    "promtool": ["promtool", "check", "rules", str(DEPLOY / "prometheus-rules.yml")],
    "systemd-analyze": ["systemd-analyze", "verify", "--man=no", "{unit}"],
}


@pytest.mark.parametrize("program", ASKED)
def test_the_program_itself_accepts_its_file(program: str, tmp_path: Path) -> None:
    """Accept the file by the program that reads it, where it is installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    unit = tmp_path / "relay.service"
    text = (DEPLOY / "relay.service").read_text().replace("/opt/relay/.venv/bin/python", sys.executable)
    unit.write_text(re.sub(r"^(User|Group)=relay$", r"\1=root", text, flags=re.MULTILINE))
    asked = [word.format(unit=unit) for word in ASKED[program]]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "relay.service" not in done.stderr, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_deploy_file_names_only_what_exists(path: Path) -> None:
    """Name only settings that relay reads, commands and options that it has, its routes, its metrics and its files."""
    text = path.read_text()
    texts = [text, *strings(parsed(path))]
    known = [one.name for one in SETTINGS] + [one.named(name) for name in PROVIDERS for one in PROVIDER_SETTINGS]
    named = set(re.findall(r"\bRELAY_[A-Z0-9_]*[A-Z0-9]\b", text))
    assert named - set(known) == set()
    for words in (words for text in texts for words in commands(text)):
        context = click.Context(group)
        command = group.get_command(context, words[0]) if words else group
        assert command is not None, words
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words[1:] if word.startswith("--")} <= options, words
    assert set(re.findall(r"(?<![\w./])/[a-z]+z\b|/metrics\b", text)) <= set(ROUTES)
    exposed = {f"{metric.name}_total" if metric.kind == "counter" else metric.name for metric in METRICS}
    assert set(re.findall(r"\brelay_[a-z_]+", text)) - NO_METRICS <= exposed
    paths = set(re.findall(r"\b(?:deploy|docs|tests)/[\w./-]*\w", text))
    paths |= set(re.findall(r"(?<![\w/.-])requirements[\w-]*\.txt", text))
    assert [name for name in sorted(paths) if not (ROOT / name).exists()] == []


def test_every_alert_is_about_a_metric_with_that_label() -> None:
    """Group and print only by labels that the metric has, so that no alert is silent for a wrong name."""
    (rules,) = documents(DEPLOY / "prometheus-rules.yml")
    labels = {metric.name: {*metric.labels, "instance", "job"} for metric in METRICS} | {"up": {"instance", "job"}}
    for rule in rules["groups"][0]["rules"]:
        (metric,) = re.findall(r"\b(relay_[a-z_]+?|up)(?:_total)?(?=[\[{ ])", rule["expr"])
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        used |= set(re.findall(r"by \((\w+)\)", rule["expr"]))
        assert used <= labels[metric], rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_grafana_dashboard_shows_every_metric_by_labels_that_it_has() -> None:
    """Query only metrics and labels that relay has, and leave no metric out; a panel lies beside the others."""
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    labels = {f"{one.name}_total" if one.kind == "counter" else one.name: {*one.labels} for one in METRICS}
    queried = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
            names = set(re.findall(r"\brelay_[a-z_]+", target["expr"]))
            assert names <= labels.keys(), panel["title"]
            queried |= names
            grouped = {name for found in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in found.split(", ")}
            grouped |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped |= set(re.findall(r"[{,](\w+)[!=]", target["expr"]))
            known = {"instance", "job"}.union(*(labels[name] for name in names))
            assert grouped <= known, (panel["title"], grouped - known)
    assert labels.keys() - queried == set(), "add a panel for each new metric"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
