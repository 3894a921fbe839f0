"""OpenVINO as the engine of a CPU: a converter of our own, continuous batching, paged attention, small weights."""
