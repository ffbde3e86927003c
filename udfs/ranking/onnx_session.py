"""A graph loaded by ONNX Runtime for one worker: one thread and sequential execution.

A worker is one process a slot, and spinning threads cost six times the work they did (see docs).
"""

from collections.abc import Mapping, Sequence

import onnxruntime

from udfs.model.refusal import BundleRefused

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
CPU = ("CPUExecutionProvider",)


def open_session(
    model: bytes,
    providers: Sequence[str],
    options_of: Mapping[str, Mapping[str, str]] | None = None,
    part: str = "",
) -> onnxruntime.InferenceSession:
    """Load a graph.

    Parameters
    ----------
    model
        Serialised, its operators already checked.
    providers
        Execution providers in order of preference; those this machine lacks are left out.
    options_of
        Provider to its options.
    part
        Put before the reason of a refusal.

    Raises
    ------
    BundleRefused
        When it cannot be loaded.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    chosen = [name for name in providers if name in available] or list(CPU)
    given = [dict((options_of or {}).get(name, {})) for name in chosen]
    try:
        return onnxruntime.InferenceSession(model, options, providers=list(zip(chosen, given, strict=True)))
    except Exception as error:  # ONNX Runtime raises a class per status code, none of them public
        raise BundleRefused("ranker", f"{part}ONNX Runtime cannot load it: {error}") from error
