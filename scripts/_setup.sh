# Makes .venv and installs into it, once: `source scripts/_setup.sh; set_up quickstart`. Sourced by the other scripts, not run.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0

say() { printf '==> %s\n' "$*"; }

hash_of_stdin() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-16; }

# The first Python of at least 3.11; PYTHON=/path/to/python chooses another.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  {
    echo "error: Python 3.11 or newer is needed; found: $(python3 --version 2>/dev/null || echo 'no python3')."
    echo "  Debian/Ubuntu: apt install python3.11 python3.11-venv     macOS: brew install python@3.11"
    echo "  Elsewhere installed? PYTHON=/path/to/python3.11 $0"
  } >&2
  return 1
}

make_venv() {
  local python
  python=$(find_python) || return 1
  say "making .venv with $("$python" --version)"
  if ! "$python" -m venv --clear .venv >.set-up.log 2>&1; then
    cat .set-up.log >&2
    echo "error: $python cannot make a virtual environment. Debian/Ubuntu: apt install python3-venv (or python3.11-venv)" >&2
    rm -rf .venv .set-up.log
    return 1
  fi
  rm -f .set-up.log
}

# Shows of pip's talk the large downloads and the last step; everything is in .venv/set-up.log.
show_progress() {
  local line
  while IFS= read -r line; do
    case $line in
      *Downloading*" MB)") line=${line#*Downloading }; printf '    downloading %s\n' "${line##*/}" ;;
      *Downloading*" GB)") line=${line#*Downloading }; printf '    downloading %s\n' "${line##*/}" ;;
      "Installing collected packages"*) printf '    unpacking (a minute or so)\n' ;;
    esac
  done
}

# set_up EXTRAS: installs `.[EXTRAS]` from constraints.txt unless a stamp says that just this is installed.
set_up() {
  local extras=$1 stamp log=.venv/set-up.log started=$SECONDS
  stamp=.venv/.set-up-$({ pwd; cat pyproject.toml constraints.txt; } | hash_of_stdin)
  if .venv/bin/python -c '' 2>/dev/null && grep -qxF "$extras" "$stamp" 2>/dev/null; then return; fi
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then make_venv || return 1; fi
  [ -e "$stamp" ] || rm -f .venv/.set-up-*
  say "installing tuner[$extras] into .venv from constraints.txt (the first time a few minutes: torch and transformers are large)"
  if ! .venv/bin/python -m pip install --progress-bar off -c constraints.txt -e ".[$extras]" 2>&1 | tee "$log" | show_progress; then
    grep -v "WARNING: Location .* is ignored" "$log" | grep -E -A8 '^ *(ERROR|error|Could not|OSError)|No space left' | tail -n 20 >&2
    echo "error: the installation failed; the whole log is in $log. Mend the cause (network? disk?) and run the same command again." >&2
    return 1
  fi
  echo "$extras" >>"$stamp"
  say "installed in $((SECONDS - started)) s"
}
