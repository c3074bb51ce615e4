"""The manifest as it stands, and as run.sh fills it in."""

import json
import pathlib

import pytest
import yaml

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "launch" / "kubernetes"
SCRIPT = "kubernetes/run.sh"
TEXT = (FOLDER / "job.yaml").read_text()


def parts(text):
    """Kind -> its part of the manifest."""
    return {part["kind"]: part for part in yaml.safe_load_all(text)}


def pod(text):
    return parts(text)["Job"]["spec"]["template"]["spec"]


def test_nothing_set_gives_the_file_as_it_stands(launch):
    assert parts(launch(SCRIPT, "--dry_run").stdout) == parts(TEXT)


@pytest.mark.parametrize("number", [1, 3])
def test_the_workers_find_each_other(number, launch):
    words = (f"--workers={number}", "--name=mine")
    shown = launch(SCRIPT, "--dry_run", *words).stdout
    job = parts(shown)["Job"]["spec"]
    service = parts(shown)["Service"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == number
    # A pod is called JOB-INDEX, and its subdomain is the service's name.
    (hosts,) = (
        variable["value"]
        for variable in pod(shown)["containers"][0]["env"]
        if variable["name"] == "CLOZE_HOSTS"
    )
    assert hosts == ",".join(f"mine-{i}.mine" for i in range(number))
    assert pod(shown)["subdomain"] == service["metadata"]["name"] == "mine"
    assert service["spec"]["clusterIP"] == "None"
    labels = job["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    container = pod(shown)["containers"][0]
    assert container["command"] == ["launch/multi_worker.sh"]
    assert container["args"] == ["--index=$(JOB_COMPLETION_INDEX)", "--"]


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


def test_the_workdir_is_on_the_volume(launch):
    shown = launch(SCRIPT, "--dry_run", "--name=mine", "--storage=5Gi").stdout
    claim = parts(shown)["PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == "mine"
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"
    (volume,) = pod(shown)["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == "mine"
    (mount,) = pod(shown)["containers"][0]["volumeMounts"]
    # WORKDIR of the image, where trainer.main writes runs/.
    assert mount == {"name": volume["name"], "mountPath": "/app/runs"}


def test_words_arrive_as_they_are(launch):
    words = ["--config.a=it's", 'a"b\\c', "two words", "# no comment", "$(id)"]
    shown = launch(SCRIPT, "--dry_run", "--", *words).stdout
    args = pod(shown)["containers"][0]["args"]
    # Kubernetes would replace $(id), and reads $$(id) as $(id).
    assert args[2:] == [*words[:-1], "$$(id)"]


def test_applies_what_dry_run_shows(launch, calls, tmp_path):
    words = ("--image=registry/cloze:1", "--gpus=8", "--", "--mode=pretrain")
    shown = launch(SCRIPT, "--dry_run", *words).stdout
    applied = tmp_path / "applied"
    result = launch(SCRIPT, *words, FAKE_kubectl=f"cat >'{applied}'")
    assert result.returncode == 0, result
    assert calls.read_text() == "kubectl apply -f -\n"
    assert applied.read_text() == shown
    container = pod(shown)["containers"][0]
    assert container["image"] == "registry/cloze:1"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert json.dumps(container["args"]).endswith('"--mode=pretrain"]')


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
