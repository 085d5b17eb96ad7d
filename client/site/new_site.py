"""`--init`: a commented site file and the site's key, made at the site."""

from pathlib import Path

from agi_core.config.structured import quoted
from agi_core.errors import ConfigError
from agi_core.host import atomic
from agi_core.layouts import LAYOUTS, LayoutName
from agi_core.names import is_site_name
from client.site.keys import make_key

TEMPLATE_PATH = Path(__file__).with_name("site_template.yaml")


def write_site(
    site_path: Path,
    *,
    site: str,
    data_dir: Path | None,
    layout: LayoutName,
    address: str | None,
    ca_path: Path | None,
    public_key: str | None = None,
) -> Path:
    """Write a new site file and the site's key; returns the path of the private key.

    What is None gets a placeholder. A key that exists is kept. `public_key` is the coordinator's.

    Raises:
        ConfigError: the site file exists, or the name is none of a site. RunError: a folder cannot be written.
    """
    if not is_site_name(site):
        raise ConfigError(
            f"{site!r} cannot be a site's name: 1 to 64 letters (a to z), digits, - and _; rename the file"
        )
    if site_path.exists():
        raise ConfigError(
            f"{site_path} exists and is not overwritten; edit it, or move it away and run --init again"
            " (the key is kept in any case)"
        )
    state_dir = site_path.resolve().parent.parent / "state" / site
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_path = state_dir / "key" / "node"
    make_key(key_path, site=site)
    text = TEMPLATE_PATH.read_text(encoding="utf-8").format(
        site=site,
        path=quoted(str(site_path)),
        data_dir=quoted(str(data_dir.resolve() if data_dir else "/path/to/scans")),
        layout=layout,
        layouts=", ".join(LAYOUTS),
        address=quoted(address or "coordinator.example.org:443"),
        ca_file=quoted(str(ca_path.resolve() if ca_path else "ca.crt")),
        public_key=quoted(public_key or "ssh-ed25519 of coordinator.pub"),
    )
    atomic.write_text(site_path, text)
    return key_path
