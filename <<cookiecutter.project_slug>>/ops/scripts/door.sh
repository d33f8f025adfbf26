#!/usr/bin/env bash
# door.sh stage|prod FOLDER: all that the deploy key may do on the server. `make provision` copies it out of the project,
# where a deploy cannot change it, and makes it the forced command of the key; ship.sh is who knocks.
#
#   files                  a tar of compose.yaml, Makefile and ops on standard input: kept until the next deploy
#   deploy IMAGE BACKUP    put the files in place and deploy; if that fails, the former files again
#   rollback               the version before, with its files
#   status                 what runs
set -Eeuo pipefail
die() { echo "door: $*" >&2; exit 1; }

environment=${1:?usage: door.sh stage|prod FOLDER}
cd "${2:?usage: door.sh stage|prod FOLDER}"
state=.release/$environment
incoming=.release/incoming
mkdir -p "$state"
# A connection that breaks must not stop it half-way: what it says goes on into the log.
trap '' HUP PIPE
exec > >(exec tee --output-error=warn-nopipe --append "$state/log") 2>&1
exec 8>.release/lock
flock --nonblock 8 || die "somebody else is deploying"
IFS=' ' read -r verb image backup rest <<<"${SSH_ORIGINAL_COMMAND:-}"

ours() { # FOLDER: the files that belong to a version; not what the machine adds: certificates, the maintenance switch, proofs for them
  (cd "$1" && find compose.yaml Makefile ops \( -path ops/nginx/certs -o -name maintenance.on -o -name .well-known \) -prune -o -type f -print 2>/dev/null | sort)
}
pack() { # the present files
  ours . | tar --create --gzip --files-from -
}
unpack() { # FOLDER: a tar on standard input; nothing may lie outside of what belongs to a version
  rm -rf "$1"
  mkdir -p "$1"
  head --bytes 20M | tar --extract --gzip --no-same-owner --no-same-permissions --directory "$1"
  [ -e "$1/compose.yaml" ] && [ -z "$(find "$1" -mindepth 1 -maxdepth 1 ! -name compose.yaml ! -name Makefile ! -name ops)" ] &&
    [ -z "$(find "$1" ! -type f ! -type d)" ] || die "these are not the files of a version"
}
place() { # FOLDER: its files instead of the present ones; folders stay, because containers have them mounted
  comm -23 <(ours .) <(ours "$1") | xargs --no-run-if-empty --delimiter '\n' rm --force
  cp --archive --remove-destination "$1/." .
}
checked() { # NAME: by digest or by id, so that what was verified is what runs
  [[ $1 =~ ^([a-z0-9][a-z0-9./_:-]*@)?sha256:[0-9a-f]{64}$ ]] || die "not an image by its digest: $1"
}
attempt() { # WHAT COMMAND...: with the files in incoming; the former files, and what they say, if it fails
  local what=$1
  shift
  pack >"$state/files.new"
  place "$incoming"
  if "$@" </dev/null; then
    mv "$state/files.new" "$state/files"
    rm -rf "$incoming"
    return
  fi
  echo "door: $what failed; the former files are put back" >&2
  unpack "$incoming" <"$state/files.new"
  place "$incoming"
  rm -rf "$incoming" "$state/files.new"
  # Whatever had already followed the new files; nothing where nothing had.
  if [ -n "$(sed -n 's/^APP_IMAGE=//p' .env | tail -n 1)" ]; then make --no-print-directory up ENV="$environment" </dev/null; fi
  exit 1
}

[ -z "$rest" ] || die "too many words"
case $verb in
files) unpack "$incoming" ;;
deploy)
  checked "$image" && checked "$backup"
  [ -e "$incoming/compose.yaml" ] || die "send the files first"
  if [ ! -e compose.yaml ]; then # the first one: nothing to keep
    place "$incoming"
    rm -rf "$incoming"
    ENV=$environment exec ops/scripts/deploy.sh "$image" "$backup" </dev/null
  fi
  attempt deploy env ENV="$environment" ops/scripts/deploy.sh "$image" "$backup"
  ;;
rollback)
  if [ -e "$state/files" ]; then unpack "$incoming" <"$state/files"; else mkdir -p "$incoming" && pack | unpack "$incoming"; fi
  attempt rollback env ENV="$environment" ops/scripts/rollback.sh
  ;;
status) tail --lines 3 "$state/history" 2>/dev/null || echo "nothing was deployed here yet" ;;
*) die "files, deploy IMAGE BACKUP_IMAGE, rollback or status; not '${verb:-a shell}'" ;;
esac
