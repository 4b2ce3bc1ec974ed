"""The descriptions of clusters are what their tools take, and their command lines can be parsed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from shell_commands import parse, shell_blocks, simple_commands

from tuner import VERSION

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
LAUNCHER = sorted((CLUSTER / "ray").glob("*.yaml"))
READMES = sorted(CLUSTER.glob("*/README.md"))
SCRIPTS = [CLUSTER / "mlflow" / "serve.sh", CLUSTER / "slurm" / "search.sbatch"]
TOOLS = Path(sys.executable).parent
KUBERNETES = "1.37"


def load_all(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def run(*words: str | Path, given: str = "") -> str:
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- command lines


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_every_command_of_a_readme_can_be_parsed(readme):
    parsed = [
        words
        for block in shell_blocks(readme)
        for words in simple_commands(block)
        if words and parse(words)
    ]
    assert parsed


def test_the_tracking_servers_command_can_be_parsed():
    assert sum(map(parse, simple_commands(SCRIPTS[0].read_text()))) == 1


def test_a_command_that_is_not_right_is_found():
    for wrong in (
        "sbatch --nodes=1 cluster/slurm/search.sbatch reptile_mnist --no-such-option",
        "ray start --dashboard-hots=127.0.0.1",
        "ray job submit --address x -- python -m tuner.launch reptile_mnist --no-such-option",
        "A=b mlflow server --no-such-option",
    ):
        with pytest.raises(Exception, match=r"(?i)no such option|unrecognized arguments"):
            list(map(parse, simple_commands(wrong)))


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_a_readme_says_how_to_start_submit_watch_and_stop_and_what_it_costs(readme):
    text = readme.read_text()
    found = re.findall(r"\*\*(Start|[Ss]ubmit|Watch|Stop|Cost)\*\*", text)
    assert [word.lower() for word in found] == ["start", "submit", "watch", "stop", "cost"]
    for name in re.findall(r"(?<![\w/.])cluster/[\w./-]+\w", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_and_bash_find_nothing_in_a_script(script):
    assert os.access(script, os.X_OK)
    run("bash", "-n", script)
    run(TOOLS / "shellcheck", script)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_shellcheck_finds_nothing_in_a_readme(readme):
    """But a ~ that is another machine's, and exports that would hide a failure in a script."""
    for block in shell_blocks(readme):
        run(TOOLS / "shellcheck", "--shell=bash", "--exclude=SC2088,SC2155", "-", given=block)


# --- Ray's cluster launcher


@pytest.fixture(params=LAUNCHER, ids=lambda path: path.stem)
def launched(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A description of a cluster, as Ray completes it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    (description,) = load_all(request.param)
    prepared: dict[str, Any] = prepare_config(description)
    validate_config(prepared)  # against the schema that Ray ships
    return prepared


def test_a_launched_cluster_asks_for_a_token_and_has_its_dashboard_on_loopback(launched):
    started = {}
    for which in ("head", "worker"):
        commands = launched[f"{which}_start_ray_commands"]
        parsed = [words for line in commands for words in simple_commands(line) if parse(words)]
        (started[which],) = [words for words in parsed if words[1] == "start"]
    assert "--dashboard-host=127.0.0.1" in started["head"]
    assert launched["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    set_up = "\n".join(launched["setup_commands"])
    assert "RAY_AUTH_MODE=token" in set_up
    assert "chmod 600 ~/.ray/auth_token" in set_up
    run(TOOLS / "shellcheck", "--shell=bash", "--severity=warning", "-", given=set_up + "\n")


def test_a_launched_cluster_gets_this_package_with_pinned_requirements(launched):
    assert (ROOT / launched["file_mounts"]["~/few-shot-tuner"] / "requirements.lock").is_file()
    installs = [
        words
        for line in launched["setup_commands"] + launched["head_setup_commands"]
        for words in simple_commands(line)
        if words[0].endswith("/pip")
    ]
    assert installs
    assert all("~/few-shot-tuner/requirements.lock" in words for words in installs)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_clouds_have_spot_workers_that_come_and_go(name):
    (cloud,) = load_all(CLUSTER / "ray" / f"{name}.yaml")
    worker = cloud["available_node_types"]["gpu"]
    assert worker["min_workers"] < worker["max_workers"] <= cloud["max_workers"]
    spot = {
        "aws": {"InstanceMarketOptions": {"MarketType": "spot"}},
        "gcp": {"scheduling": [{"preemptible": True}, {"onHostMaintenance": "TERMINATE"}]},
    }
    assert spot[name].items() <= worker["node_config"].items()


def test_the_descriptions_for_the_launcher_differ_only_where_they_must():
    described = [load_all(path)[0] for path in LAUNCHER]
    for field in ("cluster_name", "file_mounts", "rsync_exclude", "setup_commands"):
        assert all(one[field] == described[0][field] for one in described), field


# --- Kubernetes

KUBERAY = json.loads((ROOT / "tests" / "kuberay.schema.json").read_text())


def documents() -> list[dict[str, Any]]:
    return [one for path in sorted((CLUSTER / "kuberay").glob("*.yaml")) for one in load_all(path)]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] == kind]


def pod_templates(document: Any) -> Iterator[dict[str, Any]]:
    """Every `template` in a document."""
    if isinstance(document, dict):
        if "template" in document:
            yield document["template"]
        for value in document.values():
            yield from pod_templates(value)
    elif isinstance(document, list):
        for value in document:
            yield from pod_templates(value)


def containers() -> list[dict[str, Any]]:
    templates = [template for document in documents() for template in pod_templates(document)]
    return [one for template in templates for one in template["spec"]["containers"]]


@pytest.mark.parametrize(
    "document", documents(), ids=lambda d: f"{d['kind']}-{d['metadata']['name']}"
)
def test_kubernetes_knows_every_field(document):
    if document["apiVersion"] == "ray.io/v1":
        jsonschema.validate(document, KUBERAY)
        for template in pod_templates(document):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_field_that_is_not_right_is_found():
    (cluster,) = of_kind("RayCluster")
    cluster["spec"]["enableInTreeAutoscalling"] = True
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, KUBERAY)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}
    service["spec"] = {"port": [{"port": 1}]}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, KUBERNETES, strict=True)


def test_kuberay_refuses_nothing_that_fits_no_schema():
    """What its operator checks across fields: ray-operator/controllers/ray/utils/validation.go."""
    (cluster,) = of_kind("RayCluster")
    spec = cluster["spec"]
    assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)  # tokens need it
    assert spec["autoscalerOptions"]["version"] == "v2"
    for template in pod_templates(cluster):
        assert template["spec"]["restartPolicy"] == "Never"
        names = {v["name"] for one in template["spec"]["containers"] for v in one.get("env", [])}
        assert "RAY_enable_autoscaler_v2" not in names  # said by `version`
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_operator_reaches_the_cluster_that_it_submits_to():
    (cluster,), (policy,) = of_kind("RayCluster"), of_kind("NetworkPolicy")
    own = {"ray.io/cluster": cluster["metadata"]["name"]}
    assert policy["spec"]["podSelector"]["matchLabels"] == own
    (rule,) = policy["spec"]["ingress"]
    # Helm and Kustomize name the operator's pods differently, and both call the component so.
    operator = {"app.kubernetes.io/component": "kuberay-operator"}
    assert [peer["podSelector"]["matchLabels"] for peer in rule["from"]] == [own, operator]


def test_the_parts_in_kubernetes_find_each_other():
    (cluster,), (job,) = of_kind("RayCluster"), of_kind("RayJob")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    (pin,) = re.findall(r"^ray==(.*)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert cluster["spec"]["rayVersion"] == pin
    (command,) = simple_commands(job["spec"]["entrypoint"])
    assert parse(command)
    uri = command[command.index("--tracking-uri") + 1]
    services = {
        f"http://{service['metadata']['name']}:{port['port']}"
        for service in of_kind("Service")
        for port in service["spec"]["ports"]
    }
    assert uri in services
    (server,) = [one for one in containers() if one["name"] == "mlflow"]
    allowed = {one["name"]: one.get("value") for one in server["env"]}
    assert uri.removeprefix("http://") in allowed["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_every_secret_of_kubernetes_is_one_that_its_readme_makes():
    used = {
        (source["secretKeyRef"]["name"], source["secretKeyRef"]["key"])
        for one in containers()
        for variable in one.get("env", [])
        if (source := variable.get("valueFrom"))
    }
    readme = (CLUSTER / "kuberay" / "README.md").read_text()
    (made,) = re.findall(r"for key in ([\w -]+); do .* create secret generic tracking ", readme)
    assert used == {("tracking", key) for key in made.split()}


def test_only_the_head_knows_the_tracking_server():
    """Workers need no access, and what they run is code of a search."""
    knowing = [
        one["name"]
        for one in containers()
        if any(name["name"].startswith("MLFLOW_TRACKING") for name in one.get("env", []))
    ]
    assert knowing == ["ray-head"]


# --- the image, and the tracking server's containers


def test_the_image_installs_as_the_makefile_does_and_finds_what_it_copies():
    text = (CLUSTER / "Dockerfile").read_text()
    run(TOOLS / "hadolint", CLUSTER / "Dockerfile")
    copied = [
        word
        for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert all((ROOT / name).exists() for name in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]
    assert {name.partition(".")[0] for name in packages} <= set(copied)
    makefile = re.sub(" --(quiet|disable-pip-version-check)", "", (ROOT / "Makefile").read_text())
    for step in re.findall(r"pip install --no-cache-dir (.*)$", text, re.MULTILINE):
        step = re.sub(r"\.$", "-e .", step)
        assert f"-m pip install {step}\n" in makefile, step


def test_compose_is_what_its_specification_allows():
    compose = CLUSTER / "mlflow" / "compose.yaml"
    run(
        sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", compose
    )
    (described,) = load_all(compose)
    assert described["services"]["mlflow"]["ports"] == ["127.0.0.1:5000:5000"]
    assert "ports" not in described["services"]["db"]


def test_images_have_one_name_and_this_version():
    wanted = f"few-shot-tuner:{VERSION}"
    (compose,) = load_all(CLUSTER / "mlflow" / "compose.yaml")
    named = {one["image"] for one in containers()} | {
        service["image"] for service in compose["services"].values()
    }
    assert {name.removeprefix("REGISTRY/") for name in named} == {wanted, "postgres:17"}
    assert f"--tag {wanted} ." in (CLUSTER / "Dockerfile").read_text()


def test_no_description_holds_a_secret():
    """What is called a password, a token or a secret is a variable, a file, or a Secret's key."""
    called = re.compile(r"(?i)(?:password|token|secret)\w*[\"']*[:=] *([^\s,}]+)")
    for path in sorted(CLUSTER.rglob("*")):
        if path.suffix in (".yaml", ".ini", ".sh", ".sbatch", ".conf"):
            for line in path.read_text().splitlines():
                for value in called.findall(re.sub(r"(^|\s)[#;].*", "", line)):
                    assert value[0] in '"$~{:?' or value in ("token", "true", "false"), (path, line)
