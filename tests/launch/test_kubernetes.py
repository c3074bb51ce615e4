"""The manifest as it stands, and as run.sh fills it in."""

import pytest
import yaml

from tests.launch import conftest

SCRIPT = "kubernetes/run.sh"
TEXT = (conftest.ROOT / "launch" / "kubernetes" / "job.yaml").read_text()


def parts(text):
    """Kind -> its part of the manifest."""
    return {part["kind"]: part for part in yaml.safe_load_all(text)}


def pod(text):
    return parts(text)["Job"]["spec"]["template"]["spec"]


def test_the_workers_find_each_other(launch):
    # Nothing set gives the file as it stands.
    assert parts(launch(SCRIPT, "--dry_run").stdout) == parts(TEXT)
    words = ("--workers=3", "--name=mine", "--storage=5Gi")
    shown = launch(SCRIPT, "--dry_run", *words).stdout
    job = parts(shown)["Job"]["spec"]
    service = parts(shown)["Service"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == 3
    # A pod is called JOB-INDEX, and its subdomain is the service's name.
    container = pod(shown)["containers"][0]
    (hosts,) = (v for v in container["env"] if v["name"] == "CLOZE_HOSTS")
    assert hosts["value"] == "mine-0.mine,mine-1.mine,mine-2.mine"
    assert pod(shown)["subdomain"] == service["metadata"]["name"] == "mine"
    assert service["spec"]["clusterIP"] == "None"
    labels = job["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert container["command"] == ["launch/multi_worker.sh"]
    assert container["args"] == ["--index=$(JOB_COMPLETION_INDEX)", "--"]
    # The workdir is on the volume: WORKDIR of the image is /app.
    claim = parts(shown)["PersistentVolumeClaim"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"
    (volume,) = pod(shown)["volumes"]
    name = volume["persistentVolumeClaim"]["claimName"]
    assert name == claim["metadata"]["name"] == "mine"
    assert container["volumeMounts"] == [
        {"name": volume["name"], "mountPath": "/app/runs"}
    ]


def test_preempted_pods_start_again_and_bad_input_does_not():
    job = parts(TEXT)["Job"]["spec"]
    rules = job["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "Ignore", "Ignore"]
    assert rules[0]["onExitCodes"]["values"] == [2]
    assert rules[1]["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert rules[2]["onExitCodes"]["values"] == [143]
    assert job["podReplacementPolicy"] == "Failed"
    assert pod(TEXT)["restartPolicy"] == "Never"
    assert pod(TEXT)["terminationGracePeriodSeconds"] >= 60


def test_applies_what_dry_run_shows(launch, calls, tmp_path):
    flags = ["--config.a=it's", 'a"b\\c', "two words", "# no comment", "$(id)"]
    words = ("--image=registry/cloze:1", "--gpus=8", "--", *flags)
    shown = launch(SCRIPT, "--dry_run", *words).stdout
    applied = tmp_path / "applied"
    result = launch(SCRIPT, *words, FAKE_kubectl=f"cat >'{applied}'")
    assert result.returncode == 0, result
    assert calls.read_text() == "kubectl apply -f -\n"
    assert applied.read_text() == shown
    container = pod(shown)["containers"][0]
    assert container["image"] == "registry/cloze:1"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    # Kubernetes would replace $(id), and reads $$(id) as $(id).
    assert container["args"][2:] == [*flags[:-1], "$$(id)"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--workers=0", "--workers=0 must be a whole number from 1"),
        ("--gpus=many", "--gpus=many must be"),
        ("--name=Mine", "--name=Mine must be small letters"),
    ],
)
def test_bad_input_applies_nothing(word, says, refused, calls):
    assert says in refused(SCRIPT, word)
    assert not calls.exists()
