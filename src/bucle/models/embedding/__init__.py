"""What stands behind models.encoder: identity, conversion, the OpenVINO engine, the vectors kept on disk."""
