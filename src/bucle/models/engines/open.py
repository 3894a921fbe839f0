"""Which engine hosts a model on this machine: OpenVINO where it can convert it, else transformers."""

from __future__ import annotations

from bucle.models.engines.host import Host, HostSpec

__all__ = ["open_host"]


def open_host(spec: HostSpec) -> Host:
    """The model of `spec`, loaded. Raises ModelUnavailable where the chosen engine cannot host it. With `auto`, why it
    is not OpenVINO stands in the host's `describe()["note"]`."""
    from bucle.models.engines.transformers import TransformersHost

    if spec.engine == "transformers":
        return TransformersHost(spec)
    try:
        from bucle.models.engines.openvino.host import OpenVINOHost
        from bucle.models.engines.openvino.trace import NotConverted
    except ImportError as error:
        if spec.engine == "openvino":
            raise
        return TransformersHost(spec, note=f"OpenVINO is not installed ({error.name})")
    if spec.engine == "openvino":
        return OpenVINOHost(spec)
    try:
        return OpenVINOHost(spec)
    except NotConverted as error:
        return TransformersHost(spec, note=f"OpenVINO does not take this model: {error.message}")
