# What a box needs to run ~/ddlm/current: a virtual environment beside it. $@: Pythons to try, the first that will do.
# The stamp's name holds a checksum of what is asked for, as in the Makefile: where it is there, nothing happens.
[ "$(uname -s)" = Linux ] || { echo "wanted Linux, got $(uname -s)" >&2; exit 2; }
cd -P "$HOME/ddlm/current" || exit
venv=$HOME/ddlm/.venv
stamp=$venv/installed-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
if [ -e "$stamp" ]; then echo "installed already"; exit; fi

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    found=
    for python; do
        if "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            found=$python
            break
        fi
    done
    if [ -z "$found" ]; then
        echo "no Python 3.11 or newer with venv there (tried $*); Debian's is python3-venv, another's is --python PATH" >&2
        exit 2
    fi
    "$found" -m venv --clear "$venv" || exit
fi
echo "installing takes minutes"
rm -f "$venv"/installed-*
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e ".[export]" || exit
# An editable installation points at this commit's tree; a later push must count without another one.
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || exit
echo "$HOME/ddlm/current" >"$packages/current.pth"
touch "$stamp"
"$venv/bin/python" --version
