"""Ask for known holes of what is installed; a source of advisories that does not answer is said, and fails nothing.

pip install pip-audit && python .github/audit.py
"""

import json
import subprocess
import sys

SOURCES = ("pypi", "osv")


def main() -> int:
    """Ask one source after the other; 1 where a hole is known."""
    for source in SOURCES:
        command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
        command += ["--skip-editable", "--vulnerability-service", source, "--timeout", "30"]
        done = subprocess.run(command, capture_output=True, text=True)
        try:
            packages = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            sys.stdout.write(f"::warning::{source} gave no advisories ({last})\n")
            continue
        held = [(one["name"], one["version"], hole) for one in packages for hole in one.get("vulns", [])]
        for name, version, hole in held:
            fixed = ", ".join(hole["fix_versions"]) or "nothing yet"
            sys.stdout.write(f"::error::{name} {version}: {hole['id']}, mended in {fixed}\n")
        skipped = [one["name"] for one in packages if "skip_reason" in one]
        sys.stdout.write(
            f"{source}: {len(packages)} packages, {len(held)} known holes, {len(skipped)} not looked up\n"
        )
        return 1 if held else 0
    sys.stdout.write("::warning::no source of advisories answered: nothing is known of holes\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
