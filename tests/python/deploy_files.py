"""What deploy/ and docker-compose.yml say, checked without Docker and without a cluster.

The manifests are put together as kustomize would (of which this knows only what they use), and held against the
schemas of Kubernetes that the package kubernetes-validate brings; the compose file against the Compose specification
that check-jsonschema brings. Then what no schema knows: that ports, names, limits and settings agree.

    deploy_files.py ROOT HELP   HELP is a file with what `mmapd --help` prints
"""

import copy
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml

KUBERNETES = ("1.31", "1.37")
GRPC, METRICS = 50051, 9464
MIB = 1 << 20
UNITS = {"g": 1 << 30, "m": MIB, "Gi": 1 << 30, "Mi": MIB, "GiB": 1 << 30, "MiB": MIB}
# Settings of branches that are still to be merged; once all of them are known, this has to go.
COMING = {"MMAPD_METRICS_LISTEN", "MMAPD_OTLP_ENDPOINT", "MMAPD_JWT_KEYS", "MMAPD_JWT_AUDIENCE"}
# By what the elements of a list of that name are told apart in a strategic merge patch.
MERGE_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath", "ports": "port"}


def bytes_of(text):
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]+)", text).groups()
    return int(number) * UNITS[unit]


def least_limit(budget):
    """What deploy/README.md says of the memory beyond the budget."""
    return budget + budget // 4 + 256 * MIB


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


# --- kustomize, as far as it is used here


def merged(target, patch, name=""):
    if isinstance(target, dict) and isinstance(patch, dict):
        result = dict(target)
        for key, value in patch.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = merged(result[key], value, key) if key in result else value
        return result
    if isinstance(target, list) and isinstance(patch, list) and name in MERGE_KEYS:
        key, result = MERGE_KEYS[name], list(target)
        for item in patch:
            at = [index for index, old in enumerate(result) if old[key] == item[key]]
            if at:
                result[at[0]] = merged(result[at[0]], item)
            else:
                result.append(item)
        return result
    return patch


def identity(document):
    return document["kind"], document["metadata"]["name"]


def render(folder, below=()):
    """The documents of a kustomization; `below` are those that a component works on."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    known = {"apiVersion", "kind", "namespace", "resources", "components", "images", "patches"}
    assert set(kustomization) <= known, f"{folder}: {set(kustomization) - known} is not known to this test"
    found = list(below)
    for resource in kustomization.get("resources", []):
        path = folder / resource
        found += render(path) if path.is_dir() else documents(path)
    for component in kustomization.get("components", []):
        found = render(folder / component, found)
    for patch in kustomization.get("patches", []):
        for change in documents(folder / patch["path"]):
            at = [index for index, document in enumerate(found) if identity(document) == identity(change)]
            assert len(at) == 1, f"{folder}: {identity(change)} patches nothing"
            found[at[0]] = merged(found[at[0]], change)
    listed = {*kustomization.get("resources", []), *(patch["path"] for patch in kustomization.get("patches", []))}
    files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert files <= listed, f"{folder}: {files - listed} is in no list"
    return found


# --- Kubernetes


def is_valid(document, version):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{identity(document)}: {error}"
    return None


def the_validator_finds_what_is_wrong(documents):
    """Or what it says of the rest would mean nothing."""
    good = next(document for document in documents if document["kind"] == "StatefulSet")
    for break_it in (
        lambda spec: spec.update(replica=1),
        lambda spec: spec.update(replicas="one"),
        lambda spec: spec["template"]["spec"]["containers"][0]["livenessProbe"].update(grpc={"port": "grpc"}),
        lambda spec: spec.pop("selector"),
    ):
        bad = copy.deepcopy(good)
        break_it(bad["spec"])
        assert is_valid(bad, KUBERNETES[-1]), bad


def every_manifest_follows_the_schema(documents):
    for document in documents:
        if document["kind"] == "ServiceMonitor":
            # A definition of the Prometheus operator's, which the schemas of Kubernetes do not have.
            continue
        for version in KUBERNETES:
            wrong = is_valid(document, version)
            assert wrong is None, wrong


def one(documents, kind):
    found = [document for document in documents if document["kind"] == kind]
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def variables(container):
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def names_and_ports_agree(documents):
    workload, service = one(documents, "StatefulSet"), one(documents, "Service")
    template = workload["spec"]["template"]
    labels = template["metadata"]["labels"]
    container = template["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": GRPC, "metrics": METRICS}
    assert {port["port"]: ports[port["targetPort"]] for port in service["spec"]["ports"]} == {p: p for p in ports.values()}
    for selector in (
        workload["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        one(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items(), selector
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    account = one(documents, "ServiceAccount")
    assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]
    ingress = one(documents, "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for rule in ingress for port in rule["ports"]} == {GRPC, METRICS}
    assert all(rule["from"] for rule in ingress), "open to everybody"
    settings = variables(container)
    assert settings["MMAPD_LISTEN"].endswith(f":{GRPC}") and settings["MMAPD_METRICS_LISTEN"].endswith(f":{METRICS}")
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    there = {volume["name"] for volume in template["spec"].get("volumes", [])}
    claimed = {claim["metadata"]["name"] for claim in workload["spec"]["volumeClaimTemplates"]}
    assert mounted == there | claimed, (mounted, there, claimed)
    for monitor in (document for document in documents if document["kind"] == "ServiceMonitor"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        names = {port["name"] for port in service["spec"]["ports"]}
        assert all(endpoint["port"] in names for endpoint in monitor["spec"]["endpoints"])


def the_pod_is_locked_down_and_has_room(documents):
    workload = one(documents, "StatefulSet")
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert workload["spec"]["replicas"] == 1, "the state directory has one owner"
    assert pod["enableServiceLinks"] is False, "Kubernetes would set MMAPD_ variables of its own"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] and context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    settings = variables(container)
    shutdown = int(settings["MMAPD_SHUTDOWN_TIMEOUT"].removesuffix("s"))
    assert pod["terminationGracePeriodSeconds"] >= shutdown + 10
    limit = bytes_of(container["resources"]["limits"]["memory"])
    assert limit >= least_limit(bytes_of(settings["MMAPD_MEMORY"])), "the limit leaves no room beyond the budget"
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    tls = "MMAPD_TLS_CERT" in settings
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        how = container[probe]
        assert ("exec" in how) == tls and ("grpc" in how) != tls, f"{probe}: {how}"
        if tls:
            assert how["exec"]["command"][:2] == ["/mmapd", "health"]
        else:
            assert how["grpc"]["port"] == GRPC
    assert tls == (settings.get("MMAPD_AUTH") == "jwt"), "tokens would travel in the clear"
    folders = [mount["mountPath"] for mount in container["volumeMounts"]]
    for name in ("MMAPD_TLS_CERT", "MMAPD_TLS_KEY", "MMAPD_JWT_KEYS"):
        assert any(settings[name].startswith(folder + "/") for folder in folders) if tls else name not in settings


def the_image_and_the_user_are_the_dockerfiles(documents, dockerfile):
    pod = one(documents, "StatefulSet")["spec"]["template"]["spec"]
    user = pod["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in dockerfile
    assert user["fsGroup"] == user["runAsGroup"]
    state = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "state"]
    assert f"VOLUME {state[0]}\n" in dockerfile and f"MMAPD_STATE_DIR={state[0]} " in dockerfile


# --- Docker


def both_dockerfiles_make_the_same_image(root):
    ends = []
    for name in ("Dockerfile", "Dockerfile.prebuilt"):
        text = (root / "deploy" / name).read_text()
        assert not re.search(r"^#\s*syntax=", text), "a frontend would be pulled"
        end = text.split("\n# runtime\n")[1]
        ends.append(re.sub(r"--from=build |(?<= )/?rootfs(?=/)", "", end))
    assert ends[0] == ends[1]
    assert f"EXPOSE {GRPC} {METRICS}\n" in ends[0] and f"MMAPD_LISTEN=0.0.0.0:{GRPC}\n" in ends[0]
    return ends[0]


def default_of(text):
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)


def compose_follows_the_specification(root):
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    files = [root / "docker-compose.yml", root / "tests/compose/moto.yml"]
    done = subprocess.run([*command, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def compose_publishes_on_loopback_only_and_every_image_can_be_replaced(compose):
    for name, service in compose["services"].items():
        assert re.fullmatch(r"\$\{[A-Z0-9_]+_IMAGE:-[^}]+:[^}]+\}", service["image"]), f"{name}: {service['image']}"
        assert service["profiles"], f"{name} would start in every profile"
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z0-9_]+_PORT:-\d+\}:\d+", port), f"{name}: {port}"
        for other in service.get("depends_on", {}):
            assert set(service["profiles"]) <= set(compose["services"][other]["profiles"]), f"{name} needs {other}"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or volume.endswith(":ro"), f"{name}: {volume}"


def compose_waits_for_health_where_it_can_be_asked(compose):
    for name, service in compose["services"].items():
        for other, how in service.get("depends_on", {}).items():
            dependency = compose["services"][other]
            condition = how["condition"]
            if condition == "service_healthy":
                assert "healthcheck" in dependency or dependency["image"].startswith("${MMAPD_IMAGE"), f"{name}: {other}"
            else:
                assert condition == "service_completed_successfully" or "healthcheck" not in dependency, f"{name}: {other}"


def mmapd_in_compose_is_locked_down_and_has_room(compose):
    alone = [name for name, service in compose["services"].items() if "alone" in service["profiles"]]
    assert alone == ["mmapd-alone"] and compose["services"]["mmapd-alone"]["profiles"] == ["alone"]
    assert "depends_on" not in compose["services"]["mmapd-alone"]
    for name in ("mmapd", "mmapd-alone"):
        service = compose["services"][name]
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert int(service["stop_grace_period"].removesuffix("s")) > 25, "the default of --shutdown-timeout"
        budget = bytes_of(default_of(service["environment"]["MMAPD_MEMORY"]))
        assert bytes_of(default_of(service["mem_limit"])) >= least_limit(budget)


# --- settings


def every_setting_is_one_that_mmapd_knows(used, help_text):
    known = set(re.findall(r"\[env: (MMAPD_[A-Z0-9_]+)\]", re.sub(r"\s+", " ", help_text)))
    assert "MMAPD_LISTEN" in known, "the help does not name its variables"
    assert not COMING <= known, "all of COMING has come: take it out of this test"
    assert used - COMING <= known, f"no setting: {sorted(used - known)}"


def main(root, help_file):
    root = Path(root)
    dockerfile = both_dockerfiles_make_the_same_image(root)
    used = set(re.findall(r"\b(MMAPD_[A-Z0-9_]+)=", dockerfile))
    for overlay in ("base", "production"):
        found = render(root / "deploy/kubernetes" / overlay)
        the_validator_finds_what_is_wrong(found)
        every_manifest_follows_the_schema(found)
        names_and_ports_agree(found)
        the_pod_is_locked_down_and_has_room(found)
        the_image_and_the_user_are_the_dockerfiles(found, dockerfile)
        used |= {name for name in variables(one(found, "StatefulSet")["spec"]["template"]["spec"]["containers"][0])}
    compose_follows_the_specification(root)
    compose = yaml.safe_load((root / "docker-compose.yml").read_text())
    compose_publishes_on_loopback_only_and_every_image_can_be_replaced(compose)
    compose_waits_for_health_where_it_can_be_asked(compose)
    mmapd_in_compose_is_locked_down_and_has_room(compose)
    for service in compose["services"].values():
        used |= {name for name in service.get("environment", {}) if name.startswith("MMAPD_")}
    every_setting_is_one_that_mmapd_knows(used, Path(help_file).read_text())
    print("all as it should be")


if __name__ == "__main__":
    main(*sys.argv[1:])
