"""The file that tells MLflow how to serve a registered model: which module opens it, and what it
takes and gives. Written without MLflow, whose own writer takes seconds to import and warns of its
own types; `served` is that module."""

from __future__ import annotations

import json

OWN_STEPS = -1  # of adaptation: those that the model's study chose
_INPUTS = {"shot": "string"}
_OUTPUTS = {"picture": "string", "nearest_shot": "long", "distance": "double", "copy": "boolean"}
_PARAMS = {"count": 64, "seed": 0, "steps": OWN_STEPS}


def mlmodel(run_id: str, folder: str) -> str:
    """The `MLmodel` file that goes beside a registered model's files, as JSON, which is YAML.

    Args:
        run_id: of the run that has them.
        folder: of its artifacts.
    """
    params = [
        {"name": name, "type": "long", "default": value, "shape": None}
        for name, value in _PARAMS.items()
    ]
    described = {
        "artifact_path": folder,
        "run_id": run_id,
        "flavors": {"python_function": {"loader_module": "tuner.served", "data": "."}},
        "signature": {
            "inputs": json.dumps(_columns(_INPUTS)),
            "outputs": json.dumps(_columns(_OUTPUTS)),
            "params": json.dumps(params),
        },
    }
    return json.dumps(described, indent=1)


def _columns(types: dict[str, str]) -> list[dict[str, object]]:
    return [{"name": name, "type": kind, "required": True} for name, kind in types.items()]
