"""`python -m ddlm.export.rtx GRAPH`: TensorRT-RTX parses a graph and builds an engine, which is thrown away.

It needs no GPU. In a process of its own, since what is native can crash, and to give its memory back. The last line of
stdout is a JSON document: `version`, and `error` or `layers` and `engine_bytes`; before it stands what the parser logs.
"""

import json
import sys
from pathlib import Path
from typing import Any


def verdict(path: Path) -> dict[str, Any]:
    """Strongly typed, for compute capability 8.6; the Jetson's, 8.7, is none of those that it builds for."""
    import tensorrt_rtx as trt

    builder = trt.Builder(logger := trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    found = {"version": trt.__version__}
    if not parser.parse_from_file(str(path)):
        return {**found, "error": "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {**found, "error": "it parses, but no engine can be built"}
    return {**found, "layers": network.num_layers, "engine_bytes": engine.nbytes}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(verdict(Path(sys.argv[1]))))
