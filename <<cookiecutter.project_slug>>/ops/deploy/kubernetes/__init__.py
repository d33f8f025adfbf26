"""Manifests for kustomize, and the scripts of a deploy."""
