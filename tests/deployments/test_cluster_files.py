"""The files for a cluster say what Ray and our own builder understand."""

from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.app import AppArgs
from deployments.face_replicas import load_swapper
from deployments.policy_file import shipped_policy
from moderation.adapters.classifiers.mapping import shipped_mapping
from moderation.adapters.classifiers.registry import find_known
from moderation.media import Stage
from moderation.policy import check_coverage
from tests.builders import make_classifier_version

FOLDER = Path(__file__).parents[2] / "deployments"


def serve_configs() -> dict[str, dict]:
    documents = list(yaml.safe_load_all((FOLDER / "kubernetes" / "rayservice.yaml").read_text()))
    service = next(document for document in documents if document["kind"] == "RayService")
    return {
        "serve.yaml": yaml.safe_load((FOLDER / "serve.yaml").read_text()),
        "rayservice.yaml": yaml.safe_load(service["spec"]["serveConfigV2"]),
    }


@pytest.mark.parametrize("name", ["serve.yaml", "rayservice.yaml"])
def test_ray_and_our_builder_accept_the_configuration(name):
    config = serve_configs()[name]
    application = ServeDeploySchema.model_validate(config).applications[0]
    args = AppArgs.model_validate(application.args)
    assert application.import_path == "deployments.app:build_app"
    assert all(0 < one.gpus < 1 for one in args.classifiers)
    load_swapper(args.faces.swapper.spec)


def test_under_the_shipped_policy_the_classifiers_of_the_files_can_block():
    args = AppArgs.model_validate(serve_configs()["serve.yaml"]["applications"][0]["args"])
    mappings = [shipped_mapping(find_known(one.spec.removeprefix("transformers:")).mapping) for one in args.classifiers]
    versions = [make_classifier_version(one.classifier, one.categories, calibrated=one.calibrated) for one in mappings]
    policy = shipped_policy("default")
    check_coverage(policy, versions)
    for version in versions:
        rules = [policy.rule_for(category, stage, version.name) for category in version.categories for stage in Stage]
        assert all(rule is not None and rule.block_at is not None for rule in rules), version.name


def test_both_files_deploy_the_same_application():
    first, second = serve_configs().values()
    assert first["applications"] == second["applications"]


def test_no_cluster_file_holds_a_database_url():
    for path in (FOLDER / "serve.yaml", *(FOLDER / "kubernetes").glob("*.yaml"), FOLDER / "Dockerfile"):
        assert "postgresql" not in path.read_text()


def test_one_process_seals_apart_from_ray_in_a_folder_of_its_own():
    sealer, nobody = yaml.safe_load_all((FOLDER / "kubernetes" / "sealer.yaml").read_text())
    (container,) = sealer["spec"]["template"]["spec"]["containers"]
    assert (sealer["kind"], sealer["spec"]["replicas"], container["command"]) == ("StatefulSet", 1, ["facegate", "seal"])
    (folder,) = (one["value"] for one in container["env"] if one["name"] == "FACEGATE_SEALER_DIR")
    assert any(Path(one["mountPath"]) in Path(folder).parents for one in container["volumeMounts"] if one["name"] == "folder")
    assert "ingress" not in nobody["spec"]
