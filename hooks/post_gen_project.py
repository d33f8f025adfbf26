"""Take out the rooms that were not chosen. Runs in the new project; needs nothing but Python."""

import os

# Option -> the answers that keep the rooms -> what goes with any other answer. A path is a file or a folder.
ROOMS: dict[str, dict[tuple[str, ...], list[str]]] = {
    "deploy": {
        ("compose",): [
            "docs/deploy.md",
            "docs/runbook/host-lost.md",
            "ops/compose/prod.yaml",
            "ops/deploy/compose",
            "ops/scripts/deploy.sh",
            "ops/scripts/door.sh",
            "ops/scripts/provision.sh",
            "ops/scripts/release.sh",
            "ops/scripts/rollback.sh",
            "ops/scripts/ship.sh",
            "tests/containers",
        ],
        ("ecs",): [
            "docs/ecs.md",
            "ops/check/rooms/ecs.py",
            "ops/deploy/ecs",
            "tests/ops/test_ecs.py",
            "tests/ops/test_ecs_runbook.py",
        ],
        ("kubernetes",): [
            "docs/kubernetes.md",
            "ops/check/rooms/kubernetes.py",
            "ops/deploy/kubernetes",
            "ops/redis/kustomization.yaml",
            "tests/ops/test_kubernetes.py",
            "tests/ops/test_kubernetes_runbook.py",
        ],
        ("paas",): [
            "Procfile",
            "app.json",
            "docs/paas.md",
            "ops/check/rooms/paas.py",
            "ops/deploy/paas",
            "render.yaml",
            "tests/ops/test_paas.py",
            "tests/system/test_paas.py",
        ],
    },
    "example": {
        ("documents",): [
            "app/features/documents",
            "docs/delete-documents.md",
            "docs/documents.md",
            "docs/images/dashboard-documents.png",
            "load/journeys/documents.py",
            "ops/grafana/dashboards/documents.json",
            "migrations/versions/documents",
            "requirements/feature-documents.in",
            "requirements/feature-documents.txt",
            "tests/features/documents",
            "tests/system/operations/documents.py",
            "tests/system/test_documents.py",
            "tests/system/test_documents_kills.py",
        ],
    },
    "monitoring": {
        ("prometheus", "prometheus+loki"): [
            "docs/images",
            "docs/monitoring.md",
            "docs/runbook/alarms-not-sent.md",
            "docs/runbook/target-down.md",
            "docs/runbook/watchdog.md",
            "ops/alertmanager",
            "ops/check/rooms/monitoring.py",
            "ops/compose/rooms/monitoring.yaml",
            "ops/deploy/kubernetes/components/monitoring",
            "ops/deploy/kubernetes/generate.py",
            "ops/grafana",
            "ops/prometheus",
            "ops/scripts/silence.sh",
            "tests/ops/monitors.py",
            "tests/ops/promql.py",
            "tests/ops/test_monitoring.py",
            "tests/system/test_monitoring.py",
            "tests/system/watching.py",
        ],
        ("prometheus+loki",): [
            "docs/logs.md",
            "ops/alloy",
            "ops/compose/rooms/loki.yaml",
            "ops/grafana/dashboards/logs.json",
            "ops/grafana/provisioning/datasources/loki.yaml",
            "ops/loki",
            "ops/prometheus/targets/loki.yml",
            "tests/ops/test_logs.py",
        ],
    },
    "object_storage": {
        ("minio",): [
            "ops/compose/rooms/minio.yaml",
        ],
        ("seaweedfs",): [
            "docs/runbook/seaweedfs.md",
            "docs/seaweedfs.md",
            "ops/compose/rooms/seaweedfs.yaml",
            "ops/prometheus/rules/seaweedfs.yml",
            "ops/prometheus/targets/seaweedfs.yml",
            "ops/prometheus/tests/seaweedfs.yml",
            "ops/seaweedfs",
            "requirements/dev-seaweedfs.in",
            "requirements/dev-seaweedfs.txt",
            "tests/ops/test_seaweedfs.py",
        ],
    },
}

# A file that must differ with an answer waits in OVERLAYS/<option>/<answer>/ and takes the other one's place.
OVERLAYS = ".rooms"

CHOSEN = {
    "deploy": "<< cookiecutter.deploy >>",
    "example": "<< cookiecutter.example >>",
    "frontend": "<< cookiecutter.frontend >>",
    "monitoring": "<< cookiecutter.monitoring >>",
    "object_storage": "<< cookiecutter.object_storage >>",
}
TEMPLATE = "<< (template_folder | quoted)[1:-1] >>"


def baked_files(room: str) -> list[str]:
    """List what this bake has written there, and nothing else: with -f there may be a person's own work."""
    source = os.path.join(TEMPLATE, room)
    if not os.path.isdir(source):
        return [room]
    return [
        os.path.relpath(os.path.join(folder, name), TEMPLATE) for folder, _, names in os.walk(source) for name in names
    ]


def remove(path: str) -> None:
    """Remove a file, and the folders that it leaves empty."""
    if os.path.lexists(path):
        os.remove(path)
    folder = os.path.dirname(path)
    while folder and os.path.isdir(folder) and not os.listdir(folder):
        os.rmdir(folder)
        folder = os.path.dirname(folder)


def drop() -> None:
    """Remove the rooms of every answer that was not given."""
    for option, answers in ROOMS.items():
        for keeping, rooms in answers.items():
            if CHOSEN[option] not in keeping:
                for room in rooms:
                    for path in baked_files(room):
                        remove(path)


def overlay() -> None:
    """Put the other versions of files in place, and remove the rest of them."""
    for option, answer in CHOSEN.items():
        waiting = os.path.join(OVERLAYS, option, answer)
        for folder, _, names in os.walk(waiting):
            target = os.path.relpath(folder, waiting)
            os.makedirs(target, exist_ok=True)
            for name in names:
                os.replace(os.path.join(folder, name), os.path.join(target, name))
    for folder, folders, names in os.walk(OVERLAYS, topdown=False):  # shutil would take as long to import as all this
        for name in names:
            os.remove(os.path.join(folder, name))
        for name in folders:
            os.rmdir(os.path.join(folder, name))
    if os.path.isdir(OVERLAYS):
        os.rmdir(OVERLAYS)


if __name__ == "__main__":
    try:
        drop()
        overlay()
    finally:
        # This is the copy that cookiecutter rendered and would forget in the temporary folder; if not, it is the source.
        if os.path.isabs(TEMPLATE):
            os.remove(__file__)
