"""vLLM takes the arguments that the chart and the compose file start it with."""

import json
import subprocess
from typing import Any

import yaml

from helm.generate import CHART
from tests.deploy.helm_library import render
from tests.deploy.test_compose import SERVICES
from tests.integration.conftest import VLLM_PYTHON

# Every argument that a value can add, beside those of the examples.
EVERY: dict[str, Any] = {
    "image": {"repository": "r/rankrag"}, "model": {"name": "org/model", "revision": "main"},
    "auth": {"existingSecret": "keys"},
    "vllm": {"blockSize": 32, "maxLogprobs": 40, "maxModelLen": 4096, "maxNumQueuedRequests": 100, "gpuCount": 2},
}  # fmt: skip

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser())
for arguments in json.load(sys.stdin):
    found = parser.parse_args(arguments)
    assert found.scheduling_policy == "priority" and found.enable_prefix_caching, arguments
"""


def test_vllm_knows_every_argument() -> None:
    lines = [SERVICES[name]["command"] for name in ("vllm", "vllm-gpu")]
    lines = [[argument.replace("${VLLM_GPUS:-1}", "1") for argument in line] for line in lines]
    examples = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CHART / "examples").glob("*.yaml")]
    for values in (EVERY, *examples):
        pod = render(values, name="demo", namespace="rag").pod("demo-rankrag-vllm")
        lines.append(pod["containers"][0]["args"])
    done = subprocess.run(
        [VLLM_PYTHON, "-c", PARSE], input=json.dumps(lines), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
