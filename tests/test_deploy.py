"""What `deploy/` says agrees with the project and with itself. Nothing here needs a container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.urls import resolve

from tests.fixtures.isolation import skip_for
from tests.fixtures.people import PASSWORD
from tests.fixtures.portal import PROJECT, free_port, running_portal
from tests.real_fleet.installing import ROUTER, VLLM
from tests.test_readme import table

DEPLOY = PROJECT / "deploy"
VERSIONS = {  # of the kinds that are used
    "Namespace": "v1", "Secret": "v1", "ConfigMap": "v1", "PersistentVolumeClaim": "v1", "Service": "v1",
    "ServiceAccount": "v1", "Deployment": "apps/v1", "StatefulSet": "apps/v1", "PodDisruptionBudget": "policy/v1",
    "Ingress": "networking.k8s.io/v1", "NetworkPolicy": "networking.k8s.io/v1",
    "Role": "rbac.authorization.k8s.io/v1", "RoleBinding": "rbac.authorization.k8s.io/v1",
}  # fmt: skip
MADE_ELSEWHERE = {"portal-tls"}  # by whoever has the certificate


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8")))


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and name."""
    found = {}
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for one in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            key = (one["kind"], one["metadata"]["name"])
            assert key not in found, f"{key} is there twice"
            found[key] = one
    return found


def option(words: list[str], name: str) -> str:
    [value] = [word.partition("=")[2] for word in words if word.startswith(f"--{name}=")]
    return value


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, labels and specification of each."""
    for (kind, name), one in manifests().items():
        if kind in ("Deployment", "StatefulSet"):
            template = one["spec"]["template"]
            assert one["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items(), name
            yield name, template["metadata"]["labels"], template["spec"]


def test_compose_agrees_with_the_settings_and_with_itself() -> None:
    file = compose()
    services = file["services"]
    portal, replica, router = (services[name] for name in ("portal-1", "vllm-1", "router"))
    said = portal["environment"]
    assert set(said) <= set(table()), "each is a setting"
    assert said == services["portal-2"]["environment"], "behind one proxy they are one site"
    assert {"SECRET_KEY", "SITE_NAME", "STORE_DIR", "DATABASE_URL"} <= set(said)
    assert said["FLEET_DIR"] == replica["environment"]["VLLM_LORA_RESOLVER_CACHE_DIR"]
    assert said["FLEET_MAX_RANK"] == option(replica["command"], "max-lora-rank")
    assert said["VLLM_URL"] == f"http://router:{option(router['command'], 'port')}"
    workers = [f"http://{name}:{option(services[name]['command'], 'port')}" for name in ("vllm-1", "vllm-2")]
    assert [word for word in router["command"] if word.startswith("http://")] == workers
    assert f"@database:3306/{services['database']['environment']['MARIADB_DATABASE']}" in said["DATABASE_URL"]
    for name, service in services.items():
        assert "image" in service, name
        assert set(service.get("depends_on", ())) <= set(services), name
        named = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert {one for one in named if one[0] not in "./$"} <= set(file["volumes"]), name
        for volume in named:
            if volume.startswith("./") and volume != "./tls":
                assert (DEPLOY / volume).exists(), volume
        build = service.get("build")
        assert build is None or (DEPLOY / build["context"] / build["dockerfile"]).is_file(), name


def test_compose_names_what_it_wants_to_be_told() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    head, body = text.split("\nname: ", 1)
    assert set(re.findall(r"\$\{(\w+)", body)) == set(re.findall(r"\b([A-Z][A-Z_]+)=", head))


def test_images_are_of_the_versions_that_are_tested() -> None:
    router = (DEPLOY / "router.Dockerfile").read_text(encoding="utf-8")
    assert ROUTER in router
    image = f"vllm/vllm-openai:v{VLLM.partition('==')[2]}"
    assert image == compose()["services"]["vllm-1"]["image"]
    assert image == next(spec["containers"][0]["image"] for name, _labels, spec in pods() if name == "vllm")
    portal = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", portal, re.MULTILINE):
        assert all((PROJECT / word).exists() for word in line.split()), line
    [said] = re.findall(r"^ENV (.*)$", portal, re.MULTILINE)
    assert {word.partition("=")[0] for word in said.split()} - set(table()) == {
        "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE",
    }  # fmt: skip
    assert {"var", ".venv", ".git"} <= set((PROJECT / ".dockerignore").read_text().split())


def test_manifests_are_whole() -> None:
    found = manifests()
    for (kind, name), one in found.items():
        assert one["apiVersion"] == VERSIONS[kind], name
        assert kind == "Namespace" or one["metadata"]["namespace"] == "loraportal", name
    labels = {name: said for name, said, _spec in pods()}
    for name, _labels, spec in pods():
        ports = [port["name"] for container in spec["containers"] for port in container["ports"]]
        for (kind, _name), one in found.items():
            if kind == "Service" and one["spec"]["selector"].items() <= labels[name].items():
                assert all(port["targetPort"] in ports for port in one["spec"]["ports"]), name
        claims = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in spec.get("volumes", ())
            if "persistentVolumeClaim" in volume
        ]
        assert all(("PersistentVolumeClaim", claim) in found for claim in claims), name
        for container in spec["containers"]:
            volumes = {volume["name"] for volume in spec.get("volumes", ())}
            volumes |= {one["metadata"]["name"] for one in claim_templates(name)}
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes, name
            for source in container.get("envFrom", ()):
                for kind, ref in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                    assert ref not in source or (kind, source[ref]["name"]) in found, source
            assert "readinessProbe" in container, name
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                asked = container.get(probe, {}).get("httpGet")
                assert asked is None or asked["port"] in ports, name
    for kind in ("Service", "PodDisruptionBudget"):
        for (one_kind, name), one in found.items():
            if one_kind == kind:
                wanted = one["spec"]["selector"]
                wanted = wanted.get("matchLabels", wanted)
                assert any(wanted.items() <= said.items() for said in labels.values()), name
    assert {("PodDisruptionBudget", name) for name in ("portal", "vllm", "router")} <= set(found)
    for name in ("shared", "models", "adapters"):
        assert found["PersistentVolumeClaim", name]["spec"]["accessModes"] == ["ReadWriteMany"]
    [rule] = found["Ingress", "portal"]["spec"]["rules"]
    [path] = rule["http"]["paths"]
    target = path["backend"]["service"]
    served = found["Service", target["name"]]["spec"]["ports"]
    assert target["port"]["name"] in [port["name"] for port in served]
    assert {one["secretName"] for one in found["Ingress", "portal"]["spec"]["tls"]} <= MADE_ELSEWHERE


def claim_templates(name: str) -> list[dict[str, Any]]:
    found = manifests().get(("StatefulSet", name), {"spec": {}})
    return list(found["spec"].get("volumeClaimTemplates", ()))


def test_manifests_agree_with_the_settings_and_with_the_compose_file() -> None:
    found, services = manifests(), compose()["services"]
    said = found["ConfigMap", "portal"]["data"] | found["Secret", "portal"]["stringData"]
    assert set(said) <= set(table()), "each is a setting"
    assert set(services["portal-1"]["environment"]) <= set(said)
    assert found["ConfigMap", "vllm"]["data"].items() <= services["vllm-1"]["environment"].items()
    [portal] = next(spec["containers"] for name, _labels, spec in pods() if name == "portal")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = portal[probe]["httpGet"]
        assert resolve(asked["path"]), "the portal has this page"
        assert {"name": "Host", "value": said["ALLOWED_HOSTS"]} in asked["httpHeaders"], "which it answers by that name"
    assert portal["readinessProbe"]["httpGet"]["path"] == "/readyz"
    [replica] = next(spec["containers"] for name, _labels, spec in pods() if name == "vllm")
    assert replica["args"][1:] == services["vllm-1"]["command"][1:]
    assert said["FLEET_MAX_RANK"] == option(replica["args"], "max-lora-rank")
    assert said["VLLM_URL"] == f"http://router:{found['Service', 'router']['spec']['ports'][0]['port']}"
    [path] = [mount["mountPath"] for mount in portal["volumeMounts"] if mount["name"] == "shared"]
    assert said["STORE_DIR"].startswith(path) and said["FLEET_DIR"].startswith(path)


def proxy() -> str:
    return (DEPLOY / "nginx.conf").read_text(encoding="utf-8")


def test_the_proxy_passes_on_what_portals_need() -> None:
    text = proxy()
    servers = re.findall(r"server (portal-\d+):(\d+)", text)
    services = compose()["services"]
    assert [name for name, _port in servers] == [name for name in services if name.startswith("portal-")]
    assert {port for _name, port in servers} == {"8000"} and "PORT=8000" in (DEPLOY / "Dockerfile").read_text()
    for line in (
        "proxy_buffering off;", "proxy_set_header Upgrade $http_upgrade;", "proxy_set_header Host $host;",
        "proxy_set_header X-Forwarded-For $remote_addr;", "proxy_set_header X-Forwarded-Proto $scheme;",
    ):  # fmt: skip
        assert line in text


@pytest.fixture
def nginx(tmp_path: Path) -> Callable[..., list[Any]]:
    """`nginx(changes)`: a command that runs it with our configuration, in which other words stand for some."""
    program, openssl = shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin"), shutil.which("openssl")
    if program is None or openssl is None:
        skip_for("nginx")
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=portal -days 1".split()
    command = [openssl, *words, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)

    def command_of(changes: dict[str, str]) -> list[Any]:
        text = re.sub(r"portal-\d+:", "127.0.0.1:", proxy())
        for old, new in {"/etc/nginx/tls": str(tmp_path), **changes}.items():
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "nginx.conf"
        file.write_text(f"pid {tmp_path}/pid;\n{text}", encoding="utf-8")
        return [program, "-c", file]

    return command_of


def test_nginx_takes_its_configuration(nginx: Callable[..., list[Any]]) -> None:
    said = subprocess.run([*nginx({}), "-t"], capture_output=True, text=True, timeout=30, check=False)
    assert said.returncode == 0, said.stderr


LOADED = """() => performance.getEntriesByType('resource').filter((file) => file.name.endsWith('.js'))
  .map((file) => [new URL(file.name).pathname, file.nextHopProtocol])"""
NAMED = """() => [...document.querySelectorAll('link[rel=modulepreload], script[type=module]')]
  .map((element) => new URL(element.href || element.src).pathname)"""
OPENED = """() => new Promise((tell) => {
  const socket = new WebSocket(`wss://${location.host}/ws/chat`);
  socket.onopen = () => tell('open');
  socket.onclose = (event) => tell(event.code);
})"""


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.xdist_group("portal")  # whose tests have a browser too
def test_pages_and_websockets_come_through_the_proxy(
    nginx: Callable[..., list[Any]], new_page: Callable[..., Any], tmp_path: Path
) -> None:
    """Pages by HTTP/2, with every script named in the page itself; websockets beside it."""
    plain, secure = free_port(), free_port()
    address = f"https://localhost:{secure}"
    about = {"HTTPS": "true", "ALLOWED_HOSTS": "localhost,127.0.0.1", "CSRF_TRUSTED_ORIGINS": address}
    with running_portal(tmp_path / "var", **about) as portal:
        ports = {"listen 80;": f"listen {plain};", "listen 443 ": f"listen {secure} ", ":8000": f":{portal.port}"}
        command = nginx(ports)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=30)  # it listens when this is over
        try:
            page = new_page(base_url=address, ignore_https_errors=True)
            page.goto("/chat")
            page.get_by_test_id("login-username").fill("owner")
            page.get_by_test_id("login-password").fill(PASSWORD)
            page.get_by_test_id("login-submit").click()
            page.locator("html[data-ready=true]").wait_for()
            assert page.url == f"{address}/chat"
            loaded, named = page.evaluate(LOADED), page.evaluate(NAMED)
            modules = [(path, how) for path, how in loaded if path.startswith("/static/")]
            assert {how for _path, how in modules} == {"h2"}
            assert len(modules) > 20 and {path for path, _how in modules} <= set(named)
            assert page.evaluate(OPENED) == "open"
        finally:
            subprocess.run([*command, "-s", "stop"], check=True, timeout=30)


@pytest.mark.parametrize("page", ["README.md", "ray-serve.md"])
def test_links_of_its_pages(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DEPLOY / page).read_text(encoding="utf-8")):
        assert (DEPLOY / target).exists(), target
