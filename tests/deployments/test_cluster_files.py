"""The files for a cluster say what Ray and our own builder understand."""

from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.app import AppArgs
from deployments.face_replicas import load_swapper

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
