"""`--init`: a commented site file and the site's key, made at the site."""

import json
from pathlib import Path

from agi_core.errors import ConfigError
from agi_core.host import atomic
from agi_core.layouts import LayoutName
from client.site.keys import make_key

_TEMPLATE = """\
# Site file of {site}. Relative paths start at this file's folder. It never leaves this machine.
# Check it with: python -m client --site-file {path} --check

site: {site}                # the name under which the coordinator registers this site's key

data:
  dir: {data_dir}           # folder of scans (NIfTI); it is only ever read
  layout: {layout}          # how it is laid out: ixi, brats or bids
  exclude: []               # ids of subjects to leave out, for example [IXI012, IXI034]
  register: none            # rigid: lay every source on the run's reference first (needs the extra "register")

cache_dir: ../state/{site}/cache    # prepared scans: patient data, about 7 bytes per voxel of three modalities
state_dir: ../state/{site}          # logs, lock, what must survive a restart; mode 700
key_file: ../state/{site}/key/node  # this site's private key, mode 600; send only node.pub

coordinator:
  address: {address}        # HOST:PORT as the coordinator gave it; only outbound HTTPS to it is needed
  ca_file: {ca_file}        # certificate authority (PEM) that the coordinator gave

device: auto                # auto, cpu, cuda or cuda:1
threads: 1                  # CPU threads of the training
runtime_port: 9094          # local port between node and runner, and the next for the node's health; own for each site

policy:                     # this site's own rules; no request from the coordinator can soften them
  minimum_subjects: 10      # a site with fewer tells no figure, and no request may ask for figures of fewer
  max_deadline_s: 3600      # longest time, in seconds, that one request may take
  # metrics: [train_loss, validation_psnr_db, validation_subjects, psnr_db]  # all that may leave; else docs/egress.md
  # scenarios: ["T1,T2:PD"]   # the only sources:target to train; without it any
  # settings:                 # limits for the coordinator's settings: the largest number, or a list of allowed values
  #   rounds: 200
  #   training.local_steps: 500
  #   training.ssim_weight: [0.0, 0.5]

# privacy:                    # with this section the site trains with patient-level differential privacy or not at all
#   epsilon: 8                # budget of the site's subjects for life, over all runs, at this delta
#   delta: 1.0e-5             # well below 1 / subjects
#   subjects: 150             # public: training subjects, about; weight in the average and denominator of each step
#   min_noise_multiplier: 0.7 # a request may ask for more noise, never for less
#   max_grad_norm: 1.0        # largest clip that a request may ask for
#   max_lot_rate: 0.5         # largest probability of a subject to be in a step
#   ledger: ../state/{site}/privacy/ledger.jsonl              # what was spent; back it up never, see docs/hospital.md
#   ledger_head: ../state/{site}-ledger-head.json             # its copy, in another folder
#   validation:               # without it no validation figure leaves
#     epsilon: 4              # a budget of its own, of the validation subjects
#     delta: 1.0e-5
#     subjects: 20            # public: validation subjects, about
#     noise_multiplier: 4.0
#     metrics: {{psnr_db: [10, 40]}}                          # figure and the range to which each subject's is clipped
#     ledger: ../state/{site}/privacy/validation.jsonl
#     ledger_head: ../state/{site}-validation-head.json
"""


def write_site(
    site_path: Path, *, site: str, data_dir: Path | None, layout: LayoutName, address: str | None, ca_path: Path | None
) -> Path:
    """Write a new site file, with placeholders for what is None, and the site's key; the path of the private key.

    A key that is there already is kept.

    Raises:
        ConfigError: the site file exists. RunError: a folder cannot be written.
    """
    if site_path.exists():
        raise ConfigError(
            f"{site_path} exists and is not overwritten; edit it, or move it away and run --init again"
            " (the key is kept in any case)"
        )
    state_dir = site_path.resolve().parent.parent / "state" / site
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_path = state_dir / "key" / "node"
    make_key(key_path, site=site)
    text = _TEMPLATE.format(
        site=site,
        path=site_path,
        data_dir=_quoted(data_dir.resolve() if data_dir else "/path/to/scans"),
        layout=layout,
        address=_quoted(address or "coordinator.example.org:443"),
        ca_file=_quoted(ca_path.resolve() if ca_path else "ca.crt"),
    )
    atomic.write_text(site_path, text)
    return key_path


def _quoted(value: Path | str) -> str:
    """A YAML string: JSON's strings are YAML's."""
    return json.dumps(str(value), ensure_ascii=False)
