"""`compose.yaml`: what it says of services, volumes and targets fits together and fits the example's configuration."""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


def test_compose_fits_together() -> None:
    compose = YAML(typ="safe").load(ROOT / "compose.yaml")
    services = compose["services"]
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            assert other in services, name
            if condition["condition"] == "service_healthy":
                assert "test" in services[other]["healthcheck"], other
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_dir(), volume
    namespaces = [YAML(typ="safe").load(file) for file in (ROOT / "config/namespaces").glob("*.yaml")]
    targets = {
        f"{each['namespace']}.{target}" for each in namespaces if "namespace" in each for target in each["targets"]
    }
    served = {service["environment"].get("WALSTREAM_TARGET") for service in services.values()}
    assert served - {None} == targets
